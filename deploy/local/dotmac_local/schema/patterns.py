"""Go's regular expressions (RE2) as Python's: what differs in meaning is rewritten, what RE2 lacks is refused."""

from __future__ import annotations

import functools
import re

_UNKNOWN_TO_RE2 = re.compile(r"\(\?(?:=|!|<=|<!|\(|>)|\\[1-9]|\\Z|[*+?}]\+")
_POSIX = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": r"\w",
    "xdigit": "0-9a-fA-F",
}


class PatternError(ValueError):
    """A pattern that Go's regexp package does not compile; `str()` says why."""


@functools.lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile an RE2 pattern. ASCII classes and `$` at the very end of the text only, as in Go.

    Raises PatternError for what RE2 does not know (look-around, back-references) and for broken patterns.
    """
    if _UNKNOWN_TO_RE2.search(re.sub(r"\\\\", "", pattern)):
        raise PatternError(f"error parsing regexp: invalid or unsupported Perl syntax: `{pattern}`")
    try:
        return re.compile(_translate(pattern), re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"error parsing regexp: {error}: `{pattern}`") from None


def _translate(pattern: str) -> str:
    """Python's `$` also matches before a last newline, and it has no `\\z` and no POSIX classes."""
    out: list[str] = []
    position = 0
    in_class = False
    multiline = re.match(r"\(\?[a-z]*m[a-z]*\)", pattern) is not None
    while position < len(pattern):
        char = pattern[position]
        if char == "\\":
            pair = pattern[position : position + 2]
            out.append({"\\z": r"\Z", "\\Q": "", "\\E": ""}.get(pair, pair))
            position += 2
            continue
        if in_class and (posix := re.match(r"\[:(\^?)(\w+):\]", pattern[position:])) and posix.group(2) in _POSIX:
            out.append(_POSIX[posix.group(2)])
            position += posix.end()
            continue
        if char == "[" and not in_class:
            in_class = True
            start = re.match(r"\[\^?\]?", pattern[position:])
            out.append(start.group(0) if start else "[")
            position += len(start.group(0)) if start else 1
            continue
        if char == "[":
            out.append("\\[")
        elif char == "]" and in_class:
            in_class = False
            out.append("]")
        elif char == "$" and not in_class and not multiline:
            out.append(r"\Z")
        else:
            out.append(char)
        position += 1
    return "".join(out)
