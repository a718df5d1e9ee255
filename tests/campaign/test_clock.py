"""The database's clock is set an hour forward and two back while a campaign runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
from nats.aio.client import Client

from services.campaign.campaign import Status
from services.campaign.dispatcher import Dispatcher
from services.campaign.ledger import ChunkKey as LedgerKey
from services.campaign.store import Store
from services.chassis.postgres import Pool, open_pool
from services.validation.store import ChunkKey, Claim
from services.validation.store import Store as WorkerStore
from tests.campaigns import DNS, claim, history, settle, validating
from tests.eventually import eventually
from tests.queues import empty_queue

HOUR = 3600
# What every statement of ours finds as now().
SKEWED = """
    CREATE SCHEMA skew;
    CREATE TABLE skew.clock (ahead interval NOT NULL);
    INSERT INTO skew.clock VALUES (interval '0');
    CREATE FUNCTION skew.now() RETURNS timestamptz LANGUAGE sql STABLE AS
        'SELECT pg_catalog.now() + ahead FROM skew.clock';
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = skew, public, pg_catalog',
            current_database());
    END $$;
"""


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    connection = await asyncpg.connect(database_url)
    await connection.execute(SKEWED)
    await connection.close()
    async with await open_pool(database_url, application_name="test", max_size=12) as pool:
        yield pool


@pytest.fixture
async def queue(nats_url: str) -> AsyncIterator[Client]:
    async with empty_queue(nats_url) as client:
        yield client


async def set_clock(pool: Pool, ahead: int) -> None:
    before = await pool.fetchval("SELECT now()")
    await pool.execute("UPDATE skew.clock SET ahead = make_interval(secs => $1)", ahead)
    after = await pool.fetchval("SELECT now()")
    # Or nothing here would mean anything.
    assert abs((after - before).total_seconds()) >= HOUR - 60


class Holder:
    """A worker that holds what it has claimed, as workers do, and stores nothing by itself."""

    def __init__(self, pool: Pool) -> None:
        self._store = WorkerStore(pool)
        self.claims: list[Claim] = []
        self.lost: set[Claim] = set()
        self.holds = 0

    async def claim(self, first: int, campaign_no: int) -> None:
        claimed = await self._store.claim(ChunkKey(campaign_no, DNS, 1, first), "holder")
        assert claimed
        self.claims.append(claimed)

    async def hold(self) -> None:
        while True:
            self.lost |= (await self._store.hold(self.claims)).lost
            self.holds += 1
            await asyncio.sleep(0.5)

    async def held_again(self, times: int) -> None:
        """Return after so many more holds."""
        begun = self.holds

        async def held() -> None:
            assert self.holds >= begun + times

        await eventually(held, within=30)


@contextlib.asynccontextmanager
async def background(*works: asyncio.Future[None]) -> AsyncIterator[None]:
    try:
        yield
        for work in works:
            assert not work.done(), work
    finally:
        for work in works:
            work.cancel()
        await asyncio.wait(works)


async def test_a_clock_that_is_set_takes_nothing_back_and_stalls_nothing(
    store: Store, pool: Pool, queue: Client
) -> None:
    running = await validating(store, [f"{number}.com" for number in range(1_000)])
    holder = Holder(pool)
    no = running.campaign_no

    async def queued(count: int) -> None:
        sightings = await store.ledger.queued()
        assert sum(not each.claimed for each in sightings) == count

    async def taken_back() -> None:
        kinds = [event.WhichOneof("kind") for event in await history(store, no)]
        assert "chunk_retried" in kinds

    async def completed() -> None:
        campaign = await store.get(running.campaign_id)
        assert campaign.current.status is Status.COMPLETED

    dispatching = asyncio.ensure_future(Dispatcher(store=store, queue=queue).dispatch())
    async with background(dispatching, asyncio.ensure_future(holder.hold())):
        await eventually(lambda: queued(10))
        for first in range(0, 800, 100):
            await holder.claim(first, no)
        gone, failing = await unclaimed(store)
        assert await claim(pool, gone, "gone") == 1
        await holder.held_again(2)

        for ahead in (HOUR, -HOUR):
            await set_clock(pool, ahead)
            assert await claim(pool, failing, "failing")
            await fail(pool, failing)
            # It waits out its back-off whatever the clock says, and comes again.
            await eventually(lambda: queued(1))
            await holder.held_again(2)
            assert holder.lost == set()

        # The one that nobody holds is lost, with an event, and is the only one.
        await eventually(taken_back, within=40)
        await eventually(lambda: queued(2))
        await set_clock(pool, 0)
        await holder.held_again(2)
        assert holder.lost == set()

        for held in holder.claims:
            assert held.attempt == 1
            assert await settle(pool, as_ledger(held), 1, 100)
        holder.claims.clear()
        assert not await settle(pool, gone, 1, 100)
        for key in (gone, failing):
            attempt = await claim(pool, key)
            assert attempt == (2 if key == gone else 3)
            assert await settle(pool, key, attempt, 100)
        await eventually(completed)

    rows = await pool.fetch(
        """SELECT first_position, lost_count, failure_count FROM chunks
           WHERE phase = 2 ORDER BY first_position"""
    )
    assert [tuple(row) for row in rows] == [
        (first, int(first == gone.first_position), 2 * int(first == failing.first_position))
        for first in range(0, 1_000, 100)
    ]
    told = [event.WhichOneof("kind") for event in await history(store, no)]
    assert told.count("chunk_retried") == 1
    tally = await store.tally(no, DNS, 1)
    assert (tally.settled_count, tally.outcomes[0]) == (1_000, 1_000)


async def unclaimed(store: Store) -> list[LedgerKey]:
    return [each.key for each in await store.ledger.queued() if not each.claimed]


def as_ledger(held: Claim) -> LedgerKey:
    key = held.key
    return LedgerKey(key.campaign_no, key.phase, key.run, key.first_position)


async def fail(pool: Pool, key: LedgerKey) -> None:
    """End the newest attempt as failed, to be tried again in half a second."""
    assert await pool.fetchval(
        """SELECT fail_chunk(campaign_no, phase, run, first_position, attempt, '0.5 seconds')
           FROM chunks WHERE campaign_no = $1 AND phase = $2 AND first_position = $3""",
        key.campaign_no,
        key.phase,
        key.first_position,
    )
