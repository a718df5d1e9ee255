"""Chunks of later phases have some names only: each candidate gets one result, whatever happens."""

import random
from collections.abc import Sequence
from itertools import pairwise
from uuid import UUID

import pytest

from domainflow.campaign.v1 import campaign_pb2 as pb
from services.campaign.campaign import Action, Mode, Phase, Status
from services.campaign.ingest import digest
from services.campaign.outcomes import balances, phase_receipt
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.leads import LeadReason
from services.chassis.postgres import Pool
from services.query.counter_check import check_counters
from services.validation.analysis_rows import (
    AnalysisOutcome,
    DecidedName,
    ScoredPage,
    analysis_rows,
    lead_rows,
)
from services.validation.dns.verdict import Outcome
from services.validation.dns.verdict import Verdict as DnsVerdict
from services.validation.evidence import evidence_to_bytes
from services.validation.http.verdict import Verdict
from services.validation.http_rows import (
    HttpOutcome,
    PageFields,
    ResultFields,
    chunk_rows,
    encoded_page,
    encoded_result,
)
from services.validation.results import ChunkResults, chunk_results
from services.validation.store import ChunkKey, Claim, Store
from tests.campaigns import act, create, from_upload, hand_out, new_campaign

GENERATION, DNS, HTTP, ANALYSIS, LEADS = Phase
NAMES = [f"name-{number}.{('com', 'net', 'co.uk')[number % 3]}" for number in range(150)]
RESULT = encoded_result(ResultFields(200, "https://name.example/", "A title"))
PAGE = encoded_page(PageFields(1, b"vector", [("blue", 2)], True, b""))
# Of a phase: its results, and the condition for its candidates in the phase that it rests on.
TABLES = {3: "http_results", 4: "page_analyses", 5: "leads"}
CANDIDATES = {
    3: "SELECT position FROM dns_results WHERE campaign_no = $1 AND run = $2 AND verdict = 1",
    4: "SELECT position FROM http_results WHERE campaign_no = $1 AND run = $2 AND verdict = 1",
    5: "SELECT position FROM http_results WHERE campaign_no = $1 AND run = $2",
}

Items = Sequence[tuple[int, str]]


def found(claim: Claim, items: Items, dice: random.Random, *, dead: bool = False) -> ChunkResults:
    """What a worker might have found out about the names of a chunk."""
    no, phase, run = claim.key.campaign_no, claim.key.phase, claim.key.run
    if phase == DNS:
        of_dns = [DnsVerdict.DEAD_LETTER] if dead else [DnsVerdict.RESOLVED, DnsVerdict.NXDOMAIN]
        checked = [
            Outcome(name, dice.choice(of_dns), 0, ("192.0.2.1",), (), 60, "r", 1, 1, False)
            for _, name in items
        ]
        first = claim.key.first_position
        return chunk_results(no, run, first, checked, 1, evidence_to_bytes)
    if phase == HTTP:
        verdicts = [Verdict.DEAD_LETTER] if dead else [Verdict.OK, Verdict.OK, Verdict.TIMEOUT]
        fetched = []
        for position, name in items:
            verdict = dice.choice(verdicts)
            page = PAGE if verdict is Verdict.OK else None
            fetched.append(HttpOutcome(position, name, verdict, 1, 1, RESULT, page))
        return chunk_rows(no, run, fetched, 1)
    if phase == ANALYSIS:
        scored = [
            ScoredPage(
                position, name, AnalysisOutcome.ERROR if dead else AnalysisOutcome(position % 2 + 1)
            )
            for position, name in items
        ]
        return analysis_rows(no, run, scored, 1)
    reasons = [LeadReason.DEAD_LETTER] if dead else [*LeadReason]
    decided = [DecidedName(position, name, dice.choice(reasons), b"") for position, name in items]
    return lead_rows(no, run, decided, 1)


