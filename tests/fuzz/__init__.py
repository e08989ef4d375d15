"""schemathesis against the whole facade on real parts: `python -m tests.fuzz`."""
