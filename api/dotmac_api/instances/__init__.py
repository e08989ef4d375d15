"""Instances: tenants' ERPs."""
