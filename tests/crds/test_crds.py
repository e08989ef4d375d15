"""The generated CustomResourceDefinitions: up to date, structural, bounded, and with the models' own defaults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from dotmac_crds.cli import DEFAULT_DIRECTORY, app, file_name, render
from dotmac_crds.instanceclass import InstanceClassSpec, Limits
from dotmac_crds.kinds import KINDS, Kind
from dotmac_crds.openapi import walk
from dotmac_local.schema import check_crd

# etcd's and kubectl's own limits are higher; `kubectl apply` without --server-side ends at 256 KiB.
MOST_BYTES = 256 * 1024
CAMEL = re.compile(r"^[a-z][A-Za-z0-9]*$")

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def nodes(kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of the spec and the status; the object's own metadata belongs to Kubernetes."""
    schema = kind.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for part in ("spec", "status"):
        yield from walk(schema["properties"][part], f".{part}")


def test_the_written_files_are_up_to_date() -> None:
    done = CliRunner().invoke(app, ["--check"])
    assert done.exit_code == 0, done.output


def test_a_stale_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["-o", str(tmp_path)]).exit_code == 0
    assert runner.invoke(app, ["--check", "-o", str(tmp_path)]).exit_code == 0
    stale = tmp_path / file_name(KINDS[0])
    stale.write_text(stale.read_text().replace("22", "23", 1))
    done = runner.invoke(app, ["--check", "-o", str(tmp_path)])
    assert done.exit_code == 1
    assert f"{stale} is stale: run `poetry run dotmac-crds`" in done.output.replace("\n", "")
    assert "1 written, 5 up to date" in runner.invoke(app, ["-o", str(tmp_path)]).output


def test_standard_output_carries_every_kind() -> None:
    documents = list(yaml.safe_load_all(CliRunner().invoke(app, ["--stdout"]).output))
    assert [document["spec"]["names"]["kind"] for document in documents] == [kind.name for kind in KINDS]


@every_kind
def test_accepted_and_small(kind: Kind) -> None:
    assert check_crd(kind.crd()) == []
    assert len(render(kind).encode()) < MOST_BYTES
    assert yaml.safe_load((DEFAULT_DIRECTORY / file_name(kind)).read_text()) == kind.crd()


@every_kind
def test_structural(kind: Kind) -> None:
    for path, node in nodes(kind):
        for word in ("$ref", "$defs", "const", "patternProperties", "oneOf", "allOf", "title"):
            assert word not in node, f"{path} has {word}"
        if "anyOf" in node:
            assert node["x-kubernetes-int-or-string"], path
        else:
            assert node["type"] in ("object", "array", "string", "integer", "boolean"), path
        assert not ("properties" in node and "additionalProperties" in node), path


@every_kind
def test_everything_is_bounded(kind: Kind) -> None:
    for path, node in nodes(kind):
        text = node.get("type") == "string" or node.get("x-kubernetes-int-or-string")
        if text and "enum" not in node:
            assert node.get("maxLength"), f"{path}: a string without a bound makes CEL rules too expensive"
        if node.get("type") == "array":
            assert node.get("maxItems"), path
            assert node["x-kubernetes-list-type"] in ("map", "set", "atomic"), path
        if "additionalProperties" in node:
            assert node.get("maxProperties"), path


@every_kind
def test_everything_is_described(kind: Kind) -> None:
    for path, node in nodes(kind):
        for name, child in node.get("properties", {}).items():
            assert len(child.get("description", "")) >= 4, f"{path}.{name} has no description"
            assert CAMEL.match(name), f"{path}.{name}"
    for column in kind.columns:
        assert column.description


@every_kind
def test_rules_name_the_remedy(kind: Kind) -> None:
    rules = [(path, rule) for path, node in nodes(kind) for rule in node.get("x-kubernetes-validations", [])]
    for path, rule in rules:
        assert len(rule["message"]) > 15, path
        assert "\n" not in rule["message"], path


@every_kind
def test_quantities_carry_their_pattern(kind: Kind) -> None:
    """Regression: pydantic leaves the pattern of a field with a validator out, so `cpu: 1 core` was stored."""
    found = [(path, node) for path, node in nodes(kind) if node.get("x-kubernetes-int-or-string")]
    for path, node in found:
        assert node.get("pattern"), path


@every_kind
def test_the_status_is_a_subresource_that_begins_unobserved(kind: Kind) -> None:
    version = kind.crd()["spec"]["versions"][0]
    assert version["subresources"] == {"status": {}}
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert set(status["properties"]) >= {"observedGeneration", "conditions"}


@every_kind
def test_columns_read_fields_that_exist(kind: Kind) -> None:
    known = {path.replace("[]", "") for path, _ in nodes(kind)} | {".metadata.creationTimestamp"}
    for column in kind.columns:
        path = re.sub(r"\[\?.*?\]", "", column.path)
        assert path in known, column


def test_limits_are_quantities() -> None:
    assert Limits.model_validate({"cpu": 2, "memory": 1073741824}).memory == "1073741824"
    for wrong in ("1 core", "500x", "-1", "", "1,5", "1e3"):
        with pytest.raises(ValidationError):
            Limits.model_validate({"cpu": wrong})
    for wrong in ("512MB", "512 Mi", "1Pi", "Mi", "-5Mi"):
        with pytest.raises(ValidationError):
            Limits.model_validate({"memory": wrong})


def test_the_api_servers_defaults_are_the_models_defaults() -> None:
    """Regression: a cache without limits got those of an application, because a nested default was dropped."""
    kind = next(kind for kind in KINDS if kind.name == "InstanceClass")
    resources = kind.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][
        "resources"
    ]["properties"]
    assert resources["cache"]["default"] == {"cpu": "0.5", "memory": "128Mi", "pids": 64}
    assert resources["database"]["default"] == {}
    assert InstanceClassSpec().resources.cache == Limits(cpu="0.5", memory="128Mi", pids=64)
