"""A second pool with a probe of its own, on the same queue and the same tables."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256

from nats.aio.client import Client

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.campaign.ledger import ChunkKey
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.validation.dns_probe import DnsProbe
from services.validation.load import EndpointCounts
from services.validation.probe import Check
from services.validation.results import ChunkResults, TableRows
from services.validation.store import Claim, Store
from services.validation.worker import Worker
from tests.campaigns import validating
from tests.eventually import eventually
from tests.queues import publish, task_count

HTTP = 3
NAMES = [f"name-{number}.com" for number in range(200)]


class LengthProbe:
    """Knows how long each name is."""

    pool = "http"
    phases = frozenset({HTTP})
    names_limit = 1000
    names_ahead = 100
    parking = None

    def waiting(self) -> int:
        return 0

    def endpoints(self) -> list[EndpointCounts]:
        return []

    async def attend(self, store: Store, worker_id: str, host: str) -> None:
        """There is nothing to tell."""

    async def items(self, store: Store, claim: Claim) -> Sequence[str]:
        return await store.names(claim)

    def name(self, item: str) -> str:
        return item

    @asynccontextmanager
    async def prepare(self, claim: Claim) -> AsyncIterator[Check[str, int]]:
        yield self._check

    async def _check(self, names: Sequence[str]) -> Sequence[int]:
        if "name-7.com" in names:
            raise RuntimeError("name-7.com is too much")
        return [len(name) for name in names]

    def results(self, claim: Claim, outcomes: Sequence[int]) -> ChunkResults:
        rows = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
        for position, length in enumerate(outcomes, claim.key.first_position):
            rows += struct.pack(">hiiii", 2, 4, position, 4, length)
        counts = [sum(length > 0 for length in outcomes), outcomes.count(-1)]
        digest = sha256(repr(outcomes).encode()).digest()
        columns = ["position", "length"]
        rows += struct.pack(">h", -1)
        table = TableRows("lengths", columns, rows)
        return ChunkResults((table,), ["MEASURED", "DEAD_LETTER"], counts, digest)

    def dead_letter(self, item: str) -> int:
        return -1

    def time_limit(self, claim: Claim) -> float:
        return 1


async def test_pools_see_their_own_tasks_only(
    pool: Pool,
    campaign_store: CampaignStore,
    store: Store,
    queue: Client,
    probe: DnsProbe,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, dns)
    await pool.execute("CREATE TABLE lengths (position int PRIMARY KEY, length int NOT NULL)")
    no = running.campaign_no
    await pool.execute("DELETE FROM phases WHERE phase = 3")
    await pool.execute(
        "INSERT INTO phases (campaign_no, phase, status, run) VALUES ($1, 3, 'RUNNING', 1)", no
    )
    await pool.execute(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
           SELECT $1, 3, 1, first, 50, 'queued' FROM generate_series(0, 150, 50) AS first""",
        no,
    )
    dns_tasks = [ChunkKey(no, 2, 1, 0), ChunkKey(no, 2, 1, 100)]
    http_tasks = [ChunkKey(no, HTTP, 1, first) for first in (0, 50, 100, 150)]
    await pool.execute("UPDATE chunks SET state = 'queued' WHERE phase = 2")
    await publish(queue, *dns_tasks)
    await publish(queue, *http_tasks, pool="http")

    async def settled(phase: int, count: int) -> None:
        done = await pool.fetchval(
            "SELECT sum(name_count) FROM chunks WHERE phase = $1 AND state = 'done'", phase
        )
        assert (done or 0) == count

    async with working(new_worker(store, queue, LengthProbe())):
        await eventually(lambda: settled(HTTP, 150))
        # What failed is handed out again, as the dispatcher would.
        await eventually(lambda: poison_is_alone(pool, queue, no), within=20)
        assert await task_count(queue) == len(dns_tasks)
    await settled(2, 0)
    async with working(new_worker(store, queue, probe)):
        await eventually(lambda: settled(2, 200))

    lengths = await pool.fetch("SELECT length FROM lengths ORDER BY position")
    assert [row["length"] for row in lengths] == [
        -1 if name == "name-7.com" else len(name) for name in NAMES
    ]
    letter = await pool.fetchrow("SELECT phase, name, cause FROM dead_letters")
    assert letter
    assert tuple(letter) == (HTTP, "name-7.com", "RuntimeError: name-7.com is too much")
    assert await pool.fetchval("SELECT count(*) FROM dns_results") == 200


async def poison_is_alone(pool: Pool, queue: Client, campaign_no: int) -> None:
    ready = await pool.fetch(
        """UPDATE chunks SET state = 'queued' WHERE phase = 3 AND state = 'ready'
           RETURNING first_position"""
    )
    keys = [ChunkKey(campaign_no, HTTP, 1, row["first_position"]) for row in ready]
    await publish(queue, *keys, pool="http")
    assert await pool.fetchval("SELECT bool_and(state = 'done') FROM chunks WHERE phase = 3")
    # The last acknowledgement comes after the commit.
    assert await task_count(queue) == 2


async def test_a_task_of_another_phase_is_dropped(
    pool: Pool,
    campaign_store: CampaignStore,
    store: Store,
    queue: Client,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, dns)
    await publish(queue, ChunkKey(running.campaign_no, 2, 1, 0), pool="http")

    async def none_left() -> None:
        assert await task_count(queue) == 0

    async with working(new_worker(store, queue, LengthProbe())):
        await eventually(none_left)

    assert await pool.fetchval("SELECT sum(attempt) FROM chunks WHERE phase = 2") == 0


def new_worker(store: Store, queue: Client, probe: LengthProbe | DnsProbe) -> Worker:
    return Worker(store=store, queue=queue, probe=probe, worker_id="w", host="host", pid=7)


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.work())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])
