"""Taking turns at one host or address: how many requests at once, and how many a second."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol


class Place(Protocol):
    """What somebody holds that others want, too: it is theirs while he waits for his turn."""

    def step_aside(self) -> None:
        """Let others have it; may be called again."""

    async def come_back(self) -> None:
        """Wait for it again; at once for whoever did not step aside."""


class _Queue:
    """Whoever is at one host, and who waits."""

    __slots__ = ("at_once", "free_at", "waiters")

    def __init__(self) -> None:
        self.at_once = 0
        # When the next request may start, by the rate.
        self.free_at = 0.0
        # In the order they came, each with how many may be there at once for him.
        self.waiters: deque[tuple[asyncio.Future[None], int]] = deque()


class Turns:
    """First come, first served, per key; keys that nobody is at are forgotten.

    Counts are shared by all callers; limits are the caller's own. Times are seconds of a monotonic
    clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._queues: dict[Hashable, _Queue] = {}
        self._sweep_at = 4096

    def enter(self, key: Hashable, at_once: int) -> bool:
        """Whether the turn is there at once; whoever hears yes calls `give`."""
        queue = self._queues.get(key) or self._queue(key)
        if queue.at_once >= at_once or queue.waiters:
            return False
        queue.at_once += 1
        return True

    async def take(self, key: Hashable, *, at_once: int, rate: float = 0.0) -> None:
        """Wait until fewer than `at_once` are there and `rate` a second (0: any) allows one more.
        Whoever returns from here calls `give`."""
        if not self.enter(key, at_once):
            await self._wait(key, self._queue(key), at_once)
        if rate:
            try:
                if delay := self.reserve(key, rate):
                    await asyncio.sleep(delay)
            except BaseException:
                self.give(key)
                raise

    def move(self, key: Hashable, other: Hashable, *, rate: float = 0.0) -> None:
        """Have the turn at another key, without waiting: one too many is there for a while if need
        be, and those who wait there wait for longer. `give` is called for that one then."""
        self._queue(other).at_once += 1
        if rate:
            self.reserve(other, rate)
        self.give(key)

    def give(self, key: Hashable) -> None:
        """Leave; the next ones come."""
        queue = self._queues[key]
        queue.at_once -= 1
        self._admit(key, queue)

    def reserve(self, key: Hashable, rate: float) -> float:
        """Take the next place in time at a key and return the seconds until then."""
        queue = self._queue(key)
        now = self._now()
        start = max(now, queue.free_at)
        queue.free_at = start + 1 / rate
        return start - now

    def __len__(self) -> int:
        return len(self._queues)

    def _queue(self, key: Hashable) -> _Queue:
        queue = self._queues.get(key)
        if queue is None:
            if len(self._queues) >= self._sweep_at:
                self._sweep()
            queue = self._queues[key] = _Queue()
        return queue

    async def _wait(self, key: Hashable, queue: _Queue, at_once: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = turn, at_once
        queue.waiters.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(key)
            elif entry in queue.waiters:
                queue.waiters.remove(entry)
                self._admit(key, queue)
            raise

    def _admit(self, key: Hashable, queue: _Queue) -> None:
        while queue.waiters and queue.at_once < queue.waiters[0][1]:
            turn, _ = queue.waiters.popleft()
            if not turn.done():
                queue.at_once += 1
                turn.set_result(None)
        if not queue.at_once and not queue.waiters and not queue.free_at:
            self._queues.pop(key, None)

    def _sweep(self) -> None:
        """Forget the keys that were kept for their rate alone and whose time is over."""
        now = self._now()
        for key in [
            key
            for key, queue in self._queues.items()
            if not queue.at_once and not queue.waiters and queue.free_at <= now
        ]:
            del self._queues[key]
        self._sweep_at = max(4096, 2 * len(self._queues))
