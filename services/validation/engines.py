"""One examiner per way of asking: campaigns with equal plans share its window and sockets."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count

from services.validation.dns.examiner import Examiner
from services.validation.dns.health import Change
from services.validation.dns.plan import Plan
from services.validation.load import Counts, EndpointCounts
from services.validation.resolver_reports import KnownResolver

# An engine that nobody used for this long is closed, seconds, and the longest idle ones beyond this
# many: each holds sockets.
IDLE = 60.0
MAX_IDLE = 32
# Changes kept for somebody to take them.
MAX_CHANGES = 1000


@dataclass(slots=True)
class _Entry:
    examiner: Examiner
    # No other engine of this process has it.
    number: int
    users: int = 0
    idle_since: float = 0.0


class Engines:
    """Examiners by plan. Open it with `async with`."""

    def __init__(self) -> None:
        self._entries: dict[Plan, _Entry] = {}
        self._opening = asyncio.Lock()
        self._numbers = count()
        # What became of resolvers, by the plan that asks them, until somebody takes it.
        self._changes: deque[tuple[Plan, Change]] = deque(maxlen=MAX_CHANGES)
        self._news = asyncio.Event()

    async def __aenter__(self) -> "Engines":
        return self

    async def __aexit__(self, *_: object) -> None:
        for entry in self._entries.values():
            await entry.examiner.__aexit__(None, None, None)
        self._entries.clear()

    @asynccontextmanager
    async def use(self, plan: Plan) -> AsyncIterator[Examiner]:
        """Lend the examiner of a plan."""
        async with self._opening:
            await self._close_idle()
            entry = self._entries.get(plan)
            if entry is None:
                examiner = await Examiner(plan).__aenter__()
                examiner.canaries.listeners.append(partial(self._take, plan))
                entry = self._entries[plan] = _Entry(examiner, next(self._numbers))
            entry.users += 1
        try:
            yield entry.examiner
        finally:
            entry.users -= 1
            entry.idle_since = time.monotonic()

    def waiting(self) -> int:
        """Names handed to any engine and not yet asked about."""
        examiners = [entry.examiner for entry in self._entries.values()]
        return sum(it.engine.stats().waiting + it.canaries.held for it in examiners)

    def endpoints(self) -> list[EndpointCounts]:
        """What each engine has counted of its resolvers since it was opened."""
        return [
            EndpointCounts(
                entry.number,
                it.resolver,
                Counts(it.sent, it.answered, it.timeouts, it.timed, it.waited_ns),
            )
            for entry in self._entries.values()
            for it in entry.examiner.engine.stats().resolvers
        ]

    def resolvers(self) -> list[KnownResolver]:
        """What is known of each resolver, by each examiner that asks it."""
        known = []
        for entry in self._entries.values():
            canaries = entry.examiner.canaries
            canaries.measure()
            stats = {it.resolver: it for it in entry.examiner.engine.stats().resolvers}
            known += [KnownResolver(stats[str(it.resolver)], it) for it in canaries.healths]
        return known

    async def changes(self, timeout: float) -> list[tuple[Plan, Change]]:
        """What became of resolvers since the last call; waits for it up to `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()
        taken = list(self._changes)
        self._changes.clear()
        return taken

    def _take(self, plan: Plan, change: Change) -> None:
        self._changes.append((plan, change))
        self._news.set()

    async def _close_idle(self) -> None:
        limit = time.monotonic() - IDLE
        idle = sorted(
            (entry.idle_since, number, key)
            for number, (key, entry) in enumerate(self._entries.items())
            if not entry.users
        )
        for place, (since, _, key) in enumerate(idle):
            if since < limit or place < len(idle) - MAX_IDLE:
                await self._entries.pop(key).examiner.__aexit__(None, None, None)
