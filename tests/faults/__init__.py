"""The fault matrix: one fault at one point of one journey, and the end must be as if it had not happened.

A journey is something a user does (deploy, upgrade, ...). A first run without a fault records its points: every call
that changes the host, every write to the Kubernetes API. Then each case runs the journey again with a fault at one of
them. The operator is a process of its own, the host speaks SSH and the Engine API (tests/simhost), the API is the
embedded control plane, behind a proxy that can fail. See ADR 0021.
"""
