"""What the pages tell people to type: commands, options, fields, annotations, settings and routes that exist."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from dotmac_api.cli import app as api_cli
from dotmac_api.settings import Settings as ApiSettings
from dotmac_crds.cli import app as crds_cli
from dotmac_crds.kinds import KINDS
from dotmac_local.cli import app as local_cli
from dotmac_local.schema import Schema
from dotmac_operator.cli import app as operator_cli
from dotmac_operator.core import names
from dotmac_operator.serving import reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "deploy" / "docs").rglob("*.md"), *ROOT.glob("*.md")])
BLOCK = re.compile(r"^( *)```(?:sh|console)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PROGRAMS = {"dotmac-operator": operator_cli, "dotmac-api": api_cli, "dotmac-crds": crds_cli, "dotmac-local": local_cli}
GROUP = "platform.dotmac.io/"


def blocks(page: Path) -> Iterator[str]:
    """The shell blocks of a page; of a console, what is typed."""
    for indent, text in BLOCK.findall(page.read_text()):
        lines = [line.removeprefix(indent) for line in text.splitlines()]
        typed = [line[2:] for line in lines if line.startswith("$ ")]
        yield "\n".join(typed or lines) + "\n"


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each simple command; here-documents are not among them."""
    for block in blocks(page):
        block = re.sub(r"<<'?(\w+)'?(.*)\n(?:.*\n)*?\1\n", r"\2\n", block).replace("\\\n", " ")
        # Enough of a shell for these pages: what ends a command, or begins one inside another.
        lexer = shlex.shlex(re.sub(r"(?m)(^|\s)#.*$", "", block), posix=True, punctuation_chars=";&|()\n")
        lexer.whitespace_split, lexer.whitespace, lexer.commenters = True, " \t", ""
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()\n"):
                yield words
                words = []
            else:
                words.append(word)


def described(*programs: str) -> list[Any]:
    """Parameters of a test: the commands that run one of these programs, from its name on."""
    return [
        pytest.param(page, words[at:], id=f"{page.name}:{' '.join(words[at:])[:60]}")
        for page in PAGES
        for words in commands(page)
        for at, word in enumerate(words)
        if word in programs and (not at or words[at - 1] in ("run", "--", "time") or words[at - 1].endswith(":0.1.0"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_shell_block_is_a_shells(page: Path) -> None:
    for block in blocks(page):
        block = re.sub(r"<([a-z][A-Za-z ]*)>", "VALUE", block)
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, block + done.stderr


@pytest.mark.parametrize(("page", "words"), described(*PROGRAMS))
def test_our_programs_have_these_commands_and_options(page: Path, words: list[str]) -> None:
    command: Any = get_command(PROGRAMS[words[0]])
    rest = words[1:]
    commands = getattr(command, "commands", {})
    if commands and rest and not rest[0].startswith("-"):
        assert rest[0] in commands, f"{page.name}: {' '.join(words)}"
        command = commands[rest[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known | {"--help"}, f"{page.name}: {' '.join(words)}"


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """Kind -> the schema of its objects."""
    return {kind.name: kind.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind in KINDS}


def has(schema: dict[str, Any], path: list[str]) -> bool:
    if not path:
        return True
    schema = schema.get("items", schema)
    inner = schema.get("properties", {}).get(path[0]) or (schema.get("additionalProperties") or None)
    return isinstance(inner, dict) and has(inner, path[1:])


@pytest.mark.parametrize(("page", "words"), described("kubectl"))
def test_kubectl_names_what_exists(page: Path, words: list[str]) -> None:
    for flag, value in zip(words, words[1:], strict=False):
        if flag in ("-k", "-f", "--patch-file") and not value.startswith(("-", "my-", "instances.json")):
            assert (ROOT / value).exists(), f"{page.name}: {' '.join(words)}"
        if flag == "-p":
            patch = json.loads(value)
            (kind,) = (name for name in schemas() if name.lower() in words)
            for path in leaves(patch):
                assert has(schemas()[kind], path), f"{page.name}: {path}"


def leaves(obj: Any, path: tuple[str, ...] = ()) -> Iterator[list[str]]:
    if isinstance(obj, dict) and obj:
        for key, value in obj.items():
            yield from leaves(value, (*path, key))
    elif isinstance(obj, list) and obj:
        for value in obj:
            yield from leaves(value, path)
    else:
        yield list(path)


@pytest.mark.parametrize(("page", "words"), described("helm"))
def test_helm_names_charts_and_values_that_exist(page: Path, words: list[str]) -> None:
    charts = [ROOT / word for word in words if word.startswith("deploy/helm/")]
    assert all((chart / "Chart.yaml").is_file() for chart in charts), f"{page.name}: {' '.join(words)}"
    for flag, value in zip(words, words[1:], strict=False):
        if flag == "--set":
            values: Any = yaml.safe_load((charts[0] / "values.yaml").read_text())
            for key in value.partition("=")[0].split("."):
                values = values[key]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_annotation_is_one_of_ours(page: Path) -> None:
    known = {value for value in vars(names).values() if isinstance(value, str) and value.startswith(GROUP)}
    known |= {GROUP + plain for plain in ("v1alpha1", "finalizer")}
    for told in re.findall(GROUP.replace(".", r"\.") + r"[a-z0-9-]*[a-z0-9]", page.read_text()):
        assert told in known, f"{page.name}: {told}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_field_of_spec_and_status_exists(page: Path) -> None:
    text = page.read_text()
    for told in re.findall(r"`(?:[A-Z][A-Za-z]+\.|instance\.)?((?:spec|status)(?:\.[a-z][A-Za-z]*)+)[`:=\[]", text):
        assert any(has(schema, told.split(".")) for schema in schemas().values()), f"{page.name}: {told}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_object_on_a_page_is_one_that_the_api_takes(page: Path) -> None:
    text = page.read_text()
    shown = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) + re.findall(
        r"<<'END'\n(.*?)^END$", text, re.DOTALL | re.M
    )
    for obj in (obj for part in shown for obj in yaml.safe_load_all(part) if obj):
        if obj.get("apiVersion", "").startswith(GROUP):
            schema = Schema(schemas()[obj["kind"]])
            schema.default(obj)
            assert schema.validate(obj, None) == [], f"{page.name}: {obj}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_of_the_facade_and_metrics_exist(page: Path) -> None:
    text = page.read_text()
    settings = {f"DOTMAC_API_{name.upper()}" for name in ApiSettings.model_fields} | {"DOTMAC_API_URL"}
    assert set(re.findall(r"DOTMAC_API_[A-Z_]*[A-Z]", text)) <= settings
    metrics = {family.name for family in reference.families()}
    for told in re.findall(r"`((?:dotmac|workqueue|controller_runtime|rest_client|leader_election)_[a-z_]+)", text):
        assert told.removesuffix("_total").removesuffix("_info") in metrics or told in metrics, f"{page.name}: {told}"
