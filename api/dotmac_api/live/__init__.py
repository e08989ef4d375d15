"""Server-sent events from the mirror."""
