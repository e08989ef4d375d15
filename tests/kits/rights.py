"""The operator's ServiceAccount with exactly the rights of deploy/kustomize, and a kubeconfig of its token."""

from pathlib import Path
from typing import Any

import yaml
from tests.kits.controlplane import ControlPlane

BASE = Path(__file__).resolve().parents[2] / "deploy" / "kustomize" / "base"
SYSTEM = "dotmac-system"
ACCOUNT = "dotmac-operator"


def operator_kubeconfig(plane: ControlPlane, path: Path, *namespaces: str) -> Path:
    """Installs the account and its rights in these namespaces with tenants, as the overlay `namespaced` does."""
    plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
    for file in ("operator/account.yaml", "rbac/operator.yaml"):
        for obj in yaml.safe_load_all((BASE / file).read_text()):
            for subject in obj.get("subjects", []):
                subject["namespace"] = SYSTEM
            plane.create(obj, SYSTEM)
    plane.create(_binding("ClusterRoleBinding", "dotmac-operator-catalog"))
    for namespace in namespaces:
        plane.create(_binding("RoleBinding", "dotmac-operator-tenants"), namespace)
    asked = {"spec": {"expirationSeconds": 86400}}
    answer = plane.client.post(f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{ACCOUNT}/token", json=asked)
    assert answer.status_code == 201, answer.text
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": answer.json()["status"]["token"]}
    config["contexts"][0]["context"]["namespace"] = SYSTEM
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def _binding(kind: str, role: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}],
    }
