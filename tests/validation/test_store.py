"""What becomes of a claim, in one fenced transaction each."""

from collections.abc import Sequence

import pytest

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.campaign.campaign import Action
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.validation.dns.verdict import Outcome, Verdict
from services.validation.evidence import evidence_to_bytes
from services.validation.results import ChunkResults, chunk_results
from services.validation.store import ChunkKey, Claim, Store
from tests.campaigns import act, history, kinds, validating

NAMES = [f"name-{number}.com" for number in range(5)]


async def claimed(
    store: Store, campaign_store: CampaignStore, names: Sequence[str] = NAMES
) -> Claim:
    """The one chunk of a new campaign, in our hands."""
    running = await validating(campaign_store, names, DnsConfiguration())
    claim = await store.claim(ChunkKey(running.campaign_no, 2, 1, 0), "worker")
    assert claim
    return claim


def outcomes(claim: Claim, names: Sequence[str], verdict: Verdict) -> ChunkResults:
    found = [Outcome(name, verdict, -1, (), (), -1, "", 0, 0, False) for name in names]
    key = claim.key
    return chunk_results(key.campaign_no, key.run, key.first_position, found, 1, evidence_to_bytes)


async def ledger(pool: Pool) -> list[tuple[int, int, str, int, int]]:
    rows = await pool.fetch(
        """SELECT first_position, name_count, state, failure_count, lost_count FROM chunks
           WHERE phase = 2 ORDER BY first_position"""
    )
    return [tuple(row) for row in rows]


