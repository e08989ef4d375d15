"""The pages in deploy/docs name what exists: settings, files, commands."""

import re
from pathlib import Path

import pytest
from tests.bench import registry

from dotmac_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "deploy" / "docs").rglob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
MODULE = re.compile(r"python (deploy/\S+\.py|-m [a-z_.]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_tuning_tells_every_setting_and_no_other() -> None:
    text = (ROOT / "deploy" / "docs" / "tuning.md").read_text()
    table = text.partition("## The operator's settings")[2].partition("## Measured")[0]
    assert re.findall(r"^\| `([A-Z_]+[A-Z])` \|", table, re.MULTILINE) == [
        name.upper() for name in Settings.model_fields
    ]


def test_every_setting_on_a_page_exists() -> None:
    known = {f"DOTMAC_OPERATOR_{name.upper()}" for name in Settings.model_fields}
    for page in PAGES:
        for name in re.findall(r"DOTMAC_OPERATOR_[A-Z_]+[A-Z]", page.read_text()):
            assert name in known, f"{page.name}: {name}"


def test_every_program_on_a_page_exists() -> None:
    for page in PAGES:
        for told in MODULE.findall(page.read_text()):
            if told.startswith("deploy/"):
                assert (ROOT / told).is_file(), f"{page.name}: {told}"
            elif told.startswith(("-m tests", "-m dotmac")):
                path = told.removeprefix("-m ").rstrip(".").replace(".", "/")
                places = [ROOT / top / path for top in ("", "operator", "crds", "api", "deploy/local")]
                assert any(place.is_dir() or place.with_suffix(".py").is_file() for place in places), (
                    f"{page.name}: {told}"
                )


def test_every_benchmark_is_named() -> None:
    text = (ROOT / "deploy" / "docs" / "tuning.md").read_text()
    assert [name for name in registry.names() if f"`{name}`" not in text] == []
