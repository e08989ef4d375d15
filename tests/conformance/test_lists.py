"""Lists: pages of one state, versions, selectors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.things import Things, ok, refusal


@pytest.fixture(scope="module")
def seven(things: Things) -> Iterator[Things]:
    for number in range(7):
        things.create(f"page-{number}", {"size": number}, labels={"set": "pages", "n": str(number)})
    yield things


def names(found: dict) -> list[str]:  # type: ignore[type-arg]
    return [item["metadata"]["name"] for item in found["items"]]


def test_pages_show_one_state_while_it_changes(seven: Things) -> None:
    first = seven.list(labelSelector="set=pages", limit=3)
    assert names(first) == ["page-0", "page-1", "page-2"]
    seven.create("page-3a", {"size": 1}, labels={"set": "pages"})
    ok(seven.delete("page-4"))
    ok(seven.merge("page-5", {"spec": {"size": 50}}))
    second = seven.list(labelSelector="set=pages", limit=3, **{"continue": first["metadata"]["continue"]})
    assert names(second) == ["page-3", "page-4", "page-5"]
    assert second["items"][2]["spec"]["size"] == 5
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    third = seven.list(labelSelector="set=pages", limit=3, **{"continue": second["metadata"]["continue"]})
    assert names(third) == ["page-6"]
    assert not third["metadata"].get("continue")


def test_a_page_says_how_many_remain_without_a_selector(seven: Things) -> None:
    total = len(seven.list()["items"])
    assert seven.list(limit=2)["metadata"]["remainingItemCount"] == total - 2
    assert "remainingItemCount" not in seven.list(limit=2, labelSelector="set=pages")["metadata"]


def test_continue_and_resource_version_exclude_each_other(seven: Things) -> None:
    token = seven.list(limit=1)["metadata"]["continue"]
    answer = seven.send("GET", limit=1, resourceVersion="5", **{"continue": token})
    assert answer.status_code == 400, answer.text


def test_an_exact_version_shows_the_past(seven: Things) -> None:
    before = seven.list(labelSelector="n=6")["metadata"]["resourceVersion"]
    ok(seven.merge("page-6", {"spec": {"size": 60}}))
    past = seven.list(labelSelector="n=6", resourceVersion=before, resourceVersionMatch="Exact")
    assert past["items"][0]["spec"]["size"] == 6
    assert past["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"resourceVersionMatch": "Exact"}, "resourceVersionMatch"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, "resourceVersionMatch"),
        ({"resourceVersionMatch": "Nope", "resourceVersion": "1"}, "resourceVersionMatch"),
    ],
)
def test_versions_are_matched_only_as_it_makes_sense(seven: Things, query: dict[str, str], field: str) -> None:
    status, reason, causes = refusal(seven.send("GET", **query))
    assert (status, reason) == (422, "Invalid")
    assert [where for _, where in causes][0] == field


@pytest.mark.parametrize("version", ["x", "-1", "1.5"])
def test_a_version_is_a_number(seven: Things, version: str) -> None:
    assert seven.send("GET", resourceVersion=version).status_code == 400


@pytest.mark.parametrize("limit", ["x", "1.5"])
def test_a_limit_is_a_number(seven: Things, limit: str) -> None:
    assert seven.send("GET", limit=limit).status_code == 400


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("n in (1,2),set", ["page-1", "page-2"]),
        ("set,n notin (0,1,2,3,5,6)", ["page-3a"]),
        ("n>5", ["page-6"]),
        ("n<1", ["page-0"]),
        ("n!=0,n!=1,n,n!=2,n!=3,n!=5", ["page-6"]),
        ("set==pages,!n", ["page-3a"]),
    ],
)
def test_label_selectors(seven: Things, selector: str, expected: list[str]) -> None:
    assert names(seven.list(labelSelector=selector)) == expected


@pytest.mark.parametrize("selector", ["a in ()", "a in (x", "a=b,,", "a=b,", "!", "a b", "a=-x-", "a>b"])
def test_broken_selectors_are_refused(seven: Things, selector: str) -> None:
    assert seven.send("GET", labelSelector=selector).status_code == (200 if selector == "a in ()" else 400)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("metadata.name=page-1", ["page-1"]),
        ("metadata.name=page-1,metadata.namespace=conformance", ["page-1"]),
        ("metadata.name=page-1,metadata.namespace=other", []),
    ],
)
def test_field_selectors(seven: Things, selector: str, expected: list[str]) -> None:
    assert names(seven.list(fieldSelector=selector)) == expected


def test_a_collection_is_deleted_by_selector(seven: Things) -> None:
    for name in ("doomed-1", "doomed-2"):
        seven.create(name, {"size": 1}, labels={"doomed": "yes"})
    ok(seven.send("DELETE", labelSelector="doomed=yes", dryRun="All"))
    assert len(seven.list(labelSelector="doomed=yes")["items"]) == 2
    ok(seven.send("DELETE", labelSelector="doomed=yes", fieldSelector="metadata.name=doomed-1"))
    assert names(seven.list(labelSelector="doomed=yes")) == ["doomed-2"]
