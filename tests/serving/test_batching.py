"""Which requests a pass of the scorer holds."""

import asyncio
import time
from datetime import date
from typing import Any

import pytest

from serving import batching
from serving.answers import Ask
from serving.batching import Scorer

ASK = Ask(date(2025, 7, 1))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the passes, each of which takes five milliseconds."""
    sizes: list[int] = []

    def scored(_model: Any, asks: list[Ask]) -> list[Any]:
        sizes.append(len(asks))
        time.sleep(0.005)
        return list(asks)

    monkeypatch.setattr(batching, "answer_all", scored)
    return sizes


async def _clients(scorer: Scorer, starts: list[float], num_requests: int) -> None:
    """Clients that ask again as soon as they are answered, the first time after `starts` seconds."""

    async def client(start: float) -> None:
        await asyncio.sleep(start)
        for _ in range(num_requests):
            await scorer.answer(ASK, "model", timeout_seconds=10)  # type: ignore[arg-type]
            await asyncio.sleep(0.0005)

    await asyncio.gather(*(client(start) for start in starts))
    scorer.close()


def test_clients_that_ask_again_at_once_end_up_in_one_pass(passes: list[int]) -> None:
    asyncio.run(_clients(Scorer(max_waiting=64, max_together=32), [0, 0, 0.002, 0.002], 10))

    assert sum(passes) == 40
    assert passes.count(4) > 5  # without the wait, two passes of two take turns for ever


def test_a_lone_request_waits_for_nobody(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LINGER_SECONDS", 30.0)

    asyncio.run(_clients(Scorer(max_waiting=64, max_together=32), [0], 5))

    assert passes == [1] * 5


def test_a_pass_goes_on_without_those_who_do_not_come_back(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LINGER_SECONDS", 0.05)

    async def ask(scorer: Scorer) -> None:
        await asyncio.gather(*(scorer.answer(ASK, "model", timeout_seconds=10) for _ in range(3)))  # type: ignore[arg-type]
        await scorer.answer(ASK, "model", timeout_seconds=10)  # type: ignore[arg-type]
        scorer.close()

    asyncio.run(ask(Scorer(max_waiting=64, max_together=32)))

    assert passes == [3, 1]


def test_after_a_wait_in_vain_the_next_passes_do_not_wait(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LINGER_SECONDS", 1.0)

    async def pairs(scorer: Scorer) -> float:
        ask = lambda: scorer.answer(ASK, "model", timeout_seconds=10)  # type: ignore[arg-type]  # noqa: E731
        start = time.perf_counter()
        for _ in range(5):
            await asyncio.gather(ask(), ask())
            await ask()
        scorer.close()
        return time.perf_counter() - start

    seconds = asyncio.run(pairs(Scorer(max_waiting=64, max_together=32)))

    assert passes == [2, 1] * 5
    assert seconds < 4  # one wait of a second, not five


def test_more_than_fit_are_not_waited_for(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LINGER_SECONDS", 30.0)

    asyncio.run(_clients(Scorer(max_waiting=64, max_together=2), [0, 0, 0, 0], 3))

    assert passes == [2] * 6
