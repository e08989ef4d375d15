"""What a platform team installs: Kustomize and Helm say the same, strictly valid, with the fewest rights."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from kubernetes import client
from tests.kits import helmrender, kubectl
from tests.kits.helmrender import ChartRefused

from dotmac_api import settings as facade_settings
from dotmac_operator import settings
from dotmac_operator.check import LEASE_RIGHT, NAMESPACE_RIGHT, RIGHTS

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "deploy" / "kustomize" / "overlays"
CHART = ROOT / "deploy" / "helm" / "dotmac-operator"
CRD_CHART = ROOT / "deploy" / "helm" / "dotmac-crds"
SAME = {
    "namespaced": {},
    "cluster-wide": {"watch": {"allNamespaces": True}},
    "with-facade": {"facade": {"enabled": True}},
}
type Object = dict[str, Any]

pytestmark = pytest.mark.slow


@cache
def kustomized(path: Path) -> tuple[Object, ...]:
    done = subprocess.run([kubectl.current(), "kustomize", str(path)], capture_output=True, text=True, check=False)
    if "unknown command" in done.stderr or "unknown flag" in done.stderr:
        pytest.skip("this kubectl has no kustomize; one from 1.21 on has")
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def name_of(obj: Object) -> str:
    return f"{obj['kind']} {obj['metadata'].get('namespace', '-')}/{obj['metadata']['name']}"


# What tells by which of the two an object came, and says nothing about what it does.
_HELMS = ("app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart")


@cache
def with_component(overlay: str, component: str) -> tuple[Object, ...]:
    """An overlay of one's own, as the component tells to write one. Kustomize wants relative paths."""
    with TemporaryDirectory(dir=OVERLAYS) as folder:
        text = f"resources: [../{overlay}]\ncomponents: [../../components/{component}]\n"
        (Path(folder) / "kustomization.yaml").write_text(text)
        return kustomized(Path(folder))


def plain(obj: Object) -> Object:
    """Without what only one of the two writes: its own labels, hooks, defaults that the API fills in, and order."""
    made = json.loads(json.dumps(obj))
    made.pop("status", None)
    meta = made["metadata"]
    meta["labels"] = {k: v for k, v in (meta.get("labels") or {}).items() if k not in _HELMS}
    if made["kind"] not in ("Service", "ServiceMonitor"):
        meta["labels"].pop("app.kubernetes.io/name", None)
    meta["annotations"] = {
        k: v
        for k, v in (meta.get("annotations") or {}).items()
        if "/hook" not in k and not k.startswith(("meta.helm.sh/", "kustomize.toolkit.fluxcd.io/"))
    }
    for part in ("labels", "annotations"):
        if not meta[part]:
            del meta[part]
    for rules in ("ingress", "egress"):
        for rule in made.get("spec", {}).get(rules, []) if made["kind"] == "NetworkPolicy" else []:
            rule["ports"] = sorted(rule["ports"], key=lambda port: (port["port"], port["protocol"]))
    return dict(made)


@pytest.mark.parametrize("overlay", SAME)
def test_helm_and_kustomize_make_the_same_objects(overlay: str) -> None:
    by_kustomize = {name_of(o): plain(o) for o in kustomized(OVERLAYS / overlay) if o["kind"] != "Namespace"}
    by_helm = {name_of(o): plain(o) for o in helmrender.render(CHART, SAME[overlay])}
    assert sorted(by_helm) == sorted(by_kustomize)
    for name, obj in by_kustomize.items():
        assert by_helm[name] == obj, name


