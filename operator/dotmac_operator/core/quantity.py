"""Kubernetes quantities, as much as limits need. Source: the resource.Quantity notation."""

from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@lru_cache(1024)
def memory_bytes(quantity: str) -> int:
    """`512Mi` -> bytes, rounded up."""
    for suffix, factor in (_BINARY | _DECIMAL).items():
        if quantity.endswith(suffix):
            return _up(Decimal(quantity.removesuffix(suffix)) * factor)
    return _up(Decimal(quantity))


@lru_cache(1024)
def cpu_nanos(quantity: str) -> int:
    """`500m` or `0.5` -> billionths of a processor, as Docker's NanoCpus."""
    if quantity.endswith("m"):
        return _up(Decimal(quantity[:-1]) * 10**6)
    return _up(Decimal(quantity) * 10**9)


def mebibytes(size: int) -> str:
    """Bytes -> `512Mi`, rounded down."""
    return f"{size // 2**20}Mi"


def _up(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_CEILING))
