"""Questions that go together: none gets an older answer than its question, and none fails for another's sake."""

import asyncio

import pytest

from dotmac_api.batch import Batch


class Source:
    """Counts its trips; each answer is the state when the trip began."""

    def __init__(self) -> None:
        self.state = 0
        self.trips: list[list[str]] = []
        self.fails = False

    async def answer_all(self, questions: list[str]) -> list[tuple[str, int]]:
        self.trips.append(questions)
        seen = self.state
        await asyncio.sleep(0.01)
        if self.fails:
            raise OSError("away")
        return [(question, seen) for question in questions]


async def test_what_waits_goes_together_and_each_gets_its_own() -> None:
    source = Source()
    batch = Batch(source.answer_all)
    answers = await asyncio.gather(*(batch.ask(str(n)) for n in range(50)))
    assert answers == [(str(n), 0) for n in range(50)]
    assert len(source.trips) <= 2


async def test_no_answer_is_older_than_its_question() -> None:
    source = Source()
    batch = Batch(source.answer_all)
    first = asyncio.create_task(batch.ask("before"))
    await asyncio.sleep(0.005)
    # The trip is under way and has seen state 0; who asks now must see 1.
    source.state = 1
    assert await batch.ask("after") == ("after", 1)
    assert await first == ("before", 0)


async def test_a_failure_reaches_all_of_its_trip_and_nobody_else() -> None:
    source = Source()
    batch = Batch(source.answer_all)
    source.fails = True
    with pytest.raises(OSError, match="away"):
        await batch.ask("a")
    source.fails = False
    assert await batch.ask("b") == ("b", 0)


async def test_one_that_hangs_up_takes_nothing_from_the_others() -> None:
    source = Source()
    batch = Batch(source.answer_all)
    leaving, staying = (asyncio.create_task(batch.ask(name)) for name in ("leaving", "staying"))
    await asyncio.sleep(0.005)
    leaving.cancel()
    assert await staying == ("staying", 0)
    assert leaving.cancelled() or leaving.cancelling()