def test_the_component_and_the_value_for_the_prometheus_operator_make_the_same_monitor() -> None:
    by_kustomize = {name_of(o): plain(o) for o in with_component("namespaced", "service-monitor")}
    by_helm = {name_of(o): plain(o) for o in helmrender.render(CHART, {"serviceMonitor": {"enabled": True}})}
    name = "ServiceMonitor dotmac-system/dotmac-operator"
    assert by_helm[name] == by_kustomize[name]
    # What it selects is there: the labels are those of the Service, and the port is one of its ports by name.
    service, monitor = by_kustomize["Service dotmac-system/dotmac-operator"], by_kustomize[name]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {e["port"] for e in monitor["spec"]["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


def test_rendering_writes_nothing_into_the_home_of_whoever_tests(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from tests.kits import helmrender\nassert helmrender.render(pathlib.Path(sys.argv[1]))"
    )
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(CRD_CHART)], env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_the_chart_of_the_definitions_and_its_kustomization_hold_what_the_models_say() -> None:
    wanted = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml")}
    by_helm = {f"{o['metadata']['name']}.yaml": o for o in helmrender.render(CRD_CHART)}
    assert all(o["metadata"]["annotations"].pop("helm.sh/resource-policy") == "keep" for o in by_helm.values())
    assert {name: plain(obj) for name, obj in by_helm.items()} == wanted
    by_kustomize = {f"{o['metadata']['name']}.yaml": o for o in kustomized(ROOT / "crds")}
    assert by_kustomize == wanted


# -- strictly valid ------------------------------------------------------------------------------------------------

_MODELS = {
    "ClusterRole": client.V1ClusterRole,
    "ClusterRoleBinding": client.V1ClusterRoleBinding,
    "ConfigMap": client.V1ConfigMap,
    "Deployment": client.V1Deployment,
    "Job": client.V1Job,
    "Namespace": client.V1Namespace,
    "NetworkPolicy": client.V1NetworkPolicy,
    "PodDisruptionBudget": client.V1PodDisruptionBudget,
    "Role": client.V1Role,
    "RoleBinding": client.V1RoleBinding,
    "Service": client.V1Service,
    "ServiceAccount": client.V1ServiceAccount,
}
_PRIMITIVES = {"str": str, "int": int, "bool": bool, "float": (int, float), "datetime": str}


def wrong_fields(value: Any, type_: str, path: str) -> Iterator[str]:
    """Fields that the API does not know, or whose values are of another type, by the client's own models."""
    if found := re.fullmatch(r"[Ll]ist\[(.+)\]", type_):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for index, item in enumerate(value):
            yield from wrong_fields(item, found.group(1), f"{path}[{index}]")
    elif found := re.fullmatch(r"[Dd]ict\[str, (.+)\]", type_):
        for key, item in value.items():
            yield from wrong_fields(item, found.group(1), f"{path}.{key}")
    elif type_ in _PRIMITIVES:
        if not isinstance(value, _PRIMITIVES[type_]) or (type_ == "int" and isinstance(value, bool)):
            yield f"{path} is no {type_}: {value!r}"
    elif hasattr(client, type_):
        yield from wrong_parts(value, getattr(client, type_), path)


def wrong_parts(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is no object"
        return
    types = {model.attribute_map[name]: type_ for name, type_ in model.openapi_types.items()}
    for key, item in value.items():
        if key not in types:
            yield f"{path}.{key} is unknown"
        else:
            yield from wrong_fields(item, types[key], f"{path}.{key}")


@pytest.mark.parametrize("overlay", SAME)
def test_every_object_is_strictly_valid(overlay: str) -> None:
    for obj in kustomized(OVERLAYS / overlay):
        assert list(wrong_parts(obj, _MODELS[obj["kind"]], name_of(obj))) == []


def test_the_check_for_strictness_finds_a_wrong_field() -> None:
    deployment = next(o for o in kustomized(OVERLAYS / "namespaced") if o["kind"] == "Deployment")
    broken = json.loads(json.dumps(deployment))
    broken["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    broken["spec"]["replicas"] = "1"
    assert sorted(fault.partition(".")[2] for fault in wrong_parts(broken, client.V1Deployment, "it")) == [
        "spec.replicas is no int: '1'",
        "spec.template.spec.containers[0].readOnlyRootFilesystem is unknown",
    ]


# -- rights --------------------------------------------------------------------------------------------------------


def granted(obj: Object) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of a role."""
    return {
        (group, resource, verb)
        for rule in obj["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_operator_has_the_rights_that_it_checks_for_and_no_others() -> None:
    roles = {name_of(o): o for o in kustomized(OVERLAYS / "namespaced") if o["kind"] in ("ClusterRole", "Role")}
    ours = granted(roles["ClusterRole -/dotmac-operator-catalog"]) | granted(
        roles["ClusterRole -/dotmac-operator-tenants"]
    )
    ours |= granted(roles["Role dotmac-system/dotmac-operator-leader"])
    used = {
        (right.group, f"{right.resource}/{right.subresource}" if right.subresource else right.resource, verb)
        for right in (*RIGHTS, LEASE_RIGHT, NAMESPACE_RIGHT)
        for verb in right.verbs
    }
    assert ours == used


def test_secrets_are_readable_in_watched_namespaces_only_and_never_listed() -> None:
    objects = kustomized(OVERLAYS / "with-facade")
    readers = {
        o["metadata"]["name"] for o in objects if o["kind"].endswith("Role") and ("", "secrets", "get") in granted(o)
    }
    assert readers == {"dotmac-operator-tenants"}
    listing = [
        o
        for o in objects
        if o["kind"].endswith("Role") and {("", "secrets", "list"), ("", "secrets", "watch")} & granted(o)
    ]
    assert listing == []
    bound = [o for o in objects if o["kind"].endswith("Binding") and o["roleRef"]["name"] in readers]
    assert [(o["kind"], o["metadata"]["namespace"]) for o in bound] == [("RoleBinding", "dotmac-tenants")]


def test_no_role_of_a_program_uses_a_wildcard() -> None:
    for obj in kustomized(OVERLAYS / "cluster-wide"):
        if obj["kind"] == "ClusterRole" and obj["metadata"]["name"].startswith(("dotmac-operator", "dotmac-api")):
            assert "*" not in {part for right in granted(obj) for part in right}


# -- pods ----------------------------------------------------------------------------------------------------------


def pods() -> Iterator[tuple[str, Object]]:
    for obj in kustomized(OVERLAYS / "with-facade"):
        if obj["kind"] in ("Deployment", "Job"):
            yield name_of(obj), obj["spec"]["template"]["spec"]


def test_pods_meet_the_restricted_standard() -> None:
    """The fields of https://kubernetes.io/docs/concepts/security/pod-security-standards/ level `restricted`."""
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert all("emptyDir" in volume for volume in pod.get("volumes", [])), name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"], name


@pytest.mark.parametrize("overlay", SAME)
def test_what_selects_pods_selects_those_of_one_workload_and_each_port_by_name_is_one_of_theirs(overlay: str) -> None:
    objects = kustomized(OVERLAYS / overlay)
    workloads = {name_of(o): o["spec"]["template"] for o in objects if o["kind"] in ("Deployment", "Job")}
    selectors = {
        name_of(o): o["spec"].get("podSelector", o["spec"]["selector"] if "selector" in o["spec"] else {})
        for o in objects
        if o["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment")
    }
    for name, selector in selectors.items():
        labels = selector.get("matchLabels", selector).items()
        selected = [workload for workload, pod in workloads.items() if labels <= pod["metadata"]["labels"].items()]
        meant = name.partition("/")[2]
        assert [workload.partition("/")[2] for workload in selected] == [meant], name
    for service in (o for o in objects if o["kind"] == "Service"):
        pod = next(w for name, w in workloads.items() if name.endswith(f"/{service['metadata']['name']}"))
        ports = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_the_image_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container["image"] for _, pod in pods() for container in pod["containers"]}
    assert images == {f"dotmac-operator:{version}"}
    for chart in (CHART, CRD_CHART):
        said = yaml.safe_load((chart / "Chart.yaml").read_text())
        assert (said["version"], said["appVersion"]) == (version, version)
    assert f"ARG VERSION={version}\n" in (ROOT / "Dockerfile").read_text()


def test_the_image_keeps_the_parts_of_the_kubernetes_client_that_are_used() -> None:
    sources = [path.read_text() for folder in ("operator", "api") for path in (ROOT / folder).rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\bclient\.([A-Z]\w*Api)\b", text)}
    files = {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() for name in used}
    kept = re.findall(r"-not -name (\w+_api)\.py", (ROOT / "Dockerfile").read_text())
    assert set(kept) == files
    assert not any("kubernetes.aio.client.api" in text or "kubernetes.aio.client.models" in text for text in sources)


# -- values --------------------------------------------------------------------------------------------------------

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def draft7() -> Any:
    """Imported where it is needed: it builds grammars for a second, and every worker collects this file."""
    from jsonschema import Draft7Validator

    return Draft7Validator


def test_every_value_is_documented_twice() -> None:
    """A comment in values.yaml, and a description with a type in the schema."""
    draft7().check_schema(SCHEMA)
    commented = set(comments((CHART / "values.yaml").read_text().splitlines()))
    for path, schema in described(SCHEMA, ()):
        assert schema.get("description"), f"{'.'.join(path)} has no description in values.schema.json"
        assert path in commented, f"{'.'.join(path)} has no comment in values.yaml"


def comments(lines: list[str]) -> Iterator[tuple[str, ...]]:
    """Paths of the values that have a comment above them."""
    path: list[str] = []
    for before, line in pairwise(["", *lines]):
        if found := re.match(r"( *)([A-Za-z]+):", line):
            path[len(found.group(1)) // 2 :] = [found.group(2)]
            if before.strip().startswith("#"):
                yield tuple(path)


def described(schema: Object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Object]]:
    for name, part in schema.get("properties", {}).items():
        if name == "global" or path[-1:] == ("imagePullSecrets",):
            continue
        yield (*path, name), part
        if "$ref" not in part:
            yield from described(part, (*path, name))


def test_the_default_values_are_all_in_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert list(draft7()(SCHEMA).iter_errors(values)) == []

    def keys(part: Any, path: str) -> Iterator[str]:
        for key, value in part.items() if isinstance(part, dict) else ():
            yield f"{path}.{key}"
            if key not in ("resources", "settings", "labels", "nodeSelector", "affinity"):
                yield from keys(value, f"{path}.{key}")

    known = {"." + ".".join(path) for path, _ in described(SCHEMA, ())}
    assert set(keys(values, "")) == known


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"imagee": {}}, "imagee"),
        ({"watch": {"namespaces": []}}, "/watch/namespaces"),
        ({"watch": {"namespaces": ["Tenants"]}}, "/watch/namespaces/0"),
        ({"operator": {"sshPorts": [70000]}}, "/operator/sshPorts/0"),
        ({"operator": {"settings": {"RESYNC": "5"}}}, "RESYNC"),
        ({"operator": {"settings": {"DOTMAC_OPERATOR_RESYNCC": "5"}}}, "DOTMAC_OPERATOR_RESYNCC"),
        ({"operator": {"settings": {"DOTMAC_OPERATOR_LOG_FORMAT": "plain"}}}, "DOTMAC_OPERATOR_LOG_FORMAT"),
        ({"operator": {"nodeSelector": {"disk": 1}}}, "/operator/nodeSelector/disk"),
        ({"operator": {"resources": {"request": {}}}}, "/operator/resources"),
        ({"watch": {"namespaces": "tenants"}}, "/watch/namespaces"),
        ({"image": {"tag": 1.1}}, "/image/tag"),
        ({"facade": {"enable": True}}, "/facade"),
        ({"facade": {"enabled": True, "namespace": "other"}}, "facade.namespace: other is not in watch.namespaces"),
        ({"facade": {"settings": {"DOTMAC_API_NOTIFICATIONS_SMTP_PASSWORD": "x"}}}, "SMTP_PASSWORD"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"facade": {"replicas": 0}}, "/facade/replicas"),
        ({"facade": {"settings": {"DOTMAC_API_DATABASE_URL": "postgresql://"}}}, "DOTMAC_API_DATABASE_URL"),
        ({"serviceMonitor": {"interval": "often"}}, "/serviceMonitor/interval"),
    ],
)
def test_a_wrong_value_is_named(values: Object, field: str) -> None:
    with pytest.raises(ChartRefused, match=re.escape(field)):
        helmrender.render(CHART, values)


