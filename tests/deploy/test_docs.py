"""The pages in deploy/docs name what exists: settings, files, commands."""

import re
from pathlib import Path

import pytest
from tests.bench import registry

from dotmac_api.mirror.projection import INSTANCE_WORDS
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


EARLIER = """
instance_id server_id org_code org_name org_uuid sector_type framework currency app_port db_port redis_port domain
app_url admin_email admin_username deploy_path status notes plan_id git_branch git_tag deployed_git_ref trial_expires_at
suspended_at archived_at created_at updated_at
name hostname ssh_port ssh_user ssh_key_path base_domain is_local last_connected ssh_host_key_fingerprint
""".split()
"""Columns of the earlier platform's instances and servers."""


def test_every_column_and_status_of_the_earlier_platform_has_its_place() -> None:
    text = (ROOT / "deploy" / "docs" / "migration.md").read_text()
    there = " ".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))
    assert [column for column in EARLIER if f"`{column}`" not in there] == []
    words = text.partition("| status there |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \| ([A-Z][A-Za-z, ]*)", words, re.MULTILINE)
    shown = {phase: old.split("`")[1] for old, phases in rows for phase in re.findall(r"[A-Z][a-z]+", phases)}
    assert shown == INSTANCE_WORDS
    assert "`trial`" in words
