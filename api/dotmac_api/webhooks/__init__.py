"""Webhooks: subscriptions, signed deliveries with retries, and the guard against requests into one's own network."""
