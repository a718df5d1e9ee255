"""Takes chunks from the queue: claim, resolve, store, acknowledge.

A task is a reference and may be lost, doubled or stale; whether it is to be done is decided by the
claim, whether its results count by the settlement. So every failure here ends the same way: drop
the work, and the ledger hands it out again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import task_pb2
from services.chassis import jetstream, postgres
from services.validation.engines import Engines, engine_settings
from services.validation.results import ChunkResults, chunk_results
from services.validation.store import ChunkKey, Claim, Store

log = logging.getLogger(__name__)

POOL = "dns"
# Chunks in work at once. A chunk with mute names waits for its last attempt, 6 s by default, so
# it takes many to keep the engine's window full; their names are what a worker holds in memory.
MAX_CHUNKS = 48
ACK_WAIT = 20.0
HOLD_PERIOD = 1.0
REPORT_PERIOD = 5.0
# A settlement whose database is away is tried again for as long as the claim may still be ours.
SETTLE_RETRY = 0.25


class Worker:
    """One process of the DNS pool."""

    def __init__(
        self, *, store: Store, queue: Client, engines: Engines, worker_id: str, host: str, pid: int
    ) -> None:
        self._store = store
        self._queue = queue
        self._jetstream = queue.jetstream(timeout=2)
        self._engines = engines
        self._worker_id = worker_id
        self._host = host
        self._pid = pid
        self._slots = asyncio.Semaphore(MAX_CHUNKS)
        self._in_flight = 0
        self._settled = 0

    async def work(self) -> None:
        """Run until cancelled; claims are then given back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report())
            async for message in self._messages():
                group.create_task(self._handle(message))

    async def _messages(self) -> AsyncIterator[Msg]:
        """Tasks as slots become free, for ever; whoever takes one has its slot."""
        while True:
            try:
                await jetstream.ensure_task_stream(self._jetstream)
                durable = await jetstream.ensure_pool_consumer(
                    self._jetstream, POOL, ack_wait=ACK_WAIT, max_ack_pending=10_000
                )
                pull = await self._jetstream.pull_subscribe_bind(
                    durable=durable, stream=jetstream.TASK_STREAM
                )
                while True:
                    await self._slots.acquire()
                    try:
                        (message,) = await pull.fetch(1, timeout=5)
                    except BaseException as error:
                        self._slots.release()
                        if not isinstance(error, nats.errors.TimeoutError):
                            raise
                    else:
                        yield message
            except jetstream.AWAY as error:
                log.warning("the queue is away: %s: %s", type(error).__name__, error)
                await asyncio.sleep(0.5)

    async def _handle(self, message: Msg) -> None:
        """One task from claim to acknowledgement. Never raises but for cancellation."""
        self._in_flight += 1
        try:
            await self._settle_chunk(message)
        except (*postgres.AWAY, *jetstream.AWAY) as error:
            log.warning("chunk dropped: %s: %s", type(error).__name__, error)
            await self._give_back(message)
        except Exception:
            log.exception("chunk failed")
            await self._give_back(message)
        finally:
            self._in_flight -= 1
            self._slots.release()

    async def _give_back(self, message: Msg) -> None:
        with contextlib.suppress(*jetstream.AWAY):
            await message.nak(delay=2)

    async def _settle_chunk(self, message: Msg) -> None:
        task = task_pb2.ChunkTask.FromString(message.data)
        key = ChunkKey(task.campaign_no, task.phase, task.run, task.first_position)
        claim = await self._store.claim(key, self._worker_id)
        if claim is not None:
            try:
                if await self._resolve_and_settle(claim, message):
                    self._settled += claim.name_count
                    await self._queue.publish(
                        jetstream.EVENT_SUBJECT, str(claim.key.campaign_no).encode()
                    )
            except BaseException:
                # Also when we are cancelled: whoever comes next need not wait for the lease.
                with contextlib.suppress(*postgres.AWAY):
                    await asyncio.shield(self._store.release(claim))
                raise
        await message.ack()

    async def _resolve_and_settle(self, claim: Claim, message: Msg) -> bool:
        """Whether the chunk's results were stored by us."""
        held = asyncio.timeout(None)
        holder = asyncio.create_task(self._hold(claim, message, held))
        try:
            async with held:
                names = await self._store.names(claim)
                dns = campaign_pb2.CampaignConfiguration.FromString(claim.configuration).dns
                async with self._engines.use(dns.resolvers, engine_settings(dns)) as engine:
                    outcomes = await engine.resolve(names)
                results = chunk_results(
                    claim.key.campaign_no,
                    claim.key.run,
                    claim.key.first_position,
                    outcomes,
                    time.time_ns() // 1000,
                )
                return await self._settle(claim, results)
        except TimeoutError:
            # Ours only once `held` was rescheduled; a database that answers late is away.
            if not held.expired():
                raise
            return False
        finally:
            holder.cancel()

    async def _settle(self, claim: Claim, results: ChunkResults) -> bool:
        """Store, however often the database goes away meanwhile; the fence counts it once."""
        while True:
            try:
                return await self._store.settle(claim, results)
            except postgres.AWAY as error:
                log.warning("settling waits: %s: %s", type(error).__name__, error)
                await asyncio.sleep(SETTLE_RETRY)

    async def _hold(self, claim: Claim, message: Msg, held: asyncio.Timeout) -> None:
        """Keep claim and task alive; end the work when the claim is lost."""
        while True:
            await asyncio.sleep(HOLD_PERIOD)
            try:
                if not await self._store.hold(claim):
                    held.reschedule(0)
                    return
                await message.in_progress()
            except (*postgres.AWAY, *jetstream.AWAY) as error:
                log.warning("holding waits: %s: %s", type(error).__name__, error)

    async def _report(self) -> None:
        while True:
            with contextlib.suppress(*postgres.AWAY):
                await self._store.report(
                    self._worker_id,
                    POOL,
                    self._host,
                    self._pid,
                    self._in_flight,
                    self._settled,
                )
            await asyncio.sleep(REPORT_PERIOD)
