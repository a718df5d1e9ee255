"""Progress, measured on real tables. The clock is an argument, so nobody waits."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from domainflow.validation.v1 import task_pb2
from domainflow.validation.v1.dns_settings_pb2 import (
    DNS_TRANSPORT_HTTPS,
    DnsResolver,
    DnsSettings,
)
from services.campaign.campaign import Action
from services.campaign.changes import Recent, changes
from services.campaign.gauges import OPEN_PERIOD, WORKER_PERIOD, WORKER_SILENCE, Gauges
from services.campaign.ingest import digest
from services.campaign.leases import LONGEST_DELAY
from services.campaign.messages import Message
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.campaign.watcher import change_of
from services.chassis.postgres import Pool
from tests.campaigns import (
    DNS,
    act,
    answer,
    from_upload,
    generating,
    new_campaign,
    validating,
)

NAMES = [f"n{i:03}.com" for i in range(400)]
RESOLVED, NXDOMAIN, DEAD_LETTER = 1, 2, 11
OTHER = "192.0.2.9:53"


class Followed:
    """One campaign, its gauge, and the workers' part of the ledger."""

    def __init__(self, store: Store, pool: Pool, running: RunningPhase) -> None:
        self.store, self.pool, self.running = store, pool, running
        self.recent: Recent[Message] = Recent(2**20)
        self.gauges = Gauges(store.history, self.recent)
        self.no = running.campaign_no

    async def begin(self) -> None:
        (standing,) = await self.store.history.standings([self.running.campaign_id])
        self.recent.follow(self.no, standing.revision)
        self.gauges.begin(self.no, standing.id, standing.phase, standing.status)

    async def read(self) -> None:
        """As the hub does with new events."""
        newest = self.recent.newest(self.no)
        assert newest is not None
        for rows in changes(await self.store.history.events(self.no, newest, 1000)):
            change = change_of(rows, self.running.campaign_id)
            self.recent.append(change)
            self.gauges.take(change, self.running.campaign_id)

    async def measure(self, now: float) -> event_pb2.Progress | None:
        """Progress after all that has happened; None when it has not changed."""
        await self.read()
        message = (await self.gauges.measure(now)).get(self.no)
        return message.progress if message else None

    async def progress(self, now: float) -> event_pb2.Progress:
        """As `measure`, for when it has changed."""
        progress = await self.measure(now)
        assert progress is not None
        return progress

    def chunk(self, first: int) -> tuple[int, int, int, int]:
        return self.no, DNS, self.running.run, first

    async def claim(self, first: int, worker: str = "w1") -> int:
        row = await self.pool.fetchrow(
            "SELECT attempt FROM claim_chunk($1, $2, $3, $4, $5, '15 s')",
            *self.chunk(first),
            worker,
        )
        assert row is not None
        attempt: int = row["attempt"]
        return attempt

    async def settle(self, first: int, counts: dict[int, int]) -> None:
        attempt = await self.claim(first)
        numbers = [counts.get(number, 0) for number in range(1, 12)]
        settled = event_pb2.ChunkSettled(
            phase=campaign_pb2.PHASE_DNS_VALIDATION,
            run=self.running.run,
            first_position=first,
            name_count=sum(numbers),
            attempt=attempt,
            outcomes=[
                campaign_pb2.OutcomeCount(outcome=name, count=counts[number])
                for number, name in ((1, "RESOLVED"), (2, "NXDOMAIN"), (11, "DEAD_LETTER"))
                if number in counts
            ],
        )
        event = event_pb2.Event(chunk_settled=settled).SerializeToString()
        async with self.pool.acquire() as connection, connection.transaction():
            assert await connection.fetchrow(
                "SELECT elapsed FROM settle_chunk($1, $2, $3, $4, $5, $6, '\\x00')",
                *self.chunk(first),
                attempt,
                numbers,
            )
            await connection.execute("SELECT append_event($1, $2)", self.no, event)
            if DEAD_LETTER in counts:
                letter = event_pb2.NameDeadLettered(phase=DNS, run=self.running.run, position=first)
                told = event_pb2.Event(name_dead_lettered=letter).SerializeToString()
                await connection.execute("SELECT append_event($1, $2)", self.no, told)

    async def fail(self, first: int, delay: int) -> None:
        attempt = await self.claim(first)
        retried = event_pb2.ChunkRetried(phase=DNS, run=self.running.run, first_position=first)
        event = event_pb2.Event(chunk_retried=retried).SerializeToString()
        async with self.pool.acquire() as connection, connection.transaction():
            assert await connection.fetchval(
                "SELECT fail_chunk($1, $2, $3, $4, $5, make_interval(secs => $6))",
                *self.chunk(first),
                attempt,
                delay,
            )
            await connection.execute("SELECT append_event($1, $2)", self.no, event)

    async def report(self, worker_id: str, pool: str = "dns", **load: Any) -> None:
        await self.pool.execute(
            """INSERT INTO workers (worker_id, pool, host, pid, load) VALUES ($1, $2, 'here', 1, $3)
               ON CONFLICT (worker_id) DO UPDATE
               SET load = excluded.load, report_time = clock_timestamp()""",
            worker_id,
            pool,
            task_pb2.WorkerLoad(**load).SerializeToString(),
        )


