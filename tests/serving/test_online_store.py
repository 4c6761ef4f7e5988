"""Both stores keep the newest events of a user for a while: the same tests for both."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from contracts.errors import TransientError
from serving.answers import Event
from serving.online_store import InProcessStore, OnlineStore, RedisStore

START = datetime(2024, 7, 4, 9, 0, tzinfo=UTC)
EVENTS = [Event(f"i{number}", START + timedelta(seconds=number), "view" if number % 2 else None, "app" if number % 3 else None) for number in range(8)]

Make = Callable[..., OnlineStore]


@pytest.fixture(params=["in process", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "in process":
        return InProcessStore
    url = request.getfixturevalue("redis_url")
    return lambda **limits: RedisStore.connect(url, **limits)


def run(make: Make, use: Callable[[OnlineStore], object], **limits: float) -> object:
    async def whole() -> object:
        store = make(**limits)
        await store.forget("ann")
        await store.forget("bob")
        try:
            return await use(store)  # type: ignore[misc]
        finally:
            await store.close()

    return asyncio.run(whole())


def test_events_come_back_newest_last(make: Make) -> None:
    async def use(store: OnlineStore) -> object:
        await store.append("ann", EVENTS[:2])
        await store.append("ann", EVENTS[2:3])
        return await store.events("ann"), await store.events("bob")

    assert run(make, use) == (tuple(EVENTS[:3]), ())


def test_only_the_newest_events_are_kept(make: Make) -> None:
    async def use(store: OnlineStore) -> object:
        await store.append("ann", EVENTS[:3])
        await store.append("ann", EVENTS[3:])
        return await store.events("ann")

    assert run(make, use, max_events=4) == tuple(EVENTS[-4:])


def test_an_idle_session_is_forgotten(make: Make) -> None:
    async def use(store: OnlineStore) -> object:
        await store.append("ann", EVENTS)
        await asyncio.sleep(0.15)
        return await store.events("ann")

    assert run(make, use, keep_seconds=0.1) == ()


def test_a_user_can_be_forgotten(make: Make) -> None:
    async def use(store: OnlineStore) -> object:
        await store.append("ann", EVENTS)
        await store.append("bob", EVENTS[:1])
        await store.forget("ann")
        return await store.events("ann"), await store.events("bob")

    assert run(make, use) == ((), (EVENTS[0],))


def test_a_redis_that_does_not_answer_is_said_to_be_away() -> None:
    async def use() -> None:
        store = RedisStore.connect("redis://127.0.0.1:9/0")
        for call in (store.events("ann"), store.append("ann", EVENTS), store.forget("ann")):
            with pytest.raises(TransientError, match="the store of sessions does not answer"):
                await call
        await store.close()

    asyncio.run(use())


def test_memory_of_the_in_process_store_is_bounded() -> None:
    async def use() -> list[int]:
        store = InProcessStore(max_users=3)
        for number in range(10):
            await store.append(f"u{number}", EVENTS[:1])
        return [len(await store.events(f"u{number}")) for number in range(10)]

    assert asyncio.run(use()) == [0] * 7 + [1] * 3