class Workers:
    """Claims, and whatever becomes of them."""

    def __init__(
        self, pool: Pool, store: Store, campaigns: CampaignStore, dice: random.Random
    ) -> None:
        self.pool, self.store, self.campaigns, self.dice = pool, store, campaigns, dice

    async def work(self, running: RunningPhase, *, mishaps: int) -> None:
        """Do a running phase to its end. So many chunks meet with something first."""
        while True:
            if not (await self._present(running)).planned:
                await self._plan(await self._present(running))
            claims = await self._claim(running)
            if not claims and (await self._present(running)).planned:
                break
            for claim in claims:
                items = await self.items(claim)
                assert len(items) == claim.name_count
                assert claim.key.first_position == items[0][0]
                if mishaps > 0:
                    mishaps -= 1
                    if await self._mishap(running, claim, items):
                        break
                else:
                    assert await self.store.settle(claim, found(claim, items, self.dice))
        assert await self.campaigns.ledger.complete(running)

    async def _present(self, running: RunningPhase) -> RunningPhase:
        return await self.campaigns.names.running_phase(running.campaign_id, running.phase)

    async def _plan(self, running: RunningPhase) -> None:
        size, count = self.dice.randint(1, 12), self.dice.randint(1, 4)
        if running.phase is DNS:
            await self.campaigns.ledger.plan(running, len(NAMES), size, count)
        else:
            outlook = await self.campaigns.ledger.outlook(running)
            offers = await self.campaigns.ledger.plan_candidates(running, size, count)
            assert sum(offer.name_count for offer in offers) <= outlook.names_left
            state = (await self.campaigns.get(running.campaign_id)).state(running.phase)
            assert state.name_count == outlook.name_count

    async def _claim(self, running: RunningPhase) -> list[Claim]:
        await hand_out(self.campaigns, [running], share=3)
        keys = await self.pool.fetch(
            """SELECT campaign_no, phase, run, first_position FROM chunks
            WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND state = 'queued'
                AND claim_time IS NULL ORDER BY random() LIMIT 3""",
            running.campaign_no,
            running.phase,
            running.run,
        )
        claims = [await self.store.claim(ChunkKey(*key), "worker") for key in keys]
        return [claim for claim in claims if claim]

    async def items(self, claim: Claim) -> list[tuple[int, str]]:
        """Positions and names of a claim, read as workers read them."""
        key = claim.key
        if claim.last_position is None:
            names = await self.store.names(claim)
            return list(enumerate(names, key.first_position))
        rows = await self.pool.fetch(
            """SELECT c.position, d.name
            FROM candidate_positions($1, $2, $3, $4, $5, 1000) AS c (position)
            JOIN domains d ON d.campaign_no = $1 AND d.position = c.position ORDER BY 1""",
            key.campaign_no,
            key.phase,
            claim.source_run,
            key.first_position,
            claim.last_position,
        )
        return [tuple(row) for row in rows]

    async def _mishap(
        self, running: RunningPhase, claim: Claim, items: list[tuple[int, str]]
    ) -> bool:
        """Whether all claims that were made together are gone."""
        ledger = self.campaigns.ledger
        match self.dice.choice(["split", "split", "killed", "failed", "paused", "late"]):
            case "split" if len(items) > 1:
                assert await self.store.split(claim, "poison")
            case "split":
                dead = found(claim, items, self.dice, dead=True)
                assert await self.store.give_up(claim, dead, items[0][1], "poison")
            case "killed":
                seen = [each for each in await ledger.queued() if each.claimed]
                assert await ledger.take_back_claims(running, seen)
                return True
            case "failed":
                assert await self.store.fail(claim, "a fault", 0)
                await self.pool.execute("UPDATE chunks SET ready_time = NULL")
            case "paused":
                await act(self.campaigns, running.campaign_id, Action.PAUSE)
                assert not await self.store.settle(claim, found(claim, items, self.dice))
                await act(self.campaigns, running.campaign_id, Action.RESUME)
                return True
            case _:
                assert await self.store.settle(claim, found(claim, items, self.dice))
                assert not await self.store.settle(claim, found(claim, items, self.dice))
        return False


async def results_are_those_of_the_candidates(pool: Pool, no: int, phase: Phase) -> None:
    run, source_run, name_count, last = await pool.fetchrow(
        """SELECT run, source_run, name_count, last_positions FROM phases, LATERAL (
            SELECT count(*) FILTER (WHERE last_position < first_position) AS last_positions
            FROM chunks c WHERE c.campaign_no = phases.campaign_no AND c.phase = phases.phase
        ) c WHERE campaign_no = $1 AND phase = $2""",
        no,
        phase,
    )
    wanted = {row[0] for row in await pool.fetch(CANDIDATES[phase], no, source_run)}
    rows = await pool.fetch(
        f"SELECT position FROM {TABLES[phase]} WHERE campaign_no = $1 AND run = $2", no, run
    )
    # A page that was given up in the analysis has an outcome and no row.
    lost = await pool.fetchval(
        """SELECT coalesce(sum(outcome_counts[3]), 0) FROM chunks
        WHERE campaign_no = $1 AND phase = 4 AND run = $2 AND $3 = 4""",
        no,
        run,
        int(phase),
    )
    have = {row[0] for row in rows}
    assert len(rows) == len(have)
    assert have <= wanted
    assert len(have) == len(wanted) - lost == name_count - lost
    assert last == 0
    # Chunks of a run are disjoint and in order.
    spans = await pool.fetch(
        """SELECT first_position, last_position FROM chunks
        WHERE campaign_no = $1 AND phase = $2 AND run = $3 ORDER BY 1""",
        no,
        phase,
        run,
    )
    assert all(before[1] < after[0] for before, after in pairwise(spans))


