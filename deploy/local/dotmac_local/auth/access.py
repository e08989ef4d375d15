"""Whether a user may: checks that raise the 403 with the words of a kube-apiserver."""

from __future__ import annotations

from dataclasses import replace

from dotmac_local.auth.rbac import ALL, Attributes, Rbac, Rule
from dotmac_local.auth.users import User
from dotmac_local.errors import ApiError, details, forbidden
from dotmac_local.metadata import Object
from dotmac_local.resources import RBAC, ResourceType
from dotmac_local.verbs.request import Target

__all__ = ["Access", "Attributes"]

_METHODS = {"GET": "get", "HEAD": "head", "POST": "post", "PUT": "put", "PATCH": "patch", "DELETE": "delete"}


class Access:
    """RBAC, always on: the administrator's token is in system:masters, which may everything."""

    def __init__(self, rbac: Rbac) -> None:
        self.rbac = rbac

    def check(self, user: User, wanted: Attributes, resource: ResourceType | None = None) -> None:
        """Raises ApiError 403."""
        if self.rbac.allows(user, wanted):
            return
        scope = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
        what = f'resource "{wanted.combined}" in API group "{wanted.group}"'
        why = f'User "{user.name}" cannot {wanted.verb} {what} {scope}'
        name = "" if wanted.verb in ("list", "watch", "create", "deletecollection") and not wanted.name else wanted.name
        if resource is not None:
            raise forbidden(resource, name, why)
        qualified = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
        quoted = f' "{name}"' if name else ""
        raise ApiError(
            403, "Forbidden", f"{qualified}{quoted} is forbidden: {why}", details(name, wanted.group, wanted.resource)
        )

    def check_path(self, user: User, method: str, path: str) -> None:
        """Raises ApiError 403 for documents the user may not read."""
        verb = _METHODS.get(method, method.lower())
        if not self.rbac.allows_path(user, verb, path):
            message = f'forbidden: User "{user.name}" cannot {verb} path "{path}"'
            raise ApiError(403, "Forbidden", message, {})

    def check_impersonation(self, user: User, resource: str, name: str, group: str = "", namespace: str = "") -> None:
        """Raises ApiError 403 unless the user may act as another."""
        self.check(user, Attributes("impersonate", group, resource, "", namespace, name))

    def check_grant(self, user: User, target: Target, new: Object, old: Object | None) -> None:
        """Nobody grants by a role or binding what they do not have themselves; raises ApiError 403.

        `new` is the object as it would be stored, however it was written (create, update, any patch).
        """
        resource = target.resource
        if resource.group != RBAC or (old is not None and _same_grant(new, old)):
            return
        if resource.kind in ("Role", "ClusterRole"):
            # What a role will aggregate is not known yet, so only who has everything may let it aggregate.
            rules = [ALL, *(new.get("rules") or [])] if new.get("aggregationRule") else new.get("rules") or []
            self._check_grant(user, target, Attributes("escalate", RBAC, resource.plural), rules)
            return
        kind, name = new["roleRef"]["kind"], new["roleRef"]["name"]
        bind = Attributes("bind", RBAC, f"{kind.lower()}s", name=name)
        self._check_grant(user, target, bind, self.rbac.role_rules(kind, target.namespace, name))

    def _check_grant(self, user: User, target: Target, allowance: Attributes, rules: list[Rule]) -> None:
        if self.rbac.allows(user, replace(allowance, namespace=target.namespace)):
            return
        missing = self.rbac.holds(user, rules, target.namespace)
        if missing:
            who = f'user "{user.name}" (groups={list(user.groups)})'
            why = f"{who} is attempting to grant RBAC permissions not currently held: {missing}"
            raise forbidden(target.resource, target.name, why)


def _same_grant(new: Object, old: Object) -> bool:
    return all(new.get(name) == old.get(name) for name in ("rules", "aggregationRule", "roleRef", "subjects"))
