"""Periodic work that runs once across all replicas."""
