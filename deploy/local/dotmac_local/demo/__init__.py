"""The demo: a real Docker host on this machine, the operator against it, and the example ERP (never for production)."""
