"""Moves running phases on: starts generators, plans ledgers, hands chunks to the queue no faster
than they settle,
takes back what was lost, completes what is done. Everything it knows stands in the tables; the
queue may vanish at any time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

import nats.js.errors
from nats.aio.client import Client

from domainflow.validation.v1 import task_pb2
from services.campaign.campaign import Phase
from services.campaign.configuration import chunk_size, pattern_range
from services.campaign.generation import generate
from services.campaign.ledger import ChunkKey
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.chassis import jetstream, postgres

log = logging.getLogger(__name__)

# Phases whose chunks go to a pool of workers.
POOLS = {Phase.DNS_VALIDATION: "dns"}
# Chunks that wait on the queue unclaimed: enough that no worker runs dry within a round, few enough
# that a change of priority or a pause is felt at once.
WAITING_TARGET = 64
ROUND = 0.2
# How long a chunk may wait on the queue before anybody asks whether its task still exists.
QUEUE_LEASE = timedelta(seconds=30)
QUEUE_GRACE = timedelta(seconds=2)
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

    def __init__(self, *, store: Store, queue: Client) -> None:
        self._store = store
        self._queue = queue
        self._jetstream = queue.jetstream(timeout=2)
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
                try:
                    await self._round(group)
                except (*postgres.AWAY, *jetstream.AWAY) as error:
                    log.warning("dispatching waits: %s: %s", type(error).__name__, error)
                    await asyncio.sleep(0.5)
                try:
                    async with asyncio.timeout(ROUND):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    def _chores(self) -> tuple[Chore, ...]:
        """What is done beside the rounds, each in a loop of its own. Add yours here."""
        return (
            Chore("requests", FORGET_PERIOD, self._forget_requests),
            Chore("uploaded names", FORGET_PERIOD, self._forget_uploaded),
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

    async def _round(self, group: asyncio.TaskGroup) -> None:
        pooled = []
        for running in await self._store.ledger.running_phases():
            try:
                if await self._move(group, running):
                    pooled.append(running)
            except (*postgres.AWAY, *jetstream.AWAY):
                raise
            except Exception as error:
                await self._fail(running, error)
        await self._store.ledger.take_back_expired()
        await self._hand_out(pooled)

    async def _move(self, group: asyncio.TaskGroup, running: RunningPhase) -> bool:
        """Do what can be done for one phase here; True when it has chunks for the workers."""
        if running.phase is not Phase.DOMAIN_GENERATION:
            return await self._has_work(running)
        if running.planned:
            await self._store.ledger.complete(running)
        elif running.campaign_no not in self._generators and pattern_range(running.configuration):
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
                source = pattern_range(running.configuration)
                assert source is not None
                await generate(self._store, running, *source)
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

    async def _has_work(self, running: RunningPhase) -> bool:
        """Plan the ledger first, complete the phase last; in between there is work."""
        if not running.planned:
            size = chunk_size(running.configuration)
            await self._store.ledger.plan(running, running.campaign_name_count, size)
            return True
        if await self._store.ledger.has_open_chunk(running):
            return True
        await self._store.ledger.complete(running)
        self.wake()
        return False

    async def _hand_out(self, phases: list[RunningPhase]) -> None:
        if not phases:
            return
        # The queue is counted before the tables: tasks only leave it in between, so a shortage is
        # real.
        on_queue = await self._count_tasks()
        _, unclaimed = await self._store.ledger.waiting_tasks()
        if on_queue < unclaimed:
            lost = await self._store.ledger.take_back_lost(QUEUE_LEASE - QUEUE_GRACE)
            if lost:
                log.warning("the queue lost %d tasks; handing them out again", lost)
                unclaimed -= lost
        if unclaimed > WAITING_TARGET // 2:
            return
        share = ceil((WAITING_TARGET - unclaimed) / len(phases))
        for key in await self._store.ledger.hand_out(phases, share, QUEUE_LEASE):
            await self._publish(key)

    async def _count_tasks(self) -> int:
        try:
            info = await self._jetstream.stream_info(jetstream.TASK_STREAM)
        except nats.js.errors.NotFoundError:
            await jetstream.ensure_task_stream(self._jetstream)
            return 0
        return info.state.messages

    async def _publish(self, key: ChunkKey) -> None:
        """Publish a reference to a chunk. Should it get lost, `_hand_out` notices."""
        task = task_pb2.ChunkTask(
            campaign_no=key.campaign_no,
            phase=key.phase,
            run=key.run,
            first_position=key.first_position,
        )
        subject = jetstream.task_subject(POOLS[Phase(key.phase)])
        await self._jetstream.publish(subject, task.SerializeToString())
