"""The one way to Kubernetes: a small JSON client, server-side apply, and refusals with the field named."""