def test_the_settings_that_the_chart_takes_are_those_of_the_programs_less_secrets_and_values_of_their_own() -> None:
    def taken(program: str) -> set[str]:
        return set(SCHEMA["definitions"][f"{program}Settings"]["propertyNames"]["enum"])

    operators = {f"DOTMAC_OPERATOR_{name.upper()}" for name in settings.Settings.model_fields}
    own = "NAMESPACES ALL_NAMESPACES LOG_FORMAT METRICS_ADDRESS DIAGNOSTICS_ADDRESS LEADER_ELECTION_NAMESPACE"
    secret = "DIAGNOSTICS_TOKEN DIAGNOSTICS_TOKEN_FILE"
    assert operators - taken("operator") == {f"DOTMAC_OPERATOR_{name}" for name in f"{own} {secret}".split()}
    facades = {f"DOTMAC_API_{name.upper()}" for name in facade_settings.Settings.model_fields}
    facades |= {f"DOTMAC_API_{s.domain}_{s.key}".upper() for s in facade_settings.SPECS if not s.fixed}
    own = "NAMESPACE ALL_NAMESPACES PUBLIC_URL KUBECONFIG KUBE_CONTEXT OVERRIDES"
    secret = "DATABASE_URL REDIS_URL JWT_KEYS API_KEY_PEPPER ENCRYPTION_KEYS METRICS_TOKEN OPERATOR_TOKEN"
    secret += " NOTIFICATIONS_SMTP_PASSWORD"
    assert facades - taken("facade") == {f"DOTMAC_API_{name}" for name in f"{own} {secret}".split()}
    assert taken("operator") <= operators and taken("facade") <= facades


