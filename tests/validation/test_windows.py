"""Places of names in flight: by plan, and by the memory of all plans."""

import asyncio
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from services.chassis.http_settings import HttpSettings
from services.validation.http.turns import Turns
from services.validation.http_plans import HttpPlan
from services.validation.windows import ASIDE, FIRST, LATE, LEAST, Allowance, Place, Windows
from tests.eventually import eventually

KILOBYTE = 1024
PLAN = HttpPlan(settings=HttpSettings(body_limit=KILOBYTE), window=2)
OTHER = replace(PLAN, window=3)


async def entered(windows: Windows, *plans: HttpPlan) -> list["asyncio.Task[Place]"]:
    tasks = [asyncio.create_task(windows.enter(plan)) for plan in plans]
    # Whoever can enter needs no more than a turn of the loop.
    await asyncio.sleep(0)
    return tasks


async def test_a_plan_has_as_many_places_as_its_window() -> None:
    windows = Windows()
    tasks = await entered(windows, PLAN, PLAN, PLAN, OTHER)
    assert [task.done() for task in tasks] == [True, True, False, True]

    tasks[0].result().leave()

    await tasks[2]
    assert windows.in_flight == 3


async def test_pages_of_all_plans_share_one_memory() -> None:
    # Each page takes its limit twice: while it comes, and put together.
    windows = Windows(memory=4 * KILOBYTE)
    tasks = await entered(windows, PLAN, OTHER, PLAN, OTHER)
    assert [task.done() for task in tasks] == [True, True, False, False]

    tasks[1].result().leave()

    await tasks[2]
    assert not tasks[3].done()
    tasks[0].result().leave()
    await tasks[3]


async def test_small_pages_do_not_keep_a_large_one_waiting_for_memory() -> None:
    windows = Windows(memory=6 * KILOBYTE)
    large = replace(PLAN, settings=HttpSettings(body_limit=2 * KILOBYTE))
    small, waiting, *others = await entered(windows, OTHER, OTHER, large, OTHER, PLAN)
    assert [it.done() for it in (small, waiting, *others)] == [True, True, False, False, False]

    small.result().leave()

    await others[0]
    assert [it.done() for it in others] == [True, False, False]
    # Whoever needs no more than there is does not wait for one that gave up.
    (given_up,) = await entered(windows, large)
    given_up.cancel()
    others[0].result().leave()
    await asyncio.gather(*others[1:])


async def test_a_page_larger_than_the_memory_comes_alone() -> None:
    windows = Windows(memory=KILOBYTE)
    tasks = await entered(windows, PLAN, PLAN)
    assert [task.done() for task in tasks] == [True, False]
    tasks[0].result().leave()
    await tasks[1]


async def test_whoever_gives_up_waiting_leaves_no_place_taken() -> None:
    windows = Windows()
    tasks = await entered(windows, PLAN, PLAN, PLAN, PLAN)
    # One that still waits, and one whose place came in the same moment.
    tasks[3].cancel()
    tasks[0].result().leave()
    tasks[2].cancel()
    await asyncio.wait(tasks)
    tasks[1].result().leave()

    async def nobody() -> None:
        assert windows.in_flight == 0

    await eventually(nobody)
    await windows.enter(PLAN)
    await windows.enter(PLAN)


async def test_a_name_that_steps_aside_lets_others_in_and_comes_back_before_them() -> None:
    windows = Windows()
    tasks = await entered(windows, PLAN, PLAN, PLAN, PLAN)
    waiting, asking = tasks[0].result(), tasks[1].result()

    waiting.step_aside()
    waiting.step_aside()
    third = await tasks[2]
    assert (windows.in_flight, tasks[3].done()) == (2, False)
    coming = asyncio.create_task(waiting.come_back())
    await asyncio.sleep(0)
    assert not coming.done()
    asking.leave()
    await coming
    assert not tasks[3].done()

    third.leave()
    (await tasks[3]).leave()
    # Whoever did not step aside has his place.
    await waiting.come_back()
    waiting.leave()
    assert windows.in_flight == 0


async def test_only_so_many_names_of_a_plan_are_aside() -> None:
    windows = Windows()
    aside = []
    for _ in range(ASIDE * PLAN.window):
        aside.append(await windows.enter(PLAN))
        aside[-1].step_aside()
    mine, other = await entered(windows, PLAN, OTHER)
    assert (mine.done(), other.done()) == (False, True)

    # Whoever comes back, and whoever gives up, makes room for another one.
    await aside[0].come_back()
    place = await mine
    (again,) = await entered(windows, PLAN)
    assert not again.done()
    place.step_aside()
    aside[1].leave()
    assert not again.done()
    aside[2].leave()
    await again


