"""The server's own certificate authority, its certificate, and the secrets of its tokens: made once, kept in the state
directory.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dotmac_local.auth.tokens import Credentials
from dotmac_local.files import write_private

_CA_DAYS = 3650
_CERT_DAYS = 365
_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "host.docker.internal")


@dataclass(frozen=True)
class Identity:
    """The files of a server's identity, and its secrets."""

    ca: Path
    certificate: Path
    key: Path
    credentials: Credentials


def load_or_create(directory: Path, host: str) -> Identity:
    """Reuse what is there, so that kubeconfigs stay valid; renew the certificate when it runs out or names another
    host.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca, ca_key = directory / "ca.crt", directory / "ca.key"
    if not (ca.exists() and ca_key.exists()):
        _create_ca(ca, ca_key)
    certificate, key = directory / "server.crt", directory / "server.key"
    if not _usable(certificate, key, host):
        _create_certificate(ca, ca_key, certificate, key, host)
    return Identity(
        ca, certificate, key, Credentials(_secret(directory / "token"), _secret(directory / "signing.key").encode())
    )


def _secret(path: Path) -> str:
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        found = ""
    if not found:
        found = secrets.token_urlsafe(32)
        write_private(path, found.encode())
    return found


def _usable(certificate: Path, key: Path, host: str) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    if not key.exists() or found.not_valid_after_utc < datetime.now(UTC) + timedelta(days=7):
        return False
    return _general_name(host) in list(names)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: str, issuer: x509.Name | None, days: int) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer or name)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _create_ca(certificate: Path, key_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    built = (
        _builder("dotmac-local", None, _CA_DAYS)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(key_path, _pem(key))
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))


def _create_certificate(ca: Path, ca_key: Path, certificate: Path, key_path: Path, host: str) -> None:
    issuer = x509.load_pem_x509_certificate(ca.read_bytes())
    signer = serialization.load_pem_private_key(ca_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101 - we wrote it
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = {*(_general_name(name) for name in (*_NAMES, "127.0.0.1", "::1")), _general_name(host)}
    built = (
        _builder("kube-apiserver", issuer.subject, _CERT_DAYS)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    write_private(key_path, _pem(key))
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
