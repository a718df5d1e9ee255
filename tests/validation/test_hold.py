"""How claims are kept alive: many by one statement, against real rows."""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import uuid4

import pytest

from services.chassis.postgres import Pool, open_pool
from services.validation.store import ChunkKey, Claim, Held, Store

DNS = 2


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, application_name="test") as pool:
        yield pool


@pytest.fixture
async def claims(pool: Pool) -> list[Claim]:
    """Three claimed chunks of one running phase."""
    campaign = await pool.fetchval(
        """INSERT INTO campaigns (id, name, mode, initial_phase, final_phase, configuration)
           VALUES ($1, 'held', 'STEP_BY_STEP', 1, 2, '') RETURNING no""",
        uuid4(),
    )
    await pool.execute(
        "INSERT INTO phases (campaign_no, phase, status, run) VALUES ($1, $2, 'RUNNING', 1)",
        campaign,
        DNS,
    )
    taken = []
    for first in (0, 10, 20):
        await pool.execute(
            """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
               VALUES ($1, $2, 1, $3, 10, 'ready')""",
            campaign,
            DNS,
            first,
        )
        claim = await Store(pool).claim(ChunkKey(campaign, DNS, 1, first), "a worker")
        assert claim
        taken.append(claim)
    await _end_leases(pool)
    return taken


async def test_held_claims_have_a_new_lease(pool: Pool, claims: list[Claim]) -> None:
    before = await _leases(pool)
    assert (await Store(pool).hold(claims)).lost == set()
    after = await _leases(pool)
    assert all(after[claim.key.first_position] > max(before.values()) for claim in claims)


async def test_holding_nothing_loses_nothing(pool: Pool) -> None:
    assert await Store(pool).hold([]) == Held(set(), {})


async def test_every_claim_of_a_paused_phase_is_lost(pool: Pool, claims: list[Claim]) -> None:
    await pool.execute("UPDATE phases SET status = 'PAUSED'")
    assert (await Store(pool).hold(claims)).lost == set(claims)


async def test_only_the_newest_claim_of_a_chunk_is_kept(pool: Pool, claims: list[Claim]) -> None:
    store = Store(pool)
    assert await store.claim(claims[0].key, "another worker") is None
    await store.release(claims[0])
    newer = await store.claim(claims[0].key, "another worker")
    assert newer
    assert (await store.hold([*claims, newer])).lost == {claims[0]}


async def test_released_claims_are_lost_and_settled_ones_are_not(
    pool: Pool, claims: list[Claim]
) -> None:
    store = Store(pool)
    await store.release(claims[0])
    await pool.execute("UPDATE chunks SET state = 'done' WHERE first_position = 10")
    assert (await store.hold(claims)).lost == {claims[0]}


async def test_claims_of_a_deleted_campaign_are_lost(pool: Pool, claims: list[Claim]) -> None:
    store = Store(pool)
    await pool.execute("DELETE FROM chunks WHERE first_position = 10")
    assert (await store.hold(claims)).lost == {claims[1]}
    await pool.execute("DELETE FROM chunks")
    await pool.execute("DELETE FROM campaigns")
    assert (await store.hold(claims)).lost == set(claims)


async def test_a_chunk_in_somebody_elses_hands_is_passed_over(
    pool: Pool, claims: list[Claim]
) -> None:
    """Waiting for it while holding the others is how two transactions come to wait in a ring."""
    before = await _leases(pool)
    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM chunks WHERE first_position = 10 FOR UPDATE")
        assert (await Store(pool).hold(claims)).lost == set()
    after = await _leases(pool)
    assert {first for first in after if after[first] > before[first]} == {0, 20}


async def _end_leases(pool: Pool) -> None:
    await pool.execute("UPDATE chunks SET lease_expire_time = now()")


async def _leases(pool: Pool) -> dict[int, datetime]:
    rows = await pool.fetch("SELECT first_position, lease_expire_time FROM chunks")
    return {row[0]: row[1] for row in rows}
