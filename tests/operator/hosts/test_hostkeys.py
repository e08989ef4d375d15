import base64
import subprocess

import pytest

from dotmac_operator.hosts.hostkeys import ALGORITHMS, PinnedKeys, fingerprint, key_blob, preference


def line(key_type: str, body: bytes = b"x" * 32) -> str:
    name = key_type.encode()
    blob = len(name).to_bytes(4, "big") + name + len(body).to_bytes(4, "big") + body
    return f"{key_type} {base64.b64encode(blob).decode()}"


ED, RSA = line("ssh-ed25519"), line("ssh-rsa", b"y" * 300)


def test_fingerprint_is_what_ssh_keygen_prints(tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    public = tmp_path / "key.pub"
    printed = subprocess.run(["ssh-keygen", "-l", "-f", public], check=True, capture_output=True, text=True).stdout
    blob = key_blob(public.read_text())
    assert blob is not None
    assert fingerprint(blob) == printed.split()[1]


@pytest.mark.parametrize(
    "pin",
    [
        ED,
        ED + " comment with spaces",
        "  " + ED + "\n",
        fingerprint(key_blob(ED) or b""),
        fingerprint(key_blob(ED) or b"") + "=",
    ],
)
def test_a_line_or_a_fingerprint_matches_its_key_only(pin):
    assert PinnedKeys((RSA, pin)).match(key_blob(ED) or b"")
    assert not PinnedKeys((pin,)).match(key_blob(RSA) or b"")


@pytest.mark.parametrize(
    "pin",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 !!!",
        "SHA256:",
        "SHA256:AAAA",
        "MD5:00",
        ED.replace("ssh-ed25519", "ssh-rsa", 1),  # a type that the blob contradicts
        "*",
        "ssh-dss AAAA",
    ],
)
def test_a_broken_pin_matches_nothing(pin):
    assert not PinnedKeys((pin,)).match(key_blob(ED) or b"")
    assert not PinnedKeys((pin,)).match(b"")


def test_asks_for_the_pinned_types_in_their_order():
    assert PinnedKeys((RSA, ED)).key_types() == ("ssh-rsa", "ssh-ed25519")


def test_a_fingerprint_may_belong_to_any_type():
    assert PinnedKeys(("SHA256:abc",)).key_types() == tuple(ALGORITHMS)
    assert PinnedKeys((RSA, "SHA256:abc")).key_types()[0] == "ssh-rsa"


def test_nothing_pinned_needs_one_handshake():
    assert len(PinnedKeys(()).key_types()) == 1


def test_only_unreadable_pins_ask_for_nothing():
    assert PinnedKeys(("rubbish",)).key_types() == ()


def test_preference_puts_the_type_first_and_keeps_the_rest():
    offered = preference("ssh-rsa")
    assert offered[:2] == ("rsa-sha2-512", "rsa-sha2-256")
    assert sorted(offered) == sorted(name for names in ALGORITHMS.values() for name in names)
    assert "ssh-rsa" not in offered  # SHA-1 signatures
