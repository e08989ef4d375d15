"""Questions that arrive while another is being answered wait for it and then go together, in one trip."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence


class Batch[Q, A]:
    """`answer_all` gets questions in their order and returns as many answers. It is called once at a time, and only
    with questions that came before the call: no answer is older than its question. Safe within one event loop.
    """

    def __init__(self, answer_all: Callable[[list[Q]], Awaitable[Sequence[A]]]) -> None:
        self._answer_all = answer_all
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """Raises what `answer_all` raised for the batch that the question was in."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return await answer

    async def _serve(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    answers = await self._answer_all([question for question, _ in batch])
                except Exception as failure:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(failure)
                else:
                    for (_, future), answer in zip(batch, answers, strict=True):
                        # One whose client hung up is cancelled; the others are not.
                        if not future.done():
                            future.set_result(answer)
        finally:
            self._serving = None
