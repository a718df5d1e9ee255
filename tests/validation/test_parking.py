"""Chunks some of whose names wait: set aside, taken up again, and no name asked for twice."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from nats.aio.client import Client

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.validation.v1 import http_pb2
from services.campaign.campaign import Action
from services.campaign.dispatcher import Dispatcher
from services.campaign.leases import LONGEST_DELAY
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.matching.keywords import PageHits
from services.chassis.postgres import Pool
from services.sandbox.web_server import NETWORK, SandboxWeb, SandboxWebSettings
from services.sandbox.web_truth import Web
from services.validation.attempt import (
    CheckFailed,
    End,
    NotPrepared,
    check_and_settle,
    stored_items,
)
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http.verdict import Verdict
from services.validation.http_probe import HttpProbe
from services.validation.isolation import Isolation
from services.validation.keyword_library import KeywordLibrary
from services.validation.pacing import Pace
from services.validation.probe import Unable
from services.validation.store import ChunkKey, Claim, Store
from services.validation.suppression_store import NewSuppression, Scope
from services.validation.worker import Worker
from tests.campaigns import act, hand_out, history
from tests.eventually import eventually
from tests.queues import publish, task_count
from tests.validation.fetching import (
    EVERY_KIND,
    HTTP,
    LANE,
    NAMES_MIX,
    NETWORKS,
    fetching,
    http_configuration,
    names_of,
    seconds,
    truth_of,
)

# Requests of one attempt at a name: robots.txt and the page; and where the former is remembered.
REQUESTS, AGAIN = 2, 1


@pytest.fixture
async def web() -> AsyncIterator[SandboxWeb]:
    async with SandboxWeb(SandboxWebSettings(mix=NAMES_MIX, web=EVERY_KIND)) as server:
        yield server


@pytest.fixture
async def probe(store: Store, engines: Engines) -> AsyncIterator[HttpProbe]:
    async with Fetchers(engines, suppressions=store.suppressions) as fetchers:
        library = KeywordLibrary(store.keyword_sets)
        yield HttpProbe(engines, fetchers, library, networks=NETWORKS)


@pytest.fixture
def names(web: SandboxWeb) -> list[str]:
    """Five pages, with a name between them that is to be asked for twice, half a minute apart."""
    pages = names_of(web.world, 5, Web.PAGE)
    return [*pages[:2], *names_of(web.world, 1, Web.SERVER_ERROR), *pages[2:]]


@pytest.fixture
async def running(
    campaign_store: CampaignStore,
    store: Store,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
    names: list[str],
) -> RunningPhase:
    """A campaign of one chunk."""
    half_a_minute = seconds(30)
    lane = LANE(
        reason=LANE.REASON_SERVER_ERROR,
        attempt_limit=2,
        delay=half_a_minute,
        max_delay=half_a_minute,
    )
    http = http_configuration(web, retry_lanes=[lane])
    return await fetching(campaign_store, store, web.world, names, http, dns)


async def claimed(campaign_store: CampaignStore, store: Store, running: RunningPhase) -> Claim:
    """The first chunk that is ready, in our hands."""
    key, *_ = await hand_out(campaign_store, [running], share=1)
    claim = await store.claim(
        ChunkKey(key.campaign_no, int(key.phase), key.run, key.first_position), "w"
    )
    assert claim is not None
    return claim


async def attempt(store: Store, probe: HttpProbe, claim: Claim, *, rate: int = 0) -> End:
    items = await stored_items(store, probe, claim)
    return await check_and_settle(store, probe, claim, items, Pace(rate, time.monotonic()))


async def let_it_come_back(pool: Pool) -> None:
    """As the dispatcher does when the time has come."""
    assert await pool.fetchval(
        """WITH due AS (
               UPDATE chunks SET ready_time = NULL WHERE ready_time IS NOT NULL RETURNING 1)
           SELECT count(*) FROM due"""
    )


async def parked(pool: Pool) -> list[tuple[str, int, int, int, int]]:
    rows = await pool.fetch(
        """SELECT state, park_count, waiting_count, failure_count, lost_count FROM chunks
           WHERE phase = 3 ORDER BY first_position"""
    )
    return [tuple(row) for row in rows]


class Fetched:
    def __init__(self, row: dict) -> None:
        self.verdict = Verdict(row["verdict"])
        self.attempts: int = row["attempt_count"]
        self.duration_us: int = row["duration_us"]
        self.has_page: bool = row["has_page"]
        evidence = http_pb2.HttpEvidence.FromString(row["evidence"])
        self.reason = evidence.reason
        self.earlier = [
            (it.verdict, it.status_code, it.delay.ToTimedelta().total_seconds())
            for it in evidence.earlier_attempts
        ]


async def fetched(pool: Pool) -> dict[str, Fetched]:
    """By name; a name with two rows is there twice and fails."""
    rows = await pool.fetch(
        """SELECT d.name, r.*, p.position IS NOT NULL AS has_page FROM domains d
           JOIN http_results r USING (campaign_no, position)
           LEFT JOIN pages p USING (campaign_no, run, position) ORDER BY d.position"""
    )
    found = {row["name"]: Fetched(dict(row)) for row in rows}
    assert len(found) == len(rows)
    return found


@contextlib.asynccontextmanager
async def doing(*works: object) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
        assert not any(task.done() for task in tasks), tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def check_the_end(found: dict[str, Fetched], names: Sequence[str], web: SandboxWeb) -> None:
    """Every name came to its one verdict, and that which waited tells of both attempts."""
    assert {name: it.verdict for name, it in found.items()} == {
        name: truth_of(web.world, name).verdict() for name in names
    }
    for it in found.values():
        assert it.has_page == (it.verdict is Verdict.OK)
        if it.verdict is Verdict.OK:
            assert (it.attempts, it.earlier) == (1, [])
        else:
            ((verdict, status, delay),) = it.earlier
            assert (it.attempts, verdict, status // 100) == (2, Verdict.SERVER_ERROR, 5)
            assert 30 <= delay <= 40


async def test_a_chunk_leaves_the_worker_while_its_names_wait_and_comes_back(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    engines: Engines,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    names = [
        *names_of(web.world, 6, Web.PAGE),
        *names_of(web.world, 3, Web.LIMITED_AT_FIRST, Web.BUSY_AT_FIRST),
        *names_of(web.world, 1, Web.SERVER_ERROR),
    ]
    attempts = {LANE.REASON_RATE_LIMITED: 3, LANE.REASON_SERVER_ERROR: 3}
    http = http_configuration(web, attempts=attempts)
    running = await fetching(campaign_store, store, web.world, names, http, dns)

    async def completed() -> None:
        assert not await pool.fetchval("SELECT count(*) FROM chunks WHERE state <> 'done'")
        assert await task_count(queue) == 0

    async with Fetchers(engines, suppressions=store.suppressions) as fetchers:
        library = KeywordLibrary(store.keyword_sets)
        # Not even the shortest wait is worth having in hand.
        probe = HttpProbe(engines, fetchers, library, networks=NETWORKS, park_after=0)
        worker = Worker(store=store, queue=queue, probe=probe, worker_id="w", host="h", pid=7)
        dispatcher = Dispatcher(store=campaign_store, queue=queue)
        async with doing(worker.work(), dispatcher.dispatch()):
            await eventually(completed, within=40)
        assert (probe.waiting(), probe.in_flight, probe._held) == (0, 0, 0)

    found = await fetched(pool)
    for name, it in found.items():
        truth = truth_of(web.world, name)
        assert it.verdict == truth.verdict()
        assert it.attempts == len(it.earlier) + 1
        if truth.wait:
            # Whoever comes before Retry-After is over is sent away again.
            assert len(it.earlier) == 1
            assert it.duration_us > 100_000
        else:
            assert len(it.earlier) == 2 * (truth.behaviour is Web.SERVER_ERROR)
    assert web.stats.requests <= REQUESTS * sum(it.attempts for it in found.values())
    ((state, park_count, _, *failures),) = await parked(pool)
    assert (state, failures) == ("done", [0, 0])
    assert park_count >= 2
    assert await pool.fetchval("SELECT count(*) FROM parked_chunks") == 0
    tally = await campaign_store.tally(running.campaign_no, HTTP, 1)
    assert (tally.settled_count, tally.retry_count) == (len(names), 0)
    told = await history(campaign_store, running.campaign_no)
    assert not any(it.HasField("chunk_retried") or it.HasField("chunk_split") for it in told)
    assert [it.chunk_settled.attempt for it in told if it.chunk_settled.phase == HTTP] == [1]


async def test_a_worker_that_is_killed_while_names_wait_costs_no_second_fetch(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    probe: HttpProbe,
    web: SandboxWeb,
    running: RunningPhase,
    names: list[str],
    database_url: str,
    nats_url: str,
) -> None:
    await publish(queue, *await hand_out(campaign_store, [running]), pool="http")

    async def set_aside() -> None:
        assert await parked(pool) == [("ready", 1, 1, 0, 0)]
        assert await task_count(queue) == 0

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.validation", "work", "http"),
        env={
            **os.environ,
            "DATABASE_URL": database_url,
            "NATS_URL": nats_url,
            "HTTP_ALLOWED_NETWORKS": NETWORK,
        },
    )
    try:
        await eventually(set_aside, within=30)
    finally:
        process.kill()
        await process.wait()
    before = web.stats.requests
    assert before == REQUESTS * len(names)

    await let_it_come_back(pool)
    claim = await claimed(campaign_store, store, running)

    assert await attempt(store, probe, claim) is End.SETTLED
    assert web.stats.requests == before + REQUESTS
    check_the_end(await fetched(pool), names, web)


async def test_a_process_of_its_own_sets_its_chunk_aside_too(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    web: SandboxWeb,
    running: RunningPhase,
    names: list[str],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HTTP_ALLOWED_NETWORKS", NETWORK)
    isolation = Isolation((sys.executable, "-m", "services.validation.alone", "http"))

    claim = await claimed(campaign_store, store, running)
    assert await isolation.attempt(claim, lambda: 60) is End.PARKED
    assert await parked(pool) == [("ready", 1, 1, 0, 0)]
    before = web.stats.requests

    await let_it_come_back(pool)
    claim = await claimed(campaign_store, store, running)
    assert claim.parked
    assert await isolation.attempt(claim, lambda: 60) is End.SETTLED
    assert web.stats.requests == before + REQUESTS
    check_the_end(await fetched(pool), names, web)


async def test_a_chunk_that_is_split_keeps_what_is_finished_of_both_halves(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    probe: HttpProbe,
    web: SandboxWeb,
    running: RunningPhase,
    names: list[str],
) -> None:
    assert await attempt(store, probe, await claimed(campaign_store, store, running)) is End.PARKED
    await let_it_come_back(pool)
    assert await store.split(await claimed(campaign_store, store, running), "it failed")
    # Of a rate limit each half takes as much as if all that wait were in it.
    (offers,) = await campaign_store.ledger.offers([running], 10)
    assert [offer.name_count for offer in offers] == [1, 1]

    first, second = [await claimed(campaign_store, store, running) for _ in range(2)]

    before = web.stats.requests
    assert await attempt(store, probe, second) is End.SETTLED
    assert web.stats.requests == before
    assert await attempt(store, probe, first) is End.SETTLED
    assert web.stats.requests == before + AGAIN
    check_the_end(await fetched(pool), names, web)
    assert await pool.fetchval("SELECT count(*) FROM parked_chunks") == 0
    # Setting it aside was no repetition; the attempt that failed was one of both halves.
    assert (await campaign_store.tally(running.campaign_no, HTTP, 1)).retry_count == 2


async def test_names_begin_anew_where_what_was_kept_cannot_be_read(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    probe: HttpProbe,
    web: SandboxWeb,
    running: RunningPhase,
    names: list[str],
) -> None:
    assert await attempt(store, probe, await claimed(campaign_store, store, running)) is End.PARKED
    await let_it_come_back(pool)
    await pool.execute("UPDATE parked_chunks SET progress = '\\xff' || progress")
    before = web.stats.requests

    # What is kept now can be read.
    assert await attempt(store, probe, await claimed(campaign_store, store, running)) is End.PARKED
    assert web.stats.requests == before + AGAIN * len(names)
    await let_it_come_back(pool)
    assert await attempt(store, probe, await claimed(campaign_store, store, running)) is (
        End.SETTLED
    )

    assert web.stats.requests == before + AGAIN * (len(names) + 1)
    check_the_end(await fetched(pool), names, web)


async def test_who_came_on_the_suppression_list_meanwhile_is_not_asked_for_again(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    probe: HttpProbe,
    web: SandboxWeb,
    running: RunningPhase,
    names: list[str],
) -> None:
    assert await attempt(store, probe, await claimed(campaign_store, store, running)) is End.PARKED
    await let_it_come_back(pool)
    page, waiting = names[0], names[2]
    await store.suppressions.add([NewSuppression(it, Scope.FETCH, "") for it in (page, waiting)])
    before = web.stats.requests

    assert await attempt(store, probe, await claimed(campaign_store, store, running)) is (
        End.SETTLED
    )

    assert web.stats.requests == before
    found = await fetched(pool)
    assert found[page].verdict is Verdict.OK
    excluded = found[waiting]
    assert (excluded.verdict, excluded.attempts) == (Verdict.EXCLUDED, 1)
    assert excluded.reason == f"{waiting} is on the suppression list"
    assert [it[0] for it in excluded.earlier] == [Verdict.SERVER_ERROR]


async def test_a_chunk_at_its_campaign_s_pace_is_set_aside_when_all_its_slices_are_through(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    probe: HttpProbe,
    web: SandboxWeb,
    running: RunningPhase,
    names: list[str],
) -> None:
    claim = await claimed(campaign_store, store, running)

    # A name each quarter of a second, so that the one which waits is not in the last slice.
    assert await attempt(store, probe, claim, rate=4) is End.PARKED

    assert await parked(pool) == [("ready", 1, 1, 0, 0)]
    assert web.stats.requests == REQUESTS * len(names)
    await let_it_come_back(pool)
    claim = await claimed(campaign_store, store, running)
    assert await attempt(store, probe, claim, rate=4) is End.SETTLED
    check_the_end(await fetched(pool), names, web)


class RefusingLibrary(KeywordLibrary):
    """Of keywords that cannot be looked for on one page."""

    def __init__(self, store: Store, title: str, error: Exception) -> None:
        super().__init__(store.keyword_sets)
        self._title, self._error = title, error

    async def of_versions(self, *_: object) -> "RefusingLibrary":
        return self

    def scan(self, text: str, title: str) -> PageHits:
        if self._title in title:
            raise self._error
        return PageHits((), True)

    def matches(self, hits: PageHits) -> bool:
        return False


@pytest.mark.parametrize("rate", [0, 4])
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ValueError("the page is poison"), CheckFailed),
        (Unable("the machine has nothing left"), NotPrepared),
    ],
)
async def test_a_name_that_fails_takes_none_of_the_others_with_it(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    engines: Engines,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
    error: Exception,
    end: type[Exception],
    rate: int,
) -> None:
    # Their titles have their names.
    names = [
        name
        for name in names_of(web.world, 60, Web.TEMPLATE)
        if name in truth_of(web.world, name).page.title
    ][:3]
    running = await fetching(campaign_store, store, web.world, names, http_configuration(web), dns)
    async with Fetchers(engines) as fetchers:
        library = RefusingLibrary(store, names[1], error)
        probe = HttpProbe(engines, fetchers, library, networks=NETWORKS)
        claim = await claimed(campaign_store, store, running)
        # At a pace, each is in a slice of its own.
        assert await attempt(store, probe, claim, rate=rate) is End.PARKED
        assert await parked(pool) == [("ready", 1, 1, 0, 0)]
        before = web.stats.requests
        await let_it_come_back(pool)
        claim = await claimed(campaign_store, store, running)
        with pytest.raises(end, match=str(error)):
            await attempt(store, probe, claim, rate=rate)
        assert web.stats.requests == before + AGAIN


async def test_names_that_are_due_while_their_chunk_is_being_set_aside_go_with_it(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    engines: Engines,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    at_once = Duration(nanos=1000)
    lane = LANE(reason=LANE.REASON_SERVER_ERROR, attempt_limit=5, delay=at_once, max_delay=at_once)
    names = names_of(web.world, 1, Web.SERVER_ERROR)
    http = http_configuration(web, retry_lanes=[lane])
    running = await fetching(campaign_store, store, web.world, names, http, dns)
    async with Fetchers(engines, suppressions=store.suppressions) as fetchers:
        library = KeywordLibrary(store.keyword_sets)
        # As if it had waited long before.
        probe = HttpProbe(engines, fetchers, library, networks=NETWORKS, park_after=-1)
        claim = await claimed(campaign_store, store, running)
        assert await attempt(store, probe, claim) is End.PARKED
        assert probe.waiting() == 0


async def test_a_process_of_its_own_has_no_time_for_waits(
    probe: HttpProbe, web: SandboxWeb
) -> None:
    def limit(**settings: object) -> float:
        http = http_configuration(web, **settings)
        body = pb.CampaignConfiguration(http=http).SerializeToString()
        return probe.time_limit(Claim(ChunkKey(1, 3, 1, 0), 1, 500, body))

    day = seconds(86_400)
    waits = LANE(reason=LANE.REASON_TLS, attempt_limit=1, delay=day, max_delay=day)

    assert limit(max_retry_after=day, retry_lanes=[waits]) == limit()


# What is kept, and for how long.


async def test_what_is_kept_survives_a_pause_and_goes_when_its_phase_is_over(
    campaign_store: CampaignStore, store: Store, pool: Pool, running: RunningPhase
) -> None:
    claim = await claimed(campaign_store, store, running)
    assert await store.park(claim, b"one", 3, 3600)
    # Twice, as after an answer that was lost.
    assert not await store.park(claim, b"one again", 3, 3600)
    # By a task that was delivered twice: its names are not due.
    assert await store.claim(claim.key, "early") is None
    await act(campaign_store, running.campaign_id, Action.PAUSE, phase=HTTP)
    await act(campaign_store, running.campaign_id, Action.RESUME, phase=HTTP)
    assert await campaign_store.ledger.offers([running], 10) == [[]]

    await let_it_come_back(pool)
    claim = await claimed(campaign_store, store, running)
    assert claim.parked
    assert await store.progress(claim) == [b"one"]
    await act(campaign_store, running.campaign_id, Action.PAUSE, phase=HTTP)
    assert not await store.park(claim, b"too late", 3, 0)
    await act(campaign_store, running.campaign_id, Action.RESUME, phase=HTTP)
    claim = await claimed(campaign_store, store, running)
    assert await store.park(claim, b"two", 2, 0)
    await let_it_come_back(pool)
    claim = await claimed(campaign_store, store, running)
    assert await store.progress(claim) == [b"one", b"two"]

    await act(campaign_store, running.campaign_id, Action.CANCEL, phase=HTTP)
    assert not await store.park(claim, b"too late", 3, 0)
    assert await campaign_store.deletions.delete_progress(100_000) == 2
    assert await store.progress(claim) == []


async def test_nobody_waits_longer_than_a_chunk_was_set_aside_for_whatever_the_clocks_say(
    campaign_store: CampaignStore, store: Store, pool: Pool, running: RunningPhase
) -> None:
    claim = await claimed(campaign_store, store, running)
    assert await store.park(claim, b"", 1, 600)
    # As after the database's clock was set back by a day.
    await pool.execute("UPDATE chunks SET ready_time = ready_time + $1", timedelta(days=1))

    ((_, left, longest),) = (await campaign_store.ledger.delayed()).values()
    (open_,) = await campaign_store.history.open_work([(running.campaign_no, 3, 1)])

    assert left > 80_000
    assert (longest, open_.longest_delay, open_.delayed_chunk_count) == (600, 600, 1)
    await let_it_come_back(pool)
    await store.fail(await claimed(campaign_store, store, running), "it failed", 1)
    ((_, _, longest),) = (await campaign_store.ledger.delayed()).values()
    assert longest == LONGEST_DELAY


async def test_a_rate_limit_is_charged_for_each_name_once(
    campaign_store: CampaignStore, store: Store, pool: Pool, running: RunningPhase, names: list[str]
) -> None:
    await pool.execute("UPDATE campaigns SET name_rate_limit = 10")

    async def standing() -> tuple[int, int]:
        (work,) = await campaign_store.ledger.survey()
        return work.out, work.in_flight

    claim = await claimed(campaign_store, store, running)
    assert await standing() == (len(names), len(names))
    assert await store.park(claim, b"", 1, 600)
    assert await standing() == (len(names) - 1, 0)
    await let_it_come_back(pool)
    await claimed(campaign_store, store, running)
    assert await standing() == (len(names), 1)
