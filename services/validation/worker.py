"""Takes chunks from the queue: claim, resolve, store, acknowledge.

A task is a reference and may be lost, doubled or stale; whether it is to be done is decided by the
claim, whether its results count by the settlement. So every failure here ends the same way: drop
the work, and the ledger hands it out again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import asyncpg
import nats.errors
import nats.js.errors
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import task_pb2
from services.chassis import jetstream, postgres
from services.validation.engines import Engines, engine_settings
from services.validation.results import ChunkResults, chunk_results
from services.validation.store import ChunkKey, Claim, Store

log = logging.getLogger(__name__)

POOL = "dns"
# Names in hand, and so the memory a worker needs: some 0.4 kB each. A chunk waits for the last
# attempt of its mute names, 6 s by default; at 75,000 names/s that many are under way meanwhile.
MAX_NAMES = 500_000
# Chunks are taken when fewer names than this are still to be asked about: enough for the time a
# claim takes, few enough that other workers get their share.
AHEAD = 16_000
# A name count for chunks whose claim is under way.
USUAL_CHUNK = 2000
# How often a worker with work in hand looks whether the engine needs more.
LOOK_PERIOD = 0.02
# A task that nobody has acknowledged or held for this long was lost on its way to a worker that
# ended. Shorter than a lease: whoever gets it meanwhile is refused the claim, and no harm is done.
ACK_WAIT = 6.0
# All claims are held by one statement: a lost one, or a paused phase, is noticed as fast.
HOLD_PERIOD = 1.0
REPORT_PERIOD = 5.0
# A settlement whose database is away is tried again for as long as the claim may still be ours.
SETTLE_RETRY = 0.25


@dataclass(eq=False, slots=True)
class _Chunk:
    """A chunk in hand. `end` is rescheduled to now when the claim is lost."""

    message: Msg
    # None until claimed.
    claim: Claim | None = None
    names: int = USUAL_CHUNK
    # Whether its names were handed to the engine, which then knows how many wait.
    asked: bool = False
    end: asyncio.Timeout | None = None


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
        self._chunks: set[_Chunk] = set()
        self._settled = 0

    async def work(self) -> None:
        """Run until cancelled; claims are then given back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report())
            group.create_task(self._hold())
            async with contextlib.aclosing(self._messages()) as messages:
                async for message in messages:
                    chunk = _Chunk(message)
                    # At once: the task itself runs later, and more would be taken meanwhile.
                    self._chunks.add(chunk)
                    group.create_task(self._handle(chunk))

    async def _messages(self) -> AsyncGenerator[Msg, None]:
        """Tasks as the engine needs names, for ever."""
        while True:
            try:
                await jetstream.ensure_task_stream(self._jetstream)
                durable = await jetstream.ensure_pool_consumer(
                    self._jetstream, POOL, ack_wait=ACK_WAIT, max_ack_pending=10_000
                )
                pull = await self._jetstream.pull_subscribe_bind(
                    durable=durable, stream=jetstream.TASK_STREAM
                )
                try:
                    async for message in self._pulled(pull):
                        yield message
                finally:
                    # Or the next task goes to an inbox that nobody reads.
                    with contextlib.suppress(*jetstream.AWAY):
                        await pull.unsubscribe()
            except jetstream.AWAY as error:
                log.warning("the queue is away: %s: %s", type(error).__name__, error)
                await asyncio.sleep(0.5)

    async def _pulled(self, pull: JetStreamContext.PullSubscription) -> AsyncIterator[Msg]:
        while True:
            if not self._needs_names():
                await asyncio.sleep(LOOK_PERIOD)
                continue
            # One at a time: a larger batch waits for its last message.
            with contextlib.suppress(nats.errors.TimeoutError):
                (message,) = await pull.fetch(1, timeout=5)
                try:
                    jetstream.raise_if_cancelled()
                except asyncio.CancelledError:
                    await self._give_back(message, 0)
                    raise
                yield message

    def _needs_names(self) -> bool:
        in_hand = sum(chunk.names for chunk in self._chunks)
        if in_hand >= MAX_NAMES:
            return False
        on_the_way = sum(chunk.names for chunk in self._chunks if not chunk.asked)
        return on_the_way + self._engines.waiting() < AHEAD

    async def _handle(self, chunk: _Chunk) -> None:
        """One task from claim to acknowledgement. Never raises but for cancellation."""
        try:
            await self._settle_chunk(chunk)
        except asyncio.CancelledError:
            await self._give_back(chunk.message, 0)
            raise
        except DecodeError:
            # It will not read better the next time; its chunk is handed out again.
            log.warning("a task that cannot be read was dropped")
            with contextlib.suppress(*jetstream.AWAY):
                await chunk.message.term()
        except (*postgres.AWAY, *jetstream.AWAY) as error:
            log.warning("chunk dropped: %s: %s", type(error).__name__, error)
            await self._drop(chunk)
        except Exception:
            log.exception("chunk failed")
            await self._drop(chunk)
        finally:
            self._chunks.discard(chunk)

    async def _drop(self, chunk: _Chunk) -> None:
        """Leave a chunk that failed to the ledger."""
        if chunk.claim is None:
            await self._give_back(chunk.message)
            return
        # A claim that ended without results is handed out again with a task of its own: of a chunk
        # that always fails, each attempt would leave one more on the queue.
        with contextlib.suppress(*jetstream.AWAY):
            await chunk.message.ack()

    async def _give_back(self, message: Msg, delay: float = 2) -> None:
        """Let somebody have the task again, `delay` seconds from now."""
        with contextlib.suppress(*jetstream.AWAY):
            await message.nak(delay=delay or None)

    async def _settle_chunk(self, chunk: _Chunk) -> None:
        task = task_pb2.ChunkTask.FromString(chunk.message.data)
        key = ChunkKey(task.campaign_no, task.phase, task.run, task.first_position)
        claim = await self._claim(key)
        if claim is not None:
            chunk.claim, chunk.names = claim, claim.name_count
            try:
                if await self._resolve_and_settle(chunk, claim):
                    self._settled += claim.name_count
                    await self._queue.publish(
                        jetstream.EVENT_SUBJECT, str(claim.key.campaign_no).encode()
                    )
            except BaseException as error:
                # Also when we are cancelled: whoever comes next need not wait for the lease.
                with contextlib.suppress(*postgres.AWAY):
                    await asyncio.shield(self._end_attempt(claim, error))
                raise
        await chunk.message.ack()

    async def _end_attempt(self, claim: Claim, error: BaseException) -> None:
        """Give a claim back: at once when we or a part we need go away, later when it failed."""
        if isinstance(error, (asyncio.CancelledError, *postgres.AWAY, *jetstream.AWAY)):
            await self._store.release(claim)
        else:
            await self._store.fail(claim, f"{type(error).__name__}: {error}")

    async def _claim(self, key: ChunkKey) -> Claim | None:
        """Finished once begun: a claim that nobody knows of keeps the chunk for its whole lease."""
        claiming = asyncio.ensure_future(self._store.claim(key, self._worker_id))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            if (claim := await claiming) is not None:
                await self._store.release(claim)
            raise

    async def _resolve_and_settle(self, chunk: _Chunk, claim: Claim) -> bool:
        """Whether the chunk's results were stored by us."""
        held = asyncio.timeout(None)
        try:
            async with held:
                chunk.end = held
                names = await self._store.names(claim)
                dns = campaign_pb2.CampaignConfiguration.FromString(claim.configuration).dns
                async with self._engines.use(dns.resolvers, engine_settings(dns)) as engine:
                    chunk.asked = True
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
            chunk.end = None

    async def _settle(self, claim: Claim, results: ChunkResults) -> bool:
        """Store, however often the database goes away meanwhile; the fence counts it once."""
        while True:
            try:
                return await self._store.settle(claim, results)
            except postgres.AWAY as error:
                log.warning("settling waits: %s: %s", type(error).__name__, error)
                await asyncio.sleep(SETTLE_RETRY)

    async def _hold(self) -> None:
        """Keep claims and tasks alive; end the work on those that are lost."""
        while True:
            await asyncio.sleep(HOLD_PERIOD)
            chunks = {chunk.claim: chunk for chunk in self._chunks if chunk.claim and chunk.end}
            try:
                lost = await self._store.hold(list(chunks))
                for claim in lost:
                    # Without an end it was settled or dropped meanwhile.
                    if (end := chunks[claim].end) is not None:
                        chunks[claim].end = None
                        end.reschedule(0)
                for chunk in chunks.values():
                    if chunk.end is not None:
                        await chunk.message.in_progress()
            # Whatever it was: the lease decides, and this comes again in a second.
            except (asyncpg.PostgresError, *postgres.AWAY, *jetstream.AWAY) as error:
                log.warning("holding waits: %s: %s", type(error).__name__, error)

    async def _report(self) -> None:
        while True:
            with contextlib.suppress(asyncpg.PostgresError, *postgres.AWAY):
                await self._store.report(
                    self._worker_id,
                    POOL,
                    self._host,
                    self._pid,
                    len(self._chunks),
                    self._settled,
                )
            await asyncio.sleep(REPORT_PERIOD)
