"""Roles and permissions; every endpoint names the permission it needs (see catalogue)."""
