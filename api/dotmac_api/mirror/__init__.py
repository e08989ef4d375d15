"""The mirror: what Kubernetes says, in PostgreSQL, for reads. It can be rebuilt from Kubernetes at any time."""
