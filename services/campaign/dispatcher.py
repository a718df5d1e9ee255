"""Moves running phases on: starts generators, keeps the workers supplied, completes what is done.
Everything it knows stands in the tables.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from nats.aio.client import Client

from services.campaign.campaign import Phase
from services.campaign.configuration import has_pattern
from services.campaign.generation import generate
from services.campaign.ledger import POOLS, Work
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.campaign.supply import Supply
from services.chassis import jetstream, postgres

log = logging.getLogger(__name__)

# A round comes this long after the one before, s, when nobody wakes it; sooner while a queue may
# run dry.
ROUND, SOON = 0.2, 0.05
# Between two rounds there is at least this: what wakes it comes with every chunk. After a long one
# as long as it took, and a quarter of that after a short one: every step of a small campaign waits
# for a round, and for the pause before it.
PAUSE, LONG = 0.02, 0.1
REQUEST_AGE = timedelta(hours=24)
FORGET_PERIOD = 60.0
FORGET_PORTION = 50_000
# Characters of a failure that are kept: it is told in events, which are short.
MAX_FAILURE = 300


@dataclass(frozen=True, slots=True)
class Chore:
    """Housekeeping in portions that nobody has to wait for.

    `do` does one portion and says whether there is more to do at once; otherwise it is called again
    after `period` seconds. It may fail: it is logged, and tried again a period later.
    """

    what: str
    period: float
    do: Callable[[], Awaitable[bool]]


class Dispatcher:
    """One per campaign service. Several at once do no harm: every step is decided by a row."""

    def __init__(
        self,
        *,
        store: Store,
        queue: Client,
        replicas: int = 1,
        event_retention: timedelta | None = None,
    ) -> None:
        """`replicas` of the queue's stream: 1, or 3 and more in a cluster of NATS servers. Events
        of campaigns that are over are dropped after `event_retention`; None keeps them."""
        self._store = store
        self._event_retention = event_retention
        self._supply = Supply(
            store, queue.jetstream(timeout=2), replicas=replicas, failed=self._fail
        )
        self._generators: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something changed: look at once."""
        self._wake.set()

    async def dispatch(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            for chore in self._chores():
                group.create_task(self._keep_house(chore))
            while True:
                jetstream.raise_if_cancelled()
                self._wake.clear()
                begun, soon = time.monotonic(), False
                try:
                    soon = await self._round(group)
                except (*postgres.AWAY, *jetstream.AWAY) as error:
                    log.warning("dispatching waits: %s: %s", type(error).__name__, error)
                    await asyncio.sleep(0.5)
                await asyncio.sleep(_pause(time.monotonic() - begun))
                try:
                    async with asyncio.timeout(SOON if soon else ROUND):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    def _chores(self) -> tuple[Chore, ...]:
        """What is done beside the rounds, each in a loop of its own. Add yours here."""
        return (
            Chore("requests", FORGET_PERIOD, self._forget_requests),
            Chore("uploaded names", FORGET_PERIOD, self._forget_uploaded),
            Chore("old events", FORGET_PERIOD, self._forget_events),
        )

    async def _keep_house(self, chore: Chore) -> None:
        """Do one chore again and again, for ever."""
        while True:
            more = False
            try:
                more = await chore.do()
            except postgres.AWAY as error:
                log.warning("%s wait: %s: %s", chore.what, type(error).__name__, error)
            except Exception:
                log.exception("%s", chore.what)
            jetstream.raise_if_cancelled()
            if not more:
                await asyncio.sleep(chore.period)

    async def _forget_requests(self) -> bool:
        await self._store.forget_requests(REQUEST_AGE)
        return False

    async def _forget_uploaded(self) -> bool:
        return bool(await self._store.names.forget_uploaded(FORGET_PORTION))

    async def _forget_events(self) -> bool:
        if self._event_retention is None:
            return False
        history, age = self._store.history, self._event_retention
        dropped = await history.forget_events(age, FORGET_PORTION)
        return bool(dropped + await history.forget_system_events(age, FORGET_PORTION))

    async def _round(self, group: asyncio.TaskGroup) -> bool:
        """Do what can be done now. True when the next round should come soon."""
        works = []
        for work in await self._store.ledger.survey():
            try:
                if await self._move(group, work):
                    works.append(work)
            except (*postgres.AWAY, *jetstream.AWAY):
                raise
            except Exception as error:
                await self._fail(work.running, error)
        return await self._supply.supply(works)

    async def _move(self, group: asyncio.TaskGroup, work: Work) -> bool:
        """Do what can be done for one phase here; True when it is for the workers."""
        running = work.running
        if running.planned and not work.has_open:
            if await self._store.ledger.complete(running):
                self.wake()
        elif running.phase in POOLS:
            return True
        elif (
            running.phase is Phase.DOMAIN_GENERATION
            and running.campaign_no not in self._generators
            and has_pattern(running.configuration)
        ):
            task = group.create_task(self._generate(running))
            self._generators[running.campaign_no] = task
        return False

    async def _fail(self, running: RunningPhase, error: Exception) -> None:
        """A fault in one campaign must not stop the others; its phase says what happened."""
        log.error("%s of campaign %s", running.phase.name, running.campaign_id, exc_info=error)
        await self._store.ledger.fail(running, f"{type(error).__name__}: {error}"[:MAX_FAILURE])

    async def _generate(self, running: RunningPhase) -> None:
        try:
            try:
                await generate(self._store, running)
            except postgres.AWAY:
                raise
            except Exception as error:
                await self._fail(running, error)
        except postgres.AWAY as error:
            # Also when the failure could not be written down: the next round comes to it again.
            log.warning("generation waits: %s: %s", type(error).__name__, error)
        finally:
            del self._generators[running.campaign_no]
            self.wake()


def _pause(took: float) -> float:
    return max(PAUSE, took if took >= LONG else took / 4)
