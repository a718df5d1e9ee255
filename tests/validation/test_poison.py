"""A name that ends whatever process checks it: found, put aside, and everything else settled."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.campaign.dispatcher import Dispatcher
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.sandbox.dns_server import SandboxDns
from services.sandbox.truth import truth
from services.validation.dns.verdict import Verdict
from tests.campaigns import DNS, history, kinds, validating
from tests.eventually import eventually

NAMES = [f"name-{number}.com" for number in range(16)]
POISON = NAMES[11]


class PoisonedWorkers:
    """Worker processes that go down, or hang, on the poison name."""

    def __init__(self, database_url: str, nats_url: str) -> None:
        self._urls = {"DATABASE_URL": database_url, "NATS_URL": nats_url}

    @contextlib.asynccontextmanager
    async def one(self, harm: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.validation.poisoned_worker"),
            env={**os.environ, **self._urls, "POISON": POISON, "HARM": harm},
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
def workers(database_url: str, nats_url: str) -> PoisonedWorkers:
    return PoisonedWorkers(database_url, nats_url)


@pytest.fixture
async def running(
    campaign_store: CampaignStore, queue: Client, dns: DnsConfiguration
) -> AsyncIterator[RunningPhase]:
    """A campaign of one chunk, which a dispatcher hands out."""
    running = await validating(campaign_store, NAMES, dns)
    dispatching = asyncio.create_task(Dispatcher(store=campaign_store, queue=queue).dispatch())
    yield running
    dispatching.cancel()
    await asyncio.wait([dispatching])


async def lose(pool: Pool, lost_count: int) -> None:
    """As the dispatcher takes back the chunks of workers that are not heard of any more."""
    await pool.execute(
        """UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL,
               lease_expire_time = NULL, lost_count = $1
           WHERE phase = 2""",
        lost_count,
    )


async def test_a_name_that_kills_its_worker_is_found_and_everything_else_settled(
    pool: Pool,
    campaign_store: CampaignStore,
    running: RunningPhase,
    workers: PoisonedWorkers,
    sandbox: SandboxDns,
) -> None:
    async with workers.one("kill") as first:
        assert await first.wait() == -signal.SIGKILL
    await lose(pool, 2)

    async def completed() -> None:
        assert (await campaign_store.get(running.campaign_id)).is_finished

    async with workers.one("kill") as second:
        await eventually(completed, within=45)
        # Only processes of their own went down.
        assert second.returncode is None

    rows = await pool.fetch(
        """SELECT d.name, r.verdict FROM domains d
           LEFT JOIN dns_results r USING (campaign_no, position) ORDER BY d.position"""
    )
    settings = sandbox.settings
    assert [tuple(row) for row in rows] == [
        (
            name,
            Verdict.DEAD_LETTER
            if name == POISON
            else truth(name, settings.seed, settings.mix).verdict,
        )
        for name in NAMES
    ]
    letters = await pool.fetch("SELECT position, name, cause, failure_count FROM dead_letters")
    cause = "the process that checked it was ended by SIGKILL"
    # Three times all 16, then 8, 4, 2 and alone.
    assert [tuple(letter) for letter in letters] == [(11, POISON, cause, 7)]
    tally = await campaign_store.tally(running.campaign_no, DNS, 1)
    assert sum(tally.outcomes) == tally.settled_count == len(NAMES)
    told = await kinds(campaign_store, running.campaign_no)
    assert [told.count(kind) for kind in ("chunk_split", "name_dead_lettered")] == [4, 1]
    settled = [
        event.chunk_settled
        for event in await history(campaign_store, running.campaign_no)
        if event.chunk_settled.phase == 2
    ]
    covered = sorted((chunk.first_position, chunk.name_count) for chunk in settled)
    assert sum(count for _, count in covered) == len(NAMES)
    assert [first for first, _ in covered][1:] == [first + count for first, count in covered][:-1]


async def test_a_process_of_its_own_ends_with_its_worker(
    pool: Pool, running: RunningPhase, workers: PoisonedWorkers
) -> None:
    async def children(count: int) -> None:
        connected = await pool.fetchval(
            """SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'domainflow-attempt'"""
        )
        assert bool(connected) is bool(count)

    await lose(pool, 2)
    async with workers.one("hang") as worker:
        # Two processes start one after the other.
        await eventually(lambda: children(1), within=45)
        worker.kill()
        await worker.wait()
        await eventually(lambda: children(0))
