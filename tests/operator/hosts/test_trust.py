"""Which hosts are believed, what they learn about the user before that, and which keys can be read."""

from dataclasses import replace
from functools import cache

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from tests.kits.canned_ssh import HOST_ED, HOST_RSA, USER_TEXT, new_ed25519, openssh, public_line

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.hostkeys import fingerprint
from dotmac_operator.hosts.pool import SshSettings
from dotmac_operator.hosts.port import AuthenticationFailed, HostKeyChanged, HostKeyUnknown, HostUnreachable
from dotmac_operator.hosts.ssh import load_private_key

ED, RSA = public_line(HOST_ED), public_line(HOST_RSA)
STRANGER = public_line(new_ed25519()[1])
PASSPHRASE = "correct horse battery"


@pytest.mark.parametrize(
    "pins",
    [
        (ED,),
        (RSA,),  # The host also has an Ed25519 key, which it would offer by default.
        (STRANGER, RSA),  # One of them is out of date.
        (fingerprint(HOST_RSA.asbytes()),),
        (fingerprint(HOST_ED.asbytes()) + "=", "rubbish"),
    ],
    ids=["line", "other-type", "second-line", "fingerprint", "padded-fingerprint"],
)
def test_a_pinned_key_is_asked_for_and_believed(canned, pins):
    host = canned().host(host_keys=pins)
    assert host.probe() > 0
    assert host.offered_host_key in (ED, RSA)


@pytest.mark.parametrize("pins", [(STRANGER,), ("SHA256:" + "A" * 43,), ("rubbish",)], ids=["line", "print", "rubbish"])
def test_another_key_stops_before_the_user_is_named(canned, pins):
    made = canned()
    with pytest.raises(HostKeyChanged, match="pinned"):
        made.host(host_keys=pins).probe()
    assert made.server.authentications == 0


def test_a_pin_is_not_replaced_by_trust_on_first_use(canned):
    made = canned()
    with pytest.raises(HostKeyChanged):
        made.host(host_keys=(STRANGER,), trust_on_first_use=True).probe()
    assert made.server.authentications == 0


def test_nothing_pinned_is_refused_with_the_fingerprint_to_check(canned):
    made = canned()
    with pytest.raises(HostKeyUnknown) as told:
        made.host(host_keys=()).probe()
    assert fingerprint(HOST_ED.asbytes()) in str(told.value)
    assert made.server.authentications == 0


def test_the_first_key_is_reported_and_stays_pinned_in_this_process(canned):
    made = canned()
    host = made.host(host_keys=(), trust_on_first_use=True)
    host.probe()
    assert host.offered_host_key == ED
    made.server.host_keys[:] = [new_ed25519()[1]]
    made.server.drop_connections()
    with pytest.raises(HostKeyChanged):
        host.probe()
    # A new Host for an edited Server (another user) does not forget it either.
    with pytest.raises(HostKeyChanged):
        made.host(host_keys=(), trust_on_first_use=True, user="other").probe()


def test_pinning_what_was_trusted_keeps_the_connection(canned):
    made = canned()
    first = made.host(host_keys=(), trust_on_first_use=True)
    first.probe()
    second = made.host(host_keys=(ED,), trust_on_first_use=True)
    second.probe()
    assert second is first
    assert second.address.host_keys == (ED,)
    assert made.server.connections == 1


def test_pinning_another_key_does_not_keep_it(canned):
    made = canned()
    first = made.host()
    first.probe()
    second = made.host(host_keys=(STRANGER,))
    assert second is not first
    with pytest.raises(HostKeyChanged):
        second.probe()
    with pytest.raises(HostUnreachable, match="dropped from the pool"):
        first.probe()


def test_a_wrong_key_and_a_wrong_user_name_the_remedy(canned):
    made = canned()
    other_text, other_key = new_ed25519()
    with pytest.raises(AuthenticationFailed, match="authorized_keys") as told:
        made.host(private_key=SecretStr(other_text)).probe()
    assert fingerprint(other_key.asbytes()) in str(told.value)
    with pytest.raises(AuthenticationFailed, match="nobody@"):
        made.host(user="nobody").probe()


