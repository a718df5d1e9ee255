"""Takes chunks of one pool from the queue: claim, check, store, acknowledge.

A task is a reference and may be lost, doubled or stale; whether it is to be done is decided by the
claim, whether its results count by the settlement. So every trouble here ends the same way: drop
the work, and the ledger hands it out again. What the check itself fails on is counted; a chunk that
keeps failing is halved until the name it fails on is alone.
"""

import asyncio
import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import nats.errors
import nats.js.errors
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from domainflow.validation.v1 import task_pb2
from services.chassis import jetstream, postgres
from services.validation.attempt import (
    CheckFailed,
    End,
    NotPrepared,
    check_and_settle,
    stored_items,
)
from services.validation.failure import GiveUp, Retry, Split, after_failure, is_suspect
from services.validation.isolation import Isolation
from services.validation.load import LoadMeter
from services.validation.pacing import Pace
from services.validation.pools import WorkerReport
from services.validation.probe import Probe
from services.validation.store import ChunkKey, Claim, Store

log = logging.getLogger(__name__)

# Chunks in hand, unless somebody decides otherwise: bounds nothing that their names do not.
TASK_LIMIT = 10_000
# Name counts for chunks whose claim is under way.
USUAL_CHUNK, EXPRESS_CHUNK = 2000, 250
# How often a worker with work in hand looks whether the probe needs more.
LOOK_PERIOD = 0.02
# Names in hand that express chunks may come to, as a multiple of the limit for others.
EXPRESS_SHARE = 1.25
# A task that nobody has acknowledged or held for this long was lost on its way to a worker that
# ended. Shorter than a lease: whoever gets it meanwhile is refused the claim, and no harm is done.
ACK_WAIT = 6.0
# All claims are held by one statement: a lost one, or a paused phase, is noticed as fast.
HOLD_PERIOD = 1.0
# Seconds before a suspect that nobody here has room for is handed out again.
NO_ROOM_DELAY = 1.0
REPORT_PERIOD = 5.0


class _NotOurTask(Exception):
    """A task of another phase on this pool's subject."""


@dataclass(eq=False, slots=True)
class _Chunk:
    """A chunk in hand. `end` is rescheduled to now when the claim is lost."""

    message: Msg
    # Whether it came past those that wait.
    express: bool
    # As many as usual until claimed.
    names: int
    # None until claimed.
    claim: Claim | None = None
    # Whether its names were handed to the probe, which then knows how many wait; or wait for
    # something else.
    asked: bool = False
    # Whether they were handed over all at once.
    unpaced: bool = False
    # Whether it is to be given back when it ends now.
    unwanted: bool = False
    end: asyncio.Timeout | None = None


