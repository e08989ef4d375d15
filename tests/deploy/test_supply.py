"""What the product is made of: its licences, and what is made of an audit's answer."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import date
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
    return {
        canonicalize_name(package["name"])
        for package in locked
        if "main" in package["groups"] and "extra ==" not in str(package.get("markers", ""))
    }


def installed() -> set[str]:
    """Not all of the lock is: some is for other systems or other Pythons."""
    return {canonicalize_name(dist.metadata["Name"]) for dist in metadata.distributions()}


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
    names = sorted(main_group() & installed())
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


LIB = ROOT / "deploy" / "lib"


@pytest.fixture(autouse=True)
def lib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LIB))


@pytest.mark.slow
def test_the_command_for_the_bill_of_materials_lists_the_product(tmp_path: Path) -> None:
    """The line of CONTRIBUTING.md after `poetry export`. The program fails when what it made breaks the schema."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (line,) = re.findall(r"^poetry export --only main \| poetry run (cyclonedx-py .* -)\s+#", text, re.MULTILINE)
    locked = "".join(f"{name}=={metadata.version(name)}\n" for name in sorted(main_group() & installed()))
    subprocess.run(["bash", "-c", line], cwd=tmp_path, input=locked, text=True, check=True, timeout=120)
    written = json.loads((tmp_path / "sbom.json").read_text())
    assert written["bomFormat"] == "CycloneDX"
    parts = {(canonicalize_name(part["name"]), part["version"]) for part in written["components"]}
    assert parts == {(name, metadata.version(name)) for name in main_group() & installed()}


def audit() -> Any:
    return importlib.import_module("audit")


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
        seen.append(service.rpartition("=")[2])
        return answers[seen[-1]]

    monkeypatch.setattr(module, "ask", answer)
    got, lines = module.audit()
    assert (got, seen) == (status, asked)
    assert words in "\n".join(lines)


def advisory(folder: Path, name: str, **affected: Any) -> Path:
    """A checkout with one advisory about a package."""
    found = {"package": {"name": name, "ecosystem": "PyPI"}, **affected}
    (folder / "vulns" / name).mkdir(parents=True)
    (folder / "vulns" / name / "PYSEC-1.yaml").write_text(
        "id: PYSEC-1\nmodified: 2026-01-02T03:04:05Z\npublished: 2026-01-01T00:00:00Z\n"
        f"affected: [{json.dumps(found)}]\n"
    )
    return folder


def span(*events: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"type": "ECOSYSTEM", "events": [{name: version} for name, version in events]}]


@pytest.mark.parametrize(
    ("affected", "version", "hit"),
    [
        ({"ranges": span(("introduced", "0"), ("fixed", "1.10"))}, "1.9", True),
        ({"ranges": span(("introduced", "0"), ("fixed", "1.10"))}, "1.10", False),
        ({"ranges": span(("introduced", "0"), ("last_affected", "1.10"))}, "1.10", True),
        ({"ranges": span(("introduced", "0"), ("last_affected", "1.10"))}, "1.10.1", False),
        ({"ranges": span(("introduced", "0"))}, "99", True),
        # Out of order, with a gap between two lines of releases.
        ({"ranges": span(("fixed", "2.3"), ("introduced", "2"), ("fixed", "1.5"), ("introduced", "1"))}, "1.7", False),
        ({"ranges": span(("fixed", "2.3"), ("introduced", "2"), ("fixed", "1.5"), ("introduced", "1"))}, "2.2.9", True),
        ({"ranges": span(("introduced", "1.0"))}, "1.0rc1", False),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, "1.0", False),
        ({"ranges": [], "versions": ["1.0"]}, "1.0", True),
        ({"ranges": span(("introduced", "no version"))}, "1.0", True),
    ],
)
def test_which_versions_an_advisory_is_about(tmp_path: Path, affected: dict[str, Any], version: str, hit: bool) -> None:
    folder = advisory(tmp_path, "a-b", **affected)
    service = importlib.import_module("advisories")
    assert [found["id"] for found in service.advisories(folder, "a-b", version)] == (["PYSEC-1"] if hit else [])
    assert service.advisories(folder, "other", version) == []


def test_a_withdrawn_advisory_is_none(tmp_path: Path) -> None:
    folder = advisory(tmp_path, "a", ranges=span(("introduced", "0")))
    (path,) = folder.glob("vulns/a/*")
    path.write_text(path.read_text() + "withdrawn: 2026-02-01T00:00:00Z\n")
    assert importlib.import_module("advisories").advisories(folder, "a", "1.0") == []


def test_the_age_of_a_checkout(tmp_path: Path) -> None:
    newest = importlib.import_module("advisories").newest
    with pytest.raises(ValueError, match="empty"):
        newest(tmp_path, date(2026, 2, 1))
    advisory(tmp_path, "a")
    (tmp_path / "vulns" / "a" / "PYSEC-2.yaml").write_text("modified: '2099-01-01T00:00:00Z'\n")
    assert newest(tmp_path, date(2026, 2, 1)) == date(2026, 1, 2)


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command of CI, with the real pip-audit."""
    argv = [sys.executable, str(LIB / "audit.py"), *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.mark.slow
def test_ci_fails_on_a_finding(tmp_path: Path) -> None:
    here = metadata.version("packaging")
    bad = advisory(tmp_path, "packaging", ranges=span(("introduced", "0"), ("fixed", f"{here}.post1")))
    done = command(DOTMAC_ADVISORIES=str(bad), http_proxy="http://127.0.0.1:1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"packaging {here}: PYSEC-1, mended in {here}.post1" in done.stdout
    assert "by advisories up to 2026-01-02" in done.stdout


@pytest.mark.slow
def test_ci_tells_a_service_that_is_away_from_a_clean_answer() -> None:
    done = command("--strict", DOTMAC_OSV_URL="http://127.0.0.1:1/v1/query")
    assert (done.returncode, "SKIPPED" in done.stdout) == (2, True), done.stdout + done.stderr


def test_a_checkout_that_is_none_is_an_error(tmp_path: Path) -> None:
    done = command(DOTMAC_ADVISORIES=str(tmp_path))
    assert (done.returncode, "has no advisories" in done.stdout) == (2, True)
