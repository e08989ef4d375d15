from tests.kits.diagnosed import site

__all__ = ["site"]
