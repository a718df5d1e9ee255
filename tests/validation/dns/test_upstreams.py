"""Who is asked: quarantine, routes, strategies and limits, as seen on the wire."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.stats import ResolverState
from services.validation.dns.upstream import Route
from services.validation.dns.verdict import Verdict
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
