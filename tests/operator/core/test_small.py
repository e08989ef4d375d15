"""Placement, removal, quantities, subnets, secrets, digests: the small pure parts."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kits.tenant import (
    config_of,
    container_fact,
    desired_of,
    fresh_facts,
    met_facts,
    owner_labels,
    proxy_fact,
)

from dotmac_crds.instance import LabelSelector
from dotmac_operator.core import actions as do
from dotmac_operator.core import drift, names
from dotmac_operator.core.actions import DisconnectNetwork, RemoveContainer, RemoveNetwork, RemoveRoute, RemoveVolume
from dotmac_operator.core.digest import digest
from dotmac_operator.core.facts import NetworkFact, VolumeFact
from dotmac_operator.core.placement import Candidate, choose, matches
from dotmac_operator.core.quantity import cpu_nanos, mebibytes, memory_bytes
from dotmac_operator.core.removal import Departing, plan_removal
from dotmac_operator.core.secret import SecretStr, mask
from dotmac_operator.core.subnets import free_subnet

# -- placement -------------------------------------------------------------------------------------------------


def server(name: str, **changes: Any) -> Candidate:
    made = Candidate(name, {"zone": "a"}, True, True, 0, 10, 1000, 0)
    return replace(made, **changes)


ANY = LabelSelector()


@pytest.mark.parametrize(
    ("candidates", "chosen", "why"),
    [
        ([], None, "none of 0 Servers"),
        ([server("b"), server("a")], "a", ""),
        ([server("a", memory_allocated=500), server("b", memory_allocated=400)], "b", ""),
        ([server("a", instances=3), server("b", instances=2)], "b", ""),
        ([server("a", memory_capacity=100_000, memory_allocated=600), server("b", memory_allocated=500)], "a", ""),
        ([server("a", ready=False)], None, "a: not ready"),
        ([server("a", schedulable=False)], None, "a: schedulable is false"),
        ([server("a", instances=10)], None, "a: full (10 Instances)"),
        ([server("a", memory_allocated=901)], None, "a: too little memory left"),
        ([server("a", memory_allocated=900)], "a", ""),
        ([server("a", ready=False), server("b")], "b", ""),
    ],
)
def test_the_least_loaded_that_fits(candidates: list[Candidate], chosen: str | None, why: str) -> None:
    name, reason = choose(candidates, ANY, 100)
    assert name == chosen
    assert why in reason
    assert choose(candidates[::-1], ANY, 100)[0] == chosen


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"zone": "a"}}, {"zone": "a"}, True),
        ({"matchLabels": {"zone": "a"}}, {"zone": "b"}, False),
        ({"matchLabels": {"zone": "a"}}, {}, False),
        ({"matchExpressions": [{"key": "z", "operator": "In", "values": ["a"]}]}, {"z": "a"}, True),
        ({"matchExpressions": [{"key": "z", "operator": "In", "values": ["a"]}]}, {}, False),
        ({"matchExpressions": [{"key": "z", "operator": "NotIn", "values": ["a"]}]}, {"z": "a"}, False),
        ({"matchExpressions": [{"key": "z", "operator": "NotIn", "values": ["a"]}]}, {}, True),
        ({"matchExpressions": [{"key": "z", "operator": "Exists"}]}, {"z": ""}, True),
        ({"matchExpressions": [{"key": "z", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "z", "operator": "DoesNotExist"}]}, {}, True),
        ({"matchExpressions": [{"key": "z", "operator": "DoesNotExist"}]}, {"z": "a"}, False),
    ],
)
def test_selectors_mean_what_kubernetes_means(selector: dict[str, Any], labels: dict[str, str], expected: bool) -> None:
    assert matches(LabelSelector.model_validate(selector), labels) is expected


# -- removal ---------------------------------------------------------------------------------------------------

DESIRED = desired_of()
GOING = Departing("uid-acme", "tenants", "ACME", delete_data=False, name="acme", served=True)


def test_removal_goes_from_the_route_to_the_database_to_the_network() -> None:
    actions = plan_removal(GOING, met_facts(DESIRED))
    assert [type(action) for action in actions] == [
        RemoveRoute,
        *[RemoveContainer] * 6,
        DisconnectNetwork,
        RemoveNetwork,
    ]
    roles = [action.name.split("-")[2] for action in actions if isinstance(action, RemoveContainer)]
    assert roles == ["bootstrap", "migrate", "web", "worker", "cache", "database"]


def test_removal_takes_the_data_only_when_the_policy_says_so() -> None:
    facts = met_facts(DESIRED)
    foreign = (
        VolumeFact("dotmac-acme-x", {**owner_labels(DESIRED), names.NAMESPACE: "other"}),
        VolumeFact("dotmac-beta-database", {**owner_labels(DESIRED), names.ORG: "BETA"}),
        VolumeFact("dotmac-proxy-data", {names.MANAGED_BY: names.OPERATOR}),
        VolumeFact("unlabelled"),
    )
    facts = replace(facts, volumes=(*facts.volumes, *foreign))
    removed = [a.name for a in plan_removal(replace(GOING, delete_data=True), facts) if isinstance(a, RemoveVolume)]
    assert sorted(removed) == sorted(DESIRED.volumes)
    assert not any(isinstance(action, RemoveVolume) for action in plan_removal(GOING, facts))
    # Nor by a namesake's claim: one that was refused, and so never served, takes what it has made itself and no more.
    refused = replace(GOING, delete_data=True, name="evil", served=False)
    assert not any(isinstance(action, RemoveVolume) for action in plan_removal(refused, facts))
    made = VolumeFact("dotmac-acme-files", {**owner_labels(DESIRED), names.INSTANCE: "evil"})
    facts = replace(facts, volumes=(*facts.volumes, made))
    assert [a.name for a in plan_removal(refused, facts) if isinstance(a, RemoveVolume)] == [made.name]
    # Not even a spec without an orgCode takes volumes that carry none.
    empty = Departing("uid-none", "tenants", "", delete_data=True)
    assert plan_removal(empty, facts) == ()


def test_a_second_removal_has_nothing_to_do() -> None:
    assert plan_removal(replace(GOING, delete_data=True), fresh_facts()) == ()
    others = replace(met_facts(DESIRED), proxy_config=config_of())
    assert plan_removal(replace(GOING, uid="uid-other"), others) == ()


def test_a_crash_in_the_middle_is_taken_up() -> None:
    network = NetworkFact("n1", DESIRED.network, owner_labels(DESIRED), ("10.210.0.32/27",))
    facts = replace(fresh_facts(), networks=(*fresh_facts().networks, network))
    assert [type(action) for action in plan_removal(GOING, facts)] == [RemoveNetwork]
    facts = replace(facts, containers=(proxy_fact(DESIRED.network), container_fact(DESIRED.database, state="exited")))
    assert [type(a) for a in plan_removal(GOING, facts)] == [RemoveContainer, DisconnectNetwork, RemoveNetwork]


# -- quantities and subnets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("512Mi", 512 * 2**20), ("1Gi", 2**30), ("1G", 10**9), ("1k", 1000), ("2Ki", 2048), ("1.5Gi", 3 * 2**29),
     ("1T", 10**12), ("1Ti", 2**40), ("100M", 10**8), ("1073741824", 2**30), ("0", 0), ("0.1", 1)],
)  # fmt: skip
def test_memory(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize(("text", "nanos"), [("1", 10**9), ("500m", 5 * 10**8), ("0.5", 5 * 10**8), ("0.001", 10**6)])
def test_cpu(text: str, nanos: int) -> None:
    assert cpu_nanos(text) == nanos


def test_mebibytes_round_down() -> None:
    assert (mebibytes(2**20), mebibytes(2**21 - 1), mebibytes(0)) == ("1Mi", "1Mi", "0Mi")


def networks(*subnets: str) -> list[NetworkFact]:
    return [NetworkFact(f"n{i}", f"n{i}", subnets=(subnet,)) for i, subnet in enumerate(subnets)]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], "10.0.0.0/27"),
        (["10.0.0.0/27"], "10.0.0.32/27"),
        (["10.0.0.0/25"], "10.0.0.128/27"),
        (["10.0.0.32/27"], "10.0.0.0/27"),
        (["172.17.0.0/16", "fd00::/64"], "10.0.0.0/27"),
        (["10.0.0.5/24"], None),
        (["10.0.0.0/8"], None),
    ],
)
def test_the_first_free_subnet(taken: list[str], expected: str | None) -> None:
    assert free_subnet("10.0.0.0/24", networks(*taken)) == expected


def test_a_pool_of_a_slash_16_holds_two_thousand_tenants() -> None:
    made: list[str] = []
    for _ in range(40):
        found = free_subnet("10.210.0.0/16", networks(*made))
        assert found is not None
        made.append(found)
    assert len(set(made)) == 40


# -- secrets and digests ---------------------------------------------------------------------------------------


def test_a_secret_is_never_shown() -> None:
    secret = SecretStr("CANARY")
    for text in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>20}",
        f"{secret}",
        repr([secret]),
        repr({"a": secret}),
    ):
        assert "CANARY" not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == SecretStr("CANARY")
    assert secret != SecretStr("other")
    assert secret != "CANARY"
    assert len({secret, SecretStr("CANARY")}) == 1
    assert secret.reveal() == "CANARY"


def test_versions_are_keyed() -> None:
    secret = SecretStr("weak")
    assert secret.version(b"a") == secret.version(b"a") != secret.version(b"b")
    assert secret.version(b"a") != SecretStr("weaker").version(b"a")
    assert len(secret.version(b"a")) == 16


@given(st.text(min_size=4, max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_a_mask_leaves_nothing_of_a_secret(secret: str, before: str, after: str) -> None:
    masked = mask(f"{before}\x00{secret}\x00{after}", frozenset({SecretStr(secret)}))
    assert secret not in masked or secret in "***"


def test_the_longer_secret_is_masked_first() -> None:
    secrets = frozenset({SecretStr("pass"), SecretStr("password1"), SecretStr("abc")})
    assert mask("password1 pass abc", secrets) == "*** *** abc"


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_a_digest_does_not_know_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(list(value.items()))))
    assert digest([value]) != digest(value)


def test_every_action_is_a_kind_of_drift_or_known_to_be_none() -> None:
    """An action without a kind is repaired and not counted."""
    looks = {
        do.ClaimCredentials,
        do.ProbeContainer,
        do.ProbeInside,
        do.CountConnections,
        do.VerifyRoute,
        do.RecordBackup,
    }
    undone = {do.RemoveNetwork, do.RemoveVolume, do.RemoveRoute}
    assert set(do.Action.__subclasses__()) == drift.KINDS.keys() | looks | undone
