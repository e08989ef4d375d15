"""A small custom resource for tests, and objects of it."""

from __future__ import annotations

from typing import Any

from tests.kits.controlplane import ControlPlane

GROUP = "widgets.example.com"
PATH = f"/apis/{GROUP}/v1/namespaces/default/widgets"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Widget is a thing.",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "description": "What is wanted.",
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 100, "description": "How large."},
                "color": {"type": "string", "enum": ["red", "green", "blue"], "default": "red"},
                "replicas": {"type": "integer", "default": 1},
                "text": {"type": "string", "maxLength": 8192},
            },
        },
        "status": {
            "type": "object",
            "properties": {
                "phase": {"type": "string"},
                "replicas": {"type": "integer"},
                "conditions": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                    "items": {
                        "type": "object",
                        "required": ["type", "status"],
                        "properties": {
                            "type": {"type": "string"},
                            "status": {"type": "string"},
                            "reason": {"type": "string"},
                            "message": {"type": "string"},
                            "lastTransitionTime": {"type": "string", "format": "date-time"},
                        },
                    },
                },
            },
        },
    },
}
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"widgets.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {
            "kind": "Widget",
            "plural": "widgets",
            "singular": "widget",
            "shortNames": ["wid"],
            "categories": ["demo"],
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": SCHEMA},
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
                "additionalPrinterColumns": [
                    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
            }
        ],
    },
}


def widget(name: str, size: int = 1, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Widget",
        "metadata": {"name": name, **metadata},
        "spec": {"size": size},
    }


def install(server: ControlPlane) -> None:
    """Create the definition, unless it is there."""
    answer = server.client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=CRD)
    assert answer.status_code in (201, 409), answer.text


def make(server: ControlPlane, name: str, size: int = 1, **metadata: Any) -> dict[str, Any]:
    """Create a widget in the default namespace."""
    return server.create(widget(name, size, **metadata))
