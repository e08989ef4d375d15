"""kubectl, old and current, command by command: what a person sees."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kits import kubectl as clients
from tests.kits.controlplane import ControlPlane
from tests.local import widgets
from tests.local.widgets import PATH, make, widget

# Processes of their own, and seconds each: left out by deploy/test --fast.
pytestmark = pytest.mark.e2e


class Kubectl:
    """One kubectl against the server of this module."""

    def __init__(self, server: ControlPlane, program: str, version: str) -> None:
        self.server = server
        self.program = program
        self.old = version == "1.20"

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        return self.server.kubectl(*args, program=self.program, stdin=stdin)

    def fails(self, *args: str, stdin: str | None = None) -> str:
        """What a command that must fail prints."""
        done = subprocess.run(
            [self.program, *args],
            env=self.server.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr


@pytest.fixture(scope="module", params=["1.20", "current"])
def kubectl(request: pytest.FixtureRequest, control_plane: ControlPlane) -> Kubectl:
    widgets.install(control_plane)
    program = clients.debian() if request.param == "1.20" else clients.current()
    return Kubectl(control_plane, program, request.param)


@pytest.fixture(autouse=True)
def _empty(kubectl: Kubectl) -> Iterator[None]:
    yield
    kubectl.server.client.delete(PATH)
    kubectl.server.client.delete("/api/v1/namespaces/default/events")


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "widget.yaml"
    path.write_text(yaml.safe_dump(widget("w", 3)))
    return str(path)


def changed(manifest: str, **spec: Any) -> str:
    """The manifest with another spec, as a file beside it."""
    path = Path(manifest).with_name("changed.yaml")
    obj = widget("w", 3)
    obj["spec"] |= spec
    path.write_text(yaml.safe_dump(obj))
    return str(path)


def ageless(text: str) -> list[list[str]]:
    """The words of a table, without its ages."""
    return [re.sub(r"\b\d+[smhd]\b", "AGE", line).split() for line in text.splitlines()]


def stored(kubectl: Kubectl, name: str = "w") -> dict[str, Any]:
    found: dict[str, Any] = kubectl.server.client.get(f"{PATH}/{name}").json()
    return found


def test_apply(kubectl: Kubectl, manifest: str) -> None:
    assert kubectl("apply", "-f", manifest) == "widget.widgets.example.com/w created\n"
    version = stored(kubectl)["metadata"]["resourceVersion"]
    assert kubectl("apply", "-f", manifest) == "widget.widgets.example.com/w unchanged\n"
    assert stored(kubectl)["metadata"]["resourceVersion"] == version
    assert kubectl("apply", "-f", changed(manifest, size=5)) == "widget.widgets.example.com/w configured\n"
    assert stored(kubectl)["spec"]["size"] == 5


def test_apply_dry_run(kubectl: Kubectl, manifest: str) -> None:
    said = kubectl("apply", "--dry-run=server", "-f", manifest)
    assert said == "widget.widgets.example.com/w created (server dry run)\n"
    assert kubectl.server.client.get(f"{PATH}/w").status_code == 404


def test_apply_of_what_is_not_valid(kubectl: Kubectl, manifest: str) -> None:
    said = kubectl.fails("apply", "-f", changed(manifest, size=300))
    assert 'The Widget "w" is invalid: spec.size: Invalid value: 300: ' in said
    assert "should be less than or equal to 100" in said
    assert 'unknown field "' in kubectl.fails("apply", "-f", changed(manifest, bogus=1))


def test_apply_server_side(kubectl: Kubectl, manifest: str) -> None:
    apply = ("apply", "--server-side")
    assert kubectl(*apply, "-f", manifest) == "widget.widgets.example.com/w serverside-applied\n"
    kubectl(*apply, "--field-manager=other", "--force-conflicts", "-f", changed(manifest, size=4))
    said = kubectl.fails(*apply, "-f", manifest)
    assert 'Apply failed with 1 conflict: conflict with "other": .spec.size' in said
    kubectl(*apply, "--force-conflicts", "-f", manifest)
    assert stored(kubectl)["spec"]["size"] == 3


def test_diff(kubectl: Kubectl, manifest: str) -> None:
    kubectl("apply", "-f", manifest)
    assert kubectl("diff", "-f", manifest) == ""
    said = kubectl.fails("diff", "-f", changed(manifest, size=5))
    assert "-  size: 3\n+  size: 5\n" in said
    assert stored(kubectl)["spec"]["size"] == 3


def test_get_table(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3)
    assert ageless(kubectl("get", "widgets")) == [["NAME", "READY", "SIZE", "AGE"], ["w", "3", "AGE"]]
    assert ageless(kubectl("get", "demo", "-A")) == [
        ["NAMESPACE", "NAME", "READY", "SIZE", "AGE"],
        ["default", "w", "3", "AGE"],
    ]


def test_get_wide(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3)
    wide = ageless(kubectl("get", "wid", "-o", "wide"))
    assert wide == [["NAME", "READY", "SIZE", "COLOR", "AGE"], ["w", "3", "red", "AGE"]]


def test_get_yaml(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3)
    found = yaml.safe_load(kubectl("get", "wid", "w", "-o", "yaml"))
    assert found["spec"] == {"size": 3, "color": "red", "replicas": 1} and found["kind"] == "Widget"
    assert kubectl("get", "wid", "w", "-o", "jsonpath={.spec.size}") == "3"
    listed = yaml.safe_load(kubectl("get", "wid,ns", "-o", "yaml"))
    assert {item["kind"] for item in listed["items"]} == {"Widget", "Namespace"}


def test_get_watch(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3)
    argv = [kubectl.program, "get", "wid", "-w"]
    watching = subprocess.Popen(argv, env=kubectl.server.env, stdout=subprocess.PIPE, text=True)
    assert watching.stdout
    try:
        seen = [watching.stdout.readline(), watching.stdout.readline()]
        kubectl.server.client.patch(
            f"{PATH}/w", json={"spec": {"size": 4}}, headers={"Content-Type": "application/merge-patch+json"}
        )
        seen.append(watching.stdout.readline())
    finally:
        watching.kill()
        watching.wait()
    assert ageless("".join(seen)) == [["NAME", "READY", "SIZE", "AGE"], ["w", "3", "AGE"], ["w", "4", "AGE"]]


def test_get_what_is_not_there(kubectl: Kubectl) -> None:
    assert (
        kubectl.fails("get", "wid", "none")
        == 'Error from server (NotFound): widgets.widgets.example.com "none" not found\n'
    )
    assert 'the server doesn\'t have a resource type "nonsense"' in kubectl.fails("get", "nonsense")
    assert kubectl("get", "wid") == "No resources found in default namespace.\n"


def test_get_selected(kubectl: Kubectl) -> None:
    make(kubectl.server, "one", labels={"n": "1"})
    make(kubectl.server, "two", labels={"n": "2"})
    assert kubectl("get", "wid", "-l", "n in (1),!x", "-o", "name") == "widget.widgets.example.com/one\n"
    assert (
        kubectl("get", "wid", "--field-selector", "metadata.name!=one", "-o", "name")
        == "widget.widgets.example.com/two\n"
    )
    assert kubectl("get", "wid", "--chunk-size=1", "-o", "name").count("\n") == 2


def test_get_built_in_kinds(kubectl: Kubectl) -> None:
    assert ageless(kubectl("get", "ns", "default")) == [["NAME", "STATUS", "AGE"], ["default", "Active", "AGE"]]
    assert ageless(kubectl("get", "sa")) == [["NAME", "SECRETS", "AGE"], ["default", "0", "AGE"]]
    header, row = kubectl("get", "crd", widgets.CRD["metadata"]["name"]).splitlines()
    assert header.split() == ["NAME", "CREATED", "AT"] and row.split()[1].endswith("Z")


def test_describe(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3, labels={"a": "b"})
    said = kubectl("describe", "widget", "w")
    assert re.search(r"^Name: +w$", said, re.M) and re.search(r"^Labels: +a=b$", said, re.M)
    assert re.search(r"^  Size: +3$", said, re.M) and re.search(r"^Events: +<none>$", said, re.M)


def test_explain(kubectl: Kubectl) -> None:
    said = kubectl("explain", "widget.spec.size")
    assert re.search(r"^KIND: +Widget$", said, re.M) and re.search(r"^FIELD: +size <integer>$", said, re.M)
    assert "How large." in said
    assert "color\t<string>" in kubectl("explain", "widget.spec", "--recursive").replace("  <", "\t<")
    assert "Standard object's metadata" in kubectl("explain", "widget.metadata")


def test_edit(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    make(kubectl.server, "w", 3)
    monkeypatch.setenv("EDITOR", "sed -i s/size:.*/size:\\ 9/")
    assert kubectl("edit", "wid", "w") == "widget.widgets.example.com/w edited\n"
    assert stored(kubectl)["spec"]["size"] == 9


@pytest.mark.parametrize(
    ("kind", "patch"),
    [("merge", '{"spec": {"size": 8}}'), ("json", '[{"op": "replace", "path": "/spec/size", "value": 8}]')],
)
def test_patch(kubectl: Kubectl, kind: str, patch: str) -> None:
    make(kubectl.server, "w", 3)
    assert kubectl("patch", "wid", "w", "--type", kind, "-p", patch) == "widget.widgets.example.com/w patched\n"
    assert stored(kubectl)["spec"]["size"] == 8
    assert kubectl("patch", "wid", "w", "--type", kind, "-p", patch).endswith("patched (no change)\n")


def test_annotate_and_label(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3)
    assert kubectl("annotate", "wid", "w", "note=x").startswith("widget.widgets.example.com/w annotated")
    assert kubectl("label", "wid", "w", "mark=y").startswith("widget.widgets.example.com/w labeled")
    meta = stored(kubectl)["metadata"]
    assert meta["annotations"] == {"note": "x"} and meta["labels"] == {"mark": "y"} and meta["generation"] == 1
    assert "'mark' already has a value (y), and --overwrite is false" in kubectl.fails("label", "wid", "w", "mark=z")


def test_scale(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3)
    assert kubectl("scale", "--replicas=4", "wid/w") == "widget.widgets.example.com/w scaled\n"
    assert stored(kubectl)["spec"]["replicas"] == 4
    kubectl.fails("scale", "--replicas=5", "--current-replicas=1", "wid/w")
    assert stored(kubectl)["spec"]["replicas"] == 4


def test_wait(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3)
    assert "timed out waiting for the condition on widgets/w" in kubectl.fails(
        "wait", "--for=condition=Ready", "wid/w", "--timeout=1s"
    )
    waiting = subprocess.Popen(
        [kubectl.program, "wait", "--for=condition=Ready", "wid/w", "--timeout=30s"],
        env=kubectl.server.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    kubectl.server.client.patch(
        f"{PATH}/w/status", json=status, headers={"Content-Type": "application/merge-patch+json"}
    )
    assert waiting.communicate(timeout=40)[0] == "widget.widgets.example.com/w condition met\n"


def test_delete_waits_for_finalizers(kubectl: Kubectl) -> None:
    make(kubectl.server, "w", 3, finalizers=["example.com/hold"])
    argv = [kubectl.program, "delete", "wid", "w"]
    deleting = subprocess.Popen(argv, env=kubectl.server.env, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while "deletionTimestamp" not in stored(kubectl)["metadata"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    assert deleting.poll() is None
    merge = {"Content-Type": "application/merge-patch+json"}
    kubectl.server.client.patch(f"{PATH}/w", json={"metadata": {"finalizers": None}}, headers=merge)
    assert deleting.communicate(timeout=40)[0] == 'widget.widgets.example.com "w" deleted\n'
    assert deleting.returncode == 0


def test_events(kubectl: Kubectl) -> None:
    made = make(kubectl.server, "w", 3)
    kubectl.server.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "w.1"},
            "involvedObject": {
                "apiVersion": made["apiVersion"], "kind": "Widget", "name": "w", "namespace": "default",
                "uid": made["metadata"]["uid"],
            },
            "reason": "Grown",
            "message": "it is larger now",
            "type": "Normal",
            "lastTimestamp": made["metadata"]["creationTimestamp"],
            "firstTimestamp": made["metadata"]["creationTimestamp"],
            "count": 2,
        }
    )  # fmt: skip
    header, row = ageless(kubectl("get", "events"))
    assert header == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert row == ["AGE", "Normal", "Grown", "widget/w", "it", "is", "larger", "now"]
    assert re.search(r"Normal +Grown +.*it is larger now", kubectl("describe", "wid", "w"))
    if not kubectl.old:
        assert "it is larger now" in kubectl("events", "--for", "widget/w")


def test_auth_can_i(kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "create", "widgets") == "yes\n"
    assert kubectl.fails("auth", "can-i", "create", "widgets", "--as", "jane").splitlines()[-1].startswith("no")
    assert re.search(r"\*\.\* +\[\] +\[\] +\[\*\]", kubectl("auth", "can-i", "--list"))
    if not kubectl.old:
        assert "system:masters" in kubectl("auth", "whoami")


def test_forbidden_says_who_and_what(kubectl: Kubectl) -> None:
    said = kubectl.fails("get", "wid", "--as", "jane")
    assert said == (
        'Error from server (Forbidden): widgets.widgets.example.com is forbidden: User "jane" cannot list resource '
        '"widgets" in '
        'API group "widgets.example.com" in the namespace "default"\n'
    )


def test_api_resources(kubectl: Kubectl) -> None:
    rows = [line.split() for line in kubectl("api-resources", "--api-group=widgets.example.com").splitlines()]
    assert rows[1] == ["widgets", "wid", "widgets.example.com/v1", "true", "Widget"]
    assert "widgets.example.com/v1\n" in kubectl("api-versions")
    assert "Widget" in kubectl("api-resources", "--categories=demo" if not kubectl.old else "--namespaced=true")


def test_create(kubectl: Kubectl, manifest: str) -> None:
    assert kubectl("create", "-f", manifest) == "widget.widgets.example.com/w created\n"
    assert 'widgets.widgets.example.com "w" already exists' in kubectl.fails("create", "-f", manifest)


def test_create_built_in_kinds(kubectl: Kubectl) -> None:
    suffix = "old" if kubectl.old else "new"
    assert kubectl("create", "namespace", f"n-{suffix}") == f"namespace/n-{suffix} created\n"
    inside = ("-n", f"n-{suffix}")
    kubectl("create", "secret", "generic", "s", "--from-literal=a=b", *inside)
    kubectl("create", "configmap", "c", "--from-literal=a=b", *inside)
    kubectl("create", "serviceaccount", "robot", *inside)
    kubectl("create", "role", "reader", "--verb=get,list", "--resource=secrets", *inside)
    kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount=n-{suffix}:robot", *inside)
    robot = f"system:serviceaccount:n-{suffix}:robot"
    assert kubectl("get", "secret", "s", "-o", "jsonpath={.data.a}", *inside, "--as", robot) == "Yg=="
    assert "forbidden" in kubectl.fails("get", "configmaps", *inside, "--as", robot)
    assert re.search(r"secrets +\[\] +\[\] +\[get list\]", kubectl("describe", "role", "reader", *inside))
    assert kubectl("delete", "namespace", f"n-{suffix}") == f'namespace "n-{suffix}" deleted\n'
    assert kubectl.server.client.get(f"/api/v1/namespaces/n-{suffix}").status_code == 404
    assert kubectl.server.client.get(f"/api/v1/namespaces/n-{suffix}/secrets").json()["items"] == []


def test_replace(kubectl: Kubectl, manifest: str) -> None:
    kubectl("create", "-f", manifest)
    assert kubectl("replace", "-f", changed(manifest, size=6)) == "widget.widgets.example.com/w replaced\n"
    assert stored(kubectl)["spec"]["size"] == 6


def test_delete(kubectl: Kubectl, manifest: str) -> None:
    kubectl("create", "-f", manifest)
    assert kubectl("delete", "-f", manifest) == 'widget.widgets.example.com "w" deleted\n'
    assert "NotFound" in kubectl.fails("delete", "wid", "w")
    make(kubectl.server, "x", labels={"gone": "soon"})
    assert kubectl("delete", "wid", "-l", "gone=soon") == 'widget.widgets.example.com "x" deleted\n'


def test_version(kubectl: Kubectl) -> None:
    assert "v1.36" in kubectl("version")
    assert os.access(kubectl.program, os.X_OK)