def test_settings_reach_the_programs_as_they_were_written() -> None:
    given: Object = {
        "DOTMAC_API_MAX_BODY_BYTES": 10_485_760,  # Helm reads numbers as floats, which print as 1.048576e+07
        "DOTMAC_API_DATABASE_TIMEOUT": 0.5,
        "DOTMAC_API_MIRROR_ENABLED": False,
        "DOTMAC_API_LOG_FORMAT": "plain",  # the chart's own is json
        "DOTMAC_API_AUTH_TOTP_ISSUER": 'A & B <c> "d"',
    }
    made = {name_of(o): o for o in helmrender.render(CHART, {"facade": {"enabled": True, "settings": given}})}
    data = made["ConfigMap dotmac-system/dotmac-api"]["data"]
    assert {name: data[name] for name in given} == {
        "DOTMAC_API_MAX_BODY_BYTES": "10485760",
        "DOTMAC_API_DATABASE_TIMEOUT": "0.5",
        "DOTMAC_API_MIRROR_ENABLED": "false",
        "DOTMAC_API_LOG_FORMAT": "plain",
        "DOTMAC_API_AUTH_TOTP_ISSUER": 'A & B <c> "d"',
    }


def test_another_port_of_the_database_is_open_for_the_facade_and_its_migration() -> None:
    values: Object = {"facade": {"enabled": True, "databasePort": 6432, "egressPorts": [6379, 6432]}}
    made = {name_of(o): o for o in helmrender.render(CHART, values)}

    def open_to(name: str) -> list[int]:
        ports = made[f"NetworkPolicy dotmac-system/{name}"]["spec"]["egress"][0]["ports"]
        return [port["port"] for port in ports if port["protocol"] == "TCP"]

    assert open_to("dotmac-api-migrate") == [53, 6432]
    assert open_to("dotmac-api") == [53, 443, 6443, 6432, 6379]


