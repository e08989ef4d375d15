"""Benchmarks: `python -m tests.bench NAME [--strict]`. Each is one module here with a `run()`; see `registry`."""
