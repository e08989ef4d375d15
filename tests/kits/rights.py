"""ServiceAccounts with exactly the rights of deploy/kustomize, and kubeconfigs of their tokens."""

from pathlib import Path
from typing import Any

import yaml
from tests.kits.controlplane import ControlPlane

BASE = Path(__file__).resolve().parents[2] / "deploy" / "kustomize" / "base"
SYSTEM = "dotmac-system"


def operator_kubeconfig(plane: ControlPlane, path: Path, *namespaces: str) -> Path:
    """The operator's, with its rights in these namespaces with tenants, as the overlay `namespaced` has them."""
    _install(plane, "operator/account.yaml", "rbac/operator.yaml")
    return _kubeconfig(plane, path, "dotmac-operator", namespaces)


def facade_kubeconfig(plane: ControlPlane, path: Path, *namespaces: str) -> Path:
    """The facade's, as the overlay `with-facade` has it."""
    _install(plane, "facade/account.yaml")
    return _kubeconfig(plane, path, "dotmac-api", namespaces)


def _install(plane: ControlPlane, *files: str) -> None:
    if plane.client.get(f"/api/v1/namespaces/{SYSTEM}").status_code == 404:
        plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
    for file in files:
        for obj in yaml.safe_load_all((BASE / file).read_text()):
            for subject in obj.get("subjects", []):
                subject["namespace"] = SYSTEM
            plane.create(obj, SYSTEM)


def _kubeconfig(plane: ControlPlane, path: Path, account: str, namespaces: tuple[str, ...]) -> Path:
    plane.create(_binding("ClusterRoleBinding", f"{account}-catalog", account))
    for namespace in namespaces:
        plane.create(_binding("RoleBinding", f"{account}-tenants", account), namespace)
    asked = {"spec": {"expirationSeconds": 86400}}
    answer = plane.client.post(f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token", json=asked)
    assert answer.status_code == 201, answer.text
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": answer.json()["status"]["token"]}
    config["contexts"][0]["context"]["namespace"] = SYSTEM
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def _binding(kind: str, role: str, account: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": SYSTEM}],
    }
