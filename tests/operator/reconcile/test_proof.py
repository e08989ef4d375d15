"""A reconcile token on a Server: all of its Instances are compared with one reading of the host, and one answer is
written."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.kits.fakes import Crash, World, deployed, unreachable, upgrade
from tests.kits.tenant import INSTANCE

from dotmac_crds.server import PROOF_DETAILS
from dotmac_operator.core import names
from dotmac_operator.core.tenancy import Secret
from dotmac_operator.hosts.port import Survey, nothing
from dotmac_operator.reconcile import proof
from dotmac_operator.reconcile.ports import ClusterError

SERVER = ("Server", "tenants/host-1")
OTHERS = ("bee", "cat", "dog")


def fleet() -> World:
    """Four tenants on one host, all served."""
    world = deployed()
    for name in OTHERS:
        world.create("Instance", name, {**INSTANCE, "orgCode": name.upper()})
    world.settle()
    assert all(world.condition("Ready", f"tenants/{name}")[0] == "True" for name in ("acme", *OTHERS))
    return world


def ask(world: World, token: str = "t1") -> dict[str, Any]:  # noqa: S107
    """The proof, after one pass of the Server: woken are then those whom it wakes."""
    world.annotate(*SERVER, reconcile_requested_at=token)
    world.woken.clear()
    world.cluster.writes.clear()
    world.run(*SERVER)
    status = world.status(*reversed(SERVER))
    assert status["lastHandledReconcileAt"] == token
    found: dict[str, Any] = status["proof"]
    return found


def told(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {detail["name"]: (detail["result"], detail["reason"]) for detail in found["details"]}


def test_a_fleet_in_sync_is_proven_with_one_write_and_one_reading() -> None:
    world = fleet()
    before = world.engine.reads
    asked: list[str] = []
    secret = world.cluster.secret
    world.cluster.secret = lambda namespace, name: (asked.append(name), secret(namespace, name))[1]  # type: ignore[method-assign,assignment]
    found = ask(world)
    assert (found["result"], found["instances"], found["inSync"]) == ("4/4", 4, 4)
    assert (found["differing"], found["notProven"], found["details"]) == (0, 0, [])
    assert world.cluster.writes == ["status Server tenants/host-1"]
    # Each Secret once, and nothing of the host for each tenant: the lists, the proxy's file and the images they share.
    assert sorted(asked) == sorted(["ssh-key", *(f"{name}-credentials" for name in ("acme", *OTHERS))])
    four = world.engine.reads - before
    alone = deployed()
    before = alone.engine.reads
    ask(alone)
    assert four == alone.engine.reads - before
    assert world.woken == set()


def test_secrets_are_asked_for_while_the_host_answers() -> None:
    world = fleet()
    order: list[str] = []
    sent, secret = threading.Event(), world.cluster.secret
    survey, key = world.engine.survey, "ssh-key"

    def read(namespace: str, name: str) -> Secret | None:
        order.append("key" if name == key else "secret")
        assert name == key or sent.is_set(), "the host waits for nothing of the API"
        return secret(namespace, name)

    def look(labels: Any, references: Any, file: Any, then: Callable[[], None] = nothing) -> Survey:
        sent.set()
        found = survey(labels, references, file, then)
        order.append("host")
        return found

    world.cluster.secret = read  # type: ignore[method-assign]
    world.engine.survey = look  # type: ignore[method-assign]
    assert ask(world)["result"] == "4/4"
    assert sorted(order[:5]) == ["host", *["secret"] * 4]
    assert order[5:] == ["key"], "the Server itself is looked at once its question was answered"


def test_secrets_are_read_by_as_many_threads_as_they_are_worth() -> None:
    """One for a few; eight for as many as a host full of tenants has."""
    assert threads_of(1) == threads_of(5) == 1
    assert 1 <= threads_of(8) <= 2
    assert threads_of(500) == 8


def threads_of(places: int) -> int:
    seen: set[int] = set()

    class Source:
        def secret(self, namespace: str, name: str) -> Secret | None:
            seen.add(threading.get_ident())
            time.sleep(0.001)
            return None

    proof.SecretsRead(Source(), [("tenants", f"s-{n}") for n in range(places)]).wait()
    return len(seen)


def test_a_secret_that_could_not_be_read_fails_where_it_is_needed() -> None:
    class Source:
        def secret(self, namespace: str, name: str) -> Secret | None:
            raise ClusterError("the API server is away")

    read = proof.SecretsRead(Source(), [("tenants", "mail")])
    read.wait()
    with pytest.raises(ClusterError, match="away"):
        read.secret("tenants", "mail")


def test_the_same_token_is_answered_once() -> None:
    world = fleet()
    ask(world)
    world.cluster.writes.clear()
    for _ in range(3):
        world.now += 700
        world.run(*SERVER)
    world.settle()
    assert world.cluster.writes == []


def test_without_a_token_nothing_is_said() -> None:
    world = fleet()
    assert "proof" not in world.status(*reversed(SERVER))
    world.annotate(*SERVER, reconcile_requested_at="")
    world.cluster.writes.clear()
    world.run(*SERVER)
    assert world.cluster.writes == []


def test_a_lost_container_is_told_and_repaired() -> None:
    world = fleet()
    (web,) = world.engine.of("web", "BEE")
    boxes = world.engine.containers_
    world.engine.containers_ = {key: box for key, box in boxes.items() if box is not web}  # and no event tells of it
    found = ask(world)
    assert told(found) == {"bee": ("Differs", "Differs")}
    assert (found["result"], found["inSync"], found["differing"]) == ("3/4", 3, 1)
    assert "web" in found["details"][0]["message"]
    assert world.cluster.writes == ["status Server tenants/host-1"]
    assert world.woken == {("Instance", "tenants/bee")}
    world.settle()
    assert world.engine.of("web", "BEE")[0].state == "running"
    assert "web" in world.status("tenants/bee")["drift"]["what"]
    assert ask(world, "t2")["result"] == "4/4"


@pytest.mark.parametrize("kind", ["volume", "network", "route", "stopped", "image", "tag"])
def test_each_kind_of_difference_is_seen(kind: str) -> None:
    world = fleet()
    engine = world.engine
    if kind == "volume":
        engine.volumes_.pop("dotmac-bee-database")
    elif kind == "network":
        for box in engine.containers_.values():
            box.networks.pop("dotmac-bee", None)
        engine.networks_.pop("dotmac-bee")
    elif kind == "route":
        assert engine.autosave is not None
        engine.autosave = engine.autosave.replace(b"dotmac-bee-web", b"dotmac-bee-old")
    elif kind == "stopped":
        engine.of("database", "BEE")[0].state = "exited"
    elif kind == "image":
        engine.of("web", "BEE")[0].image_id = "sha256:other"
    else:
        engine.ids_["example/app:1"] = "sha256:moved"  # and no event tells of it
    assert "bee" in told(ask(world))


def test_a_changed_secret_is_seen_and_rolled_out() -> None:
    world = fleet()
    world.cluster.secrets["tenants/mail"] = {"password": "one"}
    world.edit(
        "Instance",
        "tenants/bee",
        env=[{"name": "MAIL", "secretKeyRef": {"name": "mail", "key": "password"}}],
    )
    world.settle()
    assert ask(world)["result"] == "4/4"
    world.cluster.secrets["tenants/mail"]["password"] = "two"  # nobody watches Secrets
    found = ask(world, "t2")
    assert told(found) == {"bee": ("Differs", "Differs")}
    assert "two" not in str(world.status(*reversed(SERVER)))
    world.settle()
    assert world.engine.of("web", "BEE")[0].env["MAIL"] == "two"
    assert ask(world, "t3")["result"] == "4/4"


def test_a_secret_that_went_is_told_with_its_reason() -> None:
    world = fleet()
    world.cluster.secrets["tenants/mail"] = {"password": "one"}
    mail = {"name": "MAIL", "secretKeyRef": {"name": "mail", "key": "password"}}
    world.edit("Instance", "tenants/bee", env=[mail])
    world.settle()
    del world.cluster.secrets["tenants/mail"]
    found = ask(world)
    assert found["details"][0]["result"] == "NotProven"
    assert "mail" in found["details"][0]["message"]
    assert ("Instance", "tenants/bee") in world.woken


def test_who_is_not_looked_at_is_told_as_such() -> None:
    world = fleet()
    world.annotate("Instance", "tenants/acme", paused="true")
    world.edit("Instance", "tenants/cat", state="Suspended")
    world.settle()
    world.delete("Instance", "tenants/dog")
    found = ask(world)
    assert told(found) == {"acme": ("NotProven", "Paused"), "dog": ("NotProven", "Deleting")}
    # One that is stopped as asked is in sync: its containers were found to be stopped, and its page to be served.
    assert (found["result"], found["notProven"]) == ("2/4", 2)
    assert ("Instance", "tenants/acme") in world.woken
    world.cluster.writes.clear()
    world.run("Instance", "tenants/acme")
    assert world.cluster.writes == []


def test_a_suspended_tenant_whose_container_runs_differs() -> None:
    world = fleet()
    world.edit("Instance", "tenants/cat", state="Suspended")
    world.settle()
    for box in world.engine.of("web", "CAT"):
        box.state = "running"
    assert told(ask(world))["cat"][0] == "Differs"


def test_a_tenant_that_is_worked_on_is_waited_for_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world = fleet()
    monkeypatch.setattr(proof, "BUSY_SECONDS", 0.05)
    with world.instances._turns.take("tenants/dog") as mine:
        assert mine
        found = ask(world)
    assert told(found) == {"dog": ("NotProven", "Progressing")}
    assert ask(world, "t2")["result"] == "4/4"


def test_an_update_that_is_under_way_differs() -> None:
    world = fleet()
    upgrade(world)
    found = ask(world)
    assert told(found)["acme"][0] == "Differs"
    world.settle()
    assert ask(world, "t2")["result"] == "4/4"


def test_a_status_that_is_behind_differs_although_the_host_is_right() -> None:
    world = fleet()
    world.annotate("Instance", "tenants/bee", reconcile_requested_at="own")
    assert told(ask(world)) == {"bee": ("Differs", "Progressing")}


def test_a_failed_update_is_not_called_in_sync() -> None:
    world = fleet()
    world.engine.sick.add("example/app:2")
    upgrade(world)
    world.settle(200)
    assert world.condition("Stalled")[1] == "UpgradeRolledBack"
    assert told(ask(world)) == {"acme": ("Differs", "UpgradeRolledBack")}
    assert ("Instance", "tenants/acme") in world.woken
    world.cluster.writes.clear()
    world.run("Instance", "tenants/acme")
    assert world.cluster.writes == []


def test_a_host_that_is_away_proves_nothing() -> None:
    world = fleet()
    world.engine.down = unreachable()
    found = ask(world)
    assert (found["result"], found["notProven"]) == ("0/4", 4)
    assert {reason for _, reason in told(found).values()} == {"Unreachable"}
    world.engine.down = None
    assert ask(world, "t2")["result"] == "4/4"


def test_a_paused_server_and_one_without_its_key_prove_nothing() -> None:
    world = fleet()
    world.annotate(*SERVER, paused="true")
    assert {reason for _, reason in told(ask(world)).values()} == {"Paused"}
    world.annotate(*SERVER, paused="false")
    key = world.cluster.secrets.pop("tenants/ssh-key")
    assert {reason for _, reason in told(ask(world, "t2")).values()} == {"SecretMissing"}
    world.cluster.secrets["tenants/ssh-key"] = key
    assert ask(world, "t3")["result"] == "4/4"


def test_the_answer_leaves_what_is_known_of_the_server_as_it_was() -> None:
    world = fleet()
    before = dict(world.status(*reversed(SERVER)))
    ask(world)
    after = dict(world.status(*reversed(SERVER)))
    assert {key: after.pop(key) for key in ("proof", "lastHandledReconcileAt")}
    assert after == before


def test_a_proxy_that_is_gone_is_repaired_before_anything_is_called_proven() -> None:
    world = fleet()
    boxes = world.engine.containers_
    world.engine.containers_ = {key: box for key, box in boxes.items() if box.name != names.PROXY_CONTAINER}
    found = ask(world)  # no event has told of it
    assert any(box.name == names.PROXY_CONTAINER for box in world.engine.containers_.values())
    assert "event DriftRepaired" in world.cluster.writes
    # The tenants are not connected to the new one yet, and that is told.
    assert found["result"] != "4/4"
    world.settle(200)
    assert ask(world, "t2")["result"] == "4/4"


def test_a_crash_before_the_answer_leaves_the_question_open() -> None:
    world = fleet()

    def die(kind: str, key: str) -> None:
        raise Crash

    world.cluster.before_write = die
    world.annotate(*SERVER, reconcile_requested_at="t1")
    with pytest.raises(Crash):
        world.run(*SERVER)
    world.cluster.before_write = None
    assert world.status(*reversed(SERVER)).get("lastHandledReconcileAt") != "t1"
    world.restart()
    world.run(*SERVER)
    status = world.status(*reversed(SERVER))
    assert (status["lastHandledReconcileAt"], status["proof"]["result"]) == ("t1", "4/4")


def test_a_question_that_comes_meanwhile_is_not_taken_for_answered() -> None:
    world = fleet()

    def ask_again(kind: str, key: str) -> None:
        world.cluster.before_write = None
        world.annotate(*SERVER, reconcile_requested_at="t2")

    world.annotate(*SERVER, reconcile_requested_at="t1")
    world.cluster.before_write = ask_again
    world.run(*SERVER)
    assert world.status(*reversed(SERVER))["lastHandledReconcileAt"] == "t1"
    world.run(*SERVER)
    assert world.status(*reversed(SERVER))["lastHandledReconcileAt"] == "t2"


def test_what_is_told_is_bounded_and_so_is_the_token() -> None:
    world = fleet()
    world.annotate(*SERVER, paused="true")
    for number in range(PROOF_DETAILS):
        world.create("Instance", f"more-{number}", {**INSTANCE, "orgCode": f"MORE{number}"})
    long = "x" * 5000
    world.annotate(*SERVER, reconcile_requested_at=long)
    world.run(*SERVER)
    status = world.status(*reversed(SERVER))
    assert len(status["proof"]["details"]) == PROOF_DETAILS < status["proof"]["notProven"]
    assert status["lastHandledReconcileAt"] == long[:1024]
    world.cluster.writes.clear()
    world.run(*SERVER)
    assert world.cluster.writes == []


def test_the_annotation_is_the_one_of_instances() -> None:
    assert names.RECONCILE_REQUESTED_AT == "platform.dotmac.io/reconcile-requested-at"
