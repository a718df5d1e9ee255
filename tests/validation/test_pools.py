"""Worker rows, decisions and what waits, in the real tables."""

from datetime import timedelta

import pytest

from domainflow.campaign.v1.event_pb2 import SystemEvent
from domainflow.validation.v1.task_pb2 import WorkerLoad
from services.campaign.campaign import Phase
from services.campaign.ledger import POOLS
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.validation.pool import Bounds, Size
from services.validation.pools import Pools, Waiting, WorkerReport, backlog
from tests.campaigns import validating

BOUNDS = Bounds(1, 4)


def report(name: str = "worker", *, settled: int = 0, uptime: float = 0) -> WorkerReport:
    return WorkerReport(
        worker_id=name,
        pool="dns",
        host="host",
        pid=7,
        uptime=timedelta(seconds=uptime),
        chunks_in_flight=3,
        settled_count=settled,
        load=WorkerLoad(loss=0.25),
    )


async def set_clock(pool: Pool, forward: timedelta) -> None:
    """As if the database's clock had been set: every report lies so much further back."""
    await pool.execute("UPDATE workers SET report_time = report_time - $1::interval", forward)


async def test_a_worker_keeps_its_row_and_start_over_all_reports(pool: Pool) -> None:
    pools = Pools(pool)
    await pools.report(report(settled=1))
    (first,) = await pools.workers()
    await pools.report(report(settled=2))

    (worker,) = await pools.workers()

    assert (worker.settled_count, worker.chunks_in_flight, worker.load.loss) == (2, 3, 0.25)
    assert worker.start_time == first.start_time
    assert worker.report_time > first.report_time


async def test_silent_workers_are_not_listed(pool: Pool) -> None:
    await Pools(pool).report(report("silent"))
    await set_clock(pool, timedelta(minutes=2))
    await Pools(pool).report(report("present"))

    assert [worker.worker_id for worker in await Pools(pool).workers()] == ["present"]


async def test_a_set_clock_neither_removes_a_living_worker_nor_its_start(pool: Pool) -> None:
    pools = Pools(pool)
    await pools.report(report())
    (before,) = await pools.workers()
    for forward in (timedelta(hours=1), timedelta(hours=-2)):
        await set_clock(pool, forward)
        assert len(await pools.workers()) == 1

        await pools.report(report())

        for reader in (pools, Pools(pool)):
            (after,) = await reader.workers()
            assert after.start_time == before.start_time


async def test_a_worker_whose_row_was_lost_still_tells_when_it_started(pool: Pool) -> None:
    pools = Pools(pool)

    await pools.report(report(uptime=3600))

    (worker,) = await pools.workers()
    assert worker.report_time - worker.start_time == timedelta(hours=1)


async def test_workers_learn_the_task_limit_of_their_pool_and_host(pool: Pool) -> None:
    pools = Pools(pool)
    assert await pools.report(report()) is None
    await pools.decide("dns", "other", Size(0, 5), Size(1, 5), BOUNDS, "why")
    assert await pools.report(report()) is None

    await pools.decide("dns", "host", Size(0, 40), Size(2, 40), BOUNDS, "why")

    assert await pools.report(report()) == 40


async def test_decisions_are_events_in_order_and_the_last_one_stands(pool: Pool) -> None:
    pools = Pools(pool)
    await pools.decide("dns", "host", Size(0, 40), Size(1, 40), BOUNDS, "first")
    await pools.decide("dns", "host", Size(1, 40), Size(2, 20), BOUNDS, "second")

    (row,) = await pools.pools()

    assert (row.size, row.bounds, row.reason) == (Size(2, 20), BOUNDS, "second")
    events = await history(pool)
    assert [event.reason for event in events] == ["first", "second"]
    assert (events[1].previous_process_count, events[1].process_count) == (1, 2)
    assert (events[1].previous_task_limit, events[1].task_limit) == (40, 20)

    await pools.close("dns", "host", Size(2, 20), "over")

    assert await pools.pools() == []
    assert [event.process_count for event in await history(pool)] == [1, 2, 0]


async def history(pool: Pool):
    rows = await pool.fetch("SELECT revision, body FROM system_events ORDER BY revision")
    assert [row["revision"] for row in rows] == list(range(1, len(rows) + 1))
    return [SystemEvent.FromString(row["body"]).pool_decided for row in rows]


async def test_what_waits_are_the_names_of_running_phases_that_are_not_settled(
    pool: Pool, campaign_store: CampaignStore
) -> None:
    names = [f"name-{number}.com" for number in range(250)]
    running = await validating(campaign_store, names)
    await pool.execute("UPDATE chunks SET state = 'done' WHERE phase = 2 AND first_position = 100")

    assert await Pools(pool).waiting("dns") == [Waiting(150, 0)]
    assert await Pools(pool).waiting("http") == []

    await pool.execute(
        "UPDATE phases SET status = 'PAUSED' WHERE campaign_no = $1 AND phase = 2",
        running.campaign_no,
    )
    assert await Pools(pool).waiting("dns") == []


@pytest.mark.parametrize("phase", list(POOLS))
async def test_what_waits_for_a_pool_is_of_all_its_phases(
    campaign_store: CampaignStore, pool: Pool, phase: Phase
) -> None:
    running = await validating(campaign_store, ["a.com", "b.com"])
    await pool.execute("UPDATE phases SET status = 'COMPLETED'")
    await pool.execute(
        """INSERT INTO phases (campaign_no, phase, status, run, name_count)
           VALUES ($1, $2, 'RUNNING', 2, 7)
           ON CONFLICT (campaign_no, phase) DO UPDATE SET status = 'RUNNING', run = 2,
               name_count = 7""",
        running.campaign_no,
        phase,
    )

    found = {name: await Pools(pool).waiting(name) for name in POOLS.values()}

    waiting = {name: found[name] for name in found if found[name]}
    assert waiting == {POOLS[phase]: [Waiting(7, 0)]}


def test_a_rate_limit_bounds_what_a_campaign_has_waiting() -> None:
    waiting = [Waiting(1_000_000, 0), Waiting(1_000_000, 50), Waiting(30, 50)]

    assert backlog(waiting, within=10) == 1_000_000 + 500 + 30
