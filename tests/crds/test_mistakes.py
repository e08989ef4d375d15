"""What the API server answers to the mistakes that people make: one clear cause that names the field."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from dotmac_crds.base import API_VERSION
from dotmac_crds.instance import InstanceSpec
from dotmac_crds.kinds import KINDS
from dotmac_local.schema import Schema

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
FINGERPRINT = "SHA256:" + "A" * 43
SPECS: dict[str, dict[str, Any]] = {
    "Server": {"address": "host.example.com", "credentialsRef": {"name": "key"}, "hostKeys": [FINGERPRINT]},
    "InstanceClass": {},
    "Release": {
        "version": "1.0",
        "images": {"app": "example/app:1", "db": "postgres:15", "cache": "redis:7"},
        "roles": [
            {"name": "web", "image": "app", "port": 8000, "expose": True, "health": {"http": {}}},
            {"name": "worker", "image": "app"},
        ],
        "database": {"image": "db"},
        "cache": {"image": "cache"},
        "volumes": [{"name": "files", "mountPath": "/files", "roles": ["web"]}],
        "env": [{"name": "KEY", "from": "secret.session"}, {"name": "CACHE", "from": "cache.url"}],
        "secrets": [{"name": "session"}],
    },
    "Instance": {
        "orgCode": "ACME",
        "orgName": "Acme Ltd",
        "serverRef": {"name": "host-1"},
        "releaseRef": {"name": "erp-1"},
        "classRef": {"name": "starter"},
        "admin": {"email": "admin@acme.example"},
        "env": [{"name": "MODE", "value": "x"}],
    },
    "Backup": {"instanceRef": {"name": "acme"}, "type": "Database"},
    "Restore": {"instanceRef": {"name": "acme"}, "backupRef": {"name": "acme-monday"}},
}


@cache
def schema_of(kind: str) -> Schema:
    found = next(k for k in KINDS if k.name == kind)
    return Schema(found.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def stored(kind: str, spec: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the object as the API server would store it, what it pruned)."""
    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": copy.deepcopy(spec)}
    schema = schema_of(kind)
    pruned = schema.prune(body)
    schema.default(body)
    return body, pruned


