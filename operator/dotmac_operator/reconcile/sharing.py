"""Parsed objects of a fleet, kept small: what is the same in thousands of them exists once.

Each parsed model carries a set of the names of the fields that were given: 216 bytes or more, sixty times in one
Instance, and nearly always one of a few dozen different ones. Models are frozen, and a copy of a model copies the set
before it adds to it (pydantic's `model_copy`), so that models may share it.
"""

from typing import Any

from dotmac_crds.base import Model

MOST = 4096
"""Different sets of field names that are kept to be shared; more come only from objects made to be different."""

_fields: dict[frozenset[str], set[str]] = {}


def compact(model: Model) -> None:
    """Lets a model, and all that are in it, share their sets of given fields with the others of this process."""
    given = model.__pydantic_fields_set__
    key = frozenset(given)
    shared = _fields.get(key)
    if shared is None:
        if len(_fields) < MOST:
            _fields[key] = given
    elif shared is not given:
        object.__setattr__(model, "__pydantic_fields_set__", shared)
    for value in model.__dict__.values():
        _inside(value)


def _inside(value: Any) -> None:
    if isinstance(value, Model):
        compact(value)
    elif isinstance(value, list):
        for item in value:
            _inside(item)
    elif isinstance(value, dict):
        for item in value.values():
            _inside(item)
