"""Changes of a proxy that wait for each other."""

import threading
import time

import pytest

from dotmac_operator.core.proxy import Config
from dotmac_operator.hosts.port import HostUnreachable
from dotmac_operator.reconcile import routing as module
from dotmac_operator.reconcile.routing import Change, ProxyRefused, Routing


def change(name: str) -> Change:
    def made(config: Config) -> Config:
        return {**config, name: True}

    return made


class Proxy:
    """Loads slowly; refuses whatever has the name `bad` in it."""

    def __init__(self) -> None:
        self.config: Config = {}
        self.loads = 0
        self.first, self.go_on = threading.Event(), threading.Event()

    def load(self, changes: list[Change]) -> None:
        made = self.config
        for one in changes:
            made = one(made)
        self.loads += 1
        self.first.set()
        assert self.go_on.wait(10)
        if "gone" in made:
            raise HostUnreachable("no route to host")
        if "bad" in made:
            raise ProxyRefused("the proxy refused its configuration")
        self.config = made


def all_at_once(routing: Routing, proxy: Proxy, *names: str) -> dict[str, BaseException]:
    """The first is being loaded while the others come; what each of them got."""
    errors: dict[str, BaseException] = {}

    def work(name: str) -> None:
        try:
            routing.apply(name, change(name), proxy.load)
        except Exception as error:
            errors[name] = error

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    threads[0].start()
    assert proxy.first.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(routing._waiting) < len(names) - 1:
        time.sleep(0.001)
    proxy.go_on.set()
    for thread in threads:
        thread.join(10)
    return errors


def test_those_that_wait_are_loaded_together() -> None:
    proxy = Proxy()
    assert all_at_once(Routing(), proxy, *"abcdefgh") == {}
    assert proxy.config == dict.fromkeys("abcdefgh", True)
    assert proxy.loads == 2


def test_one_that_is_refused_takes_nobody_with_it() -> None:
    proxy = Proxy()
    errors = all_at_once(Routing(), proxy, "a", "b", "bad", "c")
    assert list(errors) == ["bad"]
    assert proxy.config == dict.fromkeys("abc", True)


def test_a_host_that_is_gone_is_told_to_all_that_waited() -> None:
    errors = all_at_once(Routing(), Proxy(), "a", "gone", "b")
    assert set(errors) == {"gone", "b"}
    assert all(isinstance(error, HostUnreachable) for error in errors.values())


def test_the_next_one_after_a_failure_is_loaded() -> None:
    routing, proxy = Routing(), Proxy()
    proxy.go_on.set()
    with pytest.raises(ProxyRefused):
        routing.apply("bad", change("bad"), proxy.load)
    routing.apply("good", change("good"), proxy.load)
    assert proxy.config == {"good": True}


def at_work(routing: Routing, proxy: Proxy, name: str, *, patient: bool = True) -> threading.Thread:
    thread = threading.Thread(target=routing.apply, args=(name, change(name), proxy.load), kwargs={"patient": patient})
    thread.start()
    return thread


def test_those_that_are_expected_are_waited_for() -> None:
    routing, proxy = Routing(), Proxy()
    proxy.go_on.set()
    for name in "abc":
        routing.expect(name)
    threads = [at_work(routing, proxy, "a"), at_work(routing, proxy, "b")]
    assert not proxy.first.wait(0.1)
    routing.expect_no_more("c")  # its containers did not start
    for thread in threads:
        thread.join(5)
    assert (proxy.loads, proxy.config) == (1, {"a": True, "b": True})


def test_nobody_waits_long_and_a_switch_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = 1.5  # so that a machine that is busy otherwise does not take as long as the wait itself
    monkeypatch.setattr(module, "GATHER", longer)
    routing, proxy = Routing(), Proxy()
    proxy.go_on.set()
    routing.expect("never comes")
    began = time.monotonic()
    at_work(routing, proxy, "switch", patient=False).join(5)
    assert time.monotonic() - began < longer
    at_work(routing, proxy, "a").join(5)
    assert longer <= time.monotonic() - began < 2 * longer + 2
    assert proxy.loads == 2
