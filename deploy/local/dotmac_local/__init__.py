"""The embedded control plane: a small Kubernetes API server for laptops and CI, never for production."""
