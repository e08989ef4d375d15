"""Sign-in: passwords, sessions, tokens, second factors and API keys."""
