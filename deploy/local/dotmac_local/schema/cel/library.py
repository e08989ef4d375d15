"""The functions that Kubernetes adds to CEL, on top of those of CEL itself.

Signatures and results are those of k8s.io/apiserver/pkg/cel/library. An address, network, URL, quantity or version is a
map of strings here (the CEL runtime takes no opaque values from Python), which shows in `type()` only.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from cel_expr_python import cel

from dotmac_local.schema.cel.quantities import parse_quantity
from dotmac_local.schema.formats import is_uri
from dotmac_local.schema.patterns import compile_pattern

_T = cel.Type
_TEXT, _INT, _BOOL, _DOUBLE, _DYN = _T.STRING, _T.INT, _T.BOOL, _T.DOUBLE, _T.DYN
_ANY_LIST = _T.List(_T.DYN)
_TEXTS = _T.List(_T.STRING)
# What the functions below make and take.
_VALUE = _T.Map(_T.STRING, _T.STRING)

type Value = dict[str, str]

_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)


def _accepts(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


# Lists


def _is_sorted(items: list[Any]) -> bool:
    return all(left <= right for left, right in zip(items, items[1:], strict=False))


def _extreme(pick: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def of(items: list[Any]) -> Any:
        if not items:
            raise ValueError("min/max called on an empty list")
        return pick(items)

    return of


def _index_of(items: list[Any], wanted: Any) -> int:
    return next((index for index, item in enumerate(items) if item == wanted), -1)


def _last_index_of(items: list[Any], wanted: Any) -> int:
    return next((index for index in range(len(items) - 1, -1, -1) if items[index] == wanted), -1)


# Regular expressions


def _find(text: str, pattern: str) -> str:
    match = compile_pattern(pattern).search(text)
    return match.group(0) if match else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match.group(0) for match in compile_pattern(pattern).finditer(text)]
    return found if limit < 0 else found[:limit]


# Addresses and networks


def parse_ip(text: str) -> Value:
    """An address without zone; an IPv4 address in IPv6 form is refused, as in Kubernetes."""
    if "%" in text:
        raise ValueError(f"IP Address {text!r} with zone value is not allowed")
    address = ipaddress.ip_address(text)
    if address.version == 6 and address.ipv4_mapped is not None:
        raise ValueError(f"IPv4-mapped IPv6 address {text!r} is not allowed")
    return {"ip": str(address)}


def parse_cidr(text: str) -> Value:
    address, slash, length = text.partition("/")
    if not slash or not length.isdecimal():
        raise ValueError(f"network address parse error: {text!r}")
    network = ipaddress.ip_interface(f"{parse_ip(address)['ip']}/{length}")
    return {"cidr": f"{network.ip}/{network.network.prefixlen}"}


def _address(value: Value | str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    text = parse_ip(value)["ip"] if isinstance(value, str) else value["ip"]
    return ipaddress.ip_address(text)


def _network(value: Value | str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    text = parse_cidr(value)["cidr"] if isinstance(value, str) else value["cidr"]
    return ipaddress.ip_network(text, strict=False)


def _contains_ip(network: Value, address: Value | str) -> bool:
    return _address(address) in _network(network)


def _contains_cidr(network: Value, other: Value | str) -> bool:
    outer, inner = _network(network), _network(other)
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # same version


def _cidr_address(value: Value) -> Value:
    return {"ip": value["cidr"].partition("/")[0]}


def _as_text(value: Value) -> str:
    """An address or network as a string; the others have no such conversion."""
    if "ip" in value or "cidr" in value:
        return next(iter(value.values()))
    raise ValueError("no string form")


def _is_canonical(text: str) -> bool:
    return parse_ip(text)["ip"] == text


def _is_global_unicast(value: Value) -> bool:
    address = _address(value)
    special = address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local
    return not special and str(address) != "255.255.255.255"


def _is_link_local_multicast(value: Value) -> bool:
    address = _address(value)
    reach = "224.0.0.0/24" if address.version == 4 else "ff02::/16"
    return address in ipaddress.ip_network(reach)


# URLs


def parse_url(text: str) -> Value:
    if not is_uri(text):
        raise ValueError(f"URL parse error: {text!r}")
    return {"url": text}


def _host_name(value: Value) -> str:
    host = urlsplit(value["url"]).netloc.rpartition("@")[2]
    return host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]


def _port(value: Value) -> str:
    port = urlsplit(value["url"]).port
    return "" if port is None else str(port)


def _escaped_path(value: Value) -> str:
    return quote(urlsplit(value["url"]).path, safe="/%:@!$&'()*+,;=~")


def _query(value: Value) -> dict[str, list[str]]:
    return parse_qs(urlsplit(value["url"]).query, keep_blank_values=True)


# Quantities and versions, which share the names of their comparisons


def _make_quantity(text: str) -> Value:
    return _quantity_value(parse_quantity(text))


def _quantity_value(number: Fraction) -> Value:
    return {"quantity": str(number)}


def _number(value: Value) -> Fraction:
    return Fraction(value["quantity"])


def parse_semver(text: str) -> Value:
    if not _SEMVER.fullmatch(text):
        raise ValueError(f"invalid semantic version: {text!r}")
    return {"semver": text}


def _semver_parts(value: Value) -> re.Match[str]:
    match = _SEMVER.fullmatch(value["semver"])
    if match is None:
        raise ValueError("not a semantic version")
    return match


def _semver_key(value: Value) -> tuple[Any, ...]:
    """Sorts as SemVer 2.0 does: a release after its pre-releases, numbers before words."""
    match = _semver_parts(value)
    core = tuple(int(part) for part in match.group(1, 2, 3))
    if match.group(4) is None:
        return (*core, 1)
    words = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in match.group(4).split("."))
    return (*core, 0, words)


def _compare(left: Value, right: Value) -> int:
    if "semver" in left and "semver" in right:
        ours, theirs = _semver_key(left), _semver_key(right)
        return (ours > theirs) - (ours < theirs)
    first, second = _number(left), _number(right)
    return (first > second) - (first < second)


def _as_integer(value: Value) -> int:
    number = _number(value)
    if number.denominator != 1 or not -(2**63) <= number < 2**63:
        raise ValueError("cannot convert value to integer")
    return int(number)


def _is_integer(value: Value) -> bool:
    number = _number(value)
    return number.denominator == 1 and -(2**63) <= number < 2**63


def _plus(sign: int) -> Callable[[Value, Value | int], Value]:
    def add(value: Value, other: Value | int) -> Value:
        amount = Fraction(other) if isinstance(other, int) else _number(other)
        return _quantity_value(_number(value) + sign * amount)

    return add


def _overload(name: str, result: Any, parameters: list[Any], call: Callable[..., Any], *, member: bool) -> Any:
    return cel.Overload(name, return_type=result, parameters=parameters, is_member=member, impl=call)


def _function(name: str, *overloads: tuple[Any, list[Any], Callable[..., Any]], member: bool = True) -> Any:
    return cel.FunctionDecl(
        name,
        [
            _overload(f"kubernetes_{name}_{index}", result, parameters, call, member=member)
            for index, (result, parameters, call) in enumerate(overloads)
        ],
    )


def _functions() -> list[Any]:
    return [*_list_functions(), *_network_functions(), *_url_functions(), *_number_functions()]


def _list_functions() -> list[Any]:
    return [
        _function("isSorted", (_BOOL, [_ANY_LIST], _is_sorted)),
        _function("sum", (_DYN, [_ANY_LIST], lambda items: sum(items[1:], items[0]) if items else 0)),
        _function("min", (_DYN, [_ANY_LIST], _extreme(min))),
        _function("max", (_DYN, [_ANY_LIST], _extreme(max))),
        _function("indexOf", (_INT, [_ANY_LIST, _DYN], _index_of)),
        _function("lastIndexOf", (_INT, [_ANY_LIST, _DYN], _last_index_of)),
        _function("find", (_TEXT, [_TEXT, _TEXT], _find)),
        _function("findAll", (_TEXTS, [_TEXT, _TEXT], _find_all), (_TEXTS, [_TEXT, _TEXT, _INT], _find_all)),
    ]


def _network_functions() -> list[Any]:
    return [
        cel.FunctionDecl(
            "ip",
            [
                _overload("kubernetes_ip", _VALUE, [_TEXT], parse_ip, member=False),
                _overload("kubernetes_cidr_ip", _VALUE, [_VALUE], _cidr_address, member=True),
            ],
        ),
        _function("string", (_TEXT, [_VALUE], _as_text), member=False),
        _function("isIP", (_BOOL, [_TEXT], _accepts(parse_ip)), member=False),
        _function("ip.isCanonical", (_BOOL, [_TEXT], _is_canonical), member=False),
        _function("family", (_INT, [_VALUE], lambda value: _address(value).version)),
        _function("isUnspecified", (_BOOL, [_VALUE], lambda value: _address(value).is_unspecified)),
        _function("isLoopback", (_BOOL, [_VALUE], lambda value: _address(value).is_loopback)),
        _function("isLinkLocalMulticast", (_BOOL, [_VALUE], _is_link_local_multicast)),
        _function("isLinkLocalUnicast", (_BOOL, [_VALUE], lambda value: _address(value).is_link_local)),
        _function("isGlobalUnicast", (_BOOL, [_VALUE], _is_global_unicast)),
        _function("cidr", (_VALUE, [_TEXT], parse_cidr), member=False),
        _function("isCIDR", (_BOOL, [_TEXT], _accepts(parse_cidr)), member=False),
        _function("containsIP", (_BOOL, [_VALUE, _TEXT], _contains_ip), (_BOOL, [_VALUE, _VALUE], _contains_ip)),
        _function("containsCIDR", (_BOOL, [_VALUE, _TEXT], _contains_cidr), (_BOOL, [_VALUE, _VALUE], _contains_cidr)),
        _function("prefixLength", (_INT, [_VALUE], lambda value: _network(value).prefixlen)),
        _function("masked", (_VALUE, [_VALUE], lambda value: {"cidr": str(_network(value))})),
    ]


def _url_functions() -> list[Any]:
    return [
        _function("url", (_VALUE, [_TEXT], parse_url), member=False),
        _function("isURL", (_BOOL, [_TEXT], _accepts(parse_url)), member=False),
        _function("getScheme", (_TEXT, [_VALUE], lambda value: urlsplit(value["url"]).scheme)),
        _function("getHost", (_TEXT, [_VALUE], lambda value: urlsplit(value["url"]).netloc.rpartition("@")[2])),
        _function("getHostname", (_TEXT, [_VALUE], _host_name)),
        _function("getPort", (_TEXT, [_VALUE], _port)),
        _function("getEscapedPath", (_TEXT, [_VALUE], _escaped_path)),
        _function("getQuery", (_T.Map(_TEXT, _TEXTS), [_VALUE], _query)),
    ]


def _number_functions() -> list[Any]:
    return [
        _function("quantity", (_VALUE, [_TEXT], _make_quantity), member=False),
        _function("isQuantity", (_BOOL, [_TEXT], _accepts(parse_quantity)), member=False),
        _function("sign", (_INT, [_VALUE], lambda value: (_number(value) > 0) - (_number(value) < 0))),
        _function("isGreaterThan", (_BOOL, [_VALUE, _VALUE], lambda left, right: _compare(left, right) > 0)),
        _function("isLessThan", (_BOOL, [_VALUE, _VALUE], lambda left, right: _compare(left, right) < 0)),
        _function("compareTo", (_INT, [_VALUE, _VALUE], _compare)),
        _function("asApproximateFloat", (_DOUBLE, [_VALUE], lambda value: float(_number(value)))),
        _function("asInteger", (_INT, [_VALUE], _as_integer)),
        _function("isInteger", (_BOOL, [_VALUE], _is_integer)),
        _function("add", (_VALUE, [_VALUE, _VALUE], _plus(1)), (_VALUE, [_VALUE, _INT], _plus(1))),
        _function("sub", (_VALUE, [_VALUE, _VALUE], _plus(-1)), (_VALUE, [_VALUE, _INT], _plus(-1))),
        _function("semver", (_VALUE, [_TEXT], parse_semver), member=False),
        _function("isSemver", (_BOOL, [_TEXT], _accepts(parse_semver)), member=False),
        _function("major", (_INT, [_VALUE], lambda value: int(_semver_parts(value).group(1)))),
        _function("minor", (_INT, [_VALUE], lambda value: int(_semver_parts(value).group(2)))),
        _function("patch", (_INT, [_VALUE], lambda value: int(_semver_parts(value).group(3)))),
    ]


KUBERNETES = cel.CelExtension("kubernetes", functions=_functions())
