"""Kubernetes quantities (`500m`, `1Gi`, `12e6`) as exact numbers."""

from __future__ import annotations

import re
from fractions import Fraction

_SHAPE = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d+)?")
_SUFFIXES = {
    **{name: Fraction(1024**power) for power, name in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))},
    **{name: Fraction(10**power) for power, name in ((3, "k"), (6, "M"), (9, "G"), (12, "T"), (15, "P"), (18, "E"))},
    **{name: Fraction(1, 10**power) for power, name in ((9, "n"), (6, "u"), (3, "m"))},
}


def parse_quantity(text: str) -> Fraction:
    """The number a quantity stands for. Raises ValueError for anything else."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(f"quantities must match the regular expression '{_SHAPE.pattern}': {text!r}")
    number, suffix = match.group(1), match.group(2) or ""
    if suffix in _SUFFIXES:
        return Fraction(number) * _SUFFIXES[suffix]
    exponent = int(suffix[1:])
    if abs(exponent) > 100:
        raise ValueError(f"exponent out of range: {text!r}")
    return Fraction(number) * Fraction(10) ** exponent
