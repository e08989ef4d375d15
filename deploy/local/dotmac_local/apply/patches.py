"""Merge patch (RFC 7386), JSON patch (RFC 6902), as a Kubernetes API server answers to them."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
from jsonpointer import JsonPointerException

# As in kube-apiserver (maxJSONPatchOperations).
MAX_OPERATIONS = 10_000
_REJECTED = "the server rejected our request due to an error in our request"


class PatchError(Exception):
    """A patch that cannot be applied: the HTTP status, reason and message to answer with."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


def merge_patch(target: Any, patch: Any) -> Any:
    """`target` with `patch` merged in: null removes, objects merge, anything else replaces. Changes neither.

    The result shares unchanged parts with `target` and new ones with `patch`.
    """
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict):
            out[key] = merge_patch(out.get(key), value)
        else:
            out[key] = value
    return out


def json_patch(target: dict[str, Any], operations: Any) -> dict[str, Any]:
    """`target` with the operations applied, which is not changed itself.

    Raises PatchError 400 for what is not a list of operations, 413 for too many, and 422 for one that fails: a `test`
    that does not hold, a path that does not exist.
    """
    if operations is None:  # Go reads null as an empty list
        return target
    if not isinstance(operations, list) or not all(isinstance(item, dict) for item in operations):
        raise PatchError(400, "BadRequest", "error decoding patch: a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise PatchError(
            413,
            "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}",
        )
    try:
        patched = jsonpatch.JsonPatch(copy.deepcopy(operations)).apply(copy.deepcopy(target))
    except (jsonpatch.JsonPatchException, JsonPointerException, TypeError, ValueError, KeyError, IndexError):
        raise PatchError(422, "Invalid", _REJECTED) from None
    if not isinstance(patched, dict):
        raise PatchError(422, "Invalid", _REJECTED)
    return patched
