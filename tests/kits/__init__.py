"""Kits shared by the tests: real parts that a test can start, break and clean away."""
