"""Counters that are kept with the ledger: equal to its rows whatever is done to it, and by whom."""

import asyncio
import random
from dataclasses import replace

import pytest

from services.campaign.campaign import Action
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import AWAY, Pool
from services.query.counter_check import check_counters
from services.validation.dns.verdict import Outcome, Verdict
from services.validation.evidence import evidence_to_bytes
from services.validation.results import ChunkResults, chunk_results
from services.validation.store import ChunkKey, Claim, Settled, Store
from tests.campaigns import DNS, act, hand_out, validating

TLDS = ("com", "net", "co.uk", "xn--p1ai")
NAMES = [f"name-{number}.{TLDS[number % 4]}" for number in range(60)]
RESOLVER = "192.0.2.53:53"


def checked(claim: Claim, names: list[str], dice: random.Random) -> ChunkResults:
    """Outcomes by the word of one resolver."""
    verdicts = dice.choices([Verdict.RESOLVED, Verdict.NXDOMAIN, Verdict.TIMEOUT], k=len(names))
    found = [
        Outcome(name, verdict, 0, ("192.0.2.1",), (), 60, RESOLVER, 1, 1, False)
        for name, verdict in zip(names, verdicts, strict=True)
    ]
    key = claim.key
    return chunk_results(key.campaign_no, key.run, key.first_position, found, 1, evidence_to_bytes)


async def counters_are_right(pool: Pool, campaign_no: int) -> None:
    answer = await check_counters(pool, campaign_no)
    assert answer
    assert not answer.drifts
    # Everything settled has a revision, no two of them the same.
    settled, revisions = await pool.fetchrow(
        """SELECT count(*), count(DISTINCT revision) FROM chunks
        WHERE campaign_no = $1 AND state = 'done'""",
        campaign_no,
    )
    assert settled == revisions


async def claim_some(
    pool: Pool, store: Store, campaign_store: CampaignStore, running: RunningPhase
) -> list[Claim]:
    await hand_out(campaign_store, [running])
    keys = await pool.fetch(
        """SELECT campaign_no, phase, run, first_position FROM chunks
        WHERE campaign_no = $1 AND phase = 2 AND state = 'queued' AND claim_time IS NULL
        ORDER BY first_position LIMIT 3""",
        running.campaign_no,
    )
    claims = [await store.claim(ChunkKey(*key), "worker") for key in keys]
    return [claim for claim in claims if claim]


async def settle_all(
    pool: Pool,
    store: Store,
    campaign_store: CampaignStore,
    running: RunningPhase,
    dice: random.Random,
) -> None:
    while claims := await claim_some(pool, store, campaign_store, running):
        for claim in claims:
            results = checked(claim, await store.names(claim), dice)
            assert await store.settle(claim, results)


async def test_many_changes_of_one_transaction_are_added_up_first(
    pool: Pool, campaign_store: CampaignStore
) -> None:
    """Each version of a totals row that a transaction makes delays its next one."""
    no = (await validating(campaign_store, NAMES, chunk_size=5)).campaign_no
    settle = """UPDATE chunks SET state = 'done', outcome_counts = '{2,3}',
        tld_counts = '{"com": {"1": 2}, "net": {"2": 3}}' WHERE campaign_no = $1 AND phase = 2"""
    async with pool.acquire() as connection, connection.transaction():
        undone = connection.transaction()
        await undone.start()
        await connection.execute(settle, no)
        await undone.rollback()
        await connection.execute(settle, no)
        await connection.execute(
            """UPDATE chunks SET outcome_counts = NULL
            WHERE campaign_no = $1 AND phase = 2 AND first_position >= 50""",
            no,
        )

    for table, expected in (
        ("ledger_totals", [(50, [20, 30])]),
        ("tld_totals", [(20, [20, 0]), (30, [0, 30])]),
    ):
        rows = await pool.fetch(
            f"""SELECT settled_count, outcome_counts, (ctid::text::point)[1]::int AS version
            FROM {table} WHERE phase = 2 ORDER BY 1"""
        )
        assert [(row[0], row[1]) for row in rows] == expected
        assert max(row["version"] for row in rows) < 10
    assert await pool.fetchval("SELECT count(*) FROM uncounted") == 0
    # The next transaction of this session begins at nothing.
    await pool.execute(
        """UPDATE chunks SET outcome_counts = '{5}'
        WHERE campaign_no = $1 AND phase = 2 AND first_position = 50""",
        no,
    )
    settled = "SELECT settled_count FROM ledger_totals WHERE phase = 2"
    assert await pool.fetchval(settled) == 55


