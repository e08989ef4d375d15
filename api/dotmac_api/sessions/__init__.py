"""Everybody's sessions, as administrators see them. They are opened by signing in and in no other way."""
