"""Workers of the HTTP pool with a real queue, a real database and the sandbox's web."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.validation.v1 import http_pb2, http_settings_pb2, page_pb2
from services.campaign.dispatcher import Dispatcher
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.matching.keywords import PageHits
from services.chassis.postgres import Pool
from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.web_server import NETWORK, SandboxWeb, SandboxWebSettings
from services.sandbox.web_text import KEYWORDS
from services.sandbox.web_truth import Web
from services.validation.content.features import Features
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http.verdict import Verdict
from services.validation.http_probe import HttpProbe
from services.validation.keyword_library import KeywordLibrary
from services.validation.store import Store
from services.validation.suppression_store import NewSuppression, Scope
from services.validation.worker import Worker
from tests.campaigns import hand_out
from tests.eventually import eventually
from tests.queues import publish, task_count, wipe
from tests.validation.conftest import asking
from tests.validation.fetching import (
    EVERY_KIND,
    LANE,
    NAMES_MIX,
    NETWORKS,
    fetching,
    http_configuration,
    names_of,
    truth_of,
)

CRAWL = http_settings_pb2.CrawlSettings


@pytest.fixture
async def web() -> AsyncIterator[SandboxWeb]:
    async with SandboxWeb(SandboxWebSettings(mix=NAMES_MIX, web=EVERY_KIND)) as server:
        yield server


@pytest.fixture
async def dns() -> AsyncIterator[pb.DnsConfiguration]:
    async with SandboxDns(SandboxDnsSettings(mix=NAMES_MIX)) as server:
        yield asking("{}:{}".format(*server.address))


@pytest.fixture
async def http_probe(store: Store, engines: Engines) -> AsyncIterator[HttpProbe]:
    async with Fetchers(engines, suppressions=store.suppressions) as fetchers:
        library = KeywordLibrary(store.keyword_sets)
        yield HttpProbe(engines, fetchers, library, networks=NETWORKS)


class Fetched:
    """A name's rows."""

    def __init__(self, row: dict) -> None:
        self.name: str = row["name"]
        self.verdict = Verdict(row["verdict"])
        self.row = row
        self.evidence = http_pb2.HttpEvidence.FromString(row["evidence"] or b"")
        self.page = page_pb2.PageEvidence.FromString(row["page_evidence"] or b"")


async def fetched(pool: Pool) -> dict[str, Fetched]:
    """By name; a name with two rows is there twice and fails."""
    rows = await pool.fetch(
        """SELECT d.name, r.*, p.kind, p.features, p.keywords, p.hit_counts, p.keyword_match,
               p.evidence AS page_evidence
           FROM domains d JOIN http_results r USING (campaign_no, position)
           LEFT JOIN pages p USING (campaign_no, run, position) ORDER BY d.position"""
    )
    found = {row["name"]: Fetched(dict(row)) for row in rows}
    assert len(found) == len(rows)
    return found


@contextlib.asynccontextmanager
async def working(store: Store, queue: Client, probe: HttpProbe) -> AsyncIterator[None]:
    worker = Worker(store=store, queue=queue, probe=probe, worker_id="w", host="host", pid=7)
    task = asyncio.create_task(worker.work())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def all_done(pool: Pool, queue: Client) -> None:
    async def no_chunk_open() -> None:
        assert not await pool.fetchval("SELECT count(*) FROM chunks WHERE state <> 'done'")
        assert await task_count(queue) == 0

    await eventually(no_chunk_open, within=45)


async def carry_out(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    probe: HttpProbe,
    running: RunningPhase,
) -> dict[str, Fetched]:
    """Have all chunks settled by one worker."""
    await publish(queue, *await hand_out(campaign_store, [running]), pool="http")
    async with working(store, queue, probe):
        await all_done(pool, queue)
    return await fetched(pool)


