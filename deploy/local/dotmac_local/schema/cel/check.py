"""Whether the rules of a definition may be stored: they compile against the types of their place, in good form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dotmac_local.schema import causes
from dotmac_local.schema.causes import Cause
from dotmac_local.schema.cel.rules import RULE_REASONS, compiler_message
from dotmac_local.schema.cel.types import TypeTable
from dotmac_local.schema.node import Node, compile_node

# Ordering an integer and a double is allowed by the API server, unlike by this compiler.
_CROSS_TYPE = re.compile(
    r"found no matching overload for '_(?:<|<=|>|>=)_' applied to '\((?:int|uint|double), (?:int|uint|double)\)'"
)
_PATH_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\['([^']+)'\]")
_SHOWN = ("rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf")


@dataclass(frozen=True, slots=True)
class _Site:
    """One rule: where it stands, at which node, and the list around it whose items cannot be told apart, if any."""

    raw: dict[str, Any]
    node: Node
    field: str
    uncorrelated: str


def check_rules(schema: dict[str, Any], field: str) -> list[Cause]:
    """Why the rules of a structural schema at `field` are refused; empty when they are not."""
    root = compile_node(schema)
    sites = list(_sites(root, field, ""))
    if not sites:
        return []
    types = TypeTable(root)
    return [cause for site in sites for cause in _check(site, types)]


def _sites(node: Node, field: str, uncorrelated: str) -> Iterator[_Site]:
    for index, raw in enumerate(node.raw.get("x-kubernetes-validations") or []):
        yield _Site(raw, node, f"{field}.x-kubernetes-validations[{index}]", uncorrelated)
    for name, child in node.properties.items():
        yield from _sites(child, f"{field}.properties[{name}]", uncorrelated)
    if node.additional is not None:
        yield from _sites(node.additional, f"{field}.additionalProperties", uncorrelated)
    if node.items is not None:
        lost = uncorrelated or ("" if node.list_type == "map" else field)
        yield from _sites(node.items, f"{field}.items", lost)


def _check(site: _Site, types: TypeTable) -> list[Cause]:
    rule = str(site.raw.get("rule") or "")
    found = _check_words(site, rule)
    if not rule.strip():
        return [*found, causes.required(f"{site.field}.rule", "rule is not specified")]
    found += _check_field_path(site)
    return found + _check_source(site, types, rule)


def _check_words(site: _Site, rule: str) -> list[Cause]:
    found: list[Cause] = []
    message, reason = site.raw.get("message"), site.raw.get("reason")
    if message and not message.strip():
        found.append(causes.invalid(f"{site.field}.message", message, "must be non-empty if specified"))
    elif message and "\n" in message.strip():
        found.append(causes.invalid(f"{site.field}.message", message, "must not contain line breaks"))
    elif "\n" in rule.strip() and not message:
        why = "message must be specified if rule contains line breaks"
        found.append(causes.required(f"{site.field}.message", why))
    if reason is not None and reason not in RULE_REASONS:
        found.append(causes.not_supported(f"{site.field}.reason", reason, sorted(RULE_REASONS)))
    return found


def _check_field_path(site: _Site) -> list[Cause]:
    """A fieldPath leads to a property of the schema; items of lists cannot be named."""
    path = site.raw.get("fieldPath")
    if not path:
        return []
    position, node = 0, site.node
    while position < len(path):
        step = _PATH_STEP.match(path, position)
        child = node.child(step.group(1) or step.group(2)) if step else None
        if step is None or child is None:
            return [causes.invalid(f"{site.field}.fieldPath", path, "must be a valid path")]
        position, node = step.end(), child
    return []


def _check_source(site: _Site, types: TypeTable, rule: str) -> list[Cause]:
    optional = bool(site.raw.get("optionalOldSelf"))
    uses_old, refused = _compile(site, types, rule, "rule", optional)
    if refused:
        return refused
    found: list[Cause] = []
    if site.raw.get("optionalOldSelf") is not None and not uses_old:
        why = "may not be set if oldSelf is not used in rule"
        found.append(causes.invalid(f"{site.field}.optionalOldSelf", optional, why))
    if uses_old and site.uncorrelated:
        why = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {site.uncorrelated}"
        found.append(causes.invalid(f"{site.field}.rule", rule, why))
    expression = site.raw.get("messageExpression")
    if expression is not None:
        found += _compile(site, types, str(expression), "messageExpression", optional)[1]
    return found


def _compile(site: _Site, types: TypeTable, source: str, part: str, optional: bool) -> tuple[bool, list[Cause]]:
    """Whether the expression reads oldSelf, and what is wrong with it."""
    shown = {name[0].upper() + name[1:]: site.raw.get(name) for name in _SHOWN}
    wanted, subject = ("STRING", "messageExpression") if part == "messageExpression" else ("BOOL", "cel expression")
    prefix = "messageExpression compilation failed" if part == "messageExpression" else "compilation failed"

    def refusal(why: str) -> list[Cause]:
        return [Cause(causes.INVALID, f"Invalid value: {causes.shown(shown)}: {why}", f"{site.field}.{part}")]

    uses_old = False
    try:
        made = types.environment(site.node, old="").compile(source)
    except RuntimeError as error:
        if "undeclared reference to 'oldSelf" not in str(error):
            return False, [] if _only_cross_type(error) else refusal(f"{prefix}: {compiler_message(error)}")
        uses_old = True
        try:
            made = types.environment(site.node, old="optional" if optional else "plain").compile(source)
        except RuntimeError as again:
            return True, [] if _only_cross_type(again) else refusal(f"{prefix}: {compiler_message(again)}")
    if str(made.return_type()) != wanted:
        return uses_old, refusal(f"{subject} must evaluate to a {wanted.lower()}")
    return uses_old, []


def _only_cross_type(error: Exception) -> bool:
    errors = [line for line in str(error).splitlines() if "ERROR:" in line]
    return bool(errors) and all(_CROSS_TYPE.search(line) for line in errors)
