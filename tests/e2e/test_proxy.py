"""HTTPS through the proxy of Server `one`, whose certificates come from the proxy's own authority."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e import releases
from tests.e2e.platform import HTTP_PORT, HTTPS_PORT, Platform, Tenant

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

ROOT = "dotmac-proxy:/data/caddy/pki/authorities/local/root.crt"
NAME = "vault"


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    domains = [{"host": "vault.one.example"}, {"host": "second.one.example", "tls": "Internal"}]
    with platform.tenant(releases.instance(NAME, "sample-1", domains=domains)) as made:
        yield made


@pytest.fixture
def trust(tenant: Tenant, tmp_path: Path) -> ssl.SSLContext:
    """Trusts the proxy's authority, and nothing else."""
    tenant.host.docker("cp", ROOT, str(tmp_path / "root.crt"))
    return ssl.create_default_context(cafile=str(tmp_path / "root.crt"))


@pytest.mark.parametrize("name", ["vault.one.example", "second.one.example"])
def test_each_domain_has_a_certificate_that_can_be_verified(tenant: Tenant, trust: ssl.SSLContext, name: str) -> None:
    with httpx.Client(verify=trust, trust_env=False, timeout=30) as client:
        answer = client.get(
            f"https://{tenant.host.address}:{HTTPS_PORT}/",
            headers={"Host": name},
            extensions={"sni_hostname": name},
        )
    assert answer.status_code == 200
    assert answer.json()["requested"] == name
    assert tenant.status["url"] == f"https://vault.one.example:{HTTPS_PORT}/"


def test_plain_http_is_sent_to_https(tenant: Tenant) -> None:
    answer = httpx.get(
        f"http://{tenant.host.address}:{HTTP_PORT}/path?q=1", headers={"Host": "vault.one.example"}, trust_env=False
    )
    assert answer.status_code == 308
    assert answer.headers["location"] == f"https://vault.one.example:{HTTPS_PORT}/path?q=1"


def test_a_name_that_nobody_has_is_not_found(tenant: Tenant) -> None:
    answer = httpx.get(
        f"http://{tenant.host.address}:{HTTP_PORT}/", headers={"Host": "nobody.one.example"}, trust_env=False
    )
    assert answer.status_code == 404