async def test_whoever_gives_up_coming_back_leaves_no_place_taken() -> None:
    windows = Windows()
    first, second = [await task for task in await entered(windows, PLAN, PLAN)]
    third = asyncio.create_task(windows.enter(PLAN))
    for place in (first, second):
        place.step_aside()
    fourth = await windows.enter(PLAN)
    returns = [asyncio.create_task(place.come_back()) for place in (first, second)]
    await asyncio.sleep(0)
    # One whose place came in the same moment, and one that still waits.
    (await third).leave()
    for task in returns:
        task.cancel()
    await asyncio.wait(returns)
    for place in (first, second, fourth):
        place.leave()

    assert windows.in_flight == 0
    assert all(task.done() for task in await entered(windows, PLAN, PLAN))


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost_or_given_twice_whoever_gives_up(seed: int) -> None:
    random = Random(seed)
    windows, turns = Windows(memory=16 * KILOBYTE), Turns()
    plans = [PLAN, OTHER, replace(OTHER, settings=HttpSettings(body_limit=9 * KILOBYTE))]
    inside: Counter[HttpPlan] = Counter()

    async def visit(plan: HttpPlan) -> None:
        place = await windows.enter(plan)
        try:
            for _ in range(random.randrange(4)):
                host = random.randrange(3)
                if not turns.enter(host, 1):
                    place.step_aside()
                    await turns.take(host, at_once=1)
                try:
                    await place.come_back()
                    inside[plan] += 1
                    try:
                        assert windows.in_flight >= inside.total()
                        assert inside[plan] <= plan.window
                        for _ in range(random.randrange(3)):
                            await asyncio.sleep(0)
                    finally:
                        inside[plan] -= 1
                finally:
                    turns.give(host)
        finally:
            place.leave()

    visits = []
    for _ in range(60):
        visits.append(asyncio.create_task(visit(random.choice(plans))))
        for _ in range(random.randrange(3)):
            await asyncio.sleep(0)
        if random.random() < 0.4:
            random.choice(visits).cancel()
    ended = await asyncio.wait_for(asyncio.gather(*visits, return_exceptions=True), 30)

    assert all(it is None or isinstance(it, asyncio.CancelledError) for it in ended), ended
    assert (windows.in_flight, len(turns)) == (0, 0)
    assert all(it.done() for it in await entered(windows, PLAN, PLAN, OTHER, OTHER, OTHER))


def test_what_is_never_late_takes_twice_as_many_at_every_look() -> None:
    allowance = Allowance()
    for doubled in range(1, 6):
        allowance.look(late=LATE / 2, in_flight=allowance.count)
        assert allowance.count == FIRST * 2**doubled
    # Nobody wants more.
    allowance.look(late=0, in_flight=allowance.count - 1)
    assert allowance.count == FIRST * 2**5

    # Once late, it is careful.
    allowance.look(late=2 * LATE, in_flight=allowance.count)
    borne = allowance.count
    allowance.look(late=0, in_flight=borne)
    assert borne < allowance.count < borne * 1.2


def test_a_slow_machine_begins_with_few_names() -> None:
    # Each takes it 4 ms, and the shortest usual clock is 5 s.
    allowance = Allowance()
    assert allowance.count * 0.004 < 5 / 10
    allowance.look(late=allowance.count * 0.004, in_flight=allowance.count)
    assert allowance.count < FIRST


def test_a_process_that_is_late_takes_fewer_names_and_comes_back() -> None:
    allowance = Allowance()
    for _ in range(20):
        allowance.look(late=2 * LATE, in_flight=allowance.count)
    assert allowance.count == LEAST
    # Nobody wants more.
    allowance.look(late=0, in_flight=LEAST - 1)
    assert allowance.count == LEAST
    for _ in range(50):
        allowance.look(late=0, in_flight=allowance.count)
    assert allowance.count > FIRST


def test_what_is_late_with_few_names_in_flight_is_allowed_fewer_at_once() -> None:
    allowance = Allowance()
    allowance.look(late=2 * LATE, in_flight=40)
    assert allowance.count == 30
