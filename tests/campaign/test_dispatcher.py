"""The dispatcher over a real queue: what the queue loses, the tables bring back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from nats.aio.client import Client

from services.campaign.campaign import Action, Mode, Status
from services.campaign.dispatcher import WAITING_TARGET, Dispatcher
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.chassis.postgres import Pool
from tests.campaigns import (
    DNS,
    GENERATION,
    act,
    create,
    from_pattern,
    from_upload,
    generating,
    kinds,
    new_campaign,
    validating,
)
from tests.eventually import eventually
from tests.queues import empty_queue, task_count, wipe

NAMES = [f"{number}.com" for number in range(500)]


@pytest.fixture
async def queue(nats_url: str) -> AsyncIterator[Client]:
    async with empty_queue(nats_url) as client:
        yield client


@contextlib.asynccontextmanager
async def dispatching(store: Store, queue: Client, count: int = 1) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(Dispatcher(store=store, queue=queue).dispatch()) for _ in range(count)
    ]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def settle_all(pool: Pool, running: RunningPhase) -> int:
    """Settle what is on the queue, as workers would; returns how many chunks that were."""
    rows = await pool.fetch(
        """SELECT c.campaign_no, c.phase, c.run, c.first_position, c.name_count
           FROM chunks c WHERE campaign_no = $1 AND state = 'queued' AND phase = 2""",
        running.campaign_no,
    )
    for row in rows:
        key = tuple(row)[:4]
        await pool.execute(
            "SELECT claim_chunk($1, $2::smallint, $3, $4, 'w', interval '1 minute')", *key
        )
        await pool.execute(
            """SELECT settle_chunk($1, $2::smallint, $3, $4,
                   (SELECT attempt FROM chunks WHERE (campaign_no, phase, run, first_position)
                       = ($1, $2, $3, $4)), ARRAY[$5::int], 'digest')""",
            *key,
            row["name_count"],
        )
    return len(rows)


async def tasks_on_queue(queue: Client, at_least: int = 1) -> int:
    async def some() -> int:
        count = await task_count(queue)
        assert count >= at_least
        return count

    return await eventually(some)


async def status(store: Store, running: RunningPhase, phase: int = DNS) -> Status:
    campaign = await store.get(running.campaign_id)
    return next(state.status for state in campaign.phases if state.phase == phase)


async def test_a_full_sequence_runs_to_its_end(store: Store, pool: Pool, queue: Client) -> None:
    new = new_campaign(from_pattern(length=5), mode=Mode.FULL_SEQUENCE)
    running = await generating(store, new)

    async def completed() -> None:
        await settle_all(pool, running)
        assert await status(store, running) is Status.COMPLETED

    async with dispatching(store, queue):
        await eventually(completed)

    told = await kinds(store, running.campaign_no)
    assert [kind for kind in told if kind != "chunk_settled"] == [
        "campaign_created",
        "1 RUNNING",
        "1 COMPLETED",
        "2 RUNNING",
        "2 COMPLETED",
        "campaign_finished",
    ]


async def test_an_empty_campaign_completes(store: Store, queue: Client) -> None:
    new = new_campaign(from_upload(), mode=Mode.FULL_SEQUENCE)
    running = await generating(store, new)
    upload_id = uuid4()
    await store.names.append_upload(running, upload_id, 0, [], 0)
    await store.names.finish_upload(running, upload_id)

    async def completed() -> None:
        assert await status(store, running) is Status.COMPLETED

    async with dispatching(store, queue):
        await eventually(completed)

    assert (await store.get(running.campaign_id)).name_count == 0


async def test_what_was_kept_to_find_repeated_lines_goes_when_the_upload_is_over(
    store: Store, pool: Pool, queue: Client
) -> None:
    uploads = []
    for _ in range(2):
        running = await generating(store, new_campaign(from_upload()))
        upload_id = uuid4()
        await store.names.append_upload(running, upload_id, 0, ["a.com", "b.com"], 0)
        uploads.append((running, upload_id))
    await store.names.finish_upload(*uploads[0])

    async def only_the_open_one_is_left() -> None:
        left = await pool.fetch("SELECT DISTINCT campaign_no FROM upload_names")
        assert [row[0] for row in left] == [uploads[1][0].campaign_no]

    async with dispatching(store, queue):
        await eventually(only_the_open_one_is_left)


async def test_unclaimed_tasks_stay_within_the_target(
    store: Store, pool: Pool, queue: Client
) -> None:
    running = await validating(store, NAMES, chunk_size=1)

    async with dispatching(store, queue):
        settled = 0
        while settled < len(NAMES):
            await tasks_on_queue(queue)
            _, unclaimed = await store.ledger.waiting_tasks()
            assert unclaimed <= WAITING_TARGET
            settled += await settle_all(pool, running)

    tally = await store.tally(running.campaign_no, DNS, 1)
    assert tally.settled_count == len(NAMES)


async def test_lost_tasks_come_back(store: Store, pool: Pool, queue: Client) -> None:
    running = await validating(store, NAMES)

    async with dispatching(store, queue):
        assert await tasks_on_queue(queue, 5) == 5
        await wipe(queue)
        assert await tasks_on_queue(queue, 5) == 5

    tally = await store.tally(running.campaign_no, DNS, 1)
    assert (tally.chunks_in_flight, tally.retry_count) == (5, 0)


async def test_campaigns_share_the_queue(store: Store, queue: Client) -> None:
    running = [await validating(store, NAMES, chunk_size=1) for _ in range(4)]

    async with dispatching(store, queue):
        await tasks_on_queue(queue, WAITING_TARGET)

    waiting = [(await store.tally(r.campaign_no, DNS, 1)).chunks_in_flight for r in running]
    assert waiting == [WAITING_TARGET // 4] * 4


async def test_several_dispatchers_at_once_do_no_harm(
    store: Store, pool: Pool, queue: Client
) -> None:
    new = new_campaign(from_pattern(length=7), mode=Mode.FULL_SEQUENCE)
    running = await generating(store, new)

    async def completed() -> None:
        await settle_all(pool, running)
        assert await status(store, running) is Status.COMPLETED

    async with dispatching(store, queue, count=3):
        await eventually(completed, within=20)

    campaign = await store.get(running.campaign_id)
    assert campaign.name_count == campaign.current.settled_count == 3**7
    told = await kinds(store, running.campaign_no)
    assert told.count("2 RUNNING") == told.count("2 COMPLETED") == 1


async def test_a_generation_that_cannot_go_on_fails_alone(
    store: Store, pool: Pool, queue: Client
) -> None:
    """One campaign's fault is its own: its phase says what happened and the others go on."""
    broken = await generating(store, new_campaign(mode=Mode.FULL_SEQUENCE))
    # A name that is there already, where generation would put another one.
    await pool.execute("ALTER TABLE domains ADD CHECK (campaign_no <> 1)")
    well = await generating(store, new_campaign(phases=[GENERATION]))
    assert broken.campaign_no == 1

    async def decided() -> None:
        assert await status(store, broken, GENERATION) is Status.FAILED
        assert await status(store, well, GENERATION) is Status.COMPLETED

    async with dispatching(store, queue):
        await eventually(decided)

    failure = (await store.get(broken.campaign_id)).current.failure
    assert "CheckViolation" in failure


