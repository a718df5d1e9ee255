"""Taking turns at hosts and addresses."""

import asyncio

import pytest

from services.validation.http.turns import Turns


async def test_no_more_are_at_one_key_than_allowed():
    turns, there, most = Turns(), 0, 0

    async def visit():
        nonlocal there, most
        await turns.take("a", at_once=3)
        there += 1
        most = max(most, there)
        await asyncio.sleep(0)
        there -= 1
        turns.give("a")

    await asyncio.gather(*(visit() for _ in range(50)))

    assert most == 3
    assert len(turns) == 0


async def test_those_who_wait_come_in_their_order():
    turns, came = Turns(), []
    await turns.take("a", at_once=1)

    async def visit(number):
        await turns.take("a", at_once=1)
        came.append(number)
        turns.give("a")

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(visit(number))
        await asyncio.sleep(0)
        turns.give("a")

    assert came == [0, 1, 2, 3, 4]


async def test_keys_do_not_wait_for_one_another():
    turns = Turns()
    await turns.take("a", at_once=1)

    await turns.take("b", at_once=1)

    assert len(turns) == 2


async def test_whoever_gives_up_waiting_leaves_no_trace():
    turns = Turns()
    await turns.take("a", at_once=1)
    waiting = asyncio.create_task(turns.take("a", at_once=1))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    turns.give("a")

    assert len(turns) == 0


async def test_a_turn_given_to_one_who_just_gave_up_goes_to_the_next():
    turns = Turns()
    await turns.take("a", at_once=1)
    first = asyncio.create_task(turns.take("a", at_once=1))
    second = asyncio.create_task(turns.take("a", at_once=1))
    await asyncio.sleep(0)

    turns.give("a")
    first.cancel()
    await second
    turns.give("a")

    assert first.cancelled()
    assert len(turns) == 0


def test_a_rate_spaces_requests_evenly_by_the_given_clock():
    now = 100.0
    turns = Turns(lambda: now)

    assert [round(turns.reserve("a", 4), 6) for _ in range(3)] == [0, 0.25, 0.5]
    assert turns.reserve("b", 4) == 0
    now = 110.0
    assert turns.reserve("a", 4) == 0


async def test_keys_whose_rate_is_past_are_forgotten():
    now = 0.0
    turns = Turns(lambda: now)
    for number in range(20_000):
        now += 1.0
        await turns.take(number, at_once=1, rate=1000)
        turns.give(number)

    assert len(turns) < 5000


async def test_a_turn_moves_to_another_key_and_is_counted_there():
    turns = Turns(lambda: 100.0)
    await turns.take("a", at_once=1)
    await turns.take("b", at_once=1)
    waiting = [asyncio.create_task(turns.take(key, at_once=1)) for key in ("a", "b")]
    await asyncio.sleep(0)

    turns.move("a", "b", rate=4)

    await waiting[0]
    turns.give("b")
    # One is there still, where two were.
    await asyncio.sleep(0)
    assert not waiting[1].done()
    turns.give("b")
    await waiting[1]
    assert turns.reserve("b", 4) == 0.25
