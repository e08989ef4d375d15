"""Structural schemas of Kubernetes objects: pruning, defaults, validation, and the check of a definition itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from dotmac_local.schema import causes, pruning
from dotmac_local.schema.causes import Cause
from dotmac_local.schema.cel.rules import compile_places, run
from dotmac_local.schema.crd import check_crd
from dotmac_local.schema.listtypes import list_duplicates
from dotmac_local.schema.metadata import OBJECT_META
from dotmac_local.schema.node import MISSING, Node, compile_node, zero_value
from dotmac_local.schema.ratcheting import untouched
from dotmac_local.schema.validation import Finding, compile_fields

__all__ = ["Cause", "Schema", "check_crd"]

# With one of these, the rules in CEL are not run: they may count on well-formed values.
_BLOCKING = frozenset(
    {causes.NOT_SUPPORTED, causes.REQUIRED, causes.TOO_LONG, causes.TOO_MANY, causes.TYPE_INVALID},
)
RULES_SKIPPED = Cause(
    causes.INVALID,
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
    "<nil>",
)


class Schema:
    """One version of a kind, compiled from its OpenAPI v3 schema. Objects are plain JSON values; none is kept.

    `typed`: the schema describes a kind that the API server itself implements (it says so by
    `x-kubernetes-group-version-kind`), whose objects always carry their struct fields (`spec: {}`).
    """

    def __init__(self, openapi: dict[str, Any]) -> None:
        self.typed = "x-kubernetes-group-version-kind" in openapi
        self.node: Node = compile_node(openapi, null_defaults=self.typed)
        self.node.properties["metadata"] = compile_node(OBJECT_META)
        self._checks = compile_fields(openapi)
        self._rules = compile_places(self.node)

    def prune(self, obj: dict[str, Any]) -> list[str]:
        """Drop unknown fields from `obj`, in place; returns their paths (`spec.bogus`, `spec.ports[0].bogus`)."""
        unknown: list[str] = []
        pruning.prune(obj, self.node, (), unknown, is_object=True)
        return unknown

    def default(self, obj: dict[str, Any]) -> None:
        """Fill in defaults and drop nulls where null is not allowed, in place."""
        pruning.default(obj, self.node)

    def zero(self) -> dict[str, Any]:
        """What a typed object shows when nothing is set; for a custom kind, nothing."""
        return zero_value(self.node) if self.typed else {}

    def validate(self, obj: dict[str, Any], old: dict[str, Any] | None, before: Sequence[Cause] = ()) -> list[Cause]:
        """Why `obj` may not be stored; empty when it may. `old` is the stored object on an update, both defaulted.

        `before` are the causes found already, in the metadata: they come first in the result. The rules in CEL run only
        when nothing is in their way; otherwise a last cause says that they were not checked.
        """
        found: list[Finding] = []
        changed = obj.keys() if old is None else {name for name in obj if _differs(name, obj, old)}
        self._checks(obj, changed, found)
        if found and old is not None:
            found = [finding for finding in found if not untouched(obj, old, self.node, finding.owner)]
        refused = [*before, *(finding.cause for finding in found)]
        refused += self._duplicates({name: obj[name] for name in obj if name in changed}, old)
        if self._rules is not None:
            if any(cause.reason in _BLOCKING for cause in refused):
                refused.append(RULES_SKIPPED)
            else:
                run(self._rules, obj, MISSING if old is None else old, refused)
        return refused

    def _duplicates(self, obj: dict[str, Any], old: dict[str, Any] | None) -> list[Cause]:
        """Repeated items, unless the stored object has some already."""
        repeated: list[Cause] = []
        list_duplicates(obj, self.node, (), repeated)
        if repeated and old is not None:
            before: list[Cause] = []
            list_duplicates(old, self.node, (), before)
            if before:
                return []
        return repeated


def _differs(name: str, obj: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether a field is another than before. Whatever is wrong with one that is not would be let through."""
    try:
        return name not in old or orjson.dumps(obj[name]) != orjson.dumps(old[name])
    except TypeError:
        return True  # a number that JSON has no room for
