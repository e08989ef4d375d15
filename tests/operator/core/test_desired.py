"""Desired: what must exist for one tenant, and that nothing hostile in it reaches a command line."""

import json
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from tests.kits.tenant import (
    CANARIES,
    RELEASE,
    credentials_of,
    desired_of,
    inputs_of,
    instance_of,
    next_desired,
    release_of,
    server_of,
)

from dotmac_crds.instanceclass import InstanceClassSpec
from dotmac_operator.core import names, proxy
from dotmac_operator.core.container import ContainerSpec, ExecCheck, RemoteCheck
from dotmac_operator.core.desired import Desired, build, containers, domains, secret_references, url
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.secret import SecretStr

HOSTILE = (
    """'; DROP TABLE users; --""",
    '"quoted" and \\backslashed\\',
    "$(touch /tmp/pwned) `id` ${HOME}",
    "-rf / --privileged",
    "\N{SNOWMAN} Ünïcödé \N{RIGHT-TO-LEFT OVERRIDE}abc",
    "a=b=c;d|e&f>g",
    "%s %n {0} {{x}}",
    "x" * 200,
)


def everything(desired: Desired) -> list[ContainerSpec]:
    return [*containers(desired), *(spec for spec in (desired.migrate, desired.bootstrap) if spec is not None)]


def env_of(spec: ContainerSpec) -> dict[str, str]:
    return dict(item.split("=", 1) for item in spec.body()["Env"])


def test_the_same_input_gives_the_same_desired() -> None:
    first, second = desired_of(), desired_of()
    assert first == second
    assert first.hash == second.hash
    assert [spec.name for spec in first.apps] == [spec.name for spec in second.apps]
    # Golden: a hash that moves with a release of the operator replaces every container of a fleet.
    assert len(first.hash) == 64
    assert [names.short(spec.hash) for spec in first.apps] == [spec.name[-8:] for spec in first.apps]


def test_the_order_of_maps_does_not_move_a_hash() -> None:
    images = dict(reversed(list(RELEASE["images"].items())))
    assert desired_of(release=release_of(images=images)).hash == desired_of().hash


def test_secrets_are_masked_in_hashes_and_clear_in_bodies() -> None:
    desired = desired_of()
    for spec in everything(desired):
        assert not any(canary in spec.hash or canary in spec.name for canary in CANARIES.values())
        assert not any(canary in repr(spec.env) for canary in CANARIES.values())
    web = desired.apps[0]
    assert env_of(web)["SESSION"] == CANARIES["session"]
    assert CANARIES["database-password"] in env_of(web)["DATABASE_URL"]


def test_a_changed_secret_changes_the_hash() -> None:
    before = desired_of()
    after = desired_of(credentials=credentials_of({**CANARIES, "session": "another"}))
    assert before.apps[0].hash != after.apps[0].hash
    assert before.database.hash == after.database.hash
    # Under another key the same values give other versions: a hash on a label cannot be guessed offline.
    other_key = desired_of(credentials=credentials_of({**CANARIES, "hash-key": "0" * 64}))
    assert other_key.database.hash != before.database.hash


def test_metadata_does_not_move_a_hash() -> None:
    later = desired_of(generation=7)
    assert later.hash == desired_of().hash
    assert later.apps[0].body()["Labels"][names.GENERATION] == "7"


def test_domains_are_part_of_what_is_desired() -> None:
    """Regression: an edit of the domains was reported as drift, because the hash did not know them."""
    moved = desired_of(instance_of(domains=[{"host": "erp.acme.example"}]))
    assert moved.hash != desired_of().hash
    assert [spec.hash for spec in moved.apps] == [spec.hash for spec in desired_of().apps]


@pytest.mark.parametrize("spec", everything(desired_of()), ids=lambda spec: spec.role)
def test_hardening(spec: ContainerSpec) -> None:
    body = spec.body()
    host = body["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"]["Config"]["max-size"]
    assert host["NetworkMode"] == "dotmac-acme"
    assert {mount["Type"] for mount in host["Mounts"]} <= {"volume"}
    assert not {"PortBindings", "Privileged", "Binds", "Devices", "PidMode", "IpcMode", "CgroupParent"} & set(host)
    assert "ExposedPorts" not in body