def endpoint(name: str, latency_us: int, loss: float = 0.0) -> task_pb2.EndpointLoad:
    return task_pb2.EndpointLoad(
        endpoint=name, questions_per_second=100, loss=loss, latency_us=latency_us
    )


def outcomes(progress: event_pb2.Progress) -> dict[str, int]:
    return {each.outcome: each.count for each in progress.outcomes}


@pytest.fixture
async def followed(store: Store, pool: Pool) -> Followed:
    """400 names in four chunks of 100, none settled."""
    made = Followed(store, pool, await validating(store, NAMES, chunk_size=100))
    await made.begin()
    return made


async def test_progress_is_what_the_ledger_says_and_what_the_events_add(
    store: Store, pool: Pool, followed: Followed
) -> None:
    await followed.settle(0, {RESOLVED: 60, NXDOMAIN: 40})
    first = await followed.progress(0)
    await followed.settle(100, {RESOLVED: 100})
    await followed.settle(200, {NXDOMAIN: 99, DEAD_LETTER: 1})
    then = await followed.progress(1)

    assert (first.settled_count, outcomes(first)) == (100, {"RESOLVED": 60, "NXDOMAIN": 40})
    assert (then.name_count, then.settled_count, then.dead_letter_count) == (400, 300, 1)
    assert outcomes(then) == {"RESOLVED": 160, "NXDOMAIN": 139, "DEAD_LETTER": 1}
    tally = await store.tally(followed.no, DNS, followed.running.run)
    assert then.settled_count == tally.settled_count
    assert then.revision == (await store.get(followed.running.campaign_id)).revision


async def test_events_before_the_look_into_the_ledger_count_once(followed: Followed) -> None:
    await followed.settle(0, {RESOLVED: 100})
    # The ledger is read when the events are not.
    assert await followed.gauges.measure(0) == {}
    await followed.settle(100, {RESOLVED: 100})

    assert (await followed.progress(1)).settled_count == 200


async def test_rate_and_time_left_follow_what_was_settled(followed: Followed) -> None:
    begin = await followed.progress(0)
    await followed.settle(0, {RESOLVED: 100})
    then = await followed.progress(10)

    assert not begin.HasField("remaining")
    assert then.names_per_second == 10
    assert then.remaining == Duration(seconds=30)


async def test_work_in_vain_and_delays_are_counted_in(followed: Followed) -> None:
    await followed.progress(0)
    await followed.settle(0, {RESOLVED: 100})
    await followed.fail(100, delay=50)
    followed.gauges._open_due = 0
    then = await followed.progress(10)

    assert then.waiting_for.delayed_chunk_count == 1
    # 300 names at 10/s; but nothing ends before the chunk that waits 50 s.
    assert 45 < then.remaining.ToTimedelta().total_seconds() <= 50

    await followed.fail(200, delay=0)
    await followed.settle(200, {RESOLVED: 100})
    again = await followed.progress(20)
    assert again.retry_count >= 1


@pytest.mark.parametrize(
    "event",
    [
        event_pb2.Event(dead_letters_resolved=event_pb2.DeadLettersResolved(phase=DNS, count=1)),
        event_pb2.Event(verdicts_withdrawn=event_pb2.VerdictsWithdrawn(phase=DNS, name_count=100)),
    ],
)
async def test_what_was_taken_back_is_read_from_the_ledger_again(
    pool: Pool, followed: Followed, event: event_pb2.Event
) -> None:
    await followed.settle(0, {RESOLVED: 99, DEAD_LETTER: 1})
    assert (await followed.progress(0)).settled_count == 100
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            """UPDATE chunks SET state = 'ready', claim_time = NULL, outcome_counts = NULL
               WHERE campaign_no = $1 AND phase = 2 AND first_position = 0""",
            followed.no,
        )
        await connection.execute(
            "SELECT append_event($1, $2)",
            followed.no,
            event.SerializeToString(),
        )

    then = await followed.progress(1)

    assert (then.settled_count, then.dead_letter_count) == (0, 0)
    assert then.names_per_second == 0
    assert not then.HasField("remaining")


