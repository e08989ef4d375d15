"""Idempotency-Key on POST: the same key and request answers what it answered before, and does nothing again."""
