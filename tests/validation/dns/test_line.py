"""Whose names are sent next when many calls wait."""

import asyncio

from services.validation.dns.engine import Engine
from services.validation.dns.line import SHORT, SHORT_TURNS, Line
from services.validation.dns.query import Call
from services.validation.dns.settings import EngineSettings
from services.validation.dns.upstream import ANY, Route
from services.validation.dns.wire import A, Questions
from tests.validation.dns.replies import names, reply, until


async def call(count: int, route: Route = ANY) -> Call:
    future = asyncio.get_running_loop().create_future()
    return Call(names(count), future, Questions(A), route, checking_disabled=False)


async def test_the_earlier_is_first_whatever_its_route():
    line = Line()
    calls = [await call(1, Route(avoid_operator=str(number % 2))) for number in range(6)]
    for it in calls:
        line.add(it)

    served = []
    while (first := line.next([])) is not None:
        served.append(first)
        line.remove(first)
    assert served == calls
    assert not line


async def test_a_full_route_holds_up_no_other():
    line = Line()
    full, free = Route(avoid_operator="full"), Route(avoid_operator="free")
    for _ in range(1000):
        line.add(await call(1, full))
    last = await call(1, free)
    line.add(last)

    assert line.next([full]) is last
    assert line.next([full, free]) is None


async def test_short_calls_go_first_but_not_for_ever():
    line = Line()
    long = await call(SHORT + 1)
    line.add(long)
    line.add(await call(SHORT))

    turns = [line.next([]) is long for _ in range(3 * (SHORT_TURNS + 1))]
    assert turns.count(True) == 3
    assert not turns[0]


async def test_a_call_that_left_the_line_may_be_removed_again():
    line = Line()
    one = await call(1)
    line.add(one)
    line.remove(one)
    line.remove(one)
    assert list(line) == []


async def test_calls_for_a_resolver_without_room_hold_up_no_others(scripted, mute):
    settings = EngineSettings(timeout=60, in_flight_limit=1)
    async with scripted(lambda question: [reply(question, rcode=3)]) as well:
        async with Engine([well, mute], settings) as engine:
            named = Route(resolver=mute)
            held = [asyncio.create_task(engine.resolve(["x"], route=named)) for _ in range(200)]
            await until(lambda: engine.stats().waiting == 199)

            outcomes = await engine.resolve(["y.example"], route=Route(resolver=well))
            assert outcomes[0].rcode == 3
            assert engine.stats().waiting == 199
            for it in held:
                it.cancel()
            await asyncio.wait(held)
            assert engine.stats().in_flight == engine.stats().waiting == 0


async def test_short_calls_without_end_do_not_starve_a_long_one(scripted):
    async with scripted(lambda question: [reply(question, rcode=3)]) as resolver:
        async with Engine([resolver], EngineSettings(window=20)) as engine:
            long = asyncio.create_task(engine.resolve(names(SHORT + 1)))
            asked = 0

            async def ask() -> None:
                nonlocal asked
                # Without turns for long ones this would be all that is asked.
                while not long.done() and asked < 100 * SHORT:
                    await engine.resolve(names(100))
                    asked += 100

            await asyncio.gather(*(ask() for _ in range(4)))
            assert long.done()
            await long
