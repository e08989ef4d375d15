"""Compiling the rules of a schema, and running them on an object and the one it replaces."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cel_expr_python import cel

from dotmac_local.schema import causes
from dotmac_local.schema.causes import Cause
from dotmac_local.schema.cel.library import KUBERNETES
from dotmac_local.schema.cel.values import Convert, converter
from dotmac_local.schema.node import MISSING, Node
from dotmac_local.schema.ratcheting import correlated
from dotmac_local.schema.validation import same_json

# The libraries of CEL that the API server offers beside its own.
EXTENSIONS = """
extensions:
  - name: two-var-comprehensions
  - name: sets
  - name: lists
  - name: strings
    version: 2
  - name: optional
"""
# For our own use (see `optional_old`); rules themselves have no cel.bind.
_BINDINGS = "  - name: bindings\n"
RULE_REASONS = frozenset({causes.INVALID, causes.FORBIDDEN, causes.REQUIRED, causes.DUPLICATE})


class RuleError(ValueError):
    """A rule that does not compile; `str()` is the compiler's message."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule. `transition`: it reads oldSelf, so it runs on updates only (or, `optional_old`, always)."""

    program: Any
    transition: bool
    optional_old: bool
    source: str
    message: str
    message_program: Any
    reason: str
    sub_path: str


@dataclass(frozen=True, slots=True)
class Place:
    """A node with rules at it or below it, ready to run."""

    node: Node
    rules: tuple[Rule, ...]
    convert: Convert | None
    properties: dict[str, Place]
    additional: Place | None
    items: Place | None
    is_object: bool


def compile_places(node: Node, *, is_object: bool = True) -> Place | None:
    """The rules of a schema; None when it has none. Raises RuleError."""
    properties = {
        name: place
        for name, child in node.properties.items()
        if (place := compile_places(child, is_object=child.embedded)) is not None
    }
    additional = compile_places(node.additional, is_object=node.additional.embedded) if node.additional else None
    items = compile_places(node.items, is_object=node.items.embedded) if node.items else None
    rules = tuple(compile_rule(raw) for raw in node.raw.get("x-kubernetes-validations") or ())
    if not (rules or properties or additional or items):
        return None
    return Place(node, rules, converter(node) if rules else None, properties, additional, items, is_object)


@functools.lru_cache(maxsize=1)
def _environments() -> tuple[Any, Any, Any]:
    """Environments that know self; self and oldSelf; self and the list that stands for an optional oldSelf."""

    def environment(*names: str) -> Any:
        variables = "".join(f"  - name: {name}\n    type_name: dyn\n" for name in names)
        config = cel.NewEnvConfigFromYaml(f"variables:\n{variables}{EXTENSIONS}{_BINDINGS}")
        return cel.NewEnv(config=config, extensions=[KUBERNETES])

    return environment("self"), environment("self", "oldSelf"), environment("self", "oldSelves")


def optional_old(source: str) -> str:
    """The rule with oldSelf as an optional value, which the runtime takes in the shape of a list of none or one."""
    return f"cel.bind(oldSelf, oldSelves[?0], (\n{source}\n))"


def compile_rule(raw: dict[str, Any]) -> Rule:
    """Compile one entry of x-kubernetes-validations. Raises RuleError."""
    source = str(raw.get("rule", ""))
    optional = bool(raw.get("optionalOldSelf"))
    program, transition = _compile(source, optional)
    message_source = raw.get("messageExpression") or ""
    return Rule(
        program=program,
        transition=transition,
        optional_old=optional,
        source=source,
        message=(raw.get("message") or "").strip(),
        message_program=_compile(message_source, optional)[0] if message_source else None,
        reason=raw["reason"] if raw.get("reason") in RULE_REASONS else causes.INVALID,
        sub_path=raw.get("fieldPath") or "",
    )


def _compile(source: str, optional: bool) -> tuple[Any, bool]:
    """The program, and whether it reads oldSelf: then it does not compile without."""
    alone, with_old, with_optional = _environments()
    try:
        return alone.compile(source), False
    except RuntimeError as error:
        if "oldSelf" not in source:
            raise RuleError(compiler_message(error)) from None
    try:
        return (with_optional.compile(optional_old(source)) if optional else with_old.compile(source)), True
    except RuntimeError as error:
        raise RuleError(compiler_message(error)) from None


def compiler_message(error: Exception) -> str:
    """The compiler's words without the code it wraps them in."""
    return str(error).removeprefix("INVALID_ARGUMENT: ").removesuffix(" [INVALID_ARGUMENT]").strip()


def run(place: Place, value: Any, old: Any, found: list[Cause], path: str = "") -> None:
    """Run the rules at and below a place. `old` is the value this one replaces, MISSING when there is none."""
    if place.rules:
        _run_here(place, value, old, found, path)
    if isinstance(value, dict):
        for name, below in place.properties.items():
            if name in value:
                inner = old[name] if isinstance(old, dict) and name in old else MISSING
                run(below, value[name], inner, found, f"{path}.{name}" if path else name)
        if place.additional is not None:
            for name, item in value.items():
                if name not in place.node.properties:
                    inner = old[name] if isinstance(old, dict) and name in old else MISSING
                    run(place.additional, item, inner, found, f"{path}[{name}]")
    elif isinstance(value, list) and place.items is not None:
        for index, item in enumerate(value):
            run(place.items, item, correlated(old, value, place.node, index), found, f"{path}[{index}]")


def _run_here(place: Place, value: Any, old: Any, found: list[Cause], path: str) -> None:
    # What was wrong before and is not touched by this update is let through; so it need not be asked for, either.
    untouched = old is not MISSING and same_json(value, old)
    rules = [rule for rule in place.rules if rule.transition or not untouched]
    if not rules:
        return
    convert = place.convert or _as_it_is
    given = convert(value)
    before = MISSING if old is MISSING else convert(old)
    for rule in rules:
        if rule.transition and before is MISSING and not rule.optional_old:
            continue
        data = {"self": given}
        if rule.transition:
            data |= _old_data(rule, before)
        outcome = _outcome(rule.program, data)
        if outcome is not True:
            found.append(_cause(rule, data, value, path, outcome))


def _outcome(program: Any, data: dict[str, Any]) -> Any:
    """The result, or the error as text."""
    try:
        return program.eval(data=data).plain_value()
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        return compiler_message(error)


def _as_it_is(value: Any) -> Any:
    return value


def _old_data(rule: Rule, before: Any) -> dict[str, Any]:
    if rule.optional_old:
        return {"oldSelves": [] if before is MISSING else [before]}
    return {"oldSelf": before}


def _cause(rule: Rule, data: dict[str, Any], value: Any, path: str, outcome: Any) -> Cause:
    field = path + rule.sub_path if path else rule.sub_path.removeprefix(".")
    if outcome is not False:
        return causes.invalid(field or "<nil>", value, f"{outcome} evaluating rule: {rule.message or rule.source}")
    message = _message(rule, data)
    if rule.reason == causes.INVALID:
        return causes.invalid(field or "<nil>", value, message)
    make: dict[str, Callable[[], Cause]] = {
        causes.FORBIDDEN: lambda: causes.forbidden(field, message),
        causes.REQUIRED: lambda: causes.required(field, message),
        causes.DUPLICATE: lambda: causes.duplicate(field, value),
    }
    return make[rule.reason]()


def _message(rule: Rule, data: dict[str, Any]) -> str:
    """The message expression's result when it is a string of one line, else the message, else the rule itself."""
    if rule.message_program is not None:
        text = _outcome(rule.message_program, data)
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text.strip()
    return rule.message or f"failed rule: {rule.source.strip()}"