async def test_every_kind_of_site_comes_to_its_verdict(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    http_probe: HttpProbe,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    names = names_of(web.world, 240)
    # Not all at once: this process is the web, too, and what it is late with is a TIMEOUT.
    http = http_configuration(web, attempts={LANE.REASON_RATE_LIMITED: 3}, window=48)
    absent = f"{'a' * 30}.com"
    running = await fetching(campaign_store, store, web.world, [absent, *names], http, dns)

    found = await carry_out(campaign_store, store, pool, queue, http_probe, running)

    known = {name: truth_of(web.world, name) for name in names}
    assert len({it.behaviour for it in known.values()}) == len(Web)
    wrong = {
        name: (known[name].behaviour.name, it.verdict.name, it.evidence.reason)
        for name, it in found.items()
        if known[name].verdict() != it.verdict
    }
    assert wrong == {}
    assert list(found) == names
    for name, it in found.items():
        assert (it.row["features"] is not None) == (it.verdict is Verdict.OK)
        assert it.row["truncated"] == (known[name].truncated and it.verdict is Verdict.OK), known[
            name
        ].behaviour
        assert (it.row["status_code"] or 0) == known[name].status(), known[name].behaviour
    counts = await pool.fetchval("SELECT outcome_counts FROM ledger_totals WHERE phase = 3")
    assert sum(counts) == len(names)


async def test_evidence_says_how_a_verdict_came_about(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    http_probe: HttpProbe,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    kinds = (Web.CHAIN, Web.EXPIRED, Web.MOVED_PRIVATE, Web.PLAIN_ONLY, Web.ENDLESS, Web.PARKED)
    by_kind = {kind: names_of(web.world, 1, kind)[0] for kind in kinds}
    running = await fetching(
        campaign_store, store, web.world, list(by_kind.values()), http_configuration(web), dns
    )

    found = await carry_out(campaign_store, store, pool, queue, http_probe, running)

    chain = found[by_kind[Web.CHAIN]]
    truth = truth_of(web.world, chain.name)
    assert len(chain.evidence.redirects) == truth.hops
    assert chain.row["final_url"].endswith(truth.landing[1])
    assert chain.evidence.address in truth.addresses
    assert chain.page.kind == page_pb2.PAGE_KIND_UNSPECIFIED != chain.row["kind"]
    assert chain.row["content_size"] > 0
    assert len(chain.row["content_sha256"]) == 32
    expired = found[by_kind[Web.EXPIRED]]
    assert expired.verdict is Verdict.OK
    assert not expired.evidence.tls.valid
    assert "expired" in expired.evidence.tls.problem
    assert found[by_kind[Web.MOVED_PRIVATE]].evidence.reason
    plain = found[by_kind[Web.PLAIN_ONLY]]
    assert [it.scheme for it in plain.evidence.trials] == ["https", "http"]
    endless = found[by_kind[Web.ENDLESS]]
    assert (endless.row["truncated"], endless.evidence.truncation) == (True, "size")
    parked = found[by_kind[Web.PARKED]]
    assert parked.row["kind"] == page_pb2.PAGE_KIND_PARKED
    assert parked.page.parked_confidence > 0.3
    assert parked.page.findings[0].signals


async def test_keywords_are_found_on_the_pages_that_have_them(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    http_probe: HttpProbe,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    names = names_of(web.world, 80, Web.PAGE, Web.CHAIN, Web.TEMPLATE, Web.GONE)
    http = http_configuration(web, keywords=KEYWORDS)
    running = await fetching(campaign_store, store, web.world, names, http, dns)

    found = await carry_out(campaign_store, store, pool, queue, http_probe, running)

    for name, it in found.items():
        page = truth_of(web.world, name).page
        if page is None:
            assert it.row["keyword_match"] is None
            continue
        hits = dict(zip(it.row["keywords"] or (), it.row["hit_counts"] or (), strict=True))
        assert hits == page.all_hits, name
        assert it.row["keyword_match"] == it.page.keyword_match == bool(hits)
        assert list(hits.values()) == sorted(hits.values(), reverse=True)
        assert {each.rule for each in it.page.rule_hits} == set(hits)
        features = Features.from_bytes(it.row["features"])
        assert (features.hit_count, features.unique_count) == (sum(hits.values()), len(hits))
    assert any(it.row["keyword_match"] for it in found.values())
    assert any(it.row["keyword_match"] is False for it in found.values())


async def test_contacts_of_further_pages_are_the_site_s(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    http_probe: HttpProbe,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    names = [
        name
        for name in names_of(web.world, 60, Web.PAGE)
        if getattr(truth_of(web.world, name).page, "contact_path", "") == "/contact"
    ]
    http = http_configuration(web, crawl=CRAWL(policy=CRAWL.POLICY_ALWAYS))
    running = await fetching(campaign_store, store, web.world, names, http, dns)

    found = await carry_out(campaign_store, store, pool, queue, http_probe, running)

    assert names
    for name, it in found.items():
        page = truth_of(web.world, name).page
        assert page is not None
        assert [each.subject for each in it.page.crawled_pages] == ["contact"]
        assert {(each.kind, each.value.lower()) for each in it.page.contacts} >= {
            (each.kind, each.value.lower()) for each in page.contacts if each.kind in (1, 2)
        }
        assert {each.source_url for each in it.page.contacts if each.kind == 1} <= {
            web.url(name, "/contact", tls=True)
        }
        # Of the front page alone.
        assert it.row["content_size"] < Features.from_bytes(it.row["features"]).byte_size


async def test_names_that_dns_was_not_asked_about_are_resolved_when_they_are_asked_for(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    http_probe: HttpProbe,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    page, moved = (names_of(web.world, 1, kind)[0] for kind in (Web.PAGE, Web.MOVED_TO_WWW))
    absent = f"{'a' * 30}.com"
    running = await fetching(
        campaign_store,
        store,
        web.world,
        [page, absent, moved],
        http_configuration(web),
        dns,
        resolved=False,
    )

    found = await carry_out(campaign_store, store, pool, queue, http_probe, running)

    assert {name: it.verdict for name, it in found.items()} == {
        page: Verdict.OK,
        absent: Verdict.UNREACHABLE,
        moved: Verdict.OK,
    }
    assert found[absent].evidence.reason == f"{absent} has no address"
    assert found[moved].row["final_url"] == web.url(f"www.{moved}", "/", tls=True)


async def test_names_that_do_not_want_to_be_asked_are_excluded(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    http_probe: HttpProbe,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    moved, page, other = (
        *names_of(web.world, 1, Web.MOVED_TO_WWW),
        *names_of(web.world, 2, Web.PAGE),
    )
    await store.suppressions.add(
        [
            NewSuppression(f"www.{moved}", Scope.FETCH, "asked by mail"),
            NewSuppression(page, Scope.FETCH, ""),
            NewSuppression(other, Scope.LEADS, ""),
        ]
    )
    names = [moved, page, other]
    running = await fetching(campaign_store, store, web.world, names, http_configuration(web), dns)

    found = await carry_out(campaign_store, store, pool, queue, http_probe, running)

    excluded = found[page]
    assert (excluded.verdict, excluded.row["attempt_count"]) == (Verdict.EXCLUDED, 0)
    assert excluded.evidence.reason == f"{page} is on the suppression list"
    assert found[moved].verdict is Verdict.EXCLUDED
    assert found[moved].evidence.reason == f"www.{moved} is on the suppression list"
    assert found[other].verdict is Verdict.OK


async def test_a_worker_fetches_nothing_from_networks_that_it_was_not_started_to_allow(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    engines: Engines,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    names = names_of(web.world, 3, Web.PAGE)
    running = await fetching(campaign_store, store, web.world, names, http_configuration(web), dns)

    async with Fetchers(engines, suppressions=store.suppressions) as fetchers:
        probe = HttpProbe(engines, fetchers, KeywordLibrary(store.keyword_sets))
        found = await carry_out(campaign_store, store, pool, queue, probe, running)

    assert {it.verdict for it in found.values()} == {Verdict.ADDRESS_NOT_ALLOWED}
    assert web.stats.requests == 0


async def test_names_in_a_lane_hold_no_place_and_come_again(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    http_probe: HttpProbe,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    names = [
        *names_of(web.world, 4, Web.LIMITED_AT_FIRST, Web.BUSY_AT_FIRST),
        *names_of(web.world, 2, Web.PAGE),
        *names_of(web.world, 1, Web.SERVER_ERROR),
    ]
    attempts = {LANE.REASON_RATE_LIMITED: 3, LANE.REASON_SERVER_ERROR: 2}
    http = http_configuration(web, attempts=attempts, window=1)
    running = await fetching(campaign_store, store, web.world, names, http, dns)
    await publish(queue, *await hand_out(campaign_store, [running]), pool="http")

    async def only_lanes_left() -> None:
        # Six requests were answered one after the other while nobody was asked again.
        assert web.stats.requests >= len(names)
        assert http_probe.waiting() == http_probe.in_flight == 0

    async with working(store, queue, http_probe):
        await eventually(only_lanes_left)
        assert not await pool.fetchval("SELECT bool_and(state = 'done') FROM chunks WHERE phase=3")
        await all_done(pool, queue)

    # Waits as short as these are not worth setting a chunk aside.
    assert await pool.fetchval("SELECT park_count FROM chunks WHERE phase = 3") == 0
    for name, it in (await fetched(pool)).items():
        truth = truth_of(web.world, name)
        assert it.verdict == truth.verdict()
        earlier = it.evidence.earlier_attempts
        assert it.row["attempt_count"] == len(earlier) + 1
        if truth.wait:
            assert [each.status_code for each in earlier] == [truth.first_status] * len(earlier)
            # Whoever comes before Retry-After is over is sent away again.
            assert len(earlier) == 1
            assert earlier[0].delay.ToTimedelta().total_seconds() > truth.wait - 1
            assert it.row["duration_us"] > 100_000
        else:
            assert len(earlier) == (truth.behaviour is Web.SERVER_ERROR)


async def test_a_killed_worker_s_names_are_asked_for_by_the_next_one_and_none_is_there_twice(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    http_probe: HttpProbe,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
    database_url: str,
    nats_url: str,
) -> None:
    # The second half waits for Retry-After: some chunks are done when others are not.
    names = [
        *names_of(web.world, 60, Web.PAGE, Web.GONE, Web.CHAIN),
        *names_of(web.world, 20, Web.LIMITED_AT_FIRST),
    ]
    http = http_configuration(web, attempts={LANE.REASON_RATE_LIMITED: 3})
    running = await fetching(campaign_store, store, web.world, names, http, dns, chunk_size=20)
    await publish(queue, *await hand_out(campaign_store, [running]), pool="http")

    async def half_done() -> None:
        assert await pool.fetchval("SELECT count(*) FROM chunks WHERE phase = 3 AND state = 'done'")

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
        await eventually(half_done, within=30)
    finally:
        process.kill()
        await process.wait()
    # As the dispatcher does once nobody has held them for a lease.
    lost = await pool.fetchval(
        """WITH lost AS (
               UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL,
                   lease_expire_time = NULL, lost_count = 1
               WHERE phase = 3 AND state = 'queued' RETURNING 1)
           SELECT count(*) FROM lost"""
    )
    await wipe(queue)

    found = await carry_out(campaign_store, store, pool, queue, http_probe, running)

    assert lost > 0
    assert {name: it.verdict for name, it in found.items()} == {
        name: truth_of(web.world, name).verdict() for name in names
    }
    assert await pool.fetchval("SELECT count(*) FROM pages") == sum(
        it.verdict is Verdict.OK for it in found.values()
    )


class Fragile:
    """Keywords that fail on one page."""

    def __init__(self, poison: str) -> None:
        self._poison = poison
        # How often each page was looked at, by its title.
        self.looks: Counter[str] = Counter()

    def scan(self, text: str, title: str) -> PageHits:
        self.looks[title] += 1
        if self._poison in title:
            raise ValueError("the page is poison")
        return PageHits((), True)

    def matches(self, hits: PageHits) -> bool:
        return False


class FragileLibrary(KeywordLibrary):
    def __init__(self, store: Store, poison: str) -> None:
        super().__init__(store.keyword_sets)
        self.fragile = Fragile(poison)

    async def of_versions(self, *_: object) -> Fragile:
        return self.fragile


async def test_a_page_that_cannot_be_looked_at_becomes_a_dead_letter_alone(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    engines: Engines,
    web: SandboxWeb,
    dns: pb.DnsConfiguration,
) -> None:
    # Their titles have their names.
    names = [
        name
        for name in names_of(web.world, 60, Web.TEMPLATE)
        if name in truth_of(web.world, name).page.title
    ][:4]
    poison = names[2]
    await fetching(campaign_store, store, web.world, names, http_configuration(web), dns)
    dispatcher = Dispatcher(store=campaign_store, queue=queue)
    dispatching = asyncio.create_task(dispatcher.dispatch())
    try:
        async with Fetchers(engines) as fetchers:
            library = FragileLibrary(store, poison)
            probe = HttpProbe(engines, fetchers, library, networks=NETWORKS)
            async with working(store, queue, probe):
                await all_done(pool, queue)
    finally:
        dispatching.cancel()
        await asyncio.wait([dispatching])

    found = await fetched(pool)
    assert {name: it.verdict for name, it in found.items()} == {
        name: Verdict.DEAD_LETTER if name == poison else Verdict.OK for name in names
    }
    # The others are asked for once, whichever half they are in when the chunk is split.
    titles = [truth_of(web.world, name).page.title for name in names if name != poison]
    assert [library.fragile.looks[title] for title in titles] == [1, 1, 1]
    letters = await pool.fetch("SELECT name, position, cause FROM dead_letters")
    assert [tuple(it) for it in letters] == [(poison, 2, "ValueError: the page is poison")]
