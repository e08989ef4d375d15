"""One control plane, one operator and two Docker hosts for all end-to-end tests; each test has its own Instances."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.conftest import HOSTS
from tests.e2e import releases
from tests.e2e.platform import HTTP_PORT, HTTPS_PORT, Operator, Platform, Tenant
from tests.e2e.registry import Registry
from tests.kits import controlplane
from tests.kits.dockerhost import DockerHost
from tests.kits.rights import SYSTEM, operator_kubeconfig

IMAGES = {
    "one": (releases.POSTGRESQL, releases.REDIS, releases.CADDY, releases.TRYTON),
    "two": (releases.POSTGRESQL, releases.CADDY),
}
SAMPLES = (releases.SAMPLE_1, releases.SAMPLE_2, releases.SAMPLE_BAD)


@pytest.fixture(scope="session")
def fleet() -> Iterator[dict[str, DockerHost]]:
    """Two hosts, each in a network namespace of its own, with every image that is not pulled by a test."""
    hosts = {name: DockerHost(f"e2e-{name}", HOSTS) for name in IMAGES}

    def make(name: str) -> None:
        hosts[name].start()
        hosts[name].load_images(*IMAGES[name], *SAMPLES)

    with ThreadPoolExecutor() as pool:
        try:
            list(pool.map(make, hosts))
            yield hosts
        finally:
            list(pool.map(DockerHost.close, hosts.values()))


@pytest.fixture(scope="session")
def platform(fleet: dict[str, DockerHost], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The product, with Servers `one` (TLS by its own CA) and `two` (plain HTTP) that are Ready."""
    directory = tmp_path_factory.mktemp("e2e")
    plane = controlplane.start(directory / "control-plane")
    plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": releases.NAMESPACE}})
    # With the rights that deploy/kustomize grants and no others, enforced.
    rights = operator_kubeconfig(plane, directory / "operator.kubeconfig", releases.NAMESPACE)
    operator = Operator(rights, directory / "operator.log", SYSTEM)
    made = Platform(plane, operator, fleet)
    try:
        plane.apply_crds()
        made.apply(releases.small_class(), *samples())
        for name, host in fleet.items():
            made.apply(releases.secret(f"{name}-ssh", **{"ssh-privatekey": host.private_key}), server(name, host))
        operator.start()
        for name in fleet:
            made.wait_condition("Server", name, "Ready", "True")
        yield made
        made.assert_clean()
        operator.stop()
    finally:
        if operator.alive():
            operator.kill()
        plane.stop()


@pytest.fixture(scope="session")
def registry(fleet: dict[str, DockerHost], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An image registry on the loopback of host `two`."""
    made = Registry(fleet["two"], tmp_path_factory.mktemp("registry"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def acme(platform: Platform) -> Iterator[Tenant]:
    """The Instance of the sample ERP, asked for but not waited for."""
    platform.apply(releases.example("Release"), releases.example("InstanceClass"), releases.sample_erp())
    yield Tenant(platform, releases.ERP)
    platform.let_go(releases.ERP)


def samples() -> list[releases.Object]:
    return [
        releases.sample("sample-1", "1.0", releases.SAMPLE_1),
        releases.sample("sample-2", "2.0", releases.SAMPLE_2),
        releases.sample("sample-bad", "3.0", releases.SAMPLE_BAD),
    ]


def server(name: str, host: DockerHost, **changes: Any) -> releases.Object:
    """The Server of a host. Plain HTTP is `tls: Off` per domain on `one`, the Server's own mode on `two`."""
    spec = {
        "address": host.address,
        "port": host.port,
        "user": host.user,
        "credentialsRef": {"name": f"{name}-ssh"},
        "hostKeys": [host.host_key],
        "baseDomain": f"{name}.example",
        "proxy": {
            "httpPort": HTTP_PORT,
            "httpsPort": HTTPS_PORT,
            "tls": {"mode": "Internal" if name == "one" else "Off"},
        },
        **changes,
    }
    made = releases.resource("Server", name, spec)
    made["metadata"] |= {"namespace": releases.NAMESPACE, "labels": {"pool": "e2e", "zone": name}}
    return made
