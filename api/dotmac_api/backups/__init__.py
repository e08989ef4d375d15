"""Backups of instances, and restores from them."""
