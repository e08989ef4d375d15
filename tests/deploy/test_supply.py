"""What the product is made of: its licences, and what is made of an audit's answer."""

import importlib.util
import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# LGPL is taken as a library, unchanged and replaceable: psycopg, paramiko.
GOOD = re.compile(
    r"MIT|BSD|Apache|ISC|MPL|Mozilla|PSF|Python Software Foundation|Unlicense|Zlib|LGPL|Lesser General Public",
    re.IGNORECASE,
)
GPL = re.compile(r"(?<!L)(?<!Lesser )GPL|(?<!Lesser )General Public License", re.IGNORECASE)


def main_group() -> set[str]:
    """Names of the packages that the image gets, from the lock."""
    locked = tomllib.loads((ROOT / "poetry.lock").read_text())["package"]
    return {canonicalize_name(p["name"]) for p in locked if "main" in p["groups"] and not p.get("optional", False)}


def licence(name: str) -> str:
    found = metadata.metadata(name)
    classifiers = [c.rpartition(" :: ")[2] for c in found.get_all("Classifier", []) if c.startswith("License ::")]
    told = found.get("License-Expression") or ", ".join(classifiers)
    # Some paste the whole text into License: its first line tells.
    return told or (found.get("License") or "").strip().partition("\n")[0]


def judged(text: str) -> bool:
    """Whether a licence may be in the product: one choice of an `OR` is enough, of an `AND` each part counts."""
    return any(
        all(GOOD.search(part) and not GPL.search(part) for part in re.split(r"\bAND\b", choice))
        for choice in re.split(r"\bOR\b", text)
    )


def test_every_package_of_the_product_has_a_licence_that_allows_it() -> None:
    installed = {canonicalize_name(dist.metadata["Name"]) for dist in metadata.distributions()}
    # Some are for other systems or other Pythons.
    names = sorted(main_group() & installed)
    assert len(names) > 50
    bad = {name: licence(name) for name in names if not judged(licence(name))}
    assert not bad


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("AGPL-3.0", False),
        ("GNU General Public License v3 (GPLv3)", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("LGPL-2.1", True),
        ("GPL-2.0-or-later OR MIT", True),
        ("Apache-2.0 AND GPL-3.0", False),
        ("", False),
        ("UNKNOWN", False),
        ("Proprietary", False),
    ],
)
def test_the_judgement(text: str, good: bool) -> None:
    assert judged(text) is good


def test_every_direct_dependency_is_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {canonicalize_name(Requirement(line).name) for line in project["dependencies"]} <= main_group()


def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "deploy" / "lib" / "audit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", **more}


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([package("a", vulns=[]), package("b", vulns=[])], 0, "2 packages, no known vulnerability"),
        ([package("a", vulns=[]), {"name": "b", "skip_reason": "not found"}], 0, "1 unknown to it"),
        ([{"name": "a", "skip_reason": "not found"}], 0, "SKIPPED"),
        ([package("a", vulns=[{"id": "CVE-1", "fix_versions": ["1.1"]}])], 1, "a 1.0: CVE-1, mended in 1.1"),
        (
            [package("a", vulns=[{"id": "CVE-1", "fix_versions": []}]), {"name": "b", "skip_reason": "x"}],
            1,
            "no release",
        ),
    ],
)
def test_an_audit_fails_on_findings_only(packages: list[dict[str, Any]], status: int, words: str) -> None:
    got, lines = audit().judge(json.dumps({"dependencies": packages, "fixes": []}))
    assert got == status
    assert words in "\n".join(lines)


@pytest.mark.parametrize("output", ["", "ERROR: connection refused", "<html>"])
def test_an_audit_that_could_not_ask_says_so(output: str) -> None:
    status, (line,) = audit().judge(output)
    assert (status, "SKIPPED" in line, "nothing was checked" in line) == (0, True, True)


CLEAN = json.dumps({"dependencies": [package("a", vulns=[])]})
UNKNOWN = json.dumps({"dependencies": [{"name": "a", "skip_reason": "not found"}]})
BAD = json.dumps({"dependencies": [package("a", vulns=[{"id": "CVE-1", "fix_versions": []}])]})


@pytest.mark.parametrize(
    ("answers", "asked", "status", "words"),
    [
        ({"pypi": CLEAN}, ["pypi"], 0, "no known vulnerability"),
        ({"pypi": UNKNOWN, "osv": CLEAN}, ["pypi", "osv"], 0, "no known vulnerability"),
        ({"pypi": "", "osv": BAD}, ["pypi", "osv"], 1, "CVE-1"),
        ({"pypi": BAD}, ["pypi"], 1, "CVE-1"),
        ({"pypi": UNKNOWN, "osv": ""}, ["pypi", "osv"], 0, "SKIPPED"),
    ],
)
def test_an_audit_asks_the_second_service_where_the_first_knows_nothing(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], asked: list[str], status: int, words: str
) -> None:
    module, seen = audit(), []

    def answer(service: str) -> str:
        seen.append(service)
        return answers[service]

    monkeypatch.setattr(module, "ask", answer)
    got, lines = module.audit()
    assert (got, seen) == (status, asked)
    assert words in "\n".join(lines)
