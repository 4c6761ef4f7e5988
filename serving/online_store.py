"""What users did since the model's cut-off, kept for a while so that the next answer knows it.

Two stores of one behaviour: in this process (default, one worker) and Redis (several workers). Both keep the newest events of a user
for a limited time and forget users who stay away.
"""

import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from contracts.errors import TransientError
from serving.answers import Event

if TYPE_CHECKING:
    from redis.asyncio import Redis


class OnlineStore(Protocol):
    """Newest events of users."""

    async def append(self, user_id: str, events: Sequence[Event]) -> None:
        """Add events of a user, newest last."""
        ...

    async def events(self, user_id: str) -> tuple[Event, ...]:
        """Events of a user, newest last; none for a user who is not known."""
        ...

    async def forget(self, user_id: str) -> None:
        """Drop everything of a user."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


class InProcessStore:
    """In memory; the users who were away longest are dropped first."""

    def __init__(
        self, *, max_events: int = 200, keep_seconds: float = 7 * 86_400, max_users: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_events, self._keep_seconds, self._max_users, self._clock = max_events, keep_seconds, max_users, clock
        self._users: OrderedDict[str, tuple[float, tuple[Event, ...]]] = OrderedDict()

    async def append(self, user_id: str, events: Sequence[Event]) -> None:
        """Add events of a user, newest last."""
        kept = (*await self.events(user_id), *events)[-self._max_events :]
        self._users[user_id] = (self._clock(), kept)
        self._users.move_to_end(user_id)
        while len(self._users) > self._max_users:
            self._users.popitem(last=False)

    async def events(self, user_id: str) -> tuple[Event, ...]:
        """Events of a user, newest last."""
        at, events = self._users.get(user_id, (0.0, ()))
        if events and self._clock() - at > self._keep_seconds:
            del self._users[user_id]
            return ()
        return events

    async def forget(self, user_id: str) -> None:
        """Drop everything of a user."""
        self._users.pop(user_id, None)

    async def close(self) -> None:
        """Nothing to give back."""


class RedisStore:
    """One Redis list per user, shared by all workers; Redis drops it when its time is over. Raises TransientError where Redis does not answer."""

    def __init__(self, client: "Redis", *, max_events: int = 200, keep_seconds: float = 7 * 86_400, prefix: str = "perennial:events:") -> None:
        self._client, self._max_events, self._keep_seconds, self._prefix = client, max_events, keep_seconds, prefix

    @classmethod
    def connect(cls, url: str, *, max_events: int = 200, keep_seconds: float = 7 * 86_400) -> "RedisStore":
        """Store at an address such as redis://localhost:6379/0."""
        from redis.asyncio import Redis

        return cls(Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0), max_events=max_events, keep_seconds=keep_seconds)

    async def append(self, user_id: str, events: Sequence[Event]) -> None:
        """Add events of a user, newest last."""
        if not events:
            return
        key = self._prefix + user_id
        async with _faults(), self._client.pipeline(transaction=True) as pipe:
            pipe.rpush(key, *(json.dumps([event.item_id, event.event_time.isoformat(), event.event_type, event.platform]) for event in events))
            pipe.ltrim(key, -self._max_events, -1)
            pipe.pexpire(key, int(self._keep_seconds * 1000))
            await pipe.execute()

    async def events(self, user_id: str) -> tuple[Event, ...]:
        """Events of a user, newest last."""
        async with _faults():
            rows = [json.loads(row) for row in await self._client.lrange(self._prefix + user_id, 0, -1)]
        return tuple(Event(item_id, datetime.fromisoformat(time), *kind) for item_id, time, *kind in rows)

    async def forget(self, user_id: str) -> None:
        """Drop everything of a user."""
        async with _faults():
            await self._client.delete(self._prefix + user_id)

    async def close(self) -> None:
        """Give connections back."""
        await self._client.aclose()


@asynccontextmanager
async def _faults() -> AsyncIterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as error:
        raise TransientError(f"the store of sessions does not answer: {error}", step="serve") from error