async def test_no_delay_is_longer_than_the_longest_there_is(followed: Followed) -> None:
    await followed.progress(0)
    await followed.settle(0, {RESOLVED: 100})
    # As after the database's clock was set back.
    await followed.fail(100, delay=3600)
    followed.gauges._open_due = 0

    then = await followed.progress(10)

    assert then.remaining.ToTimedelta().total_seconds() == LONGEST_DELAY


async def test_nobody_knows_how_long_an_open_upload_will_take(store: Store, pool: Pool) -> None:
    growing = await generating(store, new_campaign(from_upload()))
    uploaded = Followed(store, pool, growing)
    await uploaded.begin()
    await uploaded.progress(0)
    assert await store.names.append_names(growing, 0, NAMES, digest(NAMES))

    then = await uploaded.progress(10)

    assert (then.settled_count, then.names_per_second) == (400, 40)
    assert not then.HasField("remaining")


async def test_the_oldest_chunk_is_told_with_its_worker_and_age(followed: Followed) -> None:
    await followed.claim(100, "w7")
    await followed.claim(200, "w8")

    begin = await followed.progress(1000)
    later = await followed.progress(1000 + 42)

    for progress in (begin, later):
        assert progress.chunks_in_flight == 2
        assert progress.waiting_for.oldest_first_position == 100
        assert progress.waiting_for.oldest_worker == "w7"
    aged = later.waiting_for.oldest_age.seconds - begin.waiting_for.oldest_age.seconds
    assert aged == 42


@pytest.mark.parametrize("step", [-3600, 3600])
async def test_a_step_of_the_databases_clock_changes_no_age(
    pool: Pool, followed: Followed, step: int
) -> None:
    await followed.claim(100)
    begin = await followed.progress(1000)
    # As if the clock had been set: the claim's time lies so far in the future, or the past.
    await pool.execute(
        "UPDATE chunks SET claim_time = claim_time + make_interval(secs => $1)", step
    )

    later = await followed.progress(1030)

    aged = later.waiting_for.oldest_age.seconds - begin.waiting_for.oldest_age.seconds
    assert aged == 30


async def test_a_claim_from_the_future_is_no_less_than_new(pool: Pool, followed: Followed) -> None:
    await followed.claim(100)
    await followed.fail(200, delay=1)
    await pool.execute(
        """UPDATE chunks SET claim_time = claim_time + interval '1 hour',
               ready_time = ready_time - interval '1 hour'"""
    )

    progress = await followed.progress(0)

    assert progress.waiting_for.oldest_age == Duration()
    assert progress.waiting_for.HasField("oldest_age")
    assert progress.waiting_for.delayed_chunk_count == 1


async def test_the_worst_resolver_of_the_pools_workers_is_named(followed: Followed) -> None:
    await followed.report("w1", memory_bytes=100, endpoints=[endpoint("192.0.2.1:53", 5_000)])
    await followed.report("w2", memory_bytes=50, endpoints=[endpoint("192.0.2.2:53", 9_000, 0.25)])
    await followed.report("w3", "http", memory_bytes=7, endpoints=[endpoint(OTHER, 10**7)])

    progress = await followed.progress(0)

    assert progress.worker_memory_bytes == 157
    assert progress.waiting_for.endpoint == "192.0.2.2:53"
    assert progress.waiting_for.endpoint_latency == Duration(nanos=9_000_000)
    assert progress.waiting_for.endpoint_loss == 0.25


async def test_only_the_campaigns_own_resolvers_are_named(store: Store, pool: Pool) -> None:
    dns = campaign_pb2.DnsConfiguration(resolvers=["192.0.2.1", "[2001:db8::1]:5353"])
    followed = Followed(store, pool, await validating(store, NAMES[:100], dns))
    await followed.begin()
    await followed.report("w1", endpoints=[endpoint("192.0.2.1:53", 5), endpoint(OTHER, 9_000)])

    assert (await followed.progress(0)).waiting_for.endpoint == "192.0.2.1:53"


