"""Small, valid objects of our group, for tests that need some."""

from typing import Any

API = "platform.dotmac.io/v1alpha1"
KEY = "SHA256:" + "A" * 43

type Object = dict[str, Any]


def server(name: str = "host-1", **spec: Any) -> Object:
    made = {"address": "192.0.2.10", "credentialsRef": {"name": "ssh"}, "hostKeys": [KEY], **spec}
    return {"apiVersion": API, "kind": "Server", "metadata": {"name": name, "namespace": "default"}, "spec": made}


def release(name: str = "erp-1", **spec: Any) -> Object:
    web = {"name": "web", "image": "app", "port": 8000, "expose": True}
    made = {"version": "1.0", "images": {"app": "erp:1", "db": "postgres:16"}, "roles": [web]}
    made |= {"database": {"image": "db"}, **spec}
    return {"apiVersion": API, "kind": "Release", "metadata": {"name": name}, "spec": made}


def plan(name: str = "starter", **spec: Any) -> Object:
    made = {"quotas": {"maxUsers": 10, "maxStorage": "5Gi"}, **spec}
    return {"apiVersion": API, "kind": "InstanceClass", "metadata": {"name": name}, "spec": made}


def instance(name: str = "acme", **spec: Any) -> Object:
    made = {
        "orgCode": name.upper(),
        "orgName": f"{name} Ltd",
        "serverRef": {"name": "host-1"},
        "releaseRef": {"name": "erp-1"},
        "classRef": {"name": "starter"},
        "admin": {"email": f"admin@{name}.example"},
        **spec,
    }
    return {"apiVersion": API, "kind": "Instance", "metadata": {"name": name, "namespace": "default"}, "spec": made}


def backup(name: str = "acme-monday", of: str = "acme", **spec: Any) -> Object:
    made = {"instanceRef": {"name": of}, **spec}
    return {"apiVersion": API, "kind": "Backup", "metadata": {"name": name, "namespace": "default"}, "spec": made}


def restore(name: str = "acme-back", of: str = "acme", source: str = "acme-monday") -> Object:
    spec = {"instanceRef": {"name": of}, "backupRef": {"name": source}}
    return {"apiVersion": API, "kind": "Restore", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def condition(type_: str, status: str, reason: str = "Because", at: str = "2026-11-22T10:00:00Z") -> Object:
    return {"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": at}
