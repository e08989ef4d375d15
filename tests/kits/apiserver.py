"""A real kube-apiserver and its etcd, from a folder with both binaries (KUBEBUILDER_ASSETS), for one run of tests."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class ApiServer:
    """Where it answers, the CA of its certificate (PEM file) and a token of system:masters."""

    url: str
    ca: Path
    token: str


@contextmanager
def real_api_server(binaries: Path, state: Path) -> Iterator[ApiServer]:
    """Start etcd and kube-apiserver on free loopback ports, with RBAC and no controllers; stop both at the end."""
    state.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(24)
    (state / "tokens.csv").write_text(f'{token},admin,admin-uid,"system:masters"\n')
    _write_certificate(state)
    etcd, peer, port = _free_ports(3)
    with ExitStack() as running:
        _run(running, state, [str(binaries / "etcd"), *_etcd_flags(state, etcd, peer)])
        _run(running, state, [str(binaries / "kube-apiserver"), *_server_flags(state, etcd, port)])
        url = f"https://127.0.0.1:{port}"
        _await_ready(url, state, token)
        yield ApiServer(url, state / "server.crt", token)


def _etcd_flags(state: Path, port: int, peer: int) -> list[str]:
    return [
        f"--data-dir={state / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{port}",
        f"--advertise-client-urls=http://127.0.0.1:{port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
    ]


def _server_flags(state: Path, etcd: int, port: int) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={state / 'server.crt'}",
        f"--tls-private-key-file={state / 'server.key'}",
        f"--token-auth-file={state / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={state / 'server.key'}",
        f"--service-account-signing-key-file={state / 'server.key'}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",
    ]


def _run(running: ExitStack, state: Path, argv: list[str]) -> None:
    log = running.enter_context((state / f"{Path(argv[0]).name}.log").open("wb"))
    process = subprocess.Popen(argv, stdout=log, stderr=log)
    running.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def _await_ready(url: str, state: Path, token: str, seconds: float = 90) -> None:
    context = ssl.create_default_context(cafile=str(state / "server.crt"))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/readyz", verify=context, headers={"Authorization": f"Bearer {token}"})
            if answer.status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"kube-apiserver was not ready in {seconds} s; see {state}/kube-apiserver.log")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _write_certificate(state: Path) -> None:
    """A self-signed certificate for 127.0.0.1, which is its own CA; its key signs service account tokens too."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver under test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (state / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = serialization.PrivateFormat.TraditionalOpenSSL
    secret = key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption())
    path = state / "server.key"
    path.touch(mode=0o600)
    path.write_bytes(secret)
