"""Pinned host keys: which key types to ask a host for, and whether the key it proved to hold is a pinned one."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

# Algorithm names to negotiate, by the type that stands in a public key line. One RSA key serves both signature schemes.
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}


def fingerprint(blob: bytes) -> str:
    """`SHA256:...` as `ssh-keygen -l` prints it: unpadded base64 of the digest of the public key blob."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def key_blob(line: str) -> bytes | None:
    """The public key blob of an OpenSSH line `type base64 [comment]`; None when the line is not one."""
    parts = line.split()
    if len(parts) < 2 or parts[0] not in ALGORITHMS:
        return None
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    # The blob names its own type (RFC 4253, 6.6); a line that contradicts it was edited by hand and proves nothing.
    size = int.from_bytes(blob[:4], "big")
    return blob if blob[4 : 4 + size] == parts[0].encode() else None


@dataclass(frozen=True)
class PinnedKeys:
    """Key lines and fingerprints in the order they were written."""

    lines: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.lines)

    def match(self, blob: bytes) -> bool:
        """Whether `blob` is the key of a pinned line, or has a pinned fingerprint."""
        shown = fingerprint(blob)
        return any(
            line.strip().rstrip("=") == shown if line.lstrip().startswith("SHA256:") else key_blob(line) == blob
            for line in self.lines
        )

    def key_types(self) -> tuple[str, ...]:
        """Types to ask for, one handshake each until one matches.

        A host offers one key per handshake, of the first type in the client's list that it has. A pinned line says
        which type that must be; a fingerprint does not, so every type may have to be tried.
        """
        named = [line.split()[0] for line in self.lines if key_blob(line) is not None]
        if not self.lines or any(line.lstrip().startswith("SHA256:") for line in self.lines):
            named.extend(ALGORITHMS)
        return tuple(dict.fromkeys(named)) if self.lines else tuple(ALGORITHMS)[:1]

    def unreadable(self) -> tuple[int, ...]:
        """Places (from 0) of the entries that are neither a key line nor a fingerprint, and so can never match."""
        return tuple(
            place
            for place, line in enumerate(self.lines)
            if key_blob(line) is None and not line.lstrip().startswith("SHA256:")
        )


def preference(first: str) -> tuple[str, ...]:
    """Every algorithm, those of key type `first` in front, so that the host offers that key when it has one."""
    rest = [name for key_type in ALGORITHMS if key_type != first for name in ALGORITHMS[key_type]]
    return (*ALGORITHMS[first], *rest)
