"""The dispatcher over a real queue: what the queue loses, the tables bring back."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from nats.aio.client import Client

from services.campaign.campaign import Action, Mode, Status
from services.campaign.dispatcher import Dispatcher
from services.campaign.ingest import digest
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.campaign.supply import LEAST_DEPTH
from services.chassis import jetstream
from services.chassis.postgres import Pool
from tests.campaigns import (
    DNS,
    GENERATION,
    act,
    create,
    from_pattern,
    from_upload,
    generating,
    history,
    kinds,
    new_campaign,
    validating,
)
from tests.eventually import eventually
from tests.queues import empty_queue, task_count, wipe

NAMES = [f"{number}.com" for number in range(500)]
# Chunks of 100 names that fill a queue whose workers' throughput is not known.
FULL = LEAST_DEPTH["dns"] // 100


@pytest.fixture
async def queue(nats_url: str) -> AsyncIterator[Client]:
    async with empty_queue(nats_url) as client:
        yield client


@contextlib.asynccontextmanager
async def dispatching(
    store: Store, queue: Client, count: int = 1, replicas: int = 1
) -> AsyncIterator[None]:
    dispatchers = [Dispatcher(store=store, queue=queue, replicas=replicas) for _ in range(count)]
    tasks = [asyncio.create_task(dispatcher.dispatch()) for dispatcher in dispatchers]
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
    assert [kind for kind in told if kind not in {"chunk_settled", "names_reserved"}] == [
        "campaign_created",
        "1 RUNNING",
        "1 COMPLETED",
        "2 RUNNING",
        "chunk_size_decided",
        "2 COMPLETED",
        "campaign_finished",
    ]


async def test_an_empty_campaign_completes(store: Store, queue: Client) -> None:
    new = new_campaign(from_upload(), mode=Mode.FULL_SEQUENCE)
    running = await generating(store, new)
    upload_id = uuid4()
    await store.names.append_upload(running, upload_id, 0, [], finish=True)

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
        await store.names.append_upload(running, upload_id, 0, ["a.com", "b.com"])
        uploads.append((running, upload_id))
    await store.names.append_upload(*uploads[0], 2, [], finish=True)

    async def only_the_open_one_is_left() -> None:
        left = await pool.fetch("SELECT DISTINCT campaign_no FROM upload_names")
        assert [row[0] for row in left] == [uploads[1][0].campaign_no]

    async with dispatching(store, queue):
        await eventually(only_the_open_one_is_left)


async def in_flight(store: Store, running: RunningPhase) -> int:
    """Chunks of the DNS phase that are handed out."""
    return (await store.tally(running.campaign_no, DNS, 1)).chunks_in_flight


async def handed_out(store: Store, *phases: RunningPhase, chunks: int) -> list[int]:
    """Chunks handed out of each, once they are so many together."""

    async def so_many() -> list[int]:
        counts = [await in_flight(store, running) for running in phases]
        assert sum(counts) == chunks
        return counts

    return await eventually(so_many)


async def test_no_more_waits_on_the_queue_than_its_depth(
    store: Store, pool: Pool, queue: Client
) -> None:
    names = [f"{number}.com" for number in range(12_000)]
    running = await validating(store, names)

    async def completed() -> None:
        await settle_all(pool, running)
        assert await status(store, running) is Status.COMPLETED

    async with dispatching(store, queue):
        # Nobody takes any: it stays at the least there is.
        assert await tasks_on_queue(queue, FULL) == FULL
        await eventually(completed)

    tally = await store.tally(running.campaign_no, DNS, 1)
    assert tally.settled_count == len(names)


async def test_lost_tasks_come_back(store: Store, pool: Pool, queue: Client) -> None:
    running = await validating(store, NAMES)

    async with dispatching(store, queue):
        assert await tasks_on_queue(queue, 5) == 5
        await wipe(queue)
        assert await tasks_on_queue(queue, 5) == 5

    tally = await store.tally(running.campaign_no, DNS, 1)
    assert (tally.chunks_in_flight, tally.retry_count) == (5, 0)


async def test_a_queue_that_cannot_have_its_copies_yet_is_used_as_it_is(
    store: Store, queue: Client
) -> None:
    """A single server stands for a cluster that has lost some."""
    await jetstream.ensure_task_stream(queue.jetstream())
    await validating(store, NAMES)

    async with dispatching(store, queue, replicas=3):
        assert await tasks_on_queue(queue, 5) == 5


async def set_campaign(pool: Pool, running: RunningPhase, column: str, value: object) -> None:
    await pool.execute(
        f"UPDATE campaigns SET {column} = $2 WHERE no = $1", running.campaign_no, value
    )


async def test_campaigns_share_the_queue_by_their_priorities(
    store: Store, pool: Pool, queue: Client
) -> None:
    names = [f"{number}.com" for number in range(4_000)]
    phases = [await validating(store, names) for _ in range(4)]
    for running, priority in zip(phases, ("LOW", "HIGH", "NORMAL", "LOW"), strict=True):
        await set_campaign(pool, running, "priority", priority)

    async with dispatching(store, queue):
        assert await handed_out(store, *phases, chunks=FULL) == [5, 20, 10, 5]


async def test_a_changed_priority_counts_from_the_next_chunk_on(
    store: Store, pool: Pool, queue: Client
) -> None:
    names = [f"{number}.com" for number in range(50_000)]
    one, other = await validating(store, names), await validating(store, names)

    async def shifted() -> None:
        counts = [await in_flight(store, running) for running in (one, other)]
        assert sum(counts) >= FULL
        assert counts[1] >= 3 * counts[0] > 0

    async with dispatching(store, queue):
        assert await handed_out(store, one, other, chunks=FULL) == [FULL // 2] * 2
        await set_campaign(pool, one, "priority", "LOW")
        await set_campaign(pool, other, "priority", "HIGH")
        await settle_all(pool, one)
        await settle_all(pool, other)
        await eventually(shifted)


async def test_a_campaign_that_comes_later_has_its_share_first(
    store: Store, pool: Pool, queue: Client
) -> None:
    names = [f"{number}.com" for number in range(20_000)]
    large = await validating(store, names)

    async def handed_to_both() -> None:
        await settle_all(pool, large)
        assert await in_flight(store, small) == 5

    async with dispatching(store, queue):
        await handed_out(store, large, chunks=FULL)
        small = await validating(store, NAMES)
        await eventually(handed_to_both)

    left = await pool.fetchval(
        "SELECT count(*) FROM chunks WHERE campaign_no = $1 AND state = 'ready'", large.campaign_no
    )
    assert left > 0


async def express_tasks(queue: Client) -> int:
    subject = jetstream.task_subject("dns", express=True)
    info = await queue.jetstream().stream_info(jetstream.TASK_STREAM, subjects_filter=subject)
    return (info.state.subjects or {}).get(subject, 0)


async def test_small_campaigns_go_past_a_queue_that_is_full_but_not_without_end(
    store: Store, pool: Pool, queue: Client
) -> None:
    large = await validating(store, [f"{number}.com" for number in range(20_000)])
    newcomers = []

    async def all_of_the_first() -> None:
        # What is in flight in the ledger is handed out a moment later.
        assert await in_flight(store, newcomers[0]) == 5
        assert await express_tasks(queue) == 5

    async def as_many_as_there_may_be() -> None:
        assert await task_count(queue) == 2 * FULL

    async with dispatching(store, queue):
        # Nobody takes any.
        await handed_out(store, large, chunks=FULL)
        assert await express_tasks(queue) == 0
        newcomers.append(await validating(store, NAMES))
        await eventually(all_of_the_first)

        newcomers += [await validating(store, NAMES) for _ in range(10)]
        await eventually(as_many_as_there_may_be)
        assert await in_flight(store, large) == FULL


async def test_a_limited_campaign_gets_no_more_than_its_rate_until_the_limit_is_lifted(
    store: Store, pool: Pool, queue: Client
) -> None:
    limit = 400
    running = await validating(store, [f"{number}.com" for number in range(4_000)])
    await set_campaign(pool, running, "name_rate_limit", limit)
    begun = time.monotonic()
    excess = []

    async def some_out() -> None:
        out = 100 * await in_flight(store, running)
        excess.append(out - limit * (time.monotonic() - begun))
        assert out >= 800

    async with dispatching(store, queue, count=2):
        await eventually(some_out)
        await set_campaign(pool, running, "name_rate_limit", 0)
        await handed_out(store, running, chunks=40)

    # The chunk that uses the limit up is still handed out, by each of both.
    assert max(excess) <= 2 * 100


async def test_a_chunk_that_failed_comes_again_after_its_delay(
    store: Store, pool: Pool, queue: Client
) -> None:
    running = await validating(store, ["a.com"])
    key = (running.campaign_no, 2, 1, 0)

    async def queued() -> None:
        assert await in_flight(store, running) == 1

    async with dispatching(store, queue):
        await eventually(queued)
        attempt = await pool.fetchval(
            "SELECT attempt FROM claim_chunk($1, $2::smallint, $3, $4, 'w', '1 minute')", *key
        )
        begun = time.monotonic()
        assert await pool.fetchval(
            "SELECT fail_chunk($1, $2::smallint, $3, $4, $5, '0.5 seconds')", *key, attempt
        )
        await eventually(queued)

    assert time.monotonic() - begun >= 0.4
    assert await pool.fetchval("SELECT ready_time FROM chunks WHERE phase = 2") is None


async def test_a_large_ledger_is_planned_as_it_is_needed(
    store: Store, pool: Pool, queue: Client
) -> None:
    running = await generating(store, new_campaign(from_upload(), mode=Mode.FULL_SEQUENCE))
    names = [f"{number}.com" for number in range(100_000)]
    await append(store, running, names)

    async def handed() -> None:
        assert await in_flight(store, running) > 0

    async def completed() -> None:
        await settle_all(pool, running)
        assert await status(store, running) is Status.COMPLETED

    async with dispatching(store, queue):
        await eventually(handed)
        state = (await store.get(running.campaign_id)).current
        assert state.name_count == len(names)
        planned = await pool.fetchval("SELECT sum(name_count) FROM chunks WHERE phase = 2")
        assert planned < len(names)
        await eventually(completed, within=20)

    chunks = await pool.fetch(
        "SELECT first_position, name_count FROM chunks WHERE phase = 2 ORDER BY first_position"
    )
    end = 0
    for first, count in chunks:
        assert first == end
        end = first + count
    assert end == len(names)
    decided = [
        event.chunk_size_decided
        for event in await history(store, running.campaign_no)
        if event.WhichOneof("kind") == "chunk_size_decided"
    ]
    assert decided[0].previous_chunk_size == 0
    assert decided[0].chunk_size == chunks[0]["name_count"]
    assert all(each.reason for each in decided)
    for before, after in itertools.pairwise(decided):
        assert after.previous_chunk_size == before.chunk_size != after.chunk_size


async def test_a_database_that_goes_away_while_planning_stops_nobody(
    store: Store, pool: Pool, queue: Client
) -> None:
    running = await generating(store, new_campaign(from_upload(), mode=Mode.FULL_SEQUENCE))
    await append(store, running, NAMES)
    await pool.execute(
        """CREATE SEQUENCE refusals;
           CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM nextval('refusals'); RAISE 'away' USING ERRCODE = '57P01'; END $$;
           CREATE TRIGGER away BEFORE INSERT ON chunks EXECUTE FUNCTION refuse()"""
    )

    async def refused_again() -> None:
        assert await pool.fetchval("SELECT last_value FROM refusals") >= 2

    async def handed() -> None:
        assert await in_flight(store, running) > 0

    async with dispatching(store, queue):
        await eventually(refused_again)
        await pool.execute("DROP TRIGGER away ON chunks")
        await eventually(handed)


async def test_a_ledger_that_cannot_be_planned_fails_its_campaign_alone(
    store: Store, pool: Pool, queue: Client
) -> None:
    phases = []
    for _ in range(2):
        running = await generating(store, new_campaign(from_upload(), mode=Mode.FULL_SEQUENCE))
        await append(store, running, NAMES)
        phases.append(running)
    broken, well = phases
    await pool.execute("ALTER TABLE chunks ADD CHECK (campaign_no <> 1 OR phase = 1)")
    assert broken.campaign_no == 1

    async def decided() -> None:
        assert await status(store, broken) is Status.FAILED
        assert await in_flight(store, well) > 0

    async with dispatching(store, queue):
        await eventually(decided)

    assert "CheckViolation" in (await store.get(broken.campaign_id)).current.failure


async def append(store: Store, running: RunningPhase, names: list[str]) -> None:
    """Store the names of an upload and end its generation."""
    assert await store.names.append_names(running, 0, names, digest(names))
    await store.names.announce(running, len(names), planned=True)
    assert await store.ledger.complete(running)


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
    store: Store, pool: Pool, queue: Client
) -> None:
    configuration = from_pattern()
    broken = await generating(store, new_campaign(configuration))
    configuration.generation.pattern.ClearField("tlds")
    await pool.execute("UPDATE campaigns SET configuration = $1", configuration.SerializeToString())
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
