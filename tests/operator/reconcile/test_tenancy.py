"""Whose Secrets an Instance may use, and whose retained data (ADR 0030)."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.kits.fakes import SSH_KEY, World, deployed, prepared
from tests.kits.tenant import INSTANCE, SERVER

from dotmac_operator.core import names

ACME, EVIL = "tenants/acme", "tenants/evil"
CANARY = "CANARY-not-for-you"
EVIL_SPEC: dict[str, Any] = INSTANCE | {"orgCode": "EVIL", "orgName": "Evil Ltd"}


def env(secret: str, key: str = "token") -> dict[str, Any]:
    return {"env": [{"name": "STOLEN", "secretKeyRef": {"name": secret, "key": key}}]}


def env_from(secret: str, key: str = "") -> dict[str, Any]:
    return {"envFrom": [{"secretRef": {"name": secret}}]}


def admin(secret: str, key: str = "token") -> dict[str, Any]:
    return {"admin": {**INSTANCE["admin"], "passwordSecretRef": {"name": secret, "key": key}}}


REFERENCES = [(env, "spec.env[STOLEN]"), (env_from, "spec.envFrom"), (admin, "spec.admin.passwordSecretRef")]


def plant(world: World, name: str = "own", labels: dict[str, str] | None = None, **values: str) -> None:
    place = f"tenants/{name}"
    world.cluster.secrets[place] = values or {"token": CANARY}
    world.cluster.labels[place] = {names.PREFIX + key: value for key, value in (labels or {}).items()}


def told(world: World, key: str, reason: str) -> str:
    """What a refusal says, once it is certain that it is one and that it says no secret."""
    assert world.condition("Stalled", key)[:2] == ("True", reason), world.status(key)["conditions"]
    text = repr([world.cluster.statuses, world.cluster.events])
    secrets = {value for content in world.cluster.secrets.values() for value in content.values()}
    assert not [value for value in secrets if value in text]
    return world.condition("Stalled", key)[2]


def untouched(world: World, act: Callable[[], None]) -> None:
    """Whatever `act` asks for, nothing of it is done on the host."""
    before = len(world.engine.mutations)
    act()
    world.settle()
    assert world.engine.mutations[before:] == []


# -- references ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("refer", "field"), REFERENCES)
@pytest.mark.parametrize(("secret", "key"), [("ssh-key", "ssh-privatekey"), ("acme-credentials", "database-password")])
def test_the_key_of_a_server_and_the_credentials_of_another_are_refused(
    refer: Callable[..., dict[str, Any]], field: str, secret: str, key: str
) -> None:
    world = deployed()
    untouched(world, lambda: world.create("Instance", "evil", EVIL_SPEC | refer(secret, key)))
    message = told(world, EVIL, "SecretRefused")
    assert message.startswith(f"{field} refers to Secret {secret}, ")
    assert ("Server host-1" if secret == "ssh-key" else "Instance acme") in message
    assert "refer to a Secret that holds only what this tenant may have" in message
    assert world.condition("Ready", ACME)[0] == "True"

    world.edit("Instance", EVIL, env=[], envFrom=[], admin=INSTANCE["admin"])  # the remedy
    world.settle()
    assert world.condition("Ready", EVIL)[0] == "True"


def test_an_edit_that_is_refused_leaves_what_serves() -> None:
    world = deployed()
    untouched(world, lambda: world.edit("Instance", ACME, **env("ssh-key", "ssh-privatekey")))
    told(world, ACME, "SecretRefused")
    assert world.condition("Ready", ACME)[0] != "True"
    assert all(box.state == "running" for box in world.engine.of("web"))
    world.restart()
    untouched(world, lambda: None)
    world.edit("Instance", ACME, state="Suspended")  # nothing of its environment is needed for that
    world.settle()
    assert world.condition("Suspended", ACME)[0] == "True"


def test_a_server_that_comes_to_use_a_tenants_secret_harms_no_tenant() -> None:
    world = prepared(**env("later"))
    plant(world, "later", **{"token": CANARY, "ssh-private": SSH_KEY})
    world.settle()
    assert world.condition("Ready", ACME)[0] == "True"
    untouched(world, lambda: world.create("Server", "host-2", SERVER | {"credentialsRef": {"name": "later"}}))
    world.annotate("Instance", ACME, reconcile_requested_at="now")
    untouched(world, lambda: None)
    assert "Server host-2" in told(world, ACME, "SecretRefused")
    world.delete("Server", "tenants/host-2")
    world.annotate("Instance", ACME, reconcile_requested_at="again")
    world.settle()
    assert world.condition("Ready", ACME)[0] == "True"


def test_a_server_whose_spec_cannot_be_read_keeps_its_key() -> None:
    world = deployed()
    plant(world, "second")
    world.create("Server", "host-2", SERVER | {"credentialsRef": {"name": "second"}})
    world.cluster.get("Server", "tenants/host-2")["spec"]["address"] = ["of a later version"]
    world.restart()
    assert world.store.server("tenants/host-2").spec is None  # type: ignore[union-attr]
    world.create("Instance", "evil", EVIL_SPEC | env("second"))
    world.settle()
    assert "Server host-2" in told(world, EVIL, "SecretRefused")


def test_secrets_that_tenants_share_are_allowed() -> None:
    world = prepared(**env("smtp"))
    plant(world, "smtp")
    world.create("Instance", "beta", EVIL_SPEC | {"orgCode": "BETA"} | env("smtp"))
    world.settle()
    assert world.condition("Ready", ACME)[0] == world.condition("Ready", "tenants/beta")[0] == "True"


def test_its_own_credentials_may_be_referred_to() -> None:
    world = deployed()
    world.edit("Instance", ACME, **env("acme-credentials", "database-password"))
    world.settle()
    assert world.condition("Ready", ACME)[0] == "True"


@pytest.mark.parametrize("how", ["retained", "labels lost", "owner lost", "other name"])
def test_credentials_stay_kept_however_they_are_recognised(how: str) -> None:
    world = deployed()
    secret = "acme-credentials"
    if how == "retained":
        world.delete("Instance", ACME)
        world.settle()
        assert world.cluster.owners == {}
    elif how == "labels lost":
        del world.cluster.labels[f"tenants/{secret}"]
    elif how == "owner lost":
        del world.cluster.owners[f"tenants/{secret}"], world.cluster.labels[f"tenants/{secret}"]
    else:
        secret = "copy"
        world.cluster.secrets["tenants/copy"] = world.cluster.secrets["tenants/acme-credentials"]
        world.cluster.labels["tenants/copy"] = world.cluster.labels["tenants/acme-credentials"]
    world.create("Instance", "evil", EVIL_SPEC | env(secret, "database-password"))
    world.run("Instance", EVIL)
    assert "Instance acme" in told(world, EVIL, "SecretRefused")


def test_a_name_alone_takes_no_secret_from_those_who_share_it() -> None:
    """Else an Instance named `smtp` would stall every tenant that uses Secret smtp-credentials."""
    world = prepared(**env("smtp-credentials"))
    plant(world, "smtp-credentials")
    world.settle()
    world.create("Instance", "smtp", EVIL_SPEC)
    world.settle()
    assert "nothing says whose it is" in told(world, "tenants/smtp", "CredentialsTaken")
    world.annotate("Instance", ACME, reconcile_requested_at="now")
    world.settle()
    assert world.condition("Ready", ACME)[0] == "True"
    assert world.cluster.secrets["tenants/smtp-credentials"] == {"token": CANARY}


@pytest.mark.parametrize(
    ("labels", "values", "type_", "allowed"),
    [
        ({"org": "ACME"}, {}, "Opaque", True),
        ({"org": "acme"}, {}, "Opaque", True),
        ({"org": "BETA"}, {}, "Opaque", False),
        ({"for-instances": "false"}, {}, "Opaque", False),
        ({"for-instances": ""}, {}, "Opaque", False),
        ({"for-instances": "true"}, {}, "Opaque", True),
        ({"for-instances": "true", "org": "BETA"}, {}, "Opaque", False),
        ({}, {}, "kubernetes.io/dockerconfigjson", True),
        ({}, {}, "kubernetes.io/tls", True),
        ({}, {}, "kubernetes.io/ssh-auth", False),
        ({"for-instances": "true"}, {}, "kubernetes.io/ssh-auth", True),
        ({}, {}, "kubernetes.io/service-account-token", False),
        ({}, {}, "bootstrap.kubernetes.io/token", False),
        ({}, {}, "helm.sh/release.v1", False),
        ({}, {"ssh-privatekey": "xxxxxx", "token": "yyyyyy"}, "Opaque", False),
        ({}, {"DOTMAC_API_JWT_KEYS": "xxxxxx", "token": "yyyyyy"}, "Opaque", False),
    ],
)
def test_what_a_secret_says_of_itself_decides(
    labels: dict[str, str], values: dict[str, str], type_: str, allowed: bool
) -> None:
    world = prepared(**env("own"))
    plant(world, "own", labels, **values)
    world.cluster.types["tenants/own"] = type_
    world.settle()
    if allowed:
        assert world.condition("Ready", ACME)[0] == "True"
    else:
        assert "spec.env[STOLEN] refers to Secret own, " in told(world, ACME, "SecretRefused")


@pytest.mark.parametrize("secret", ["ssh-key", "beta-credentials"])
def test_no_label_opens_a_servers_key_or_anothers_credentials(secret: str) -> None:
    world = deployed()
    world.create("Instance", "beta", EVIL_SPEC | {"orgCode": "BETA"})
    world.settle()
    world.cluster.labels.setdefault(f"tenants/{secret}", {})[names.FOR_INSTANCES] = "true"
    world.create("Instance", "evil", EVIL_SPEC | env_from(secret))
    world.settle()
    told(world, EVIL, "SecretRefused")


# -- what a deleted Instance has left ----------------------------------------------------------------------------


def retained() -> World:
    """Deleted with the policy Retain: Secret and volumes stay."""
    world = deployed()
    world.delete("Instance", ACME)
    world.settle()
    assert "tenants/acme-credentials" in world.cluster.secrets
    assert "dotmac-acme-database" in world.engine.volumes_
    return world


def everything(world: World) -> tuple[Any, ...]:
    cluster = world.cluster
    return repr((cluster.secrets, cluster.owners, cluster.labels)), sorted(world.engine.volumes_)


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_another_tenant_takes_over_nothing_by_the_name(policy: str) -> None:
    """Regression: it was given the passwords, and with the policy Delete took them with it when it went."""
    world = retained()
    before = everything(world)
    spec = EVIL_SPEC | {"deletion": {"policy": policy, "finalBackup": policy == "Delete"}}
    untouched(world, lambda: world.create("Instance", "acme", spec))
    message = told(world, ACME, "CredentialsTaken")
    assert "Secret acme-credentials" in message and "give the Instance another name" in message
    assert "delete the Secret" in message
    assert everything(world) == before
    untouched(world, lambda: world.delete("Instance", ACME))
    assert ("Instance", ACME) not in world.cluster.objects
    assert everything(world) == before


def test_the_same_organisation_comes_back_to_its_data() -> None:
    world = retained()
    secrets = dict(world.cluster.secrets["tenants/acme-credentials"])
    world.create("Instance", "acme", INSTANCE | {"deletion": {"policy": "Delete"}})
    world.settle()
    assert world.condition("Ready", ACME)[0] == "True"
    assert world.cluster.secrets["tenants/acme-credentials"] == secrets
    assert world.cluster.owners["tenants/acme-credentials"] == world.cluster.get("Instance", ACME)["metadata"]["uid"]
    assert [what for what, *_ in world.counts.drift] == []
    world.delete("Instance", ACME)
    world.settle()
    assert "tenants/acme-credentials" not in world.cluster.secrets
    assert not any(name.startswith("dotmac-acme-") for name in world.engine.volumes_)


def test_a_secret_that_says_nothing_is_adopted_by_its_label() -> None:
    world = retained()
    world.cluster.labels.clear()
    world.create("Instance", "acme", INSTANCE)
    world.settle()
    message = told(world, ACME, "CredentialsTaken")
    label = f"{names.ORG}=ACME"
    assert f"label it {label}" in message
    plant(world, "acme-credentials", {"org": "ACME"}, **world.cluster.secrets["tenants/acme-credentials"])
    world.annotate("Instance", ACME, reconcile_requested_at="now")
    world.settle()
    assert world.condition("Ready", ACME)[0] == "True"


def test_a_servers_key_is_nobodys_credentials() -> None:
    """Regression: an Instance named `ssh` wrote its passwords into ssh-credentials, and took it along when it went."""
    world = deployed()
    plant(world, "ssh-credentials", {"org": "EVIL"}, **{"ssh-privatekey": SSH_KEY})
    world.create("Server", "host-2", SERVER | {"address": "192.0.2.1", "credentialsRef": {"name": "ssh-credentials"}})
    world.create("Instance", "ssh", EVIL_SPEC | {"deletion": {"policy": "Delete"}})
    world.settle()
    assert "Server host-2" in told(world, "tenants/ssh", "CredentialsTaken")
    world.delete("Instance", "tenants/ssh")
    world.settle()
    assert world.cluster.secrets["tenants/ssh-credentials"] == {"ssh-privatekey": SSH_KEY}
    assert "tenants/ssh-credentials" not in world.cluster.owners


def test_a_secret_of_before_the_label_gets_it_without_harm() -> None:
    world = deployed()
    del world.cluster.labels["tenants/acme-credentials"][names.ORG]
    world.annotate("Instance", ACME, reconcile_requested_at="now")
    untouched(world, lambda: None)
    assert world.condition("Ready", ACME)[0] == "True"
    assert world.cluster.labels["tenants/acme-credentials"][names.ORG] == "ACME"
    assert "drift" not in world.status(ACME)
    writes = len(world.cluster.writes)
    world.annotate("Instance", ACME, unrelated="x")
    world.settle()
    assert world.cluster.writes[writes:] == []


def test_an_instance_that_was_refused_takes_nobodys_volumes_with_it() -> None:
    """Regression: the volumes of an archived tenant went with a namesake of its orgCode that had never been served."""
    world = deployed()
    world.edit("Instance", ACME, state="Archived")
    world.settle()
    before = sorted(world.engine.volumes_)
    world.create("Instance", "evil", INSTANCE | {"deletion": {"policy": "Delete"}})
    world.settle()
    assert world.condition("Stalled", EVIL)[1] == "OrgCodeTaken"
    world.delete("Instance", EVIL)
    world.settle()
    assert ("Instance", EVIL) not in world.cluster.objects
    assert sorted(world.engine.volumes_) == before
    world.edit("Instance", ACME, state="Running")
    world.settle()
    assert world.condition("Ready", ACME)[0] == "True"
