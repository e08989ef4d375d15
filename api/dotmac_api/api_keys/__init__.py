"""API keys: shown once, stored as a keyed hash, scoped, expiring, for reading only."""