async def sequence(campaigns: CampaignStore, names: Sequence[str] = NAMES) -> UUID:
    """A campaign through all phases, whose names are there and whose DNS validation runs."""
    configuration = from_upload()
    for part in (configuration.http, configuration.analysis, configuration.lead):
        part.SetInParent()
    new = new_campaign(configuration, mode=Mode.FULL_SEQUENCE, phases=tuple(Phase))
    campaign = await create(campaigns, new)
    await act(campaigns, campaign, Action.START)
    running = await campaigns.names.running_phase(campaign.id, GENERATION)
    assert await campaigns.names.append_names(running, 0, names, digest(names))
    await campaigns.names.announce(running, len(names), planned=True)
    assert await campaigns.ledger.complete(running)
    return campaign.id


async def receipts(campaigns: CampaignStore, campaign_id: UUID) -> list[pb.PhaseReceipt]:
    accounts = await campaigns.accounts(campaign_id)
    made = [
        phase_receipt(state, tally, digests, None)
        for state, tally, digests in zip(
            accounts.campaign.phases, accounts.tallies, accounts.digests, strict=True
        )
    ]
    assert balances(accounts.campaign, made)
    return made


def counts(receipt: pb.PhaseReceipt) -> dict[str, int]:
    return {outcome.outcome: outcome.count for outcome in receipt.outcomes}


def answer(count: int) -> bytes:
    return str(count).encode()


@pytest.mark.parametrize("seed", range(3))
async def test_every_candidate_has_one_result_whatever_happens_to_the_chunks(
    pool: Pool, store: Store, campaign_store: CampaignStore, seed: int
) -> None:
    """Split, failed, taken back, paused, given up, redriven, run again."""
    dice = random.Random(seed)
    campaign_id = await sequence(campaign_store)
    workers = Workers(pool, store, campaign_store, dice)
    for again in range(2):
        for phase in (DNS, HTTP, ANALYSIS, LEADS):
            running = await campaign_store.names.running_phase(campaign_id, phase)
            await workers.work(running, mishaps=12)
            no = running.campaign_no
            if phase is not DNS:
                await results_are_those_of_the_candidates(pool, no, phase)
            # Ranges that begin where sparse chunks do.
            check = await check_counters(pool, no, size=20)
            assert check
            assert not check.drifts
        made = await receipts(campaign_store, campaign_id)
        assert made[4].audit.analysed_count == sum(counts(made[2]).values())
        assert [receipt.dead_letter_count for receipt in made[1:4]] == [
            counts(receipt).get(name, 0)
            for receipt, name in zip(
                made[1:4], ("DEAD_LETTER", "DEAD_LETTER", "ERROR"), strict=True
            )
        ]
        # Leads may be called so for what became of them earlier; letters are those of the phase.
        assert made[4].dead_letter_count <= counts(made[4]).get("DEAD_LETTER", 0)
        if again:
            break
        given_up = made[4].dead_letter_count
        redriven = await campaign_store.dead_letters.redrive(
            campaign_id, LEADS, [], reason="again", key=None, answer=answer
        )
        assert redriven == answer(given_up)
        if given_up:
            running = await campaign_store.names.running_phase(campaign_id, LEADS)
            await workers.work(running, mishaps=0)
            await results_are_those_of_the_candidates(pool, running.campaign_no, LEADS)
            assert (await receipts(campaign_store, campaign_id))[4].dead_letter_count == 0
        await act(campaign_store, campaign_id, Action.RERUN, phase=DNS)
        states = (await campaign_store.get(campaign_id)).phases
        assert [state.status for state in states[2:]] == [Status.CONFIGURED] * 3