async def test_a_failure_that_cannot_be_written_down_stops_nobody(
    store: Store, pool: Pool, queue: Client
) -> None:
    """The database goes away just when a generation has failed: it is told later."""
    broken = await generating(store, new_campaign(mode=Mode.FULL_SEQUENCE))
    await pool.execute("ALTER TABLE domains ADD CHECK (campaign_no <> 1)")
    # Sequences count what is rolled back, too. 57P01: the server is shutting down.
    await pool.execute(
        """CREATE SEQUENCE refusals;
           CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM nextval('refusals'); RAISE 'away' USING ERRCODE = '57P01'; END $$;
           CREATE TRIGGER away BEFORE UPDATE ON phases FOR EACH ROW
               WHEN (NEW.failure <> '') EXECUTE FUNCTION refuse()"""
    )

    async def refused_again() -> None:
        assert await pool.fetchval("SELECT last_value FROM refusals") >= 2

    async def failed() -> None:
        assert await status(store, broken, GENERATION) is Status.FAILED

    async with dispatching(store, queue):
        await eventually(refused_again)
        await pool.execute("DROP TRIGGER away ON phases")
        await eventually(failed)


async def test_a_pattern_that_is_not_accepted_any_more_fails_alone(
    store: Store, queue: Client
) -> None:
    configuration = from_pattern()
    configuration.generation.pattern.ClearField("tlds")
    broken = await generating(store, new_campaign(configuration))
    well = await generating(store, new_campaign(phases=[GENERATION]))

    async def decided() -> None:
        assert await status(store, broken, GENERATION) is Status.FAILED
        assert await status(store, well, GENERATION) is Status.COMPLETED

    async with dispatching(store, queue):
        await eventually(decided)


async def test_a_full_disk_fails_no_campaign(store: Store, pool: Pool, queue: Client) -> None:
    running = await generating(store, new_campaign(phases=[GENERATION]))
    await pool.execute(
        """CREATE SEQUENCE tries;
           CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               PERFORM nextval('tries');
               RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full';
           END $$;
           CREATE TRIGGER full_disk BEFORE INSERT ON chunks EXECUTE FUNCTION refuse()"""
    )

    async def tried_again() -> None:
        assert await pool.fetchval("SELECT last_value FROM tries") > 1

    async def completed() -> None:
        assert await status(store, running, GENERATION) is Status.COMPLETED

    async with dispatching(store, queue):
        await eventually(tried_again)
        assert await status(store, running, GENERATION) is Status.RUNNING
        await pool.execute("DROP TRIGGER full_disk ON chunks")
        await eventually(completed)


async def test_a_paused_campaign_gets_no_tasks_until_it_is_resumed(
    store: Store, pool: Pool, queue: Client
) -> None:
    paused, other = await validating(store, NAMES), await validating(store, NAMES)
    await act(store, paused.campaign_id, Action.PAUSE)

    async with dispatching(store, queue):
        await tasks_on_queue(queue, 5)
        tally = await store.tally(paused.campaign_no, DNS, 1)
        assert tally.chunks_in_flight == 0
        await act(store, paused.campaign_id, Action.RESUME)
        await tasks_on_queue(queue, 10)

    assert (await store.tally(other.campaign_no, DNS, 1)).chunks_in_flight == 5


async def test_a_campaign_that_was_not_started_stays_as_it_is(store: Store, queue: Client) -> None:
    waiting = await create(store)
    running = await generating(store, new_campaign(phases=[GENERATION]))

    async def completed() -> None:
        assert await status(store, running, GENERATION) is Status.COMPLETED

    async with dispatching(store, queue):
        await eventually(completed)

    assert await kinds(store, waiting.no) == ["campaign_created"]
