"""A kind for the tests of behaviours, and a short way to write requests about it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from tests.conformance.target import Target

GROUP = "conformance.example.com"
NAMESPACE = "conformance"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

type Object = dict[str, Any]


def definition(plural: str, kind: str, spec: Object, **version: Any) -> Object:
    """A namespaced kind of the test group, whose `spec` has this schema; it has a status subresource."""
    schema = {
        "type": "object",
        "properties": {
            "spec": spec,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    first = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        **version,
    }
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [first]},
    }


@dataclass(frozen=True)
class Things:
    """Requests about one kind in one namespace, as the administrator. Answers are the decoded bodies."""

    client: httpx.Client
    base: str
    api_version: str
    kind: str

    def body(self, name: str, spec: Object | None = None, **metadata: Any) -> Object:
        made: Object = {"apiVersion": self.api_version, "kind": self.kind, "metadata": {"name": name, **metadata}}
        return made | ({"spec": spec} if spec is not None else {})

    def send(self, method: str, path: str = "", body: Any = None, media: str = "", **query: Any) -> httpx.Response:
        headers = {"Content-Type": media or "application/json"}
        content = body if isinstance(body, str | None) else json.dumps(body)
        return self.client.request(method, self.base + path, content=content, headers=headers, params=query)

    def create(self, name: str, spec: Object | None = None, **metadata: Any) -> Object:
        return ok(self.send("POST", body=self.body(name, spec, **metadata)))

    def get(self, name: str) -> Object:
        return ok(self.send("GET", f"/{name}"))

    def put(self, obj: Object, **query: Any) -> httpx.Response:
        return self.send("PUT", f"/{obj['metadata']['name']}", obj, **query)

    def merge(self, name: str, patch: Object, **query: Any) -> httpx.Response:
        return self.send("PATCH", f"/{name}", patch, MERGE, **query)

    def apply(self, name: str, spec: Object | None, manager: str, **query: Any) -> httpx.Response:
        return self.send("PATCH", f"/{name}", self.body(name, spec), APPLY, fieldManager=manager, **query)

    def delete(self, name: str, options: Object | None = None, **query: Any) -> httpx.Response:
        return self.send("DELETE", f"/{name}", options, **query)

    def list(self, **query: Any) -> Object:
        return ok(self.send("GET", **query))

    def watch(self, **query: Any) -> list[Object]:
        """The events until the server ends the watch (`timeoutSeconds`, 1 by default)."""
        answer = self.send("GET", watch="true", **{"timeoutSeconds": 1, **query})
        return [json.loads(line) for line in answer.text.splitlines()]


def ok(answer: httpx.Response) -> Object:
    assert answer.is_success, answer.text
    decoded: Object = answer.json()
    return decoded


def refusal(answer: httpx.Response) -> tuple[int, str, list[tuple[str, str]]]:
    """Status code, reason, and (reason, field) of the causes in order of fields."""
    body = answer.json()
    causes = (body.get("details") or {}).get("causes") or []
    return answer.status_code, body.get("reason", ""), sorted((c["reason"], c["field"]) for c in causes)


def owners(obj: Object) -> dict[tuple[str, str], Object]:
    """The fields of each manager, by name and operation (with the subresource, if any)."""
    out: dict[tuple[str, str], Object] = {}
    for entry in obj["metadata"].get("managedFields", []):
        operation = "/".join(filter(None, (entry["operation"], entry.get("subresource", ""))))
        out[entry["manager"], operation] = entry["fieldsV1"]
    return out


def until(test: Any, seconds: float = 60.0) -> Any:
    """The first true result of `test`; fails when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (result := test()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return result


@contextmanager
def installed(target: Target, crd: Object) -> Iterator[Things]:
    """The kind of a definition, served in the namespace of the tests, and gone afterwards."""
    names, group = crd["spec"]["names"], crd["spec"]["group"]
    version = crd["spec"]["versions"][0]["name"]
    base = f"/apis/{group}/{version}/namespaces/{NAMESPACE}/{names['plural']}"
    with target.client() as admin:
        ok(admin.post(CRDS, json=crd))
        try:
            until(lambda: admin.get(base).status_code == 200)
            yield Things(admin, base, f"{group}/{version}", names["kind"])
        finally:
            admin.delete(f"{CRDS}/{crd['metadata']['name']}")
            until(lambda: admin.get(f"{CRDS}/{crd['metadata']['name']}").status_code == 404)


def core(client: httpx.Client, plural: str, kind: str) -> Things:
    """A kind of the core group in the namespace of the tests."""
    return Things(client, f"/api/v1/namespaces/{NAMESPACE}/{plural}", "v1", kind)
