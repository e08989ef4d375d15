"""The barrier at the start: it opens when all that existed has come, and is not held up by what was deleted."""

import asyncio

from dotmac_operator.handlers.firstlists import FirstLists


async def test_it_opens_once_all_that_existed_has_come() -> None:
    opened: list[bool] = []
    first = FirstLists()
    first.on_complete = lambda: opened.append(True)
    first.came("Release", "erp-1")
    first.came("Release", "erp-1")
    assert not first.complete  # nobody knows yet how many there are
    first.expect(2)
    assert not first.complete
    first.came("Instance", "n/a")
    assert first.complete
    first.came("Instance", "n/b")
    first.expect(9)
    assert opened == [True]


async def test_with_nothing_there_it_is_open_from_the_start() -> None:
    first = FirstLists()
    first.expect(0)
    assert first.complete


async def test_what_was_deleted_before_the_watch_began_is_not_waited_for() -> None:
    first = FirstLists(patience=0.05)
    first.expect(3)
    first.came("Instance", "n/a")
    await asyncio.sleep(0.03)
    first.came("Instance", "n/b")
    await asyncio.sleep(0.03)
    assert not first.complete
    await asyncio.sleep(0.05)
    assert first.complete


async def test_without_a_count_it_stays_closed() -> None:
    first = FirstLists(patience=0.01)
    first.came("Instance", "n/a")
    await asyncio.sleep(0.05)
    assert not first.complete
    first.expect(2)
    assert not first.complete
    await asyncio.sleep(0.05)
    assert first.complete