async def test_a_claim_tells_what_went_wrong_before_and_how_fast_to_go(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    first = await claimed(store, campaign_store)
    assert (first.failure_count, first.lost_count, first.name_rate_limit) == (0, 0, 0)
    await store.release(first)
    await pool.execute("UPDATE chunks SET failure_count = 3, lost_count = 2 WHERE phase = 2")
    await pool.execute("UPDATE campaigns SET name_rate_limit = 70")

    second = await store.claim(first.key, "worker")

    assert second
    assert (second.failure_count, second.lost_count, second.name_rate_limit) == (3, 2, 70)
    assert (await store.hold([second])).rates == {first.key.campaign_no: 70}
    assert await store.name_rate_limit(first.key.campaign_no) == 70


async def test_a_claim_is_not_taken_by_another_however_late_it_is(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    """The database's clock may have been set: who is late is decided elsewhere."""
    claim = await claimed(store, campaign_store)
    await pool.execute("UPDATE chunks SET lease_expire_time = now() - interval '1 hour'")

    assert await store.claim(claim.key, "another") is None
    assert await store.settle(claim, outcomes(claim, NAMES, Verdict.NXDOMAIN))


async def test_a_failure_is_counted_and_on_record(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    claim = await claimed(store, campaign_store)

    assert await store.fail(claim, "cause " * 100, 0.5)

    assert await ledger(pool) == [(0, 5, "ready", 1, 0)]
    retried = (await history(campaign_store, claim.key.campaign_no))[-1].chunk_retried
    assert (retried.phase, retried.run, retried.attempt) == (2, 1, 1)
    assert retried.cause == ("cause " * 100)[:300]


async def test_halves_keep_the_failures_and_the_suspicion(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    first = await claimed(store, campaign_store)
    await store.release(first)
    await pool.execute("UPDATE chunks SET failure_count = 2, lost_count = 2 WHERE phase = 2")
    claim = await store.claim(first.key, "worker")
    assert claim

    assert await store.split(claim, "a poison name")

    assert await ledger(pool) == [(0, 2, "ready", 3, 2), (2, 3, "ready", 3, 2)]
    split = (await history(campaign_store, claim.key.campaign_no))[-1].chunk_split
    assert (split.first_position, split.name_count, split.second_position) == (0, 5, 2)
    assert split.cause == "a poison name"


async def test_a_name_given_up_is_settled_and_has_a_dead_letter(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    claim = await claimed(store, campaign_store, NAMES[:1])
    results = outcomes(claim, NAMES[:1], Verdict.DEAD_LETTER)

    assert await store.give_up(claim, results, NAMES[0], "x" * 400)

    letter = await pool.fetchrow("SELECT * FROM dead_letters")
    assert letter
    told = (letter["position"], letter["name"], letter["cause"], letter["failure_count"])
    assert told == (0, NAMES[0], "x" * 300, 1)
    assert (letter["state"], letter["resolve_time"]) == ("OPEN", None)
    assert await pool.fetchval("SELECT verdict FROM dns_results") == Verdict.DEAD_LETTER
    assert (await kinds(campaign_store, claim.key.campaign_no))[-2:] == [
        "chunk_settled",
        "name_dead_lettered",
    ]
    settled, dead = (await history(campaign_store, claim.key.campaign_no))[-2:]
    assert [(it.outcome, it.count) for it in settled.chunk_settled.outcomes] == [("DEAD_LETTER", 1)]
    assert (dead.name_dead_lettered.position, dead.name_dead_lettered.name) == (0, NAMES[0])


async def test_a_redriven_name_that_fails_again_opens_its_letter_again(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    claim = await claimed(store, campaign_store, NAMES[:1])
    results = outcomes(claim, NAMES[:1], Verdict.DEAD_LETTER)
    assert await store.give_up(claim, results, NAMES[0], "first")
    assert await pool.fetchval(
        "SELECT redrive_dead_letter($1, 2::smallint, 1, 0, 'again')", claim.key.campaign_no
    )
    again = await store.claim(claim.key, "worker")
    assert again

    assert await store.give_up(again, results, NAMES[0], "second")

    letter = await pool.fetchrow(
        "SELECT state, cause, failure_count, resolve_time, resolve_reason FROM dead_letters"
    )
    assert letter
    assert tuple(letter) == ("OPEN", "second", 2, None, "")


@pytest.mark.parametrize("what", ["fail", "split", "give_up", "settle"])
async def test_a_lost_claim_changes_nothing(
    pool: Pool, store: Store, campaign_store: CampaignStore, what: str
) -> None:
    names = NAMES[: 1 if what == "give_up" else 5]
    lost = await claimed(store, campaign_store, names)
    await store.release(lost)
    newer = await store.claim(lost.key, "another")
    assert newer
    before = await ledger(pool), await history(campaign_store, lost.key.campaign_no)

    assert not await change(store, lost, what, names)

    assert (await ledger(pool), await history(campaign_store, lost.key.campaign_no)) == before
    assert await pool.fetchval("SELECT count(*) FROM dns_results") == 0
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 0
    assert (await store.hold([newer])).lost == set()


@pytest.mark.parametrize("what", ["fail", "split", "give_up", "settle"])
async def test_nothing_is_changed_once_the_phase_is_paused(
    pool: Pool, store: Store, campaign_store: CampaignStore, what: str
) -> None:
    names = NAMES[: 1 if what == "give_up" else 5]
    claim = await claimed(store, campaign_store, names)
    campaign_id = await pool.fetchval("SELECT id FROM campaigns")
    await act(campaign_store, campaign_id, Action.PAUSE)
    before = await ledger(pool), await history(campaign_store, claim.key.campaign_no)

    assert not await change(store, claim, what, names)

    assert (await ledger(pool), await history(campaign_store, claim.key.campaign_no)) == before


async def change(store: Store, claim: Claim, what: str, names: Sequence[str]) -> bool:
    match what:
        case "fail":
            return await store.fail(claim, "late", 1)
        case "split":
            return await store.split(claim, "late")
        case "give_up":
            results = outcomes(claim, names, Verdict.DEAD_LETTER)
            return await store.give_up(claim, results, names[0], "late")
        case _:
            return await store.settle(claim, outcomes(claim, names, Verdict.NXDOMAIN))


async def test_whoever_comes_late_to_a_chunk_that_was_split_is_refused(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    """It has fewer names now than this worker has outcomes."""
    frozen = await claimed(store, campaign_store)
    await store.release(frozen)
    newer = await store.claim(frozen.key, "another")
    assert newer
    assert await store.split(newer, "a poison name")

    assert not await store.settle(frozen, outcomes(frozen, NAMES, Verdict.NXDOMAIN))
    assert await store.claim(frozen.key, "another")
    assert not await store.settle(frozen, outcomes(frozen, NAMES, Verdict.NXDOMAIN))
    assert await pool.fetchval("SELECT count(*) FROM dns_results") == 0
