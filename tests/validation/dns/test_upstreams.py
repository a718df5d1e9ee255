"""Who is asked: quarantine, routes, strategies and limits, as seen on the wire."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from services.validation.dns.congestion import START
from services.validation.dns.engine import Engine
from services.validation.dns.flight import Flight
from services.validation.dns.limits import CATCH_UP
from services.validation.dns.query import Call, Query
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.settings import EngineSettings, Strategy
from services.validation.dns.stats import ResolverState
from services.validation.dns.upstream import (
    ANY,
    ID_BATCH,
    Channel,
    Route,
    Upstreams,
    open_datagram_channel,
)
from services.validation.dns.verdict import Verdict
from services.validation.dns.wire import A, Questions
from tests.validation.dns.replies import QUICK, names, reply, until


class Server:
    """A resolver that answers with its own address, or nothing while it is mute."""

    def __init__(self, number: int) -> None:
        self.address = f"192.0.2.{number}"
        self.asked = 0
        self.mute = False
        self.resolver = Resolver("0.0.0.0")

    def script(self, question: bytes) -> list[bytes]:
        self.asked += 1
        return [] if self.mute else [reply(question, self.address)]


@pytest.fixture
def servers(scripted):
    """A context manager: how many in, servers out, each of an operator of its own."""

    @asynccontextmanager
    async def start(count: int) -> AsyncIterator[list[Server]]:
        async with AsyncExitStack() as stack:
            found = [Server(number) for number in range(count)]
            for number, server in enumerate(found):
                resolver = await stack.enter_async_context(scripted(server.script))
                server.resolver = replace(resolver, operated_by=f"operator {number}")
            yield found

    return start


# Quarantine


async def test_a_resolver_in_quarantine_is_asked_by_name_only(servers):
    async with servers(2) as (first, second):
        async with Engine([first.resolver, second.resolver], QUICK) as engine:
            engine.quarantine(first.resolver)
            outcomes = await engine.resolve(names(200))
            assert {it.addresses for it in outcomes} == {(second.address,)}
            assert first.asked == 0
            assert engine.stats().resolvers[0].state is ResolverState.QUARANTINED

            (named,) = await engine.resolve(["x.example"], route=Route(resolver=first.resolver))
            assert named.addresses == (first.address,)

            engine.admit(first.resolver)
            await engine.resolve(names(200))
            assert first.asked > 1
            assert engine.stats().resolvers[0].state is ResolverState.ADMITTED


async def test_names_that_wait_for_a_resolver_in_quarantine_are_asked_elsewhere(servers):
    async with servers(2) as (first, second):
        first.mute = True
        settings = EngineSettings(timeout=60, tries=1)
        async with Engine([first.resolver, second.resolver], settings) as engine:
            named = asyncio.create_task(
                engine.resolve(["x.example"], route=Route(resolver=first.resolver))
            )
            asking = asyncio.create_task(engine.resolve(names(200)))
            await until(lambda: first.asked > 50)

            engine.quarantine(first.resolver)
            outcomes = await asking

            assert {it.addresses for it in outcomes} == {(second.address,)}
            assert not named.done()
            named.cancel()
            await asyncio.wait([named])
            assert engine.stats().in_flight == 0


async def test_what_a_resolver_in_quarantine_still_says_is_ignored(servers):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
        liar.setblocking(False)
        liar.bind(("127.0.0.1", 0))
        async with servers(1) as (honest,):
            honest.mute = True
            resolvers = [Resolver(*liar.getsockname()), honest.resolver]
            async with Engine(resolvers, EngineSettings(timeout=60)) as engine:
                asking = asyncio.gather(*(engine.resolve([name]) for name in names(10)))
                asked = [await loop.sock_recvfrom(liar, 512) for _ in range(5)]
                engine.quarantine(resolvers[0])
                for question, asker in asked:
                    liar.sendto(reply(question, "203.0.113.1"), asker)
                await until(lambda: engine.stats().stray == len(asked))

                assert (engine.stats().in_flight, engine.stats().answered) == (10, 0)
                asking.cancel()
                await asyncio.wait([asking])


async def test_resolvers_are_asked_when_all_are_in_quarantine(servers):
    async with servers(2) as both:
        async with Engine([it.resolver for it in both], QUICK) as engine:
            for server in both:
                engine.quarantine(server.resolver)
            outcomes = await engine.resolve(names(200))

    assert {it.verdict for it in outcomes} == {Verdict.RESOLVED}
    assert all(server.asked for server in both)


async def test_a_resolver_the_engine_does_not_have_is_refused(mute):
    async with Engine([mute], QUICK) as engine:
        with pytest.raises(KeyError):
            engine.quarantine(Resolver("192.0.2.1"))


# Routes


@pytest.mark.parametrize("trouble", ["mute", "quarantined"])
async def test_a_route_around_an_operator_ends_though_all_others_are_out(servers, trouble):
    async with servers(3) as (first, second, third):
        second.mute = third.mute = True
        async with Engine([it.resolver for it in (first, second, third)], QUICK) as engine:
            if trouble == "quarantined":
                engine.quarantine(second.resolver)
                engine.quarantine(third.resolver)
            route = Route(avoid_operator="operator 0")
            outcomes = [await engine.resolve(names(50), route=route) for _ in range(3)]

    right = Verdict.RESOLVED if trouble == "quarantined" else Verdict.TIMEOUT
    assert {it.verdict for batch in outcomes for it in batch} == {right}


# Strategies

# No name is asked about twice on a machine with too much to do.
PATIENT = EngineSettings(timeout=10)


def engine_of(servers, settings=PATIENT, **changes):
    return Engine([it.resolver for it in servers], replace(settings, **changes))


async def test_round_robin_asks_all_alike(servers):
    async with servers(3) as all_three, engine_of(all_three) as engine:
        await asyncio.gather(*(engine.resolve([name]) for name in names(90)))

    assert {server.asked for server in all_three} == {30}


async def test_random_asks_all_in_no_order(servers):
    async with servers(3) as all_three:
        async with engine_of(all_three, strategy=Strategy.RANDOM) as engine:
            order = [(await engine.resolve([name]))[0].addresses for name in names(200)]

    assert all(server.asked > 30 for server in all_three)
    # In turn, none would follow itself.
    assert any(first == second for first, second in pairwise(order))


async def test_weighted_asks_each_by_its_weight(servers):
    async with servers(3) as all_three:
        for server, weight in zip(all_three, (1, 2, 5), strict=True):
            server.resolver = replace(server.resolver, weight=weight)
        async with engine_of(all_three, strategy=Strategy.WEIGHTED) as engine:
            await asyncio.gather(*(engine.resolve([name]) for name in names(160)))

    assert [server.asked for server in all_three] == [20, 40, 100]


async def test_failover_asks_the_first_alone_while_it_answers(servers):
    async with servers(3) as (first, second, third):
        async with engine_of((first, second, third), QUICK, strategy=Strategy.FAILOVER) as engine:
            await engine.resolve(names(150))
            assert (first.asked, second.asked, third.asked) == (150, 0, 0)

            first.mute = True
            outcomes = await engine.resolve(names(150))
            assert {it.addresses for it in outcomes} == {(second.address,)}
            assert third.asked == 0

            first.mute = False
            await until_admitted(engine)
            asked = second.asked
            await engine.resolve(names(150))
            assert second.asked == asked


async def until_admitted(engine: Engine) -> None:
    """Give the engine names until its first resolver is admitted again."""
    while engine.stats().resolvers[0].state is not ResolverState.ADMITTED:
        await engine.resolve(names(3))
        await asyncio.sleep(0.01)


async def test_a_resolver_without_room_is_passed_over(servers):
    async with servers(2) as (first, second):
        first.mute = True
        settings = EngineSettings(timeout=60, in_flight_limit=5)
        async with engine_of((first, second), settings) as engine:
            asking = asyncio.create_task(engine.resolve(names(300)))
            await until(lambda: engine.stats().answered == 295)
            assert engine.stats().in_flight == 5
            asking.cancel()
            await asyncio.wait([asking])


# Limits


async def test_no_more_questions_are_out_than_the_limit_says(servers):
    async with servers(2) as both:
        for server in both:
            server.mute = True
        both[1].resolver = replace(both[1].resolver, in_flight_limit=3)
        settings = EngineSettings(timeout=60, in_flight_limit=7)
        async with engine_of(both, settings) as engine:
            asking = asyncio.create_task(engine.resolve(names(300)))
            await until(lambda: both[0].asked == 7 and both[1].asked == 3)
            # Two ticks, at which late questions stop counting against everything else.
            await asyncio.sleep(0.05)
            assert (both[0].asked, both[1].asked) == (7, 3)
            asking.cancel()
            await asyncio.wait([asking])


@pytest.mark.parametrize("own", [True, False])
async def test_a_resolver_is_asked_no_faster_than_its_limit_says(servers, own):
    rate, total = 200, 60
    async with servers(1) as (server,):
        limited = {"rate_limit": rate}
        if own:
            server.resolver = replace(server.resolver, **limited)
        async with engine_of([server], **({} if own else limited)) as engine:
            began = time.monotonic()
            outcomes = await engine.resolve(names(total))
            took = time.monotonic() - began

    assert {it.verdict for it in outcomes} == {Verdict.RESOLVED}
    # All but what the bucket held at first.
    assert took >= (total - 1 - rate * CATCH_UP) / rate


async def test_retries_keep_to_the_limit_too(servers):
    rate = 200
    async with servers(1) as (server,):
        server.mute = True
        settings = EngineSettings(timeout=0.02, tries=6, rate_limit=rate)
        async with engine_of([server], settings) as engine:
            began = time.monotonic()
            outcomes = await engine.resolve(names(10))
            took = time.monotonic() - began

    assert {it.verdict for it in outcomes} == {Verdict.TIMEOUT}
    assert server.asked == 60
    assert took >= (60 - 1 - rate * CATCH_UP) / rate


async def test_a_call_to_a_full_resolver_holds_up_no_other(servers):
    async with servers(2) as (first, second):
        first.resolver = replace(first.resolver, rate_limit=1)
        async with engine_of((first, second), QUICK) as engine:
            stuck = asyncio.create_task(
                engine.resolve(names(50), route=Route(resolver=first.resolver))
            )
            await until(lambda: first.asked)

            outcomes = await engine.resolve(names(300))

            assert {it.verdict for it in outcomes} == {Verdict.RESOLVED}
            assert second.asked > 250
            assert not stuck.done()
            stuck.cancel()
            await asyncio.wait([stuck])


async def test_what_a_resolver_bears_is_told(servers):
    async with servers(1) as (server,), engine_of([server]) as engine:
        await engine.resolve(names(50))
        (stats,) = engine.stats().resolvers

    assert (stats.window, stats.operator, stats.state) == (
        START,
        "operator 0",
        ResolverState.ADMITTED,
    )


# Silence


def test_what_was_lost_at_once_makes_no_resolver_suspect():
    openers = {Transport.UDP: open_datagram_channel}
    resolvers = (Resolver("192.0.2.1"),)
    (one,) = Upstreams(resolvers, QUICK, Random(1), lambda _: None, openers).all
    second = 1_000_000_000

    one.miss(100, second)
    assert not one.suspect
    one.hear()
    one.miss(100, 2 * second)
    assert not one.suspect
    one.miss(0, 3 * second)
    assert one.suspect


# Sockets


def channels_of(count: int, settings: EngineSettings) -> Upstreams:
    openers = {
        Transport.UDP: lambda upstream, ids, cases, drain: Channel(upstream, None, ids, cases)
    }
    resolvers = [Resolver(f"192.0.{number >> 8}.{number & 255}") for number in range(count)]
    return Upstreams(resolvers, settings, Random(1), lambda _: None, openers)


def test_ids_are_drawn_by_and_by_and_never_repeat():
    (one,) = channels_of(1, EngineSettings(sockets_per_resolver=1)).all
    channel = one.channel(0)
    assert len(channel.ids) <= ID_BATCH

    drawn = []
    while one.channel(0) is channel:
        drawn.append(channel.ids.pop())
    assert len(drawn) == len(set(drawn))
    # Of 20,000 drawn among 65,536, with little room for chance.
    assert 17_000 < len(drawn) < 17_500


def test_a_thousand_resolvers_have_a_socket_each():
    upstreams = channels_of(1000, EngineSettings(sockets_per_resolver=4))
    for _ in range(8):
        for one in upstreams.all:
            one.channel(0)
    assert len(upstreams.channels()) == 1000


async def test_a_question_that_did_not_go_out_counts_for_nothing():
    upstreams = channels_of(2, QUICK)
    first, second = upstreams.all
    flight = Flight(upstreams)
    call = Call(
        ["x"],
        asyncio.get_running_loop().create_future(),
        Questions(A),
        ANY,
        checking_disabled=False,
    )
    channel = first.channel(1)
    key = channel.ids.pop()
    query = Query(call, 0, b"", 1, channel, key)
    channel.pending[key] = query
    first.count_sent(1)
    assert flight.let_go(query)

    flight.send(query, second.channel(2), 2)
    flight.unsend(query, channel, key, 1)

    assert (query.channel, query.key, query.sent_at, query.attempts) == (channel, key, 1, 1)
    assert [(it.out, it.sent) for it in upstreams.all] == [(0, 1), (0, 0)]
    assert not any(it.pending for it in upstreams.channels())
