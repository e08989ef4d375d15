"""Reviews: questions about users and permissions, answered and not stored."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Any

from dotmac_local import metadata
from dotmac_local.apply import track_update
from dotmac_local.auth.rbac import Attributes, Rbac
from dotmac_local.auth.tokens import ISSUER, MAX_SECONDS, MIN_SECONDS, Tokens
from dotmac_local.auth.users import User
from dotmac_local.discovery.documents import REVIEWS
from dotmac_local.errors import bad_request, invalid, not_found
from dotmac_local.schema import Cause, Schema
from dotmac_local.schema.core import CORE
from dotmac_local.storage import Store
from dotmac_local.verbs.request import Target

Object = dict[str, Any]


def _api_version(plural: str) -> str:
    return f"{next(group for group, name, _, _ in REVIEWS if name == plural)}/v1"


def owned(review: Object, asked: Object, manager: str, subresource: str = "") -> Object:
    """A review with the managedFields that whoever asked it gets, as for any object posted."""
    if "spec" not in asked or review["kind"] == "SelfSubjectRulesReview":
        return review
    group, _, version = review["apiVersion"].partition("/")
    posted = {"apiVersion": review["apiVersion"], "kind": review["kind"], "metadata": {}, "spec": asked["spec"]}
    entries = track_update(
        None,
        posted,
        manager=manager,
        subresource=subresource,
        api_version=review["apiVersion"],
        time=metadata.now(),
        schema=_schema((group, version, review["kind"])),
    )
    return {**review, "metadata": {**review["metadata"], "managedFields": entries}} if entries else review


@functools.cache
def _schema(kind: tuple[str, str, str]) -> Schema:
    return Schema(CORE[kind])


class Reviews:
    """authorization.k8s.io, authentication.k8s.io, and TokenRequest."""

    def __init__(self, store: Store, rbac: Rbac, tokens: Tokens) -> None:
        self._store = store
        self._rbac = rbac
        self._tokens = tokens

    def answer(self, plural: str, body: Object, user: User, namespace: str) -> Object:
        """The review with its status; raises ApiError 400 or 422 for a question that makes no sense."""
        handlers = {
            "selfsubjectaccessreviews": self._self_access,
            "subjectaccessreviews": self._access,
            "localsubjectaccessreviews": self._access,
            "selfsubjectrulesreviews": self._rules,
            "selfsubjectreviews": self._self,
            "tokenreviews": self._token,
        }
        kind = body.get("kind") or next(entry[2] for entry in REVIEWS if entry[1] == plural)
        if not isinstance(kind, str) or f"{kind.lower()}s" != plural:
            raise bad_request(f"the object provided is unrecognized (must be of the kind of {plural})")
        spec = body.get("spec") or {}
        if not isinstance(spec, dict):
            raise bad_request(f"{kind} cannot be handled: spec must be an object")
        answered = handlers[plural](body, spec, user)
        return {"kind": kind, "apiVersion": body.get("apiVersion") or _api_version(plural), "metadata": {}, **answered}

    def _self_access(self, body: Object, spec: Object, user: User) -> Object:
        return {"spec": spec, "status": {"allowed": self._allowed(spec, user)}}

    def _access(self, body: Object, spec: Object, user: User) -> Object:
        groups = tuple(spec.get("groups") or ())
        if not spec.get("user") and not groups:
            cause = Cause(
                "FieldValueInvalid", 'Invalid value: "": at least one of user or group must be specified', "spec.user"
            )
            raise invalid("authorization.k8s.io", "SubjectAccessReview", "", [cause])
        return {"spec": spec, "status": {"allowed": self._allowed(spec, User(str(spec.get("user") or ""), groups))}}

    def _allowed(self, spec: Object, user: User) -> bool:
        asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (asked is None) == (path is None):
            cause = Cause(
                "FieldValueInvalid",
                "Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                "spec",
            )
            raise invalid("authorization.k8s.io", "SelfSubjectAccessReview", "", [cause])
        if path is not None:
            return self._rbac.allows_path(user, path.get("verb", ""), path.get("path", ""))
        assert asked is not None  # noqa: S101 - exactly one of them is set
        parts = ("verb", "group", "resource", "subresource", "namespace", "name")
        return self._rbac.allows(user, Attributes(*(str(asked.get(part) or "") for part in parts)))

    def _rules(self, body: Object, spec: Object, user: User) -> Object:
        rules = list(self._rbac.rules(user, spec.get("namespace") or ""))
        names = ("verbs", "apiGroups", "resources", "resourceNames")
        return {
            "spec": {},
            "status": {
                "resourceRules": [
                    {n: rule[n] for n in names if rule.get(n)} for rule in rules if rule.get("resources")
                ],
                "nonResourceRules": [
                    {"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]}
                    for rule in rules
                    if rule.get("nonResourceURLs")
                ],
                "incomplete": False,
            },
        }

    def _self(self, body: Object, spec: Object, user: User) -> Object:
        return {"metadata": {"creationTimestamp": metadata.now()}, "status": {"userInfo": user.info()}}

    def _token(self, body: Object, spec: Object, user: User) -> Object:
        audiences = spec.get("audiences") or []
        found = self._tokens.review(str(spec.get("token") or ""), audiences)
        shown = {"spec": spec}
        if found is None:
            return shown | {"status": {"user": {}, "error": "the token is not valid (any more)"}}
        return shown | {"status": {"authenticated": True, "user": found.info(), "audiences": audiences or [ISSUER]}}

    def token_request(self, target: Target, body: Object) -> Object:
        """A token for a service account; raises ApiError 404, 422."""
        found = self._store.get(target.resource.storage, target.namespace, target.name)
        if found is None:
            raise not_found(target.resource, target.name)
        spec = body.get("spec") or {}
        seconds = spec.get("expirationSeconds") or 3600
        if not isinstance(seconds, int) or seconds < MIN_SECONDS:
            shown = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
            raise invalid(
                "authentication.k8s.io",
                "TokenRequest",
                "",
                [Cause("FieldValueInvalid", shown, "spec.expirationSeconds")],
            )
        meta = found.load()["metadata"]
        audiences = spec.get("audiences") or [ISSUER]
        token, expires = self._tokens.issue(
            target.namespace, target.name, meta["uid"], audiences, min(seconds, MAX_SECONDS)
        )
        until = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        shown_meta = {
            "name": target.name,
            "namespace": target.namespace,
            "uid": meta["uid"],
            "creationTimestamp": metadata.now(),
        }
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": shown_meta,
            "spec": {
                "audiences": audiences,
                "expirationSeconds": seconds,
                "boundObjectRef": spec.get("boundObjectRef"),
            },
            "status": {"token": token, "expirationTimestamp": until},
        }
