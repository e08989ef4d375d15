"""User credentials, as administrators see them: never the hash."""