def causes(kind: str, spec: dict[str, Any], old: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """(field, message) of each cause; the note about rules that were skipped is left out."""
    before = stored(kind, old)[0] if old is not None else None
    found = schema_of(kind).validate(stored(kind, spec)[0], before)
    return [(cause.field, cause.message) for cause in found if cause.field != "<nil>"]


Edit = Callable[[dict[str, Any]], object]


def changed(kind: str, edit: Edit) -> dict[str, Any]:
    spec = copy.deepcopy(SPECS[kind])
    edit(spec)
    return spec


def setting(path: str, value: Any) -> Edit:
    """Sets `a.b.0.c`."""

    def edit(spec: dict[str, Any]) -> None:
        *above, last = path.split(".")
        here: Any = spec
        for part in above:
            here = here[int(part)] if part.isdigit() else here.setdefault(part, {})
        here[int(last) if last.isdigit() else last] = value

    return edit


def without(name: str) -> Edit:
    return lambda spec: spec.pop(name)


def window(**edits: Any) -> Edit:
    """One maintenance window, changed; None leaves a field out."""
    right = {"days": ["Sat", "Sun"], "start": "22:30", "duration": 120, "timezone": "Africa/Lagos", **edits}
    return setting("maintenanceWindows", [{name: value for name, value in right.items() if value is not None}])


WINDOW = "spec.maintenanceWindows[0]"
MISTAKES: list[tuple[str, Edit, str, str]] = [
    ("Backup", without("instanceRef"), "spec.instanceRef", "Required"),
    ("Backup", setting("instanceRef.name", "Acme Ltd"), "spec.instanceRef.name", "should match"),
    ("Backup", setting("type", "Files"), "spec.type", '"Database", "Full"'),
    ("Restore", without("backupRef"), "spec.backupRef", "Required"),
    ("Restore", setting("backupRef", "acme-monday"), "spec.backupRef", "must be of type object"),
    ("Server", without("hostKeys"), "spec", "hostKeys needs at least one key"),
    ("Server", setting("hostKeys", []), "spec", "hostKeys needs at least one key"),
    ("Server", setting("hostKeys", ["AAAA1234"]), "spec.hostKeys[0]", "should match"),
    ("Server", setting("hostKeys", [FINGERPRINT, FINGERPRINT]), "spec.hostKeys[1]", "Duplicate"),
    ("Server", setting("hostKeyPolicy", "Ignore"), "spec.hostKeyPolicy", '"Pinned", "TrustOnFirstUse"'),
    ("Server", without("address"), "spec.address", "Required"),
    ("Server", setting("address", "-oProxyCommand=id"), "spec.address", "should match"),
    ("Server", setting("user", "root; id"), "spec.user", "should match"),
    ("Server", setting("port", 70000), "spec.port", "less than or equal to 65535"),
    ("Server", setting("proxy.tls.email", "a@b.example"), "", ""),
    ("Server", setting("proxy.tls", {"mode": "Off", "email": "a@b.example"}), "spec.proxy.tls", "mode Acme only"),
    ("Server", setting("proxy", {"httpPort": 8080, "httpsPort": 8080}), "spec.proxy.httpsPort", "must differ"),
    ("Server", setting("proxy.bindAddress", "300.1.1.1"), "spec.proxy.bindAddress", "should match"),
    ("Server", setting("capacity.networkPool", "999.0.0.0/16"), "spec.capacity.networkPool", "should match"),
    ("Server", setting("capacity.networkPool", "10.0.0.0/30"), "spec.capacity.networkPool", "should match"),
    ("Server", setting("capacity.reservedMemory", "half"), "spec.capacity.reservedMemory", "should match"),
    ("InstanceClass", setting("resources.default.cpu", "1 core"), "spec.resources.default.cpu", "should match"),
    ("InstanceClass", setting("resources.default.memory", "512MB"), "spec.resources.default.memory", "should match"),
    ("InstanceClass", setting("resources.default.memory", "0Mi"), "spec.resources.default.memory", "no limit at all"),
    ("InstanceClass", setting("resources.cache.cpu", 0), "spec.resources.cache.cpu", "no limit at all"),
    ("InstanceClass", setting("resources.database.pids", 1), "spec.resources.database.pids", "greater than or equal"),
    ("InstanceClass", setting("quotas.maxStorage", "lots"), "spec.quotas.maxStorage", "should match"),
    ("Release", setting("roles.0.image", "nope"), "spec.images", "must be a key of spec.images"),
    ("Release", setting("database.image", "nope"), "spec.images", "must be a key of spec.images"),
    ("Release", setting("roles.1.expose", True), "spec.roles", "exactly one role has expose: true"),
    ("Release", setting("roles.0.expose", False), "spec.roles", "exactly one role has expose: true"),
    ("Release", setting("roles.0.health", {"http": {}, "tcp": {}}), "spec.roles[0].health", "exactly one of http"),
    ("Release", setting("roles.0.health", {}), "spec.roles[0].health", "exactly one of http"),
    ("Release", setting("roles.1.health", {"tcp": {}}), "spec.roles", "needs a port"),
    ("Release", setting("roles.1.name", "migrate"), "spec.roles", "names of the operator"),
    ("Release", setting("env.0.value", "x"), "spec.env[0]", "exactly one of value and from"),
    ("Release", setting("env.0", {"name": "KEY"}), "spec.env[0]", "exactly one of value and from"),
    ("Release", setting("env.0.from", "secret.other"), "spec.env", "spec.secrets does not generate"),
    ("Release", setting("env.0.from", "databse.host"), "spec.env[0].from", "should match"),
    ("Release", setting("env.1.name", "KEY"), "spec.env[1]", "Duplicate"),
    ("Release", without("cache"), "spec.env", "spec.cache is absent"),
    ("Release", setting("volumes.0.roles", ["nobody"]), "spec.volumes", "a role that does not exist"),
    ("Release", setting("volumes.0.name", "database"), "spec.volumes", "operator's own volumes"),
    ("Release", setting("volumes.0.mountPath", "relative"), "spec.volumes[0].mountPath", "should match"),
    ("Release", setting("roles.0.capabilities", ["SYS_ADMIN"]), "spec.roles[0].capabilities[0]", "Unsupported"),
    ("Release", setting("secrets.0.length", 4), "spec.secrets[0].length", "greater than or equal to 16"),
    ("Instance", setting("placement", {}), "spec", "exactly one of serverRef and placement"),
    ("Instance", without("serverRef"), "spec", "exactly one of serverRef and placement"),
    ("Instance", setting("orgCode", "-acme"), "spec.orgCode", "should match"),
    ("Instance", setting("orgCode", "a b"), "spec.orgCode", "should match"),
    ("Instance", setting("orgName", "Acme\nLtd"), "spec.orgName", "should match"),
    ("Instance", setting("admin.email", "nobody"), "spec.admin.email", "should match"),
    ("Instance", setting("settings.currency", "naira"), "spec.settings.currency", "may not be more than 3"),
    ("Instance", setting("settings.values", {"not-ok": "1"}), "spec.settings.values", "every key"),
    ("Instance", setting("env.0.name", "A=B"), "spec.env[0].name", "should match"),
    ("Instance", setting("env.0.secretKeyRef", {"name": "s", "key": "k"}), "spec.env[0]", "value and secretKeyRef"),
    ("Instance", setting("env.0", {"name": "A"}), "spec.env[0]", "value and secretKeyRef"),
    ("Instance", setting("domains", [{"host": "a.example"}] * 2), "spec.domains[1]", "Duplicate"),
    ("Instance", setting("domains", [{"host": "Upper.example"}]), "spec.domains[0].host", "should match"),
    ("Instance", setting("domains", [{"host": "a.example/x"}]), "spec.domains[0].host", "should match"),
    ("Instance", setting("deletion.policy", "Purge"), "spec.deletion.policy", '"Retain", "Delete"'),
    ("Instance", setting("deletion.finalBackup", "yes"), "spec.deletion.finalBackup", "must be of type boolean"),
    ("Instance", setting("state", "Stopped"), "spec.state", '"Running", "Suspended", "Archived"'),
    ("Instance", setting("approval", "required"), "spec.approval", '"None", "Required"'),
    ("Instance", setting("trial", {}), "spec.trial.expiresAt", "Required"),
    ("Instance", setting("trial.expiresAt", "tomorrow"), "spec.trial.expiresAt", "should match"),
    ("Instance", setting("trial.expiresAt", "2027-02-31T00:00:00Z"), "spec.trial.expiresAt", "date-time"),
    ("Instance", setting("trial.expiresAt", "2027-01-31"), "spec.trial.expiresAt", "should match"),
    ("Instance", setting("trial.expiresAt", "2027-01-31T12:00:00"), "spec.trial.expiresAt", "should match"),
    ("Instance", setting("update.strategy", "Rolling"), "spec.update.strategy", '"ZeroDowntime", "Recreate"'),
    ("Instance", setting("update.healthTimeout", 0), "spec.update.healthTimeout", "greater than or equal to 1"),
    ("Instance", setting("update.healthTimeout", "5m"), "spec.update.healthTimeout", "must be of type integer"),
    ("Instance", setting("update.rollback", "false"), "spec.update.rollback", "must be of type boolean"),
    ("Instance", window(), "", ""),
    ("Instance", window(timezone="Africa/Lagoss"), f"{WINDOW}.timezone", "IANA time zone such as"),
    ("Instance", window(timezone="Local"), f"{WINDOW}.timezone", "IANA time zone such as"),
    ("Instance", window(timezone="America"), f"{WINDOW}.timezone", "IANA time zone such as"),
    ("Instance", window(timezone="+01:00"), f"{WINDOW}.timezone", "should match"),
    ("Instance", window(timezone="../../etc/passwd"), f"{WINDOW}.timezone", "should match"),
    ("Instance", window(start="24:00"), f"{WINDOW}.start", "should match"),
    ("Instance", window(start="9:30"), f"{WINDOW}.start", "should match"),
    ("Instance", window(start="22:30:00"), f"{WINDOW}.start", "may not be more than 5"),
    ("Instance", window(start=yaml.safe_load("22:30")), f"{WINDOW}.start", 'must be of type string: "integer"'),
    ("Instance", window(start=None), f"{WINDOW}.start", "Required"),
    ("Instance", window(duration=0), f"{WINDOW}.duration", "greater than or equal to 5"),
    ("Instance", window(duration="2h"), f"{WINDOW}.duration", "must be of type integer"),
    ("Instance", window(duration=10081), f"{WINDOW}.duration", "less than or equal to 10080"),
    ("Instance", window(days=["Saturday"]), f"{WINDOW}.days[0]", '"Mon", "Tue", "Wed"'),
    ("Instance", window(days=["Sat", "Sat"]), f"{WINDOW}.days[1]", "Duplicate"),
    ("Instance", window(days=[]), f"{WINDOW}.days", "at least 1"),
    ("InstanceClass", setting("defaults.update.strategy", "Never"), "spec.defaults.update.strategy", "Recreate"),
    (
        "InstanceClass",
        setting("defaults.maintenanceWindows", [{"start": "1:00", "duration": 60}]),
        "spec.defaults.maintenanceWindows[0].start",
        "should match",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "edit", "field", "words"), MISTAKES)
def test_one_clear_cause(kind: str, edit: Edit, field: str, words: str) -> None:
    found = causes(kind, changed(kind, edit))
    if not field:
        assert found == []
        return
    blamed = {where for where, _ in found}
    assert blamed == {field}, found
    assert any(words in message for _, message in found), found


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (window(timezone="Africa/Lagoss"), "write one such as Africa/Lagos"),
        (window(timezone="America"), "write one such as Africa/Lagos"),
        (setting("trial.expiresAt", "2027-02-31T00:00:00Z"), "2027-01-31T23:59:59Z"),
    ],
)
def test_the_models_refuse_what_the_api_server_would(edit: Edit, words: str) -> None:
    """The facade checks with the models alone, and the operator reads what an older schema has let through."""
    with pytest.raises(ValidationError, match=words):
        InstanceSpec.model_validate(changed("Instance", edit))