def test_only_the_proxy_publishes_ports() -> None:
    body = proxy.container(server_of(proxy={"tls": {"mode": "Internal"}, "bindAddress": "127.0.0.1"}), "u").body()
    assert body["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}],
        "443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "443"}],
    }
    assert set(proxy.container(server_of(), "u").body()["ExposedPorts"]) == {"80/tcp"}


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_are_one_environment_item_each_and_never_argv(value: str) -> None:
    spec = instance_of(
        orgName=value,
        env=[{"name": "EXTRA", "value": value}, {"name": "LINES", "value": f"a\n{value}\nB=c"}],
        settings={"values": {"motto": value}},
    )
    env = [*RELEASE["env"], {"name": "MOTTO", "from": "setting.motto"}]
    desired = desired_of(spec, release_of(env=env))
    plain = desired_of(instance_of(), release_of(env=env))
    for made, usual in zip(everything(desired), everything(plain), strict=True):
        body, expected = made.body(), usual.body()
        assert body.get("Cmd") == expected.get("Cmd")
        assert body.get("Entrypoint") == expected.get("Entrypoint")
        assert body["Healthcheck"] == expected["Healthcheck"]
        assert body["HostConfig"]["Mounts"] == expected["HostConfig"]["Mounts"]
    web = desired.apps[0]
    assert env_of(web)["ORG_NAME"] == env_of(web)["EXTRA"] == env_of(web)["MOTTO"] == value
    assert env_of(web)["LINES"] == f"a\n{value}\nB=c"
    assert len([item for item in web.body()["Env"] if item.startswith("EXTRA=")]) == 1
    assert json.loads(json.dumps(web.body())) == web.body()
    assert value not in web.name


def test_replicas_have_names_of_their_own() -> None:
    roles = [{**RELEASE["roles"][0], "replicas": 3}]
    desired = desired_of(release=release_of(roles=roles, volumes=[]))
    assert len({spec.name for spec in desired.apps}) == 3
    assert [spec.index for spec in desired.apps] == [0, 1, 2]
    assert len(desired.route.upstreams) == 3
    assert all(spec.aliases == ("web",) for spec in desired.apps)


def test_limits_of_the_class_reach_the_containers() -> None:
    plan = InstanceClassSpec.model_validate(
        {
            "resources": {
                "default": {"cpu": "500m", "memory": "256Mi", "pids": 64},
                "roles": [{"name": "worker", "memory": "1Gi"}],
                "database": {"memory": 1000000000},
            }
        }
    )
    desired = desired_of(plan=plan)
    web, worker = (spec.body()["HostConfig"] for spec in desired.apps)
    assert (web["NanoCpus"], web["Memory"], web["PidsLimit"]) == (500_000_000, 256 * 2**20, 64)
    assert worker["Memory"] == 2**30
    assert desired.database.body()["HostConfig"]["Memory"] == 1_000_000_000
    assert desired.memory == 256 * 2**20 + 2**30 + 1_000_000_000 + 128 * 2**20


def test_health_checks() -> None:
    roles: list[dict[str, Any]] = [
        {**RELEASE["roles"][0], "health": {"exec": {"command": ["check", "$(id)"]}, "interval": 7}},
        {"name": "feed", "image": "app", "port": 9000, "health": {"tcp": {"port": 9001}}},
        {"name": "plain", "image": "app"},
    ]
    web, feed, plain = desired_of(release=release_of(roles=roles, volumes=[])).apps
    assert web.check == ExecCheck(("CMD", "check", "$(id)"), 7, 5, 3, 60)
    assert web.body()["Healthcheck"]["Interval"] == 7_000_000_000
    assert isinstance(feed.check, RemoteCheck)
    assert (feed.check.kind, feed.check.port) == ("tcp", 9001)
    assert plain.check is None
    assert plain.body()["Healthcheck"] == {"Test": ["NONE"]}


def test_migrate_runs_again_for_a_version_not_for_an_environment() -> None:
    base = desired_of()
    edited = desired_of(instance_of(env=[{"name": "MODE", "value": "x"}]))
    upgrade = next_desired()
    assert base.migrate and edited.migrate and upgrade.migrate
    assert base.migrate.hash == edited.migrate.hash != upgrade.migrate.hash
    assert base.bootstrap and upgrade.bootstrap
    assert base.bootstrap.hash == upgrade.bootstrap.hash
    assert base.apps[0].hash != edited.apps[0].hash


def test_names_keep_instances_apart() -> None:
    spec = instance_of(orgCode="Acme_Corp")
    desired = desired_of(spec)
    assert desired.network == "dotmac-acme_corp"
    assert desired.volumes[:2] == ("dotmac-acme_corp-database", "dotmac-acme_corp-backups")
    assert domains(spec, server_of()) == [("acme-corp.erp.example", "Off")]
    assert url(spec, server_of()) == "http://acme-corp.erp.example/"


def test_urls() -> None:
    spec = instance_of(domains=[{"host": "a.example"}, {"host": "b.example", "tls": "Off"}])
    assert url(spec, server_of(proxy={"tls": {"mode": "Internal"}, "httpsPort": 8443})) == "https://a.example:8443/"
    assert url(spec, server_of(proxy={"tls": {"mode": "Acme"}})) == "https://a.example/"
    assert url(spec, server_of(proxy={"tls": {"mode": "Off"}, "httpPort": 8080})) == "http://a.example:8080/"


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"domains": []}, {"baseDomain": None}, "NoDomain", "baseDomain"),
    ({"domains": [{"host": "a.example", "tls": "Acme"}]}, {}, "TlsNotServed", "a.example"),
    ({"settings": {"values": {"motto": "x"}}}, {}, "SettingNotSupported", "motto"),
    ({"features": {"beta": True}}, {}, "FeaturesNotSupported", "spec.features"),
    ({"modules": ["crm"]}, {}, "ModulesNotSupported", "spec.modules"),
    ({"envFrom": [{"secretRef": {"name": "absent"}}]}, {}, "SecretMissing", "spec.envFrom"),
    ({"env": [{"name": "A", "secretKeyRef": {"name": "absent", "key": "k"}}]}, {}, "SecretMissing", "spec.env[A]"),
    ({"env": [{"name": "A", "secretKeyRef": {"name": "there", "key": "k"}}]}, {}, "SecretMissing", "no such key"),
    (
        {"admin": {"email": "a@b.example", "passwordSecretRef": {"name": "absent", "key": "k"}}},
        {},
        "SecretMissing",
        "spec.admin.passwordSecretRef",
    ),
]