async def test_letters_of_a_later_phase_are_handed_out_again(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    dice = random.Random(5)
    campaign_id = await sequence(campaign_store, NAMES[:40])
    workers = Workers(pool, store, campaign_store, dice)
    running = await campaign_store.names.running_phase(campaign_id, DNS)
    await campaign_store.ledger.plan(running, 40, 40)
    await workers.work(running, mishaps=0)
    running = await campaign_store.names.running_phase(campaign_id, HTTP)
    await campaign_store.ledger.plan_candidates(running, 5, 100)
    letters = []
    while len(letters) < 3:
        for claim in await workers._claim(running):
            items = await workers.items(claim)
            if claim.name_count > 1:
                assert await store.split(claim, "poison")
                continue
            dead = found(claim, items, dice, dead=True)
            assert await store.give_up(claim, dead, items[0][1], "poison")
            letters.append(claim.key.first_position)

    redriven = await campaign_store.dead_letters.redrive(
        campaign_id, HTTP, letters[:2], reason="", key=None, answer=answer
    )

    assert redriven == b"2"
    left = await pool.fetch("SELECT position FROM http_results")
    assert letters[2] in {row[0] for row in left}
    assert not set(letters[:2]) & {row[0] for row in left}
    await workers.work(running, mishaps=0)
    await results_are_those_of_the_candidates(pool, running.campaign_no, HTTP)


async def test_without_a_candidate_a_phase_is_over_at_once(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    """DNS was left out without a result, HTTP too: nothing is fetched, scored or decided on."""
    campaign_id = await sequence(campaign_store, NAMES[:10])
    running = await campaign_store.names.running_phase(campaign_id, DNS)
    await campaign_store.ledger.fail(running, "a fault")
    await act(campaign_store, campaign_id, Action.SKIP, phase=DNS)

    # All names: nothing says which ones resolve.
    running = await campaign_store.names.running_phase(campaign_id, HTTP)
    await campaign_store.ledger.plan_candidates(running, 4, 100)
    assert await pool.fetch(
        "SELECT first_position, last_position, name_count FROM chunks WHERE phase = 3 ORDER BY 1"
    ) == [(0, 3, 4), (4, 7, 4), (8, 9, 2)]
    await campaign_store.ledger.fail(running, "a fault")
    await act(campaign_store, campaign_id, Action.SKIP, phase=HTTP)

    for phase in (ANALYSIS, LEADS):
        running = await campaign_store.names.running_phase(campaign_id, phase)
        assert not running.planned
        assert await campaign_store.ledger.plan_candidates(running, 4, 100) == []
        running = await campaign_store.names.running_phase(campaign_id, phase)
        assert running.planned
        assert await campaign_store.ledger.complete(running)
    made = await receipts(campaign_store, campaign_id)
    assert [receipt.name_count for receipt in made[3:]] == [0, 0]
    assert made[4].audit == pb.LeadAudit()


async def test_what_a_failed_phase_has_found_is_gone_on_with(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    campaign_id = await sequence(campaign_store, NAMES[:40])
    workers = Workers(pool, store, campaign_store, random.Random(1))
    running = await campaign_store.names.running_phase(campaign_id, DNS)
    await campaign_store.ledger.plan(running, 40, 10)
    for claim in await workers._claim(running):
        assert await store.settle(claim, found(claim, await workers.items(claim), workers.dice))
    await campaign_store.ledger.fail(running, "a fault")
    await act(campaign_store, campaign_id, Action.SKIP, phase=DNS)

    running = await campaign_store.names.running_phase(campaign_id, HTTP)
    await workers.work(running, mishaps=3)

    await results_are_those_of_the_candidates(pool, running.campaign_no, HTTP)
    assert await pool.fetchval("SELECT count(*) FROM http_results") > 0


async def test_services_of_the_version_before_plan_no_later_phase_and_leave_no_old_source(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    """They run beside the new ones during an upgrade: their plans are those of all names."""
    campaign_id = await sequence(campaign_store)
    workers = Workers(pool, store, campaign_store, random.Random(1))
    running = await campaign_store.names.running_phase(campaign_id, DNS)
    await workers.work(running, mishaps=0)
    running = await campaign_store.names.running_phase(campaign_id, HTTP)

    assert await campaign_store.ledger.plan(running, len(NAMES), 7, 3) == []
    assert await campaign_store.ledger.plan_candidates(running, 5, 1)
    assert await campaign_store.ledger.plan(running, len(NAMES), 7, 3) == []

    assert (await campaign_store.get(campaign_id)).state(HTTP).name_count < len(NAMES)
    await workers.work(running, mishaps=3)
    await results_are_those_of_the_candidates(pool, running.campaign_no, HTTP)
    sources = "SELECT source_run FROM phases WHERE phase = 3"
    assert await pool.fetchval(sources) == 1
    await pool.execute("UPDATE phases SET run = run + 1, planned = false WHERE phase = 3")
    assert await pool.fetchval(sources) is None
