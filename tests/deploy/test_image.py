"""The image of the Dockerfile: built by a real Engine from locked wheels, small, without root, on a read-only root."""

import json
from collections.abc import Iterator

import pytest
from tests.kits.dockerhost import DockerHost
from tests.kits.pythonimage import ROOT, NoBaseImage, base_image

from dotmac_local.demo.processes import CommandFailed

TAG = "dotmac-operator:test"
MEGABYTE = 1_000_000
LOOK = "find /opt /src /home -name '*.env' -o -name kubeconfig -o -name .git -o -path '*/src/tests' 2> /dev/null; true"
OURS = 125 * MEGABYTE
"""What may lie on top of python:3.12-slim (about 120 MB), so that the whole stays under 250 MB."""
STRICT = ("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def image(host: DockerHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    """The host that has built the image."""
    try:
        base = base_image(host, tmp_path_factory.mktemp("python"))
    except NoBaseImage as reason:
        pytest.skip(str(reason))
    arguments = ["--build-arg", f"PYTHON_IMAGE={base}", "--build-arg", "REVISION=0123abc"]
    host.docker("build", "--quiet", "--tag", TAG, *arguments, str(ROOT), timeout=280)
    yield host
    for tag in (TAG, base):
        host.docker("image", "rm", "--force", tag)
    host.docker("image", "prune", "--force")


def inspect(host: DockerHost) -> dict[str, object]:
    return dict(json.loads(host.docker("image", "inspect", TAG))[0])


def test_what_is_ours_leaves_the_whole_under_250_megabytes(image: DockerHost) -> None:
    sizes = image.docker("history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", TAG).splitlines()
    ours = [line for line in sizes[: next(i for i, line in enumerate(sizes) if "LABEL" in line)]]
    assert sum(int(line.split()[0]) for line in ours) < OURS


@pytest.mark.parametrize("command", ["dotmac-operator --version", "dotmac-api --help", "dotmac-crds --stdout"])
def test_each_program_starts_on_a_read_only_root_without_rights(image: DockerHost, command: str) -> None:
    assert image.docker("run", *STRICT, "--user=12345:12345", TAG, *command.split())


def test_it_runs_without_root_and_holds_neither_tools_nor_the_embedded_control_plane(image: DockerHost) -> None:
    config = inspect(image)["Config"]
    assert isinstance(config, dict)
    assert config["User"] == "65532:65532"
    assert config["Labels"]["org.opencontainers.image.revision"] == "0123abc"
    names = "('dotmac_local', 'pytest', 'pip')"
    look = f"import importlib.util as u, os; print(os.getuid(), [n for n in {names} if u.find_spec(n)])"
    assert image.docker("run", *STRICT, TAG, "python3", "-c", look).strip() == "65532 []"


def test_without_a_cluster_the_operator_says_so_and_ends(image: DockerHost) -> None:
    with pytest.raises(CommandFailed, match=r"exited 2: error: no Kubernetes API"):
        image.docker("run", *STRICT, TAG)


def test_without_settings_the_facade_names_each_and_ends(image: DockerHost) -> None:
    with pytest.raises(CommandFailed, match=r"(?s)exited 2.*DOTMAC_API_DATABASE_URL is not set"):
        image.docker("run", *STRICT, TAG, "dotmac-api", "migrate")


def test_the_build_takes_only_what_the_image_is_made_of(image: DockerHost) -> None:
    found = image.docker("run", *STRICT, TAG, "sh", "-c", LOOK).split()
    assert found == []