@pytest.mark.parametrize("seed", range(3))
async def test_counters_are_right_whatever_happens_to_the_chunks(
    pool: Pool, store: Store, campaign_store: CampaignStore, seed: int
) -> None:
    """Settled, by older workers too, split, given up, redriven, withdrawn, run again."""
    dice = random.Random(seed)
    running = await validating(campaign_store, NAMES, chunk_size=5)
    no, campaign_id = running.campaign_no, running.campaign_id
    for _ in range(2):
        for _ in range(12):
            for claim in await claim_some(pool, store, campaign_store, running):
                names = await store.names(claim)
                results = checked(claim, names, dice)
                match dice.choice(["settle", "settle", "by an older worker", "fail"]):
                    case "settle":
                        assert await store.settle(claim, results)
                    case "by an older worker":
                        assert await store.settle(claim, replace(results, tlds=None))
                    case _ if claim.name_count > 1:
                        assert await store.split(claim, "poison")
                    case _:
                        dead = Outcome(
                            names[0], Verdict.DEAD_LETTER, -1, (), (), -1, "", 0, 0, False
                        )
                        position = claim.key.first_position
                        given_up = chunk_results(
                            no, running.run, position, [dead], 1, evidence_to_bytes
                        )
                        assert await store.give_up(claim, given_up, names[0], "poison")
            if dice.random() < 0.3:
                rows = await pool.fetch(
                    """SELECT first_position, attempt FROM chunks
                    WHERE campaign_no = $1 AND phase = 2 AND run = $2 AND state = 'done'
                    ORDER BY random() LIMIT 2""",
                    no,
                    running.run,
                )
                chunks = [Settled(ChunkKey(no, 2, running.run, r[0]), r[1]) for r in rows]
                if chunks:
                    await store.withdraw(chunks, RESOLVER, "it lies")
            await counters_are_right(pool, no)
        await campaign_store.dead_letters.redrive(
            campaign_id, DNS, [], reason="again", key=None, answer=str_answer
        )
        await counters_are_right(pool, no)
        await settle_all(pool, store, campaign_store, running, dice)
        assert await campaign_store.ledger.complete(running)
        await counters_are_right(pool, no)
        await act(campaign_store, campaign_id, Action.RERUN, phase=DNS)
        running = await campaign_store.names.running_phase(campaign_id, DNS)
        await campaign_store.ledger.plan(running, len(NAMES), 5)
        running = await campaign_store.names.running_phase(campaign_id, DNS)


def str_answer(count: int) -> bytes:
    return str(count).encode()


async def test_four_who_settle_at_once_neither_deadlock_nor_miscount(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    names = [f"name-{number}.tld{number % 50}" for number in range(400)]
    running = await validating(campaign_store, names, chunk_size=5)
    keys = await hand_out(campaign_store, [running])
    no = running.campaign_no

    async def work(number: int) -> None:
        dice = random.Random(number)
        for place in range(number, len(keys), 4):
            claim = await store.claim(ChunkKey(no, 2, 1, keys[place].first_position), "worker")
            assert claim
            assert await store.settle(claim, checked(claim, await store.names(claim), dice))
            if dice.random() < 0.2:
                await store.withdraw([Settled(claim.key, claim.attempt)], RESOLVER, "it lies")

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(work(number))
    await counters_are_right(pool, no)


async def test_a_settlement_that_is_cut_off_before_its_end_counts_nothing(
    pool: Pool, store: Store, campaign_store: CampaignStore
) -> None:
    running = await validating(campaign_store, NAMES[:10], chunk_size=5)
    [claim, other, *_] = await claim_some(pool, store, campaign_store, running)
    results = checked(claim, await store.names(claim), random.Random(1))
    assert await store.settle(other, checked(other, await store.names(other), random.Random(2)))

    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "SELECT settle_chunk($1, 2::smallint, 1, $2, 1, $3, $4, '{}')",
            claim.key.campaign_no,
            claim.key.first_position,
            results.counts,
            results.sha256,
        )
        await pool.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        with pytest.raises(AWAY):
            await connection.execute("COMMIT")
    await counters_are_right(pool, running.campaign_no)
    assert await store.settle(claim, results)
    await counters_are_right(pool, running.campaign_no)