def test_a_host_that_refused_is_not_asked_again_at_once(canned):
    made = canned(settings=SshSettings(attempts=3, refusal_seconds=60))
    host = made.host(user="nobody")
    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            host.probe()
    assert made.server.connections == 1


def pem(key, form=serialization.PrivateFormat.PKCS8, passphrase=None):
    cover = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, cover).decode()


# Made when a test asks for them: every worker collects this file, and only one of them runs it.
KEYS = {
    "ed25519": cache(ed25519.Ed25519PrivateKey.generate),
    "rsa": cache(lambda: rsa.generate_private_key(65537, 2048)),
    "ecdsa256": cache(lambda: ec.generate_private_key(ec.SECP256R1())),
    "ecdsa384": cache(lambda: ec.generate_private_key(ec.SECP384R1())),
    "ecdsa521": cache(lambda: ec.generate_private_key(ec.SECP521R1())),
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
@pytest.mark.parametrize("form", ["OpenSSH", "PKCS8", "TraditionalOpenSSL"])
def test_every_type_and_form_of_key_is_read(name, form, passphrase):
    if (name, form) == ("ed25519", "TraditionalOpenSSL"):
        form = "PKCS8"  # There is no such form of Ed25519.
    text = pem(KEYS[name](), getattr(serialization.PrivateFormat, form), passphrase)
    # Opening a passphrase is slow on purpose, so the ways in which a paste spoils a key are tried on plain ones.
    for spoiled in [text] if passphrase else [text, text.replace("\n", "\r\n"), "\n  " + text.strip() + "  "]:
        key = load_private_key(SecretStr(spoiled), SecretStr(passphrase) if passphrase else None, "demo/alpha")
        assert isinstance(key, paramiko.PKey)
        assert key.can_sign()


def test_a_passphrase_for_a_plain_key_does_no_harm():
    assert load_private_key(SecretStr(USER_TEXT), SecretStr(PASSPHRASE), "demo/alpha").can_sign()


def encrypted():
    return openssh(KEYS["ed25519"](), PASSPHRASE.encode())


@pytest.mark.parametrize(
    ("key", "passphrase", "remedy"),
    [
        (encrypted, None, "add its `passphrase`"),
        (encrypted, "", "add its `passphrase`"),
        (encrypted, "wrong-wrong", "cannot be opened"),
        (lambda: pem(KEYS["rsa"](), passphrase=PASSPHRASE), None, "add its `passphrase`"),
        (lambda: pem(KEYS["rsa"](), passphrase=PASSPHRASE), "wrong-wrong", "cannot be opened"),
        (lambda: ED, None, "holds a public key"),
        (lambda: "", None, "not a private key"),
        (lambda: "hunter2hunter2", None, "not a private key"),
        (lambda: USER_TEXT[:150] + "\n-----END OPENSSH PRIVATE KEY-----", None, "damaged"),
        (lambda: pem(dsa.generate_private_key(2048)), None, "neither RSA, ECDSA nor Ed25519"),
        (lambda: pem(ec.generate_private_key(ec.SECP256K1())), None, "a curve that SSH does not know"),
    ],
    ids=[
        *("no-passphrase", "empty-passphrase", "wrong-passphrase", "pkcs8-no-passphrase", "pkcs8-wrong-passphrase"),
        *("public", "empty", "text", "cut-off", "dsa", "curve"),
    ],
)
def test_a_key_that_cannot_be_used_says_what_to_do_and_nothing_secret(key, passphrase, remedy):
    text = key()
    with pytest.raises(AuthenticationFailed, match=remedy) as told:
        load_private_key(SecretStr(text), SecretStr(passphrase) if passphrase is not None else None, "demo/alpha")
    shown = str(told.value) + repr(told.value.__cause__) + str(told.value.__suppress_context__)
    for secret in [passphrase or "", *text.splitlines()[1:-1]]:
        assert not secret or secret not in shown


def test_no_key_of_the_operator_itself_is_tried(canned, tmp_path, monkeypatch):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_text(USER_TEXT)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = canned()
    with pytest.raises(AuthenticationFailed):
        made.pool.get(replace(made.address, private_key=SecretStr(new_ed25519()[0]))).probe()
    assert made.server.authentications == 1