async def test_resolvers_are_named_whatever_way_they_are_asked(store: Store, pool: Pool) -> None:
    url = "https://dns.example/dns-query"
    https = DnsResolver(address="192.0.2.9", transport=DNS_TRANSPORT_HTTPS, url=url)
    dns = campaign_pb2.DnsConfiguration(settings=DnsSettings(resolvers=[https]))
    followed = Followed(store, pool, await validating(store, NAMES[:100], dns))
    await followed.begin()
    label = f"{url}#192.0.2.9:443"

    await followed.report("w1", endpoints=[endpoint(label, 5), endpoint("192.0.2.9:443", 9_000)])

    assert (await followed.progress(0)).waiting_for.endpoint == label


async def test_resolvers_that_are_changed_in_a_pause_are_the_ones_named(
    store: Store, followed: Followed
) -> None:
    await followed.report("w1", endpoints=[endpoint(OTHER, 1000), endpoint("192.0.2.1:53", 9000)])
    assert (await followed.progress(0)).waiting_for.endpoint == "192.0.2.1:53"
    await act(store, followed.running.campaign_id, Action.PAUSE)
    await followed.progress(1)

    asked = campaign_pb2.CampaignConfiguration(dns=campaign_pb2.DnsConfiguration(resolvers=[OTHER]))
    await store.configure(
        followed.running.campaign_id,
        DNS,
        asked.SerializeToString(),
        etag="",
        reason="",
        key=None,
        answer=answer,
        validate_only=False,
    )
    await act(store, followed.running.campaign_id, Action.RESUME)

    assert (await followed.progress(2)).waiting_for.endpoint == OTHER


async def test_a_worker_that_is_not_heard_of_is_not_counted(pool: Pool, followed: Followed) -> None:
    await followed.report("lives", memory_bytes=1)
    await followed.report("died", memory_bytes=10)
    await followed.report("died long ago", memory_bytes=100)
    await pool.execute(
        """UPDATE workers SET report_time = now() - interval '1 hour'
           WHERE worker_id = 'died long ago'"""
    )
    assert (await followed.progress(0)).worker_memory_bytes == 11

    # A step of the clock makes nobody appear or disappear.
    await pool.execute("UPDATE workers SET report_time = report_time - interval '1 hour'")
    await pool.execute(
        """UPDATE workers SET report_time = report_time + interval '1 hour'
           WHERE worker_id <> 'lives'"""
    )
    later = await followed.progress(WORKER_SILENCE + WORKER_PERIOD)

    assert later.worker_memory_bytes == 1


async def test_the_last_word_on_a_run_is_the_ledgers_own(store: Store, followed: Followed) -> None:
    await followed.progress(0)
    for first in range(0, 400, 100):
        await followed.settle(first, {RESOLVED: 100})
    assert await store.ledger.complete(followed.running)

    last = await followed.progress(1)

    assert last.status == campaign_pb2.PHASE_STATUS_COMPLETED
    assert (last.name_count, last.settled_count, last.chunks_in_flight) == (400, 400, 0)
    assert not last.HasField("waiting_for")
    assert await followed.measure(2) is None
    assert list(followed.gauges.followed) == []


async def test_a_paused_phase_is_told_once_and_waits_for_nothing(
    store: Store, followed: Followed
) -> None:
    await followed.claim(0)
    await followed.progress(0)
    await act(store, followed.running.campaign_id, Action.PAUSE)

    paused = await followed.progress(1)

    assert paused.status == campaign_pb2.PHASE_STATUS_PAUSED
    assert (paused.names_per_second, paused.chunks_in_flight) == (0, 0)
    assert not paused.HasField("waiting_for")
    assert await followed.measure(1 + OPEN_PERIOD) is None

    await act(store, followed.running.campaign_id, Action.RESUME)
    assert (await followed.progress(9)).status == campaign_pb2.PHASE_STATUS_RUNNING


async def test_a_rerun_begins_at_zero(store: Store, followed: Followed) -> None:
    for first in range(0, 400, 100):
        await followed.settle(first, {RESOLVED: 100})
    assert await store.ledger.complete(followed.running)
    await followed.measure(0)
    await act(store, followed.running.campaign_id, Action.RERUN, phase=DNS)

    anew = await followed.progress(1)

    assert (anew.run, anew.settled_count) == (followed.running.run + 1, 0)
    assert outcomes(anew) == {}
