"""Users, as Kubernetes names them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"


@dataclass(frozen=True)
class User:
    """A name with groups; `uid` and `extra` are shown by SelfSubjectReview."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, list[str]] = field(default_factory=dict, compare=False)

    def info(self) -> dict[str, object]:
        """UserInfo of authentication.k8s.io."""
        shown: dict[str, object] = {"username": self.name}
        if self.uid:
            shown["uid"] = self.uid
        if self.groups:
            shown["groups"] = list(self.groups)
        if self.extra:
            shown["extra"] = self.extra
        return shown

    def with_groups(self, *groups: str) -> User:
        return replace(self, groups=(*self.groups, *groups))


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
ADMIN = User("admin", (MASTERS, AUTHENTICATED), "admin-uid")


def service_account(namespace: str, name: str, uid: str = "", token_id: str = "") -> User:
    """The user that a service account's token stands for."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    extra = {"authentication.kubernetes.io/credential-id": [f"JTI={token_id}"]} if token_id else {}
    return User(f"system:serviceaccount:{namespace}:{name}", groups, uid, extra)
