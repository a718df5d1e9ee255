"""One engine per way of asking: campaigns with equal DNS settings share its window and sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

from domainflow.campaign.v1 import campaign_pb2
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver, system_resolvers
from services.validation.dns.settings import EngineSettings
from services.validation.load import Counts, EndpointCounts

# An engine that nobody used for this long is closed, seconds, and the longest idle ones beyond this
# many: each holds sockets.
IDLE = 60.0
MAX_IDLE = 32


@dataclass(slots=True)
class _Entry:
    engine: Engine
    # No other engine of this process has it.
    number: int
    users: int = 0
    idle_since: float = 0.0


class Engines:
    """Engines by resolvers and settings. Open it with `async with`."""

    def __init__(self) -> None:
        self._entries: dict[tuple[tuple[Resolver, ...], EngineSettings], _Entry] = {}
        self._opening = asyncio.Lock()
        self._numbers = count()

    async def __aenter__(self) -> "Engines":
        return self

    async def __aexit__(self, *_: object) -> None:
        for entry in self._entries.values():
            await entry.engine.__aexit__(None, None, None)
        self._entries.clear()

    @asynccontextmanager
    async def use(
        self, resolvers: Sequence[str], settings: EngineSettings
    ) -> AsyncIterator[Engine]:
        """Lend the engine for these resolvers; none means those of this machine."""
        asked = tuple(Resolver.parse(text) for text in resolvers) or system_resolvers()
        async with self._opening:
            await self._close_idle()
            entry = self._entries.get((asked, settings))
            if entry is None:
                engine = await Engine(asked, settings).__aenter__()
                entry = self._entries[asked, settings] = _Entry(engine, next(self._numbers))
            entry.users += 1
        try:
            yield entry.engine
        finally:
            entry.users -= 1
            entry.idle_since = time.monotonic()

    def waiting(self) -> int:
        """Names handed to any engine and not yet asked about."""
        return sum(entry.engine.stats().waiting for entry in self._entries.values())

    def endpoints(self) -> list[EndpointCounts]:
        """What each engine has counted of its resolvers since it was opened."""
        return [
            EndpointCounts(
                entry.number,
                it.resolver,
                Counts(it.sent, it.answered, it.timeouts, it.timed, it.waited_ns),
            )
            for entry in self._entries.values()
            for it in entry.engine.stats().resolvers
        ]

    async def _close_idle(self) -> None:
        limit = time.monotonic() - IDLE
        idle = sorted(
            (entry.idle_since, number, key)
            for number, (key, entry) in enumerate(self._entries.items())
            if not entry.users
        )
        for place, (since, _, key) in enumerate(idle):
            if since < limit or place < len(idle) - MAX_IDLE:
                await self._entries.pop(key).engine.__aexit__(None, None, None)


def engine_settings(dns: campaign_pb2.DnsConfiguration) -> EngineSettings:
    """The engine's settings for a campaign; what it leaves open takes the engine's defaults."""
    defaults = EngineSettings()
    return EngineSettings(
        window=dns.window or defaults.window,
        timeout=dns.timeout.ToTimedelta().total_seconds() or defaults.timeout,
        tries=dns.attempt_limit or defaults.tries,
    )
