"""What a request addresses and asks for, parsed and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dotmac_local.errors import invalid_options
from dotmac_local.metadata import Object
from dotmac_local.resources import ResourceType
from dotmac_local.schema import Cause
from dotmac_local.storage import Revision

# Kubernetes: FieldManagerMaxLength.
_MANAGER_LIMIT = 128


@dataclass(frozen=True)
class Target:
    """A resource, and in it a namespace, a name and a subresource where the path has them."""

    resource: ResourceType
    namespace: str = ""
    name: str = ""
    subresource: str = ""


Admit = Callable[[Target, Object, Object | None], None]


@dataclass(frozen=True)
class WriteOptions:
    """The query parameters of a write. `validation` is Strict, Warn or Ignore.

    `admit` is asked before anything is stored, with the new object and the old one (None: there is none); it may raise
    ApiError.
    """

    manager: str = "unknown"
    manager_given: bool = False
    validation: str = "Warn"
    dry_run: bool = False
    force: bool = False
    admit: Admit | None = None
    duplicates: tuple[str, ...] = ()
    """Paths of fields that the body has twice."""
    time: str = ""
    """When the write counts as made, in managedFields; "" is now."""

    @classmethod
    def parse(cls, kind: str, query: Mapping[str, str], user_agent: str) -> WriteOptions:
        """`kind` names the options in an error (CreateOptions ...); raises ApiError 422."""
        causes = [*_check_choices(query), *_check_manager(query.get("fieldManager", ""))]
        if causes:
            raise invalid_options(kind, causes)
        manager = query.get("fieldManager", "")
        return cls(
            manager=manager or user_agent.partition("/")[0][:_MANAGER_LIMIT] or "unknown",
            manager_given=bool(manager),
            validation=query.get("fieldValidation") or "Warn",
            dry_run=query.get("dryRun") == "All",
            force=query.get("force") in ("true", "1"),
        )


def _check_choices(query: Mapping[str, str]) -> list[Cause]:
    causes = []
    for name, allowed in (("dryRun", ("All",)), ("fieldValidation", ("Ignore", "Warn", "Strict"))):
        value = query.get(name)
        if value and value not in allowed:
            supported = ", ".join(f'"{choice}"' for choice in allowed)
            causes.append(
                Cause("FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {supported}', name)
            )
    return causes


def _check_manager(manager: str) -> list[Cause]:
    if len(manager) > _MANAGER_LIMIT:
        return [Cause("FieldValueTooLong", f"Too long: may not be more than {_MANAGER_LIMIT} bytes", "fieldManager")]
    if not manager.isprintable():
        return [
            Cause(
                "FieldValueInvalid",
                f"Invalid value: {manager!r}: should only contain printable characters",
                "fieldManager",
            )
        ]
    return []


@dataclass
class Answer:
    """What a verb answers: a stored revision (sent as its bytes) or an object of its own."""

    code: int
    body: Object | Revision
    resource: ResourceType
    warnings: list[str] = field(default_factory=list)