class Worker:
    """One process of a pool."""

    def __init__(
        self,
        *,
        store: Store,
        queue: Client,
        probe: Probe[Any, Any],
        worker_id: str,
        host: str,
        pid: int,
        alone: Sequence[str] = (),
        supervised: bool = False,
        report_period: float = REPORT_PERIOD,
    ) -> None:
        """`alone` is the command that makes one attempt in a process of its own; a `supervised`
        worker follows what is decided for its pool."""
        self._store = store
        self._queue = queue
        self._jetstream = queue.jetstream(timeout=2)
        self._probe = probe
        self._worker_id = worker_id
        self._host = host
        self._pid = pid
        self._supervised = supervised
        self._report_period = report_period
        # Chunks in hand at most, but for those that wait for their campaign's pace. To be changed
        # at any time; those in hand are kept.
        self.task_limit = TASK_LIMIT
        self._isolation = Isolation(
            alone or (sys.executable, "-m", "services.validation.alone", probe.pool)
        )
        self._chunks: set[_Chunk] = set()
        # By campaign, and how many chunks in hand go by each.
        self._paces: dict[int, Pace] = {}
        self._paced: Counter[int] = Counter()
        self._settled = 0

    async def work(self) -> None:
        """Run until cancelled; claims are then given back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report())
            group.create_task(self._hold())
            group.create_task(self._probe.attend(self._store, self._worker_id, self._host))
            group.create_task(self._take(group, express=True))
            await self._take(group, express=False)

    async def _take(self, group: asyncio.TaskGroup, *, express: bool) -> None:
        """Take tasks of one subject and begin work on them, for ever."""
        async with contextlib.aclosing(self._messages(express)) as messages:
            async for message in messages:
                chunk = _Chunk(message, express, EXPRESS_CHUNK if express else USUAL_CHUNK)
                # At once: the task itself runs later, and more would be taken meanwhile.
                self._chunks.add(chunk)
                group.create_task(self._handle(chunk))

    async def _messages(self, express: bool) -> AsyncGenerator[Msg, None]:
        """Tasks as the probe needs names, for ever."""
        while True:
            jetstream.raise_if_cancelled()
            try:
                await jetstream.ensure_task_stream(self._jetstream)
                durable = await jetstream.ensure_pool_consumer(
                    self._jetstream,
                    self._probe.pool,
                    ack_wait=ACK_WAIT,
                    max_ack_pending=10_000,
                    express=express,
                )
                pull = await self._jetstream.pull_subscribe_bind(
                    durable=durable, stream=jetstream.TASK_STREAM
                )
                try:
                    async for message in self._pulled(pull, express):
                        yield message
                finally:
                    # Or the next task goes to an inbox that nobody reads.
                    with contextlib.suppress(*jetstream.AWAY):
                        await pull.unsubscribe()
            except jetstream.AWAY as error:
                log.warning("the queue is away: %s: %s", type(error).__name__, error)
                await asyncio.sleep(0.5)

    async def _pulled(
        self, pull: JetStreamContext.PullSubscription, express: bool
    ) -> AsyncIterator[Msg]:
        while True:
            # Also one that came while the queue was asked before, or had nothing to give.
            jetstream.raise_if_cancelled()
            if not self._needs_names(express):
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

    def _needs_names(self, express: bool) -> bool:
        in_hand = sum(chunk.names for chunk in self._chunks)
        # A slow campaign's chunks keep nobody busy, and must not keep other campaigns out.
        busy = len(self._chunks) - sum(pace.waiting for pace in self._paces.values())
        # Chunks that wait for a few slow names must not keep small campaigns out as well.
        limit = self._probe.names_limit * (EXPRESS_SHARE if express else 1)
        if in_hand >= limit or busy >= self.task_limit:
            return False
        on_the_way = sum(chunk.names for chunk in self._chunks if not chunk.asked)
        ahead = on_the_way + self._probe.waiting()
        if express:
            return ahead < 2 * self._probe.names_ahead
        # However many small campaigns there are: a large one goes on too.
        alone = all(chunk.express for chunk in self._chunks)
        return alone or ahead < self._probe.names_ahead

    async def _handle(self, chunk: _Chunk) -> None:
        """One task from claim to acknowledgement. Never raises but for cancellation."""
        try:
            await self._settle_chunk(chunk)
        except asyncio.CancelledError:
            await self._give_back(chunk.message, 0)
            raise
        except (DecodeError, _NotOurTask):
            # It will not read better the next time; its chunk is handed out again.
            log.warning("a task that is not for this pool, or cannot be read, was dropped")
            with contextlib.suppress(*jetstream.AWAY):
                await chunk.message.term()
        except (*postgres.AWAY, *jetstream.AWAY) as error:
            log.warning("chunk dropped: %s: %s", type(error).__name__, error)
            await self._drop(chunk)
        except (CheckFailed, NotPrepared) as error:
            what = chunk.claim.label if chunk.claim else "a chunk"
            # Of a process of its own there is no more to tell.
            log.warning("an attempt failed at %s: %s", what, error, exc_info=error.__cause__)
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
        if task.phase not in self._probe.phases:
            raise _NotOurTask
        key = ChunkKey(task.campaign_no, task.phase, task.run, task.first_position)
        claim = await self._claim(key)
        if claim is not None and is_suspect(claim.lost_count) and self._isolation.is_full:
            # Not hoarded: other workers may have room, and whoever ends this one would make all of
            # them more suspect.
            await self._store.release(claim, NO_ROOM_DELAY)
        elif claim is not None:
            chunk.claim, chunk.names = claim, claim.name_count
            try:
                if await self._attempt(chunk, claim) is End.SETTLED:
                    self._settled += claim.name_count
                    await self._tell(claim)
            except BaseException as error:
                # Also when we are cancelled: whoever comes next need not wait for the lease.
                with contextlib.suppress(*postgres.AWAY, *jetstream.AWAY):
                    await asyncio.shield(self._end_attempt(claim, error))
                raise
        await chunk.message.ack()

    async def _tell(self, claim: Claim) -> None:
        """Say that there is a new event of the claim's campaign."""
        await self._queue.publish(jetstream.EVENT_SUBJECT, str(claim.key.campaign_no).encode())

    async def _end_attempt(self, claim: Claim, error: BaseException) -> None:
        """Give a claim back when we or a part we need go away; count what failed by itself."""
        if isinstance(error, (asyncio.CancelledError, *postgres.AWAY, *jetstream.AWAY)):
            await self._store.release(claim)
            return
        known = isinstance(error, (CheckFailed, NotPrepared))
        cause = str(error) if known else f"{type(error).__name__}: {error}"
        blamed = isinstance(error, CheckFailed)
        match after_failure(claim.failure_count + 1, claim.name_count, names_blamed=blamed):
            case Retry(delay):
                await self._store.fail(claim, cause, delay)
            case Split():
                await self._store.split(claim, cause)
            case GiveUp():
                (item,) = await self._probe.items(self._store, claim)
                name = self._probe.name(item)
                results = self._probe.results(claim, [self._probe.dead_letter(item)])
                if await self._store.give_up(claim, results, name, cause):
                    self._settled += 1
                    log.warning("%s was given up: %s", name, cause)
        await self._tell(claim)

    async def _claim(self, key: ChunkKey) -> Claim | None:
        """Finished once begun: a claim that nobody knows of keeps the chunk for its whole lease."""
        claiming = asyncio.ensure_future(self._store.claim(key, self._worker_id))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            if (claim := await claiming) is not None:
                await self._store.release(claim)
            raise

    async def _attempt(self, chunk: _Chunk, claim: Claim) -> End:
        held = asyncio.timeout(None)
        pace = self._join_pace(claim)
        try:
            async with held:
                chunk.end = held
                chunk.unpaced = pace.rate == 0
                if is_suspect(claim.lost_count):
                    end = await self._attempt_alone(chunk, claim, pace)
                else:
                    items = await stored_items(self._store, self._probe, claim)
                    chunk.asked = True
                    end = await check_and_settle(self._store, self._probe, claim, items, pace)
                if end is End.NOT_OURS:
                    log.warning("refused, since it is not ours any more: %s", claim.label)
                return end
        except TimeoutError:
            # Ours only once `held` was rescheduled; a database that answers late is away.
            if not held.expired():
                raise
            if chunk.unwanted:
                await self._store.release(claim)
            return End.NOT_OURS
        finally:
            chunk.end = None
            self._leave_pace(claim)

    async def _attempt_alone(self, chunk: _Chunk, claim: Claim, pace: Pace) -> End:
        """An attempt that may end its process."""
        # What waits in a child keeps nothing else from being asked about.
        chunk.asked = True
        checking = self._time_limit(claim)

        def time_limit() -> float:
            return checking + (claim.name_count / pace.rate if pace.rate else 0)

        return await self._isolation.attempt(claim, time_limit)

    def _time_limit(self, claim: Claim) -> float:
        try:
            return self._probe.time_limit(claim)
        except Exception as error:
            raise NotPrepared(f"{type(error).__name__}: {error}") from error

    def _join_pace(self, claim: Claim) -> Pace:
        """All chunks in hand of one campaign go by one pace, at the newest rate known."""
        campaign = claim.key.campaign_no
        pace = self._paces.get(campaign)
        if pace is None:
            pace = self._paces[campaign] = Pace(claim.name_rate_limit, time.monotonic())
        pace.rate = claim.name_rate_limit
        self._paced[campaign] += 1
        return pace

    def _leave_pace(self, claim: Claim) -> None:
        campaign = claim.key.campaign_no
        self._paced[campaign] -= 1
        if not self._paced[campaign]:
            del self._paced[campaign], self._paces[campaign]

    async def _hold(self) -> None:
        """Keep claims and tasks alive; end the work on those that are lost."""
        while True:
            jetstream.raise_if_cancelled()
            await asyncio.sleep(HOLD_PERIOD)
            chunks = {chunk.claim: chunk for chunk in self._chunks if chunk.claim and chunk.end}
            try:
                held = await self._store.hold(list(chunks))
                for claim in held.lost:
                    _end_now(chunks[claim])
                if held.lost:
                    some = next(iter(held.lost)).label
                    log.warning("%d chunks are not ours any more, as %s", len(held.lost), some)
                self._follow_rates(held.rates, chunks.values())
                for chunk in chunks.values():
                    if chunk.end is not None:
                        await chunk.message.in_progress()
            # Whatever it was: the lease decides, and this comes again in a second.
            except (asyncpg.PostgresError, *postgres.AWAY, *jetstream.AWAY) as error:
                log.warning("holding waits: %s: %s", type(error).__name__, error)

    def _follow_rates(self, rates: Mapping[int, int], chunks: Iterable[_Chunk]) -> None:
        """Pace what is in hand by the present rates; give back what cannot be paced any more."""
        for campaign, rate in rates.items():
            if (pace := self._paces.get(campaign)) is not None:
                pace.rate = rate
        for chunk in chunks:
            # All its names are with the probe. Whoever hands chunks out knows the limit by now.
            if chunk.claim and chunk.unpaced and rates.get(chunk.claim.key.campaign_no):
                chunk.unwanted = True
                _end_now(chunk)

    async def _report(self) -> None:
        """Tell what was measured, and take the task limit that was decided for our pool."""
        meter, began = LoadMeter(), time.monotonic()
        while True:
            load = meter.measure(
                settled=self._settled,
                in_flight=sum(chunk.names for chunk in self._chunks if chunk.asked),
                task_limit=self.task_limit,
                endpoints=self._probe.endpoints(),
            )
            report = WorkerReport(
                worker_id=self._worker_id,
                pool=self._probe.pool,
                host=self._host,
                pid=self._pid,
                uptime=timedelta(seconds=time.monotonic() - began),
                chunks_in_flight=len(self._chunks),
                settled_count=self._settled,
                load=load,
            )
            with contextlib.suppress(asyncpg.PostgresError, *postgres.AWAY):
                decided = await self._store.pools.report(report)
                if self._supervised and decided is not None:
                    self.task_limit = decided
            await asyncio.sleep(self._report_period)


def _end_now(chunk: _Chunk) -> None:
    # Without an end it was settled or dropped meanwhile.
    if chunk.end is not None:
        chunk.end.reschedule(0)
        chunk.end = None