@pytest.mark.parametrize("kind", SPECS)
def test_the_correct_form_is_accepted(kind: str) -> None:
    assert causes(kind, SPECS[kind]) == []


def test_off_without_quotes_is_told_as_what_yaml_made_of_it() -> None:
    """In YAML a bare `Off` is false; nobody guesses that from "invalid"."""
    spec = changed("Server", setting("proxy", yaml.safe_load("tls: { mode: Off }")))
    fields = {field for field, _ in causes("Server", spec)}
    messages = " ".join(message for _, message in causes("Server", spec))
    assert fields == {"spec.proxy.tls.mode"}
    assert 'must be of type string: "boolean"' in messages
    assert '"Off"' in messages


@pytest.mark.parametrize(
    ("edit", "field", "words"),
    [
        (setting("orgCode", "OTHER"), "spec.orgCode", "orgCode is immutable"),
        (setting("serverRef", {"name": "host-2"}), "spec.serverRef", "serverRef cannot change"),
        (lambda spec: (spec.pop("serverRef"), spec.update(placement={})), "spec.serverRef", "serverRef cannot change"),
    ],
)
def test_what_cannot_change(edit: Edit, field: str, words: str) -> None:
    found = causes("Instance", changed("Instance", edit), old=SPECS["Instance"])
    assert [where for where, _ in found] == [field]
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("Backup", setting("instanceRef.name", "other")),
        ("Backup", setting("type", "Full")),
        ("Restore", setting("backupRef.name", "acme-tuesday")),
    ],
)
def test_what_is_done_once_cannot_be_edited(kind: str, edit: Edit) -> None:
    found = causes(kind, changed(kind, edit), old=SPECS[kind])
    assert [where for where, _ in found] == ["spec"]
    assert f"create another {kind} instead" in found[0][1]


