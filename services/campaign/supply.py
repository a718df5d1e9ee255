"""Keeps the queue of every worker pool supplied: plans chunks as they are needed, shares them out,
and takes back what was lost. Everything it knows stands in the tables; the queue may vanish at any
time, and what is remembered here may too.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import nats.js.errors
from google.protobuf.message import DecodeError
from nats.js import JetStreamContext

from domainflow.validation.v1 import task_pb2
from services.campaign import chunking
from services.campaign.campaign import Phase
from services.campaign.candidates import SOURCES
from services.campaign.chunking import Load
from services.campaign.configuration import chunk_size
from services.campaign.events import chunk_size_decided
from services.campaign.leases import Delays, Leases, Stillness
from services.campaign.ledger import POOLS, ChunkKey, Offer, Work, WorkerReport
from services.campaign.rows import RunningPhase
from services.campaign.share import (
    EXPRESS_NAMES,
    WEIGHTS,
    Bucket,
    Candidate,
    Throughput,
    Turns,
    choose,
    depth,
    is_small,
)
from services.campaign.store import Store
from services.chassis import jetstream, postgres

log = logging.getLogger(__name__)

# What waits on a queue before its workers' throughput is known, in names.
LEAST_DEPTH = {"dns": 4_000, "http": 1_000, "analysis": 10_000}
# What the size of a chunk stays within.
LIMITS = {"dns": chunking.DNS, "http": chunking.HTTP, "analysis": chunking.STORED}
# How often everything that is handed out is looked at, and the queue is counted, s.
LOOK_PERIOD = 1.0
# Chunks that wait for their time are looked at in every round, or as often as it takes a twentieth
# of the time: thousands may have been set aside.
DELAYS_REST = 20
# A worker that reports every 5 s and has not for this long does not count, s.
WORKER_SILENCE = 15.0
# Chunks that are read from the ledger in one round, and the most campaigns they are of: those that
# are next in line.
OFFERS, CAMPAIGNS = 512, 128
# Ledgers that are planned further in one round, and how many of them at once.
PLANS, PLANS_AT_ONCE = 16, 4
# Tasks that are published before the first of them has to be acknowledged.
PUBLISHED_AT_ONCE = 64
# When a dispatcher of the version before may take a chunk back that nobody has claimed.
QUEUE_LEASE = timedelta(seconds=30)


@dataclass(slots=True)
class _Pool:
    """What is known of one worker pool: what its workers say, and how fast they take names."""

    throughput: Throughput = field(default_factory=Throughput)
    # Names per second that the workers take when they have enough to do; 0 while unknown.
    capacity: float = 0.0
    # Whether its queue was empty since the last look: then its workers could have done more.
    ran_dry: bool = True
    workers: int = 0
    loss: float = 0.0
    latency: float = 0.0

    def measure(self) -> None:
        """Take the throughput since the last look for what the workers are capable of."""
        if not self.ran_dry:
            self.capacity = self.throughput.rate
        elif self.capacity:
            self.capacity = max(self.capacity, self.throughput.rate)
        self.ran_dry = False

    def load(self, names_left: int, name_rate_limit: int) -> Load:
        return Load(
            names_left=names_left,
            workers=self.workers,
            names_per_second=self.capacity,
            loss=self.loss,
            latency=self.latency,
            name_rate_limit=name_rate_limit,
        )


class Supply:
    """The queues of all pools. `failed` is told of a campaign whose ledger cannot be planned."""

    def __init__(
        self,
        store: Store,
        queue: JetStreamContext,
        *,
        replicas: int,
        failed: Callable[[RunningPhase, Exception], Awaitable[None]],
    ) -> None:
        self._ledger = store.ledger
        self._jetstream = queue
        self._replicas = replicas
        # Whether it was logged that the queue cannot have them.
        self._short_of_replicas = False
        self._failed = failed
        self._pools = {pool: _Pool() for pool in POOLS.values()}
        self._leases: Leases[ChunkKey] = Leases()
        self._delays: Delays[ChunkKey] = Delays()
        self._reports: Stillness[str] = Stillness()
        self._buckets: dict[tuple[int, int, int], Bucket] = {}
        self._turns: Turns[tuple[int, int, int]] = Turns()
        self._looked = self._delays_due = float("-inf")

    async def supply(self, works: Sequence[Work]) -> bool:
        """One round over all phases that workers work on. True when the next should come soon."""
        now = time.monotonic()
        if now - self._looked >= LOOK_PERIOD:
            self._looked = now
            await self._look(works)
        await self._end_delays()
        self._fill_buckets(works)
        self._turns.keep([_run(work.running) for work in works])
        soon = False
        for pool in self._pools:
            of_pool = [work for work in works if POOLS[work.running.phase] == pool]
            if await self._hand_out(pool, of_pool):
                soon = True
        return soon

    # What was lost comes back.

    async def _look(self, works: Sequence[Work]) -> None:
        # The queue is counted before the tables: tasks only leave it in between, so a shortage is
        # real.
        on_queue = await self._count_tasks()
        self._leases.look(time.monotonic(), await self._ledger.queued())
        claims: dict[tuple[int, int, int], list[ChunkKey]] = {}
        lost = {each.key: each for each in self._leases.lost_claims()}
        for key in lost:
            claims.setdefault((key.campaign_no, key.phase, key.run), []).append(key)
        running = {_run(work.running): work.running for work in works}
        for run, keys in claims.items():
            await self._ledger.take_back_claims(running.get(run), [lost[key] for key in keys])
        if tasks := self._leases.lost_tasks(on_queue):
            taken = await self._ledger.take_back_tasks(tasks)
            if taken:
                log.warning("the queue lost %d tasks; handing them out again", taken)
        self._take_reports(await self._ledger.workers())

    async def _count_tasks(self) -> dict[str, int]:
        """Tasks of each subject that are not acknowledged."""
        try:
            info = await self._jetstream.stream_info(
                jetstream.TASK_STREAM, subjects_filter=f"{jetstream.TASK_SUBJECT}.>"
            )
        except nats.js.errors.NotFoundError:
            await jetstream.ensure_task_stream(self._jetstream, replicas=self._replicas)
            return {}
        if info.config.num_replicas != self._replicas:
            await self._change_replicas(info.config.num_replicas)
        return dict(info.state.subjects or {})

    async def _change_replicas(self, present: int | None) -> None:
        """Ask for as many copies of the queue as are wanted. What there is will do until then: a
        cluster may have too few servers up."""
        try:
            await jetstream.ensure_task_stream(self._jetstream, replicas=self._replicas)
        except nats.js.errors.APIError as error:
            if not self._short_of_replicas:
                what = "the queue keeps %s copies and not %d: %s"
                log.warning(what, present, self._replicas, error.description)
            self._short_of_replicas = True
        else:
            self._short_of_replicas = False

    def _take_reports(self, reports: Sequence[WorkerReport]) -> None:
        """What the workers that are alive say of themselves."""
        self._reports.look(time.monotonic(), {each.worker_id: each.mark for each in reports})
        for name, pool in self._pools.items():
            loads = [
                _load(each)
                for each in reports
                if each.pool == name and self._reports.age(each.worker_id) < WORKER_SILENCE
            ]
            pool.workers = len(loads)
            pool.measure()
            weights = [(load, max(load.names_per_second, 1e-9)) for load in loads]
            total = sum(weight for _, weight in weights) or 1.0
            pool.loss = sum(load.loss * weight for load, weight in weights) / total
            pool.latency = sum(load.latency_us * weight for load, weight in weights) / total / 1e6

    async def _end_delays(self) -> None:
        begun = time.monotonic()
        if begun < self._delays_due:
            return
        delayed = await self._ledger.delayed()
        due = self._delays.look(time.monotonic(), delayed)
        if due:
            await self._ledger.end_delays({key: delayed[key][0] for key in due})
        took = time.monotonic() - begun
        self._delays_due = begun + min(DELAYS_REST * took, LOOK_PERIOD)

    # What is ready goes out.

    def _fill_buckets(self, works: Sequence[Work]) -> None:
        """Let every limited campaign have what the time since the last round has brought it."""
        now = time.monotonic()
        before, self._buckets = self._buckets, {}
        for work in works:
            if work.name_rate_limit:
                run = _run(work.running)
                bucket = self._buckets[run] = before.get(run) or Bucket(now, work.out)
                bucket.look(now, work.name_rate_limit, work.out)

    async def _hand_out(self, name: str, works: Sequence[Work]) -> bool:
        """Fill the pool's queue. True when it may run dry before the next ordinary round."""
        pool = self._pools[name]
        waiting = sum(work.unclaimed for work in works)
        pool.throughput.look(time.monotonic(), waiting)
        pool.ran_dry |= waiting == 0
        enough = self._depth(name, 0.0)
        room = enough - waiting
        works = [work for work in works if self._may_have_more(work)]
        full = room <= 0
        if full:
            # Not without an end, or those that wait would be kept there by newcomers.
            room = min(EXPRESS_NAMES, 2 * enough - waiting)
            works = [work for work in works if is_small(work.running.campaign_name_count)]
        if room <= 0 or not works:
            return False
        works = sorted(works, key=self._place)[:CAMPAIGNS]
        offers = await self._offers(pool, works, room)
        sizes = [offer.name_count for each in offers for offer in each]
        if sizes and not full:
            room = self._depth(name, sum(sizes) / len(sizes)) - waiting
        chosen = choose(
            [
                self._candidate(work, [offer.name_count for offer in each])
                for work, each in zip(works, offers, strict=True)
            ],
            room,
        )
        lines = [iter(each) for each in offers]
        turns = [(next(lines[i]), works[i]) for i in chosen]
        queued = set(await self._ledger.queue([offer.key for offer, _ in turns], QUEUE_LEASE))
        turns = [(offer, work) for offer, work in turns if offer.key in queued]
        for offer, work in turns:
            pool.throughput.put(offer.name_count)
            self._turns.take(_run(work.running), offer.name_count, WEIGHTS[work.priority])
            if bucket := self._buckets.get(_run(work.running)):
                bucket.take(offer.name_count)
        await self._publish(
            [(offer.key, is_small(work.running.campaign_name_count)) for offer, work in turns]
        )
        # It was more than half empty; or more is ready than one round reads.
        return room > waiting or len(turns) == len(sizes) > 0

    def _depth(self, name: str, chunk_names: float) -> int:
        pool = self._pools[name]
        least = LEAST_DEPTH.get(name, 1)
        return depth(pool.throughput.rate, pool.workers, chunk_names, least)

    def _may_have_more(self, work: Work) -> bool:
        bucket = self._buckets.get(_run(work.running))
        if bucket is not None and bucket.tokens < 0:
            return False
        return work.has_offer or not work.running.planned

    def _candidate(self, work: Work, chunks: Sequence[int]) -> Candidate:
        bucket = self._buckets.get(_run(work.running))
        tokens = float("inf") if bucket is None else bucket.tokens
        served = self._turns.served(_run(work.running))
        return Candidate(WEIGHTS[work.priority], work.in_flight, chunks, tokens, served)

    def _place(self, work: Work) -> tuple[float, float]:
        """Who is next in line, as `choose` sees it."""
        served = self._turns.served(_run(work.running))
        return work.in_flight / WEIGHTS[work.priority], served

    async def _offers(self, pool: _Pool, works: Sequence[Work], room: int) -> list[list[Offer]]:
        """The next chunks of each campaign, planned where the ledger has too few of them."""
        limit = max(OFFERS // len(works), 4)
        offers = await self._ledger.offers([work.running for work in works], limit)
        short = [
            i
            for i, (work, each) in enumerate(zip(works, offers, strict=True))
            if not work.running.planned
            and len(each) < limit
            and sum(offer.name_count for offer in each) < room
        ][:PLANS]
        at_once = asyncio.Semaphore(PLANS_AT_ONCE)

        async def plan(i: int) -> None:
            async with at_once:
                offers[i] += await self._plan(pool, works[i], room, len(works))

        await _together(map(plan, short))
        return offers

    async def _plan(self, pool: _Pool, work: Work, room: int, campaigns: int) -> list[Offer]:
        """Plan the next portion of one ledger; a fault there stops no other campaign."""
        running = work.running
        try:
            outlook = await self._ledger.outlook(running)
            present = outlook.chunk_size
            load = pool.load(outlook.names_left, work.name_rate_limit)
            size, decided = chunk_size(running.configuration, running.phase), None
            if not size:
                limits = LIMITS[POOLS[running.phase]]
                decision = chunking.chunk_size(load, present, limits)
                size = decision.size
                if size != present:
                    decided = chunk_size_decided(
                        running.phase, running.run, size, present, decision.reason
                    )
            count = chunking.portion(load, size, room, campaigns)
            if running.phase in SOURCES:
                return await self._ledger.plan_candidates(running, size, count, decided)
            return await self._ledger.plan(running, outlook.name_count, size, count, decided)
        except (*jetstream.AWAY, *postgres.AWAY):
            raise
        except Exception as error:
            await self._failed(running, error)
            return []

    async def _publish(self, tasks: Sequence[tuple[ChunkKey, bool]]) -> None:
        """Publish references to chunks, express or not. Should one get lost, `_look` notices."""
        for first in range(0, len(tasks), PUBLISHED_AT_ONCE):
            some = tasks[first : first + PUBLISHED_AT_ONCE]
            await _together(self._publish_one(key, express) for key, express in some)

    async def _publish_one(self, key: ChunkKey, express: bool) -> None:
        task = task_pb2.ChunkTask(
            campaign_no=key.campaign_no,
            phase=key.phase,
            run=key.run,
            first_position=key.first_position,
        )
        subject = jetstream.task_subject(POOLS[Phase(key.phase)], express=express)
        await self._jetstream.publish(subject, task.SerializeToString())


def _run(running: RunningPhase) -> tuple[int, int, int]:
    return running.campaign_no, running.phase, running.run


def _load(report: WorkerReport) -> task_pb2.WorkerLoad:
    """What a worker says of itself; nothing, when it cannot be read."""
    try:
        return task_pb2.WorkerLoad.FromString(report.load)
    except DecodeError:
        return task_pb2.WorkerLoad()


async def _together(works: Iterable[Awaitable[None]]) -> None:
    """Do all to their ends, then raise what the first one raised: as it is, for whoever knows it,
    and not in a group."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
