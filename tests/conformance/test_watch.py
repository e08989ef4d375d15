"""Watches: resuming, selecting, and what ends them."""

from __future__ import annotations

import threading

from tests.conformance.things import Things, ok, refusal


def seen(events: list[dict]) -> list[tuple[str, str]]:  # type: ignore[type-arg]
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


def test_a_watch_resumes_after_the_version_it_names(things: Things) -> None:
    made = things.create("resumed", {"size": 1}, labels={"watch": "resume"})
    ok(things.merge("resumed", {"spec": {"size": 2}}))
    ok(things.delete("resumed"))
    version = made["metadata"]["resourceVersion"]
    events = things.watch(resourceVersion=version, labelSelector="watch=resume")
    assert seen(events) == [("MODIFIED", "resumed"), ("DELETED", "resumed")]
    assert events[0]["object"]["spec"]["size"] == 2
    assert int(events[1]["object"]["metadata"]["resourceVersion"]) > int(version)


def test_entering_and_leaving_a_selection(things: Things) -> None:
    start = things.create("moving", {"size": 1})["metadata"]["resourceVersion"]
    ok(things.merge("moving", {"metadata": {"labels": {"watch": "enter"}}}))
    ok(things.merge("moving", {"metadata": {"labels": {"watch": "left"}}}))
    events = things.watch(resourceVersion=start, labelSelector="watch=enter")
    assert seen(events) == [("ADDED", "moving"), ("DELETED", "moving")]


def test_deletion_behind_a_finalizer_is_a_change_first(things: Things) -> None:
    made = things.create("final", {"size": 1}, finalizers=["example.com/hold"], labels={"watch": "final"})
    ok(things.delete("final"))
    ok(things.merge("final", {"metadata": {"finalizers": None}}))
    events = things.watch(resourceVersion=made["metadata"]["resourceVersion"], labelSelector="watch=final")
    assert seen(events) == [("MODIFIED", "final"), ("DELETED", "final")]
    assert "deletionTimestamp" in events[0]["object"]["metadata"]


def test_a_watch_of_one_name(things: Things) -> None:
    things.create("one", {"size": 1})
    things.create("two", {"size": 1})
    assert seen(things.watch(fieldSelector="metadata.name=one")) == [("ADDED", "one")]


def test_several_watchers_see_the_same(things: Things) -> None:
    start = things.list()["metadata"]["resourceVersion"]
    found: list[list[tuple[str, str]]] = []

    def watch() -> None:
        found.append(seen(things.watch(resourceVersion=start, labelSelector="watch=many", timeoutSeconds=2)))

    watchers = [threading.Thread(target=watch) for _ in range(5)]
    for watcher in watchers:
        watcher.start()
    for number in range(10):
        things.create(f"many-{number}", {"size": number}, labels={"watch": "many"})
    for watcher in watchers:
        watcher.join()
    assert found == [[("ADDED", f"many-{number}") for number in range(10)]] * 5


def test_a_dry_run_and_a_no_op_are_no_events(things: Things) -> None:
    start = things.create("quiet", {"size": 1}, labels={"watch": "quiet"})["metadata"]["resourceVersion"]
    ok(things.merge("quiet", {"spec": {"size": 2}}, dryRun="All"))
    ok(things.merge("quiet", {"spec": {"size": 2}}))
    ok(things.merge("quiet", {"spec": {"size": 2}}))
    assert seen(things.watch(resourceVersion=start, labelSelector="watch=quiet")) == [("MODIFIED", "quiet")]


def test_the_state_comes_first_and_is_marked(things: Things) -> None:
    things.create("initial", {"size": 1}, labels={"watch": "initial"})
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    events = things.watch(labelSelector="watch=initial", **query)
    assert seen(events)[0] == ("ADDED", "initial")
    assert events[1]["type"] == "BOOKMARK"
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_version_match_is_for_initial_events_only(things: Things) -> None:
    answer = things.send("GET", watch="true", resourceVersionMatch="NotOlderThan", timeoutSeconds="1")
    assert refusal(answer)[:2] == (422, "Invalid")
