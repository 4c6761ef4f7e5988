"""Requests that arrive while the model is busy are scored together in its next pass; too many waiting are turned away at once."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from serving.answers import Ask, RankedList, answer_all
from serving.recommender import Recommender

LINGER_SECONDS: Final = 0.004  # about what a client needs to ask again
COMPANY: Final = 8  # a pass of more gains little by waiting
PASSES_ALONE: Final = 64  # passes that do not wait after one that waited in vain
Result = TypeVar("Result")


class OverloadedError(Exception):
    """More requests wait than may, or one waited too long."""


@dataclass(eq=False)
class _Waiting:
    ask: Ask
    model: Recommender
    answer: asyncio.Future[RankedList]


class Scorer:
    """One thread that scores; everything else stays on the event loop.

    A pass takes all that wait, up to `max_together`: at low load that is one request and nobody waits for company; under load the
    product of a whole block costs little more than one user's.
    """

    def __init__(self, *, max_waiting: int, max_together: int) -> None:
        self._max_waiting, self._max_together = max_waiting, max_together
        self._waiting: list[_Waiting] = []
        self._is_running = False
        self._company, self._wanted, self._ended, self._alone = asyncio.Event(), 1, 0.0, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a pass."""
        return len(self._waiting)

    async def answer(self, ask: Ask, model: Recommender, *, timeout_seconds: float) -> RankedList:
        """The list of one ask from one model. Raises OverloadedError at once when too many wait, or after the time limit."""
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError("too many requests are waiting")
        waiting = _Waiting(ask, model, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._waiting) >= self._wanted:
            self._company.set()
        if not self._is_running:
            self._is_running = True
            self._run_task = asyncio.create_task(self._run())
        try:
            return await asyncio.wait_for(waiting.answer, timeout_seconds)
        except TimeoutError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise OverloadedError(f"no answer within {timeout_seconds:g} s") from None

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run other work of the model in the scoring thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @staticmethod
    def score(model: Recommender, asks: Sequence[Ask]) -> list[RankedList]:
        """Answer many asks in one pass."""
        return answer_all(model, asks)

    def close(self) -> None:
        """Finish the pass that runs."""
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._wait_for_company()
                model = self._waiting[0].model
                together = [waiting for waiting in self._waiting if waiting.model is model][: self._max_together]
                self._waiting = [waiting for waiting in self._waiting if waiting not in together]
                await self._pass(model, together)
                self._wanted = min(len(together) + len(self._waiting), COMPANY, self._max_together)
                self._ended = asyncio.get_running_loop().time()
        finally:
            self._is_running = False

    async def _wait_for_company(self) -> None:
        """Requests that have arrived already are read first, and scored in this pass; those just answered are given a moment to ask again.

        Where they did not, the next passes do not wait: requests that come by themselves are not held up for company.
        """
        await asyncio.sleep(0)
        left = self._ended + LINGER_SECONDS - asyncio.get_running_loop().time()
        if left <= 0 or len(self._waiting) >= self._wanted:
            return
        if self._alone:
            self._alone -= 1
            return
        self._company.clear()
        try:
            await asyncio.wait_for(self._company.wait(), left)
        except TimeoutError:
            self._alone = PASSES_ALONE

    async def _pass(self, model: Recommender, together: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._thread, answer_all, model, [waiting.ask for waiting in together])
        except Exception as error:
            if len(together) == 1:
                _fail(together[0], error)
                return
            for waiting in together:  # one bad request must not spoil the others
                await self._pass(model, [waiting])
            return
        for waiting, answer in zip(together, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
