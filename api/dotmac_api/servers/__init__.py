"""Servers: Docker hosts."""
