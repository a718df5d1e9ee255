"""The ledger as dispatchers change it, several at once, against pauses and against workers."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from services.campaign.campaign import Action, Mode, Phase, Status
from services.campaign.events import chunk_size_decided
from services.campaign.leases import Sighting
from services.campaign.ledger import PLAN_SLICE, ChunkKey
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.chassis.postgres import Pool
from tests.campaigns import (
    DNS,
    GENERATION,
    act,
    answer,
    claim,
    from_upload,
    generating,
    hand_out,
    history,
    kinds,
    new_campaign,
    settle,
    validating,
)


def names(count: int) -> list[str]:
    return [f"{number}.com" for number in range(count)]


async def chunks(pool: Pool) -> list[tuple[int, int, str]]:
    rows = await pool.fetch(
        "SELECT first_position, name_count, state FROM chunks WHERE phase = 2 ORDER BY 1"
    )
    return [tuple(row) for row in rows]


async def unplanned(store: Store, pool: Pool) -> RunningPhase:
    """A running DNS phase with an empty ledger."""
    running = await validating(store, ["a.com"])
    await pool.execute("DELETE FROM chunks WHERE phase = 2")
    await pool.execute("UPDATE phases SET planned = false WHERE phase = 2")
    return await store.names.running_phase(running.campaign_id, DNS)


async def seen(store: Store, *keys: ChunkKey) -> list[Sighting[ChunkKey]]:
    return [each for each in await store.ledger.queued() if each.key in keys]


# Planning.


async def test_planning_twice_writes_the_ledger_once(store: Store, pool: Pool) -> None:
    running = await validating(store, names(250))

    assert await store.ledger.plan(running, 250, 100) == []

    assert await chunks(pool) == [(0, 100, "ready"), (100, 100, "ready"), (200, 50, "ready")]
    assert (await store.get(running.campaign_id)).current.name_count == 250


async def test_a_ledger_is_planned_in_portions_of_any_size(store: Store, pool: Pool) -> None:
    running = await unplanned(store, pool)

    first = await store.ledger.plan(running, 1000, 100, 2)
    state = (await store.get(running.campaign_id)).current
    assert not (await store.names.running_phase(running.campaign_id, DNS)).planned
    assert state.name_count == 1000
    await pool.execute(
        """UPDATE chunks SET name_count = 40 WHERE first_position = 100 AND phase = 2;
           INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
           SELECT campaign_no, phase, run, 140, 60, 'ready' FROM chunks
           WHERE phase = 2 AND first_position = 0"""
    )
    outlook = await store.ledger.outlook(running)
    assert (outlook.position, outlook.chunk_size) == (200, 60)
    second = await store.ledger.plan(running, 1000, 500, 10)

    assert [offer.name_count for offer in [*first, *second]] == [100, 100, 500, 300]
    ends = [count for _, count, _ in await chunks(pool)]
    assert (ends, sum(ends)) == ([100, 40, 60, 500, 300], 1000)
    assert (await store.names.running_phase(running.campaign_id, DNS)).planned


async def test_a_plan_of_many_slices_is_complete(store: Store, pool: Pool) -> None:
    running = await generating(store)
    count = PLAN_SLICE * 2 + 7

    while await store.ledger.plan(running, count, 1):
        pass

    planned = await pool.fetchrow(
        "SELECT count(*), sum(name_count), max(first_position) FROM chunks"
    )
    assert tuple(planned) == (count, count, count - 1)
    assert (await store.names.running_phase(running.campaign_id, GENERATION)).planned


async def test_dispatchers_that_plan_at_once_write_every_name_once(
    store: Store, pool: Pool
) -> None:
    running = await unplanned(store, pool)

    async def plan(size: int) -> None:
        while not (await store.names.running_phase(running.campaign_id, DNS)).planned:
            await store.ledger.plan(running, 20_000, size, 7)

    async with asyncio.timeout(30):
        await asyncio.gather(*map(plan, (100, 130, 170, 70)))

    end = 0
    for first, count, _ in await chunks(pool):
        assert first == end
        end += count
    assert end == 20_000


async def test_a_decision_is_told_with_the_chunks_it_made_or_not_at_all(
    store: Store, pool: Pool
) -> None:
    running = await unplanned(store, pool)
    decided = chunk_size_decided(DNS, 1, 100, 0, "because")

    await store.ledger.plan(running, 250, 100, 2, decided)
    await store.ledger.plan(running, 250, 100, 2)
    await store.ledger.plan(running, 250, 100, 2, decided)
    await act(store, running.campaign_id, Action.PAUSE)
    await store.ledger.plan(running, 900, 100, 2, decided)

    told = await kinds(store, running.campaign_no)
    assert told.count("chunk_size_decided") == 1
    assert len(await chunks(pool)) == 3


# Handing out.


async def test_chunks_are_offered_and_queued_in_order(store: Store) -> None:
    phases = [await validating(store, names(250)), await validating(store, names(100))]
    one, other = (running.campaign_no for running in phases)

    first = await hand_out(store, phases, 2)
    second = await hand_out(store, phases, 2)

    places = [(key.campaign_no, key.first_position) for key in first]
    assert places == [(one, 0), (other, 0), (one, 100)]
    assert [(key.campaign_no, key.first_position) for key in second] == [(one, 200)]


async def test_dispatchers_at_once_hand_out_every_chunk_once(store: Store) -> None:
    running = await validating(store, names(200), chunk_size=10)

    handed = await asyncio.gather(*(hand_out(store, [running], 20) for _ in range(4)))

    positions = [key.first_position for keys in handed for key in keys]
    assert sorted(positions) == list(range(0, 200, 10))


async def test_nothing_is_handed_out_behind_a_pause(store: Store) -> None:
    """Whatever wins: what was handed out before the pause has come back with it."""
    running = await validating(store, names(200), chunk_size=10)

    await asyncio.gather(
        *(hand_out(store, [running], 2) for _ in range(8)),
        act(store, running.campaign_id, Action.PAUSE),
    )

    assert await store.ledger.queued() == []


async def test_settlements_that_come_later_wait_for_a_pause(store: Store, pool: Pool) -> None:
    """However many there are: together they would never let it in."""
    running = await validating(store, names(3000), chunk_size=1)
    keys = await hand_out(store, [running], 3000)
    await pool.execute("UPDATE chunks SET claim_time = now(), attempt = 1 WHERE phase = 2")
    line, begun = iter(keys), asyncio.Event()
    settled = 0

    async def settle_on() -> None:
        nonlocal settled
        for key in line:
            if not await settle(pool, key, 1, 1):
                return
            settled += 1
            begun.set()

    async def pause() -> None:
        await begun.wait()
        await act(store, running.campaign_id, Action.PAUSE)

    await asyncio.gather(*(settle_on() for _ in range(10)), pause())

    assert settled < 1500


async def test_the_survey_tells_how_every_running_phase_stands(store: Store, pool: Pool) -> None:
    running, waiting = await validating(store, names(300)), await validating(store, names(100))
    paused = await validating(store, ["a.com"])
    await act(store, paused.campaign_id, Action.PAUSE)
    await pool.execute(
        "UPDATE campaigns SET name_rate_limit = 7, priority = 'HIGH' WHERE no = $1",
        running.campaign_no,
    )
    first, second = await hand_out(store, [running], 2)
    attempt = await claim(pool, first)
    assert await settle(pool, first, attempt or 0, 100)
    await claim(pool, second)
    await pool.execute(
        "UPDATE chunks SET ready_time = now() WHERE campaign_no = $1 AND state = 'ready'",
        waiting.campaign_no,
    )

    busy, idle = await store.ledger.survey()

    assert (busy.running, idle.running) == (running, waiting)
    assert (busy.priority, busy.name_rate_limit, busy.out) == ("HIGH", 7, 200)
    assert (busy.in_flight, busy.unclaimed, busy.has_offer, busy.has_open) == (100, 0, True, True)
    assert (idle.in_flight, idle.has_offer, idle.has_open) == (0, False, True)
    await hand_out(store, [running])
    busy, _ = await store.ledger.survey()
    assert (busy.in_flight, busy.unclaimed, busy.has_offer, busy.has_open) == (
        200,
        100,
        False,
        True,
    )


# Taking back.


async def test_lost_tasks_are_taken_back_and_claimed_ones_are_not(store: Store, pool: Pool) -> None:
    running = await validating(store, names(300))
    lost, claimed, again = await hand_out(store, [running], 3)
    before = await store.ledger.queued()
    assert await claim(pool, claimed) == 1
    await pool.execute(
        "UPDATE chunks SET lease_expire_time = now() WHERE first_position = $1",
        again.first_position,
    )

    assert await store.ledger.take_back_tasks(before) == 1

    left = {each.key: each.claimed for each in await store.ledger.queued()}
    assert left == {claimed: True, again: False}
    assert await hand_out(store, [running]) == [lost]


async def test_a_lost_claim_is_taken_back_and_counted_with_an_event(
    store: Store, pool: Pool
) -> None:
    running = await validating(store, names(200))
    dead, alive = await hand_out(store, [running], 2)
    await claim(pool, dead, "dead-worker")
    await claim(pool, alive, "worker")
    lost = await seen(store, dead)

    assert await store.ledger.take_back_claims(running, lost) == [dead]
    assert await store.ledger.take_back_claims(running, lost) == []

    retried = (await history(store, running.campaign_no))[-1].chunk_retried
    assert (retried.phase, retried.run, retried.attempt) == (DNS, 1, 1)
    assert "dead-worker" in retried.cause
    assert await pool.fetchval("SELECT lost_count FROM chunks WHERE state = 'ready'") == 1
    assert not await settle(pool, dead, 1, 100)
    await hand_out(store, [running])
    assert await claim(pool, dead, "worker") == 2
    tally = await store.tally(running.campaign_no, DNS, 1)
    assert (tally.chunks_in_flight, tally.retry_count) == (2, 1)


async def test_a_claim_that_was_held_since_it_was_seen_is_left_alone(
    store: Store, pool: Pool
) -> None:
    running = await validating(store, names(200))
    held, settled = await hand_out(store, [running], 2)
    for key in (held, settled):
        await claim(pool, key)
    before = await seen(store, held, settled)
    assert await settle(pool, settled, 1, 100)
    assert await pool.fetchval(
        "SELECT hold_chunk($1, 2::smallint, 1, $2, 1, '1 minute')",
        held.campaign_no,
        held.first_position,
    )

    assert await store.ledger.take_back_claims(running, before) == []

    assert [each.key for each in await store.ledger.queued()] == [held]


async def test_a_claim_of_a_cancelled_phase_is_taken_back_in_silence(
    store: Store, pool: Pool
) -> None:
    running = await validating(store, ["a.com"])
    (key,) = await hand_out(store, [running], 1)
    await act(store, running.campaign_id, Action.CANCEL)
    # As a worker does that saw the phase running in the moment before.
    await pool.execute(
        """UPDATE chunks SET state = 'queued', attempt = 1, claim_time = now(),
               lease_expire_time = now() WHERE phase = 2"""
    )

    assert await store.ledger.take_back_claims(running, await seen(store, key)) == [key]

    assert (await kinds(store, running.campaign_no))[-1] == "campaign_finished"
    assert await pool.fetchval("SELECT lost_count FROM chunks WHERE phase = 2") == 0


# Waiting.


async def test_a_chunk_that_waits_is_not_offered_until_its_delay_is_ended(
    store: Store, pool: Pool
) -> None:
    running = await validating(store, names(200))
    (key, _) = await hand_out(store, [running])
    await claim(pool, key)
    await pool.execute(
        "SELECT fail_chunk($1, 2::smallint, 1, $2, 1, $3)",
        key.campaign_no,
        key.first_position,
        timedelta(seconds=30),
    )

    ((waiting, (mark, left, _)),) = (await store.ledger.delayed()).items()
    assert waiting == key
    assert 0 < left <= 30
    assert await hand_out(store, [running]) == []
    await store.ledger.end_delays({key: mark + timedelta(seconds=1)})
    assert await hand_out(store, [running]) == []
    await store.ledger.end_delays({key: mark})
    assert await hand_out(store, [running]) == [key]


async def offered(store: Store, phases: Sequence[RunningPhase]) -> list[int]:
    return [len(each) for each in await store.ledger.offers(phases, 10)]


async def test_a_delay_in_somebody_elses_hands_is_ended_the_next_time(
    store: Store, pool: Pool
) -> None:
    """Several dispatchers end the same delays: those who wait while they hold some wait in a
    ring."""
    await validating(store, names(300))
    await pool.execute("UPDATE chunks SET ready_time = now() WHERE phase = 2")
    delayed = await store.ledger.delayed()
    over = {key: mark for key, (mark, *_) in delayed.items()}

    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM chunks WHERE first_position = 100 FOR UPDATE")
        await store.ledger.end_delays(over)
        assert {key.first_position for key in await store.ledger.delayed()} == {100}

    await store.ledger.end_delays(over)
    assert await store.ledger.delayed() == {}


async def test_offers_are_limited_for_each_phase(store: Store) -> None:
    phases = [await validating(store, names(count)) for count in (3_000, 100, 500)]
    assert await offered(store, phases) == [10, 1, 5]
    assert await offered(store, []) == []


# Completing.


async def test_a_sequence_goes_on_as_far_as_its_phases_are_configured(store: Store) -> None:
    """One that was given a later phase on the way, and not yet the one before it."""
    running = await generating(store, new_campaign(from_upload(), mode=Mode.FULL_SEQUENCE))
    await store.configure(
        running.campaign_id,
        Phase.CONTENT_ANALYSIS,
        b"",
        etag="",
        reason="",
        key=None,
        answer=answer,
        validate_only=False,
    )

    assert await store.ledger.complete(running)

    campaign = await store.get(running.campaign_id)
    assert [phase.status for phase in campaign.phases] == [
        Status.COMPLETED,
        Status.RUNNING,
        Status.NOT_STARTED,
        Status.CONFIGURED,
    ]
