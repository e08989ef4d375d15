"""RBAC: which rules bind a user, and whether one of them allows what is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dotmac_local.auth.users import MASTERS, User
from dotmac_local.resources import RBAC
from dotmac_local.storage import Revision, Store

Rule = dict[str, Any]

_STORAGES = tuple(f"{RBAC}/{plural}" for plural in ("roles", "rolebindings", "clusterroles", "clusterrolebindings"))
ALL: Rule = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
_ALL_PATHS: Rule = {"verbs": ["*"], "nonResourceURLs": ["*"]}


@dataclass(frozen=True)
class Attributes:
    """What a request wants to do with a resource."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def combined(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True)
class Binding:
    """A role bound to subjects; `namespace` is "" for a ClusterRoleBinding."""

    namespace: str
    role_namespace: str
    role_kind: str
    role_name: str
    subjects: frozenset[tuple[str, str]]


class Rbac:
    """Reads roles and bindings from the store; parsed again only after one of them changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stale = True
        self._roles: dict[tuple[str, str, str], list[Rule]] = {}
        self._bindings: list[Binding] = []
        store.observers.append(self._observe)

    def _observe(self, revision: Revision) -> None:
        if revision.storage in _STORAGES:
            self._stale = True

    def _refresh(self) -> None:
        if not self._stale:
            return
        roles, role_bindings, cluster_roles, cluster_bindings = (
            [r.load() for r in self._store.select(s)] for s in _STORAGES
        )
        self._roles = {("Role", r["metadata"]["namespace"], r["metadata"]["name"]): r.get("rules") or [] for r in roles}
        self._roles |= {("ClusterRole", "", r["metadata"]["name"]): _rules(r, cluster_roles) for r in cluster_roles}
        self._bindings = [_binding(binding) for binding in [*cluster_bindings, *role_bindings]]
        self._stale = False

    def rules(self, user: User, namespace: str) -> Iterator[Rule]:
        """The rules that bind a user: everywhere, and in a namespace ("" for cluster scope)."""
        if MASTERS in user.groups:
            yield ALL
            yield _ALL_PATHS
        self._refresh()
        who = {("User", user.name), *(("Group", group) for group in user.groups)}
        for binding in self._bindings:
            if binding.namespace in ("", namespace) and who & binding.subjects:
                yield from self._roles.get((binding.role_kind, binding.role_namespace, binding.role_name), ())

    def allows(self, user: User, wanted: Attributes) -> bool:
        return any(_covers(rule, wanted) for rule in self.rules(user, wanted.namespace))

    def allows_path(self, user: User, verb: str, path: str) -> bool:
        return any(_has(rule.get("verbs"), verb) and _path_matches(rule, path) for rule in self.rules(user, ""))

    def role_rules(self, kind: str, namespace: str, name: str) -> list[Rule]:
        """The rules of a role, as a binding refers to it."""
        self._refresh()
        return self._roles.get((kind, namespace if kind == "Role" else "", name), [])

    def holds(self, user: User, rules: Iterable[Rule], namespace: str) -> list[Rule]:
        """Those of `rules` that the user does not have: nobody can grant more than that."""
        own = list(self.rules(user, namespace))
        return [
            rule for rule in rules if not all(any(_covers_part(mine, part) for mine in own) for part in _parts(rule))
        ]


def _rules(role: dict[str, Any], others: list[dict[str, Any]]) -> list[Rule]:
    """Own rules and those of the roles it aggregates by label."""
    rules = list(role.get("rules") or [])
    for selector in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or []:
        labels = selector.get("matchLabels") or {}
        for other in others:
            if other is not role and labels and labels.items() <= (other["metadata"].get("labels") or {}).items():
                rules += other.get("rules") or []
    return rules


def _binding(obj: dict[str, Any]) -> Binding:
    namespace = obj["metadata"].get("namespace", "")
    role = obj["roleRef"]
    subjects = set()
    for subject in obj.get("subjects") or []:
        if subject["kind"] == "ServiceAccount":
            where = subject.get("namespace") or namespace
            subjects.add(("User", f"system:serviceaccount:{where}:{subject['name']}"))
        else:
            subjects.add((subject["kind"], subject["name"]))
    role_namespace = namespace if role["kind"] == "Role" else ""
    return Binding(namespace, role_namespace, role["kind"], role["name"], frozenset(subjects))


def _has(values: list[str] | None, value: str) -> bool:
    return bool(values) and ("*" in values or value in values)  # type: ignore[operator]


def _covers(rule: Rule, wanted: Attributes) -> bool:
    if not _has(rule.get("verbs"), wanted.verb) or not _has(rule.get("apiGroups"), wanted.group):
        return False
    resources = rule.get("resources") or []
    if not _has(resources, wanted.combined) and not (wanted.subresource and f"*/{wanted.subresource}" in resources):
        return False
    names = rule.get("resourceNames")
    return not names or wanted.name in names


def _path_matches(rule: Rule, path: str) -> bool:
    for pattern in rule.get("nonResourceURLs") or ():
        if pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1])):
            return True
    return False


def _parts(rule: Rule) -> Iterator[tuple[str, ...]]:
    """A rule taken apart into single permissions."""
    for verb in rule.get("verbs") or ():
        for path in rule.get("nonResourceURLs") or ():
            yield (verb, path)
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                for name in rule.get("resourceNames") or ("",):
                    yield (verb, group, resource, name)


def _covers_part(rule: Rule, part: tuple[str, ...]) -> bool:
    if len(part) == 2:
        return _has(rule.get("verbs"), part[0]) and _path_matches(rule, part[1])
    verb, group, resource, name = part
    plural, _, subresource = resource.partition("/")
    return _covers(rule, Attributes(verb, group, plural, subresource, "", name))
