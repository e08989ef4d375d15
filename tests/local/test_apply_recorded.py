"""Field ownership as a real API server recorded it."""

from __future__ import annotations

import copy
from typing import Any

from tests.local.recorded import steps, widget_schema

from dotmac_local.apply import ApplyConflict, merge_patch, server_side_apply, track_update

NOW = "2026-01-01T00:00:00Z"
SCHEMA = widget_schema()


def shape(obj: dict[str, Any]) -> dict[str, Any]:
    """The object without what the server stamps on it."""
    out = copy.deepcopy(obj)
    for key in ("creationTimestamp", "generation", "resourceVersion", "uid", "namespace"):
        out["metadata"].pop(key, None)
    for entry in out["metadata"].get("managedFields", []):
        entry["time"] = NOW
    return out


def written(live: dict[str, Any] | None, request: dict[str, Any]) -> dict[str, Any]:
    """The object that a recorded PATCH makes of `live`."""
    subresource = "status" if request["path"].endswith("/status") else ""
    manager = request["query"]["fieldManager"]
    if "apply" in request["headers"]["Content-Type"]:
        force = request["query"].get("force") == "true"
        new = server_side_apply(
            live, request["body"], manager=manager, force=force, subresource=subresource, time=NOW, schema=SCHEMA
        )
    else:
        new = merge_patch(live, request["body"])
        version = new["apiVersion"]
        entries = track_update(
            live, new, manager=manager, subresource=subresource, api_version=version, time=NOW, schema=SCHEMA
        )
        new = merge_patch(new, {"metadata": {"managedFields": entries}})
    new = copy.deepcopy(new)
    SCHEMA.default(new)
    return new


def test_every_apply_gives_the_object_and_owners_of_the_recording() -> None:
    live: dict[str, Any] | None = None
    compared = 0
    for step in steps("07-apply"):
        request, response = step["request"], step["response"]
        if request["method"] != "PATCH" or response["status"] in (400, 404, 422):
            continue
        if response["status"] == 409:
            try:
                written(live, request)
            except ApplyConflict as conflict:
                assert conflict.message == response["body"]["message"], step["about"]
                seen = [(cause.reason, cause.message, cause.field) for cause in conflict.causes]
                wanted = response["body"]["details"]["causes"]
                assert seen == [(cause["reason"], cause["message"], cause["field"]) for cause in wanted]
            else:
                raise AssertionError(f"no conflict: {step['about']}")
            continue
        live = written(live, request)
        assert shape(live) == shape(response["body"]), step["about"]
        compared += 1
    assert compared == 8


def test_applying_the_same_again_changes_nothing() -> None:
    patch = steps("07-apply")[0]["request"]["body"]
    first = server_side_apply(None, patch, manager="one", force=False, subresource="", time=NOW, schema=SCHEMA)
    again = server_side_apply(first, patch, manager="one", force=False, subresource="", time="2027", schema=SCHEMA)
    assert again is first