@pytest.mark.parametrize(("spec", "server", "reason", "words"), REFUSED)
def test_what_cannot_be_met_is_refused_with_the_field(
    spec: dict[str, Any], server: dict[str, Any], reason: str, words: str
) -> None:
    inputs = inputs_of(instance_of(**spec), server=server_of(**server), secrets={"there": {"x": SecretStr("y")}})
    with pytest.raises(SpecError) as error:
        build(inputs)
    assert error.value.reason == reason
    assert words in error.value.message


def test_the_instance_wins_over_the_release() -> None:
    spec = instance_of(
        env=[{"name": "CURRENCY", "value": "mine"}, {"name": "KEY", "secretKeyRef": {"name": "s", "key": "k"}}],
        envFrom=[{"secretRef": {"name": "s"}, "prefix": "X_"}],
        features={"b": False, "a": True},
        modules=["z", "y"],
        admin={"email": "a@b.example", "passwordSecretRef": {"name": "s", "key": "k"}},
    )
    env = [
        *RELEASE["env"],
        {"name": "FEATURES", "from": "features"},
        {"name": "MODULES", "from": "modules"},
        {"name": "FIXED", "value": ""},
        *({"name": f"V{i}", "from": source} for i, source in enumerate(("url", "domain", "orgCode"))),
        *({"name": f"A{i}", "from": f"admin.{key}"} for i, key in enumerate(("email", "username", "password"))),
        *({"name": f"Q{i}", "from": f"quota.{key}"} for i, key in enumerate(("maxUsers", "maxStorage"))),
        *(
            {"name": f"D{i}", "from": f"database.{k}"}
            for i, k in enumerate(("host", "port", "name", "user", "password"))
        ),
        *({"name": f"C{i}", "from": f"cache.{key}"} for i, key in enumerate(("host", "port", "password"))),
    ]
    secrets = {"s": {"k": SecretStr("CANARYown")}}
    plan = InstanceClassSpec.model_validate({"quotas": {"maxUsers": 10}})
    desired = desired_of(spec, release_of(env=env), secrets=secrets, plan=plan)
    made = env_of(desired.apps[0])
    assert made["CURRENCY"] == "mine"
    assert made["KEY"] == made["X_k"] == made["A2"] == "CANARYown"
    assert made["FEATURES"] == '{"a": true, "b": false}'
    assert made["MODULES"] == "y,z"
    assert (made["V0"], made["V1"], made["V2"]) == ("http://acme.erp.example/", "acme.erp.example", "ACME")
    assert (made["Q0"], made["Q1"]) == ("10", "")
    assert [made[f"D{i}"] for i in range(4)] == ["database", "5432", "erp", "erp"]
    assert (made["C0"], made["C1"], made["C2"]) == ("cache", "6379", CANARIES["cache-password"])
    assert "CANARYown" not in repr(desired.apps[0])
    assert set(secret_references(spec)) == {"s"}
    assert "admin-password" not in {key.key for key in desired.generated}


def test_a_password_that_somebody_chose_stays_whole_in_urls_and_out_of_what_is_printed() -> None:
    """Regression: of `a@b` the part behind the sign was taken for the host, and told in the client's error."""
    password = "p@ss/w:rd?#%41 x"  # noqa: S105
    credentials = credentials_of(CANARIES | {"database-password": password, "cache-password": password})
    desired = desired_of(credentials=credentials)
    made = env_of(desired.apps[0])
    for text in (made["DATABASE_URL"], made["CACHE_URL"]):
        found = urlsplit(text)
        assert found.hostname in ("database", "cache") and found.path in ("/erp", "/0")
        assert unquote(found.password or "") == password
    assert CANARIES["hash-key"] not in repr(desired)


def test_a_release_without_optional_parts() -> None:
    release = release_of(
        cache=None, migrate=None, bootstrap=None, volumes=[], secrets=[], env=[], roles=[RELEASE["roles"][0]]
    )
    desired = desired_of(release=release)
    assert (desired.cache, desired.migrate, desired.bootstrap) == (None, None, None)
    assert {key.key for key in desired.generated} == {"hash-key", "database-password", "admin-password"}
    assert desired.infrastructure == (desired.database,)