def test_a_placed_instance_may_be_fixed_to_its_server() -> None:
    free = changed("Instance", lambda spec: (spec.pop("serverRef"), spec.update(placement={})))
    assert causes("Instance", SPECS["Instance"], old=free) == []


def test_unknown_fields_are_pruned_and_refused_by_the_models() -> None:
    spec = changed("Instance", lambda s: (s.update(bogus=1), s.update(settings={"zzz": 1})))
    body, pruned = stored("Instance", spec)
    assert sorted(pruned) == ["spec.bogus", "spec.settings.zzz"]
    assert "bogus" not in body["spec"]
    with pytest.raises(ValidationError, match="bogus"):
        next(k for k in KINDS if k.name == "Instance").spec.model_validate(spec)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_api_server_fills_in_what_the_models_would(kind: Any) -> None:
    """The operator reads stored objects with the models: both must understand the same by an absent field."""
    body, _ = stored(kind.name, SPECS[kind.name])
    filled = kind.spec.model_validate(body["spec"])
    assert filled == kind.spec.model_validate(SPECS[kind.name])
    assert body["spec"] == filled.to_wire()
    assert body["status"]["observedGeneration"] == -1


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_accepted(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if document and document["apiVersion"] == API_VERSION:
            assert stored(document["kind"], document["spec"])[1] == []
            assert causes(document["kind"], document["spec"]) == []
