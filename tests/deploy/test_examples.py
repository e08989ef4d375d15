"""The examples are what the README applies: every field must be one that the resources have."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dotmac_crds.backup import BackupSpec, RestoreSpec
from dotmac_crds.instance import InstanceSpec
from dotmac_crds.instanceclass import InstanceClassSpec
from dotmac_crds.release import ReleaseSpec
from dotmac_crds.server import ServerSpec

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
MODELS: dict[str, Any] = {
    "Backup": BackupSpec,
    "Instance": InstanceSpec,
    "InstanceClass": InstanceClassSpec,
    "Release": ReleaseSpec,
    "Restore": RestoreSpec,
    "Server": ServerSpec,
}
DOCUMENTS = [
    (path.name, doc) for path in sorted(EXAMPLES.rglob("*.yaml")) for doc in yaml.safe_load_all(path.read_text())
]


@pytest.mark.parametrize(("file", "document"), DOCUMENTS, ids=lambda value: value if isinstance(value, str) else "")
def test_each_example_is_valid(file: str, document: dict[str, Any]) -> None:
    MODELS[document["kind"]].model_validate(document["spec"])


def test_there_is_one_of_each_and_two_instances() -> None:
    kinds = sorted(doc["kind"] for _, doc in DOCUMENTS)
    assert kinds == ["Backup", "Instance", "Instance", "InstanceClass", "Release", "Release", "Restore", "Server"]
