"""Scores and leads from stored pages: real queue, real database, no web."""

import asyncio
import contextlib
import dataclasses
import os
import random
import sys
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from nats.aio.client import Client

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.validation.v1 import lead_pb2, page_pb2, scoring_pb2
from services.campaign.campaign import Action
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.leads import LeadReason, LeadStatus, audit
from services.chassis.postgres import Pool
from services.validation.analysis_probe import AnalysisProbe, Item, Outcome, PageItem
from services.validation.analysis_store import Chunk, Scoring, StoredPage
from services.validation.content.features import Features, Flag
from services.validation.content.scoring import DEFAULT_PROFILE, explain
from services.validation.http.verdict import Verdict
from services.validation.scoring_plans import scoring_profile_of
from services.validation.store import ChunkKey as WorkerKey
from services.validation.store import Store
from services.validation.suppression_store import NewSuppression, Scope
from services.validation.worker import Worker
from tests.campaigns import act
from tests.eventually import eventually
from tests.pages import (
    ANALYSIS,
    HTTP,
    LEADS,
    USUAL,
    Site,
    email,
    fetched,
    outcomes,
    planned,
    random_features,
)
from tests.queues import publish

GOOD = replace(USUAL, hit_count=60, unique_count=5, byte_size=60_000)


class CountingProbe(AnalysisProbe):
    """Counts what it checks, and cannot bear one name."""

    def __init__(self, poison: str = "") -> None:
        super().__init__()
        self.poison = poison
        self.checked = 0

    async def _check(self, items: Sequence[Item]) -> Sequence[Outcome]:
        if self.poison in map(self.name, items):
            raise OSError("the name is poison")
        self.checked += len(items)
        return await super()._check(items)


@contextlib.asynccontextmanager
async def working(store: Store, queue: Client, *probes: AnalysisProbe) -> AsyncIterator[None]:
    workers = [
        Worker(store=store, queue=queue, probe=probe, worker_id=f"w{n}", host="host", pid=n)
        for n, probe in enumerate(probes)
    ]
    tasks = [asyncio.create_task(worker.work()) for worker in workers]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def run(
    campaigns: CampaignStore,
    store: Store,
    queue: Client,
    running: RunningPhase,
    *probes: AnalysisProbe,
) -> None:
    """Have the phase done."""
    keys = await planned(campaigns, running)
    await publish(queue, *keys, pool="analysis")
    async with working(store, queue, *(probes or (AnalysisProbe(),))):
        await completed(campaigns, queue, running)


async def completed(campaigns: CampaignStore, queue: Client, running: RunningPhase) -> None:
    async def assert_complete() -> None:
        # Chunks that were given back or split are handed out as a dispatcher does.
        again = await planned(campaigns, running)
        await publish(queue, *again, pool="analysis")
        await campaigns.ledger.end_delays(
            {key: time for key, (time, *_) in (await campaigns.ledger.delayed()).items()}
        )
        assert await campaigns.ledger.complete(running)

    await eventually(assert_complete, within=30)


async def analyses(pool: Pool, running: RunningPhase) -> dict[str, tuple[int, int, int]]:
    """Score, warnings and scoring by name."""
    rows = await pool.fetch(
        """SELECT name, score, warnings, scoring FROM page_analyses
           JOIN domains USING (campaign_no, position) WHERE campaign_no = $1 AND run = $2""",
        running.campaign_no,
        running.run,
    )
    return {row["name"]: tuple(row)[1:] for row in rows}


async def decisions(pool: Pool, running: RunningPhase) -> dict[str, tuple[LeadReason, str]]:
    """Reason and detail by name."""
    rows = await pool.fetch(
        """SELECT name, status, reason, contacts FROM leads
           JOIN domains USING (campaign_no, position) WHERE campaign_no = $1 AND run = $2""",
        running.campaign_no,
        running.run,
    )
    assert all(LeadStatus(row["status"]) for row in rows)
    return {
        row["name"]: (
            LeadReason(row["reason"]),
            lead_pb2.Lead.FromString(row["contacts"]).detail,
        )
        for row in rows
    }


async def next_phase(campaigns: CampaignStore, running: RunningPhase) -> RunningPhase:
    return await campaigns.names.running_phase(running.campaign_id, LEADS)


