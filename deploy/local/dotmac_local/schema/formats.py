"""The string formats that a Kubernetes API server checks; any other format is accepted without a look.

The list is that of apiextensions-apiserver ("supported formats" in its documentation of structural schemas).
"""

from __future__ import annotations

import base64
import binascii
import datetime
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?")
_UUID = r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?%s[0-9a-f]{3}-?%s[0-9a-f]{3}-?[0-9a-f]{12}"
_HOSTNAME = re.compile(
    r"([a-zA-Z0-9_]|[a-zA-Z0-9_][a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])(\.([a-zA-Z0-9_][a-zA-Z0-9_-]{0,62}))*\.?"
)
_EMAIL = re.compile(r"[^@\s<>]+@[^@\s<>]+")
_MAC = re.compile(
    r"[0-9a-fA-F]{2}([:-])([0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}|[0-9a-fA-F]{4}\.[0-9a-fA-F]{4}\.[0-9a-fA-F]{4}"
)
_DURATION = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))*")
_WORDY_DURATION = re.compile(
    r"(\d+)\s*(ns|nanos?|nanoseconds?|us|µs|micros?|microseconds?|ms|millis?|milliseconds?|s|secs?|seconds?"
    r"|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)"
)
_ISBN = re.compile(r"[0-9]{9}[0-9X]|[0-9]{13}")
_COLOUR = re.compile(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
_RGB = re.compile(r"rgb\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)")
_SSN = re.compile(r"\d{3}[- ]?\d{2}[- ]?\d{4}")
_CARD = re.compile(r"\d{13,19}")
_BSON = re.compile(r"[0-9a-fA-F]{24}")
_SHORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def is_date_time(text: str) -> bool:
    """RFC 3339. The date must exist; a leap second is not accepted, as in Go."""
    if not _DATE_TIME.fullmatch(text):
        return False
    try:
        datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", text.upper()))
    except ValueError:
        return False
    return True


def is_date(text: str) -> bool:
    """RFC 3339 full-date."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_ipv4(text: str) -> bool:
    """Dotted decimal; leading zeros are let through, as by the API server."""
    parts = text.split(".")
    return len(parts) == 4 and all(re.fullmatch(r"[0-9]{1,3}", part) and int(part) <= 255 for part in parts)


def is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text


def is_cidr(text: str) -> bool:
    """An address and a prefix length; host bits may be set."""
    address, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"\d{1,3}", length):
        return False
    try:
        ipaddress.ip_interface(f"{address}/{int(length)}")
    except ValueError:
        return False
    return True


def is_uri(text: str) -> bool:
    """A URI with a scheme, or an absolute path: what Go's url.ParseRequestURI takes."""
    if any(ord(char) < 0x21 or ord(char) == 0x7F for char in text):
        return False
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.scheme) or text.startswith("/")


def is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return bool(text)


def is_rgb_colour(text: str) -> bool:
    match = _RGB.fullmatch(text)
    return match is not None and all(int(part) <= 255 for part in match.groups())


def is_duration(text: str) -> bool:
    """A Go duration (`1h30m`) or one in words (`3 days`)."""
    return text == "0" or bool(_DURATION.fullmatch(text) or _WORDY_DURATION.fullmatch(text.strip()))


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _isbn(length: int | None) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        digits = re.sub(r"[\s-]", "", text)
        return _ISBN.fullmatch(digits) is not None and length in (None, len(digits))

    return check


FORMATS: dict[str, Callable[[str], bool]] = {
    "bsonobjectid": _matches(_BSON),
    "uri": is_uri,
    "email": _matches(_EMAIL),
    "hostname": lambda text: len(text) <= 255 and _HOSTNAME.fullmatch(text) is not None,
    "ipv4": is_ipv4,
    "ipv6": is_ipv6,
    "cidr": is_cidr,
    "mac": _matches(_MAC),
    "uuid": _matches(re.compile(_UUID % ("[0-9a-f]", "[0-9a-f]"))),
    "uuid3": _matches(re.compile(_UUID % ("3", "[0-9a-f]"))),
    "uuid4": _matches(re.compile(_UUID % ("4", "[89ab]"))),
    "uuid5": _matches(re.compile(_UUID % ("5", "[89ab]"))),
    "isbn": _isbn(None),
    "isbn10": _isbn(10),
    "isbn13": _isbn(13),
    "creditcard": lambda text: _CARD.fullmatch(re.sub(r"[ -]", "", text)) is not None,
    "ssn": _matches(_SSN),
    "hexcolor": _matches(_COLOUR),
    "rgbcolor": is_rgb_colour,
    "byte": is_base64,
    "password": lambda text: True,
    "date": is_date,
    "duration": is_duration,
    "date-time": is_date_time,
    "datetime": is_date_time,
    "k8s-short-name": lambda text: len(text) <= 63 and _SHORT_NAME.fullmatch(text) is not None,
    "k8s-long-name": lambda text: (
        len(text) <= 253 and all(_SHORT_NAME.fullmatch(part) is not None for part in text.split("."))
    ),
}
# JSON numbers with these formats must fit.
INTEGER_FORMATS: dict[str, tuple[int, int]] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
