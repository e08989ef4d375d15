"""What a real API server answered, and the schema its objects had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dotmac_local.schema import Schema

TRANSCRIPTS = Path(__file__).parents[1] / "conformance" / "transcripts"


def steps(scenario: str) -> list[dict[str, Any]]:
    """The steps of one recorded scenario ("04-validation")."""
    return json.loads((TRANSCRIPTS / f"{scenario}.json").read_text())["steps"]


def widget_crd() -> dict[str, Any]:
    """The definition of the kind that every scenario uses."""
    return next(step for step in steps("01-crd") if step["about"] == "create")["request"]["body"]


def widget_schema() -> Schema:
    return Schema(widget_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
