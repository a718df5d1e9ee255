"""Probes that fail on names of the test's choice; the rest they check as the pool's own does."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from services.validation.dns.verdict import Outcome
from services.validation.dns_probe import DnsProbe
from services.validation.engines import Engines
from services.validation.probe import Check
from services.validation.store import Claim

OnName = Callable[[], Awaitable[None]]


class PoisonedProbe(DnsProbe):
    """Does `harm` when it is to check the poison name."""

    def __init__(self, engines: Engines, poison: str, harm: OnName) -> None:
        super().__init__(engines)
        self._poison = poison
        self._harm = harm

    @asynccontextmanager
    async def prepare(self, claim: Claim) -> AsyncIterator[Check[str, Outcome]]:
        async with super().prepare(claim) as check:

            async def poisoned(names: Sequence[str]) -> Sequence[Outcome]:
                if self._poison in names:
                    await self._harm()
                return await check(names)

            yield poisoned


async def raise_an_error() -> None:
    raise OSError("the name is poison")


async def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def hang() -> None:
    await asyncio.Event().wait()