def test_choices_reach_the_objects() -> None:
    values: Object = {
        "image": {"repository": "registry.example/dotmac", "digest": "sha256:" + "a" * 64},
        "watch": {"namespaces": ["a", "b"]},
        "operator": {"settings": {"DOTMAC_OPERATOR_RESYNC": 900}, "sshPorts": [2222], "nodeSelector": {"disk": "ssd"}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rbac": {"people": False},
    }
    objects = {name_of(o): o for o in helmrender.render(CHART, values)}
    pod = objects["Deployment dotmac-system/dotmac-operator"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example/dotmac@sha256:" + "a" * 64
    assert pod["nodeSelector"] == {"disk": "ssd"}
    data = objects["ConfigMap dotmac-system/dotmac-operator"]["data"]
    assert (data["DOTMAC_OPERATOR_NAMESPACES"], data["DOTMAC_OPERATOR_RESYNC"]) == ("a,b", "900")
    assert {"RoleBinding a/dotmac-operator-tenants", "RoleBinding b/dotmac-operator-tenants"} <= set(objects)
    egress = objects["NetworkPolicy dotmac-system/dotmac-operator"]["spec"]["egress"][0]["ports"]
    assert {"port": 2222, "protocol": "TCP"} in egress and {"port": 22, "protocol": "TCP"} not in egress
    assert objects["ServiceMonitor dotmac-system/dotmac-operator"]["metadata"]["labels"]["release"] == "prometheus"
    assert "ClusterRole -/dotmac-edit" not in objects
