"""The image of the Dockerfile: built by a real Engine from locked wheels, small, without root, on a read-only root;
and run as the rendered manifests say, with what a kubelet would give its pods."""

import json
import re
import subprocess
import time
import tomllib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from tests.kits import controlplane, kubectl
from tests.kits.dockerhost import DockerHost
from tests.kits.kubelet import Cluster, Kubelet, loopback
from tests.kits.postgres import postgres
from tests.kits.pythonimage import ROOT, NoBaseImage, base_image
from tests.kits.redis import redis_server

from dotmac_local.demo.processes import CommandFailed

TAG = "dotmac-operator:test"
RENDERED = "dotmac-operator:0.1.0"
SYSTEM = "dotmac-system"
MEGABYTE = 1_000_000
LOOK = "find /opt /src /home -name '*.env' -o -name kubeconfig -o -name .git -o -path '*/src/tests' 2> /dev/null; true"
OURS = 100 * MEGABYTE
"""What may lie on top of python:3.12-slim (about 125 MB): 25 MB are kept free below the 250 MB of the whole."""
STRICT = ("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def image(host: DockerHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    """The host that has built the image."""
    try:
        base = base_image(host, tmp_path_factory.mktemp("python"))
    except NoBaseImage as reason:
        pytest.skip(str(reason))
    said = {"PYTHON_IMAGE": base, "REVISION": "0123abc", "CREATED": "2026-01-02T03:04:05Z"}
    arguments = [word for name, value in said.items() for word in ("--build-arg", f"{name}={value}")]
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


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("dotmac-operator --version", "dotmac-operator 0."),
        ("dotmac-operator --help", "Check configuration, CRDs and permissions"),
        ("dotmac-api --help", "Serve the REST API"),
        ("dotmac-api mirror --help", "Run the mirror's projector alone"),
        ("dotmac-crds --help", "Write one YAML file for each kind"),
        ("dotmac-crds --stdout", "kind: CustomResourceDefinition"),
    ],
)
def test_each_program_starts_on_a_read_only_root_without_rights(image: DockerHost, command: str, told: str) -> None:
    assert told in image.docker("run", *STRICT, "--user=12345:12345", TAG, *command.split())


IMPORTS = """
import ast, importlib, os, pathlib, pkgutil, sys
from kubernetes import client
for package in ("dotmac_operator", "dotmac_crds", "dotmac_api"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
    for path in pathlib.Path(root.__path__[0]).rglob("*.py"):
        text = path.read_text()
        if "from kubernetes import client" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client":
                    getattr(client, node.attr)
                    print("used", node.attr)
for module in list(sys.modules.values()):
    spec = getattr(module, "__spec__", None)
    source = str(spec.origin) if spec else ""
    if source.startswith("/opt/") and source.endswith(".py") and not os.path.exists(spec.cached):
        print("slow", spec.name)
"""


def test_what_was_left_out_is_missed_by_no_module_and_all_that_is_imported_is_compiled(image: DockerHost) -> None:
    told = [line.split() for line in image.docker("run", *STRICT, TAG, "python3", "-c", IMPORTS).splitlines()]
    assert {"CoreV1Api", "CustomObjectsApi", "CoordinationV1Api", "V1Lease"} <= {name for word, name in told}
    assert [name for word, name in told if word == "slow"] == []


def test_it_runs_without_root_and_holds_neither_tools_nor_the_embedded_control_plane(image: DockerHost) -> None:
    config = inspect(image)["Config"]
    assert isinstance(config, dict)
    assert config["User"] == "65532:65532"
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert (labels["revision"], labels["created"]) == ("0123abc", "2026-01-02T03:04:05Z")
    assert labels["version"] in image.docker("run", *STRICT, TAG, "dotmac-operator", "--version")
    assert labels["licenses"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert all(labels[name] for name in ("title", "description", "vendor", "base.name"))
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


# -- pods ------------------------------------------------------------------------------------------------------------


def rendered() -> list[dict[str, Any]]:
    """The overlay with operator and facade."""
    overlay = str(ROOT / "deploy" / "kustomize" / "overlays" / "with-facade")
    done = subprocess.run([kubectl.current(), "kustomize", overlay], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


SERVED = ("Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ConfigMap")


@pytest.fixture(scope="module")
def kubelet(image: DockerHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """The manifests and the Secrets of deploy/docs/install.md in a control plane, for the image's host to run."""
    scratch = tmp_path_factory.mktemp("pods")
    plane = controlplane.start(scratch / "control-plane")
    objects = rendered()
    with postgres() as database, redis_server() as cache:
        try:
            plane.apply_crds()
            for obj in sorted((o for o in objects if o["kind"] in SERVED), key=lambda o: SERVED.index(o["kind"])):
                plane.create(obj)
            for name, values in secrets(image, database.create("dotmac"), cache.url).items():
                obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
                plane.create(obj, SYSTEM)
            port = int(plane.url.rpartition(":")[2])
            cluster = Cluster(plane.client, plane.ca, port)
            with loopback(image, [port, database.port, cache.port]):
                made = Kubelet(image, cluster, objects, {RENDERED: TAG}, scratch)
                yield made
                made.remove_all()
        finally:
            plane.stop()


def secrets(image: DockerHost, database_url: str, redis_url: str) -> dict[str, dict[str, str]]:
    """Those of the page, their values made by the command that it names: once, since each call takes a second."""
    page = (ROOT / "deploy" / "docs" / "install.md").read_text()
    literal = re.compile(r"--from-literal=([A-Z_]+|token)=(\S.*?)(?: \\)?$", re.MULTILINE)
    made: dict[str, dict[str, str]] = {}
    token, fernet = generate(image), generate(image, "--fernet")
    for name, body in re.findall(r"create secret generic (\S+) (.*?)(?=\n(?:kubectl|```))", page, re.DOTALL):
        for key, value in literal.findall(body):
            filled = {"DOTMAC_API_DATABASE_URL": database_url, "DOTMAC_API_REDIS_URL": redis_url}.get(key, value)
            filled = filled.strip("'\"").replace("\\", "").replace("$token", token)
            filled = filled.replace("$(generate --fernet)", fernet).replace("$(generate)", token)
            made.setdefault(name, {})[key] = filled
    return made


def generate(image: DockerHost, *arguments: str) -> str:
    return image.docker("run", "--rm", TAG, "dotmac-api", "generate-key", *arguments).strip()


def server_without_a_key() -> dict[str, Any]:
    spec = {"address": "203.0.113.10", "credentialsRef": {"name": "nowhere"}, "hostKeyPolicy": "TrustOnFirstUse"}
    return {"apiVersion": "platform.dotmac.io/v1alpha1", "kind": "Server", "metadata": {"name": "one"}, "spec": spec}


def seen(client: httpx.Client, server: dict[str, Any], seconds: float = 30) -> str:
    """Creates a Server; the reason that the operator, which has to see it first, gives for not being Ready."""
    path = "/apis/platform.dotmac.io/v1alpha1/namespaces/dotmac-tenants/servers"
    answer = client.post(path, json=server)
    assert answer.is_success, answer.text
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        conditions = client.get(f"{path}/{server['metadata']['name']}").json()["status"].get("conditions", [])
        for condition in conditions:
            if condition["type"] == "Ready" and condition["status"] == "False":
                return str(condition["reason"])
        time.sleep(0.2)
    return "nothing"


def test_operator_migration_and_facade_run_as_pods(kubelet: Kubelet) -> None:
    operator = kubelet.run("Deployment", "dotmac-operator")
    migration = kubelet.run("Job", "dotmac-api-migrate")
    assert migration.end(90) == 0, migration.log()
    facade = kubelet.run("Deployment", "dotmac-api")
    for pod in (operator, facade):
        pod.await_probe("livenessProbe", 90)
        pod.await_probe("readinessProbe", 90)
    assert operator.exec("dotmac-operator", "check").splitlines()[-1] == "all is well"
    account = ("create-admin", "--username", "ada", "--email", "ada@example.com", "--password-stdin")
    facade.exec("dotmac-api", *account, data=b"Correct-horse-9-battery")
    assert all(line.startswith("ok ") for line in facade.exec("dotmac-api", "check").splitlines())
    with httpx.Client(base_url=f"http://{facade.host.address}:8000/api/v1", trust_env=False, timeout=20) as client:
        signed = client.post("/auth/login", json={"username": "ada", "password": "Correct-horse-9-battery"}).json()
        listed = client.get("/instances", headers={"Authorization": f"Bearer {signed['access_token']}"})
    assert (listed.status_code, listed.json()["items"]) == (200, [])
    # What the NetworkPolicies and Services name is what the programs listen on.
    metrics = httpx.get(f"http://{operator.host.address}:8081/metrics", trust_env=False)
    assert "leader_election_master_status" in metrics.text
    assert seen(kubelet.cluster.client, server_without_a_key()) == "SecretMissing", operator.log()
    assert (operator.stop(), facade.stop()) == (0, 0)