async def test_every_stored_page_gets_the_score_its_vector_explains(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    dice = random.Random(1)
    vectors = {f"name-{n}.com": random_features(dice) for n in range(250)}
    sites = {name: Site(features=vector) for name, vector in vectors.items()}
    # Chunks of some names only: every fifth name failed.
    sites |= {f"away-{n}.com": Site(Verdict.TIMEOUT) for n in range(50)}
    names = list(sites)
    dice.shuffle(names)
    running = await fetched(campaign_store, store, {name: sites[name] for name in names})

    await run(campaign_store, store, queue, running, AnalysisProbe(), AnalysisProbe())

    [scoring] = await pool.fetch("SELECT * FROM scorings")
    expected = {}
    for name, vector in vectors.items():
        made = explain(vector, DEFAULT_PROFILE, now=scoring["score_time"])
        bits = sum(1 << (warning - 1) for warning in made.warnings)
        expected[name] = (made.score, bits, scoring["scoring"])
    assert await analyses(pool, running) == expected
    assert await outcomes(pool, running) == [250, 0, 0]


async def test_keywords_are_turned_round_as_the_page_has_them(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    sites = {
        "a.com": Site(hit_counts=[("zebra", 1), ("kite ü", 7)]),
        "b.com": Site(hit_counts=[], is_match=False),
        "c.com": Site(hit_counts=[("kite ü", 1)], is_match=False),
    }
    running = await fetched(campaign_store, store, sites)

    await run(campaign_store, store, queue, running)

    rows = await pool.fetch("SELECT keywords, hit_counts FROM page_analyses ORDER BY position")
    assert [tuple(row) for row in rows] == [
        (["kite ü", "zebra"], [7, 1]),
        (None, None),
        (["kite ü"], [1]),
    ]
    hits = await pool.fetch(
        "SELECT position, keyword, hit_count FROM keyword_hits ORDER BY position, keyword"
    )
    assert [tuple(row) for row in hits] == [(0, "kite ü", 7), (0, "zebra", 1), (2, "kite ü", 1)]
    assert await outcomes(pool, running) == [1, 2, 0]


async def test_a_page_of_which_nothing_is_stored_is_counted_as_an_error(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    sites = {"a.com": Site(features=GOOD), "lost.com": Site(features=None)}
    running = await fetched(campaign_store, store, sites)
    await run(campaign_store, store, queue, running)
    assert await outcomes(pool, running) == [1, 0, 1]
    assert set(await analyses(pool, running)) == {"a.com"}

    leads = await next_phase(campaign_store, running)
    await run(campaign_store, store, queue, leads)

    found = await decisions(pool, leads)
    assert found["a.com"][0] is LeadReason.QUALIFIED
    assert found["lost.com"] == (LeadReason.DEAD_LETTER, "the analysis could not score the page")


async def test_a_rerun_scores_the_same_pages_by_another_profile(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    dice = random.Random(2)
    vectors = {f"name-{n}.com": random_features(dice) for n in range(120)}
    sites = {name: Site(features=vector) for name, vector in vectors.items()}
    running = await fetched(campaign_store, store, sites)
    await run(campaign_store, store, queue, running)
    before = await analyses(pool, running)
    await run(campaign_store, store, queue, await next_phase(campaign_store, running))

    settings = scoring_pb2.ScoringSettings(
        weights=scoring_pb2.ScoringWeights(title_keyword=3, tf_lite=1), repetition_above=0.9
    )
    await configure(campaign_store, running, settings)
    await act(campaign_store, running.campaign_id, Action.RERUN, phase=ANALYSIS)
    again = await campaign_store.names.running_phase(running.campaign_id, ANALYSIS)
    await run(campaign_store, store, queue, again)

    assert again.run > running.run
    after = await analyses(pool, again)
    [score_time] = await pool.fetchrow("SELECT score_time FROM scorings WHERE run = $1", again.run)
    profile = scoring_profile_of(settings)
    assert {name: row[0] for name, row in after.items()} == {
        name: explain(vector, profile, now=score_time).score for name, vector in vectors.items()
    }
    # The pages are those of the one fetch.
    assert await pool.fetchval("SELECT count(*) FROM pages") == 120
    assert {name: row[0] for name, row in before.items()} != {
        name: row[0] for name, row in after.items()
    }


async def configure(
    campaigns: CampaignStore, running: RunningPhase, settings: scoring_pb2.ScoringSettings
) -> None:
    configuration = pb.CampaignConfiguration(analysis=pb.AnalysisConfiguration(settings=settings))
    await campaigns.configure(
        running.campaign_id,
        ANALYSIS,
        configuration.SerializeToString(),
        etag="",
        reason="",
        key=None,
        answer=lambda campaign: b"",
        validate_only=False,
    )


async def test_scores_of_one_run_are_of_one_moment_however_many_workers_begin_it(
    campaign_store: CampaignStore, store: Store, pool: Pool
) -> None:
    running = await fetched(campaign_store, store, {"a.com": Site()})
    chunk = Chunk(running.campaign_no, running.run, 1, 0, 10, 1)
    made = await asyncio.gather(
        *(store.analyses.scoring(chunk, b"one", now) for now in range(100, 110)),
        *(store.analyses.scoring(chunk, b"two", now) for now in range(200, 210)),
    )

    assert len(set(made[:10])) == 1
    assert len(set(made[10:])) == 1
    assert {it.number for it in made} == {1, 2}
    assert await pool.fetchval("SELECT count(*) FROM scorings") == 2


async def test_nothing_is_left_behind_of_a_campaign_that_is_deleted_meanwhile(
    campaign_store: CampaignStore, store: Store, pool: Pool
) -> None:
    running = await fetched(campaign_store, store, {"a.com": Site()})
    chunk = Chunk(running.campaign_no, running.run, 1, 0, 10, 1)

    async def waits() -> None:
        assert await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")

    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM scorings")
        await connection.execute("DELETE FROM campaigns")
        asking = asyncio.create_task(store.analyses.scoring(chunk, b"one", 100))
        await eventually(waits)

    assert await asking == await store.analyses.scoring(chunk, b"one", 100)
    assert await pool.fetchval("SELECT count(*) FROM scorings") == 0


async def test_what_a_lead_is_and_why_others_are_none(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    sites = {
        "good.com": Site(features=GOOD, contacts=[email("info@good.com")]),
        "unlisted.com": Site(features=GOOD, is_match=None),
        "silent.com": Site(features=GOOD, is_match=False),
        "parked.com": Site(features=replace(GOOD, flags=int(Flag.PARKED))),
        "likely-parked.com": Site(features=replace(GOOD, parked_confidence=450)),
        "bare.com": Site(features=replace(GOOD, heading_count=0, external_link_count=10)),
        "thin.com": Site(features=replace(USUAL, hit_count=1, unique_count=1), content_size=900),
        "poor.com": Site(features=replace(USUAL, hit_count=1, unique_count=1)),
        "www.stop.com": Site(features=GOOD),
        "slow.com": Site(Verdict.TIMEOUT),
        "refused.com": Site(Verdict.CONNECTION_REFUSED),
        "poison.com": Site(Verdict.DEAD_LETTER),
        "away.stop.com": Site(Verdict.EXCLUDED),
    }
    await store.suppressions.add([NewSuppression("stop.com", Scope.FETCH, "asked to")])
    configuration = pb.CampaignConfiguration()
    # Nothing counts but hits: pages are fetched long ago.
    running = await fetched(campaign_store, store, sites, configuration)
    await run(campaign_store, store, queue, running)

    leads = await next_phase(campaign_store, running)
    await run(campaign_store, store, queue, leads)

    found = await decisions(pool, leads)
    assert {name: reason.name for name, (reason, _) in found.items()} == {
        "good.com": "QUALIFIED",
        "unlisted.com": "QUALIFIED",
        "silent.com": "NO_KEYWORDS",
        "parked.com": "PARKED",
        "likely-parked.com": "PARKED",
        "bare.com": "THIN_CONTENT",
        "thin.com": "THIN_CONTENT",
        "poor.com": "LOW_SCORE",
        "www.stop.com": "SUPPRESSED",
        "slow.com": "HTTP_TIMEOUT",
        "refused.com": "HTTP_ERROR",
        "poison.com": "DEAD_LETTER",
        "away.stop.com": "SUPPRESSED",
    }
    assert found["refused.com"][1] == "HTTP: connection refused"
    assert found["www.stop.com"][1] == "on the suppression list: stop.com"
    assert all(detail for _, detail in found.values())
    rows = await pool.fetch("SELECT reason, count(*) FROM leads GROUP BY reason")
    audited = audit({row["reason"]: row["count"] for row in rows})
    counted = await outcomes(pool, leads)
    assert audited == audit({n: count for n, count in enumerate(counted, 1) if count})
    assert (
        audited.analysed
        == len(sites)
        == (
            audited.qualified
            + audited.rejected
            + audited.no_keyword
            + audited.error
            + audited.timeout
        )
    )


async def test_leads_keep_contacts_and_where_they_were_found_but_no_suppressed_addresses(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    phone = lead_pb2.Contact(kind=lead_pb2.CONTACT_KIND_PHONE, value="+4930901820")
    kept, withheld, elsewhere = email("info@a.com"), email("Jane@b.com"), email("x@mail.c.org")
    sites = {
        "a.com": Site(features=GOOD, contacts=[kept, withheld, elsewhere, phone]),
        "none.com": Site(features=GOOD, is_match=False, contacts=[kept]),
    }
    await store.suppressions.add(
        [
            NewSuppression("jane@b.com", Scope.LEADS, ""),
            NewSuppression("@c.org", Scope.LEADS, ""),
            NewSuppression("@none.com", Scope.LEADS, ""),
        ]
    )
    running = await fetched(campaign_store, store, sites)
    await run(campaign_store, store, queue, running)
    leads = await next_phase(campaign_store, running)

    await run(campaign_store, store, queue, leads)

    lead, other = [
        lead_pb2.Lead.FromString(row[0])
        for row in await pool.fetch("SELECT contacts FROM leads ORDER BY position")
    ]
    assert list(lead.contacts) == [kept, phone]
    assert lead.detail.endswith("; addresses on the suppression list: 2")
    assert other == lead_pb2.Lead(detail="none of the keywords was found")


async def test_a_name_that_leads_to_a_suppressed_site_is_no_lead(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    sites = {
        "a.com": Site(features=GOOD, final_url="https://www.listed.com:8443/home?x=1"),
        "b.com": Site(features=GOOD, final_url="https://www.b.com/"),
    }
    await store.suppressions.add([NewSuppression("listed.com", Scope.LEADS, "")])
    running = await fetched(campaign_store, store, sites)
    await run(campaign_store, store, queue, running)
    leads = await next_phase(campaign_store, running)

    await run(campaign_store, store, queue, leads)

    decided = await decisions(pool, leads)
    assert decided["a.com"][0] is LeadReason.SUPPRESSED
    assert "listed.com" in decided["a.com"][1]
    assert decided["b.com"][0] is LeadReason.QUALIFIED


async def test_without_an_analysis_there_is_nothing_to_score(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    sites = {"a.com": Site(features=GOOD), "b.com": Site(Verdict.TIMEOUT)}
    leads = await fetched(campaign_store, store, sites, phases=(HTTP, LEADS))

    await run(campaign_store, store, queue, leads)

    assert await decisions(pool, leads) == {
        "a.com": (LeadReason.NO_KEYWORDS, "there was nothing to score"),
        "b.com": (LeadReason.HTTP_TIMEOUT, "HTTP: timeout"),
    }


async def test_leads_go_by_the_scores_that_are_shown_when_a_rerun_failed_and_was_left_out(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    running = await fetched(campaign_store, store, {"a.com": Site(features=GOOD)})
    await run(campaign_store, store, queue, running)
    leads = await next_phase(campaign_store, running)
    await run(campaign_store, store, queue, leads)
    before = await decisions(pool, leads)

    await act(campaign_store, running.campaign_id, Action.RERUN, phase=ANALYSIS)
    again = await campaign_store.names.running_phase(running.campaign_id, ANALYSIS)
    await planned(campaign_store, again)
    await campaign_store.ledger.fail(again, "a fault")
    await act(campaign_store, running.campaign_id, Action.SKIP, phase=ANALYSIS)
    later = await next_phase(campaign_store, running)
    await run(campaign_store, store, queue, later)

    assert later.run > leads.run
    assert before["a.com"][0] is LeadReason.QUALIFIED
    assert await decisions(pool, later) == before


async def test_evidence_of_a_large_chunk_is_never_in_memory_as_a_whole(
    campaign_store: CampaignStore, store: Store, pool: Pool
) -> None:
    size = 40_000
    evidence = page_pb2.PageEvidence(encoding="x" * size).SerializeToString()
    sites = {f"name-{n}.com": Site(features=GOOD, evidence=evidence) for n in range(700)}
    leads = await fetched(campaign_store, store, sites, phases=(HTTP, LEADS))
    [key] = await planned(campaign_store, leads, chunk_size=1_000)
    await pool.execute("INSERT INTO scorings SELECT $1, 1, 1, 1, 0, ''", leads.campaign_no)
    await pool.execute(
        """INSERT INTO page_analyses (campaign_no, run, position, score, check_time_us)
        SELECT $1, 1, position, 900, 0 FROM domains WHERE campaign_no = $1""",
        leads.campaign_no,
    )
    await pool.execute("UPDATE phases SET result_run = 1 WHERE phase = 4")
    claim = await store.claim(WorkerKey(*dataclasses.astuple(key)), "w")
    assert claim is not None

    tracemalloc.start()
    try:
        items = await AnalysisProbe().items(store, claim)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(items) == 700
    assert most < 700 * size / 2


@pytest.mark.parametrize("phase", [ANALYSIS, LEADS])
async def test_a_name_that_cannot_be_borne_is_given_up_alone(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client, phase: int
) -> None:
    sites = {f"name-{n}.com": Site(features=GOOD) for n in range(12)}
    running = await fetched(campaign_store, store, sites)
    if phase == LEADS:
        await run(campaign_store, store, queue, running)
        running = await next_phase(campaign_store, running)

    await run(campaign_store, store, queue, running, CountingProbe("name-7.com"))

    [letter] = await pool.fetch("SELECT name, phase FROM dead_letters")
    assert tuple(letter) == ("name-7.com", int(phase))
    counts = await outcomes(pool, running)
    if phase == ANALYSIS:
        assert counts == [11, 0, 1]
        assert "name-7.com" not in await analyses(pool, running)
    else:
        assert (counts[0], counts[LeadReason.DEAD_LETTER - 1]) == (11, 1)
        assert (await decisions(pool, running))["name-7.com"][0] is LeadReason.DEAD_LETTER


async def test_evidence_that_cannot_be_read_costs_its_own_name_only(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client
) -> None:
    sites = {f"name-{n}.com": Site(features=GOOD) for n in range(4)}
    sites["name-1.com"] = Site(features=GOOD, evidence=b"\xff\xff")
    running = await fetched(campaign_store, store, sites)
    await run(campaign_store, store, queue, running)
    leads = await next_phase(campaign_store, running)

    await run(campaign_store, store, queue, leads)

    found = await decisions(pool, leads)
    assert found.pop("name-1.com")[0] is LeadReason.DEAD_LETTER
    assert {reason for reason, _ in found.values()} == {LeadReason.QUALIFIED}


async def test_the_loop_breathes_between_slices_of_a_large_chunk() -> None:
    scoring = Scoring(1, 1, 1, b"")
    features = Features().to_bytes()
    items = [PageItem(StoredPage(n, f"{n}.com", features), scoring) for n in range(2_000)]
    probe = AnalysisProbe()
    seen = []

    async def look() -> None:
        while not seen or seen[-1]:
            await asyncio.sleep(0)
            seen.append(probe.waiting())

    checking = asyncio.create_task(probe._check(items))
    await look()
    assert len(await checking) == 2_000
    assert sorted(set(seen), reverse=True) == [1_500, 1_000, 500, 0]


@contextlib.asynccontextmanager
async def worker_process(
    database_url: str, nats_url: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.validation", "work", "analysis"),
        env={**os.environ, "DATABASE_URL": database_url, "NATS_URL": nats_url},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_pages_of_a_worker_that_is_killed_are_scored_once_by_another(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    queue: Client,
    database_url: str,
    nats_url: str,
) -> None:
    dice = random.Random(3)
    vectors = {f"name-{n}.com": random_features(dice) for n in range(600)}
    sites = {name: Site(features=vector) for name, vector in vectors.items()}
    sites |= {f"away-{n}.com": Site(Verdict.TIMEOUT) for n in range(300)}
    names = list(sites)
    dice.shuffle(names)
    running = await fetched(campaign_store, store, {name: sites[name] for name in names})
    # Slow enough to be killed in the middle.
    await pool.execute("UPDATE campaigns SET name_rate_limit = 150")
    await publish(queue, *await planned(campaign_store, running), pool="analysis")

    async def under_way() -> None:
        states = await pool.fetch("SELECT state, claim_time FROM chunks WHERE phase = 4")
        assert any(row["state"] == "done" for row in states)
        assert any(row["state"] == "queued" and row["claim_time"] for row in states)

    async with worker_process(database_url, nats_url) as first:
        await eventually(under_way, within=30)
        first.kill()
        await first.wait()
    # As the dispatcher takes them back; one of them may be what ended the worker.
    await pool.execute(
        """UPDATE chunks c SET state = 'ready', worker = NULL, claim_time = NULL,
               lease_expire_time = NULL, lost_count = CASE WHEN c.first_position = (
                   SELECT min(first_position) FROM chunks
                   WHERE phase = 4 AND claim_time IS NOT NULL AND state = 'queued')
               THEN 2 ELSE 1 END
           WHERE phase = 4 AND claim_time IS NOT NULL AND state = 'queued'"""
    )
    await pool.execute("UPDATE campaigns SET name_rate_limit = 0")
    async with worker_process(database_url, nats_url):
        await completed(campaign_store, queue, running)

    [score_time] = await pool.fetchrow("SELECT score_time FROM scorings")
    assert {name: row[0] for name, row in (await analyses(pool, running)).items()} == {
        name: explain(vector, DEFAULT_PROFILE, now=score_time).score
        for name, vector in vectors.items()
    }
    assert await outcomes(pool, running) == [600, 0, 0]
    assert not await pool.fetch("SELECT FROM dead_letters")
