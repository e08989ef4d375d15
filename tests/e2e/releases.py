"""Objects that the end-to-end tests apply, as plain dictionaries: what a person would write as YAML."""

from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

NAMESPACE = "e2e"
ERP = "acme"
"""The Instance of the sample ERP."""
API = "platform.dotmac.io/v1alpha1"
EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
SAMPLE_1, SAMPLE_2, SAMPLE_BAD = "dotmac/sample-web:1", "dotmac/sample-web:2", "dotmac/sample-web:3-bad"
POSTGRESQL, REDIS, CADDY, TRYTON = "dotmac/postgresql:15", "dotmac/redis:7", "dotmac/caddy:2.6", "dotmac/tryton:6.0"

PSQL_ENV = [
    {"name": "DATABASE_HOST", "from": "database.host"},
    {"name": "DATABASE_PORT", "from": "database.port"},
    {"name": "PGHOST", "from": "database.host"},
    {"name": "PGUSER", "from": "database.user"},
    {"name": "PGDATABASE", "from": "database.name"},
    {"name": "PGPASSWORD", "from": "database.password"},
]
"""For a Release whose programs use `psql`."""
MAKE_ORDERS = "psql -v ON_ERROR_STOP=1 -c 'CREATE TABLE IF NOT EXISTS orders (id int)'"


def example(kind: str) -> Object:
    """The object of a kind that the README applies."""
    objects = (made for path in sorted(EXAMPLES.glob("*.yaml")) for made in yaml.safe_load_all(path.read_text()))
    found: Object = next(made for made in objects if made["kind"] == kind)
    return found


def resource(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


def secret(name: str, **values: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": values,
    }


def small_class() -> Object:
    """Limits that let a dozen tenants live on one laptop."""
    small = {"cpu": "1", "memory": "128Mi", "pids": 64}
    resources = {"default": small, "database": {**small, "memory": "256Mi"}, "cache": {**small, "memory": "64Mi"}}
    return resource("InstanceClass", "small", {"resources": resources})


def sample(name: str, version: str, image: str, **changes: Any) -> Object:
    """A Release of the page that starts at once: a web role and a worker, with migrate and bootstrap.

    `changes` replace keys of the spec. Each migrate and bootstrap run appends a line to /data/runs.
    """
    health = {"http": {"path": "/healthz"}, "interval": 1, "timeout": 1, "retries": 2, "startPeriod": 4}
    spec = {
        "version": version,
        "images": {"app": image, "postgresql": POSTGRESQL},
        "database": {"image": "postgresql"},
        "roles": [
            {"name": "web", "image": "app", "args": ["web"], "port": 8000, "expose": True, "health": health},
            {"name": "worker", "image": "app", "args": ["worker"]},
        ],
        "volumes": [{"name": "data", "mountPath": "/data", "roles": ["web", "worker", "migrate", "bootstrap"]}],
        "env": [
            {"name": "DATABASE_HOST", "from": "database.host"},
            {"name": "DATABASE_PORT", "from": "database.port"},
            {"name": "ORG_NAME", "from": "orgName"},
        ],
        "migrate": {"image": "app", "args": ["migrate"], "timeout": 60},
        "bootstrap": {"image": "app", "args": ["bootstrap"], "timeout": 60},
    }
    return resource("Release", name, {**spec, **changes})


def instance(name: str, release: str, **changes: Any) -> Object:
    """An Instance on Server `one`, unless `changes` give it a placement or another serverRef."""
    spec = {
        "orgCode": name,
        "orgName": f"{name.title()} Ltd",
        "releaseRef": {"name": release},
        "classRef": {"name": "small"},
        "admin": {"email": f"admin@{name}.example"},
        **changes,
    }
    if "placement" not in spec:
        spec.setdefault("serverRef", {"name": "one"})
    made = resource("Instance", name, spec)
    made["metadata"]["namespace"] = NAMESPACE
    return made


def sample_erp() -> Object:
    """What the README deploys, on Server `one`."""
    return instance(
        ERP,
        example("Release")["metadata"]["name"],
        classRef={"name": example("InstanceClass")["metadata"]["name"]},
        domains=[{"host": f"{ERP}.one.example", "tls": "Off"}],
    )
