"""People: who may sign in, and which organisations they are limited to."""
