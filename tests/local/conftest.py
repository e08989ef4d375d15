"""One embedded control plane per test module."""

from tests.kits.controlplane import control_plane

__all__ = ["control_plane"]
