"""The same names asked over TCP, TLS and HTTPS: right verdicts, whatever the connections do."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from services.sandbox.dns_server import Faults
from services.sandbox.dns_transports import identity
from services.sandbox.truth import AAAA, MX, NS, SOA, truth
from services.validation.dns.engine import Engine, EngineClosed
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Outcome, Verdict
from tests.validation.dns.replies import QUICK, names, until
from tests.validation.dns.transports import MIX, OVER_CONNECTIONS, every_transport

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
OVER_EACH = pytest.mark.parametrize("transport", OVER_CONNECTIONS, ids=lambda it: it.name)
PATIENT = EngineSettings(timeout=2.0, window=256, soft_delay=0.001)
FOLDING = Faults(fold_case=True)


def run(loop: Any, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


def wrong(outcomes: list[Outcome]) -> list[Outcome]:
    """Outcomes that differ from the truth in verdict, addresses or chain.

    A broken signature is SERVFAIL to an engine, which asks no further.
    """
    found = []
    for outcome in outcomes:
        right = truth(outcome.name, 1, MIX)
        evidence = (outcome.verdict, sorted(outcome.addresses), outcome.chain)
        if evidence != (right.answered, sorted(right.addresses), right.chain):
            found.append(outcome)
    return found


@pytest.mark.parametrize(
    ("transport", "loop"),
    [
        (Transport.TCP, asyncio.new_event_loop),
        (Transport.TLS, asyncio.new_event_loop),
        (Transport.TLS, uvloop.new_event_loop),
        (Transport.HTTPS, uvloop.new_event_loop),
        (Transport.HTTPS_JSON, uvloop.new_event_loop),
    ],
)
def test_names_get_the_right_verdicts(loop, transport):
    async def check() -> None:
        async with every_transport() as servers:
            resolver = servers.resolver(transport)
            async with Engine([resolver], PATIENT) as engine:
                outcomes = await engine.resolve(names(800))

        assert wrong(outcomes) == []
        assert {outcome.resolver for outcome in outcomes} == {str(resolver)}
        assert {Verdict.RESOLVED, Verdict.NXDOMAIN, Verdict.NO_DATA, Verdict.CNAME_LOOP} <= {
            outcome.verdict for outcome in outcomes
        }

    run(loop, check())


async def test_one_engine_asks_over_every_transport_at_once():
    async with every_transport() as servers:
        resolvers = [servers.resolver(transport) for transport in Transport]
        async with Engine(resolvers, PATIENT) as engine:
            outcomes = await engine.resolve(names(1000))

    assert wrong(outcomes) == []
    assert {outcome.resolver for outcome in outcomes} == {str(resolver) for resolver in resolvers}


@OVER_EACH
async def test_other_types_are_read_as_over_udp(transport):
    asked = names(60)
    async with every_transport() as servers:
        async with (
            Engine([servers.resolver(transport)], PATIENT) as engine,
            Engine([servers.resolver(Transport.UDP)], PATIENT) as other,
        ):
            for qtype in (AAAA, NS, SOA, MX):
                found = await engine.resolve(asked, qtype=qtype)
                right = await other.resolve(asked, qtype=qtype)
                assert [evidence(it) for it in found] == [evidence(it) for it in right]
                assert any(it.verdict is Verdict.RESOLVED for it in found)


def evidence(outcome: Outcome) -> tuple[object, ...]:
    return (
        outcome.name,
        outcome.verdict,
        outcome.rcode,
        sorted(outcome.addresses),
        outcome.chain,
        outcome.ttl,
        outcome.authority,
    )


@OVER_EACH
async def test_checking_disabled_reaches_the_resolver(transport):
    async with every_transport() as servers:
        async with Engine([servers.resolver(transport)], PATIENT) as engine:
            checked = await engine.resolve(["dnssec-failed.org"])
            unchecked = await engine.resolve(["dnssec-failed.org"], checking_disabled=True)

    assert [it.verdict for it in checked + unchecked] == [Verdict.SERVFAIL, Verdict.RESOLVED]


@OVER_EACH
async def test_a_resolver_that_folds_case_is_understood(transport):
    async with every_transport(faults=FOLDING) as servers:
        async with Engine([servers.resolver(transport)], PATIENT) as engine:
            assert wrong(await engine.resolve(names(100))) == []
            assert engine.stats().tcp == 0


@pytest.mark.parametrize("transport", OVER_CONNECTIONS[1:], ids=lambda it: it.name)
@pytest.mark.parametrize("flaw", ["name", "authority"])
async def test_a_certificate_that_proves_nothing_is_refused(transport, flaw):
    async with every_transport() as servers:
        flawed = (
            servers.resolver(transport, name="other.sandbox")
            if flaw == "name"
            else servers.resolver(transport, ca=identity().ca)
        )
        async with Engine([flawed], EngineSettings(timeout=0.1, tries=2)) as engine:
            alone = await engine.resolve(names(20))
            assert "certificate verify failed" in engine.stats().resolvers[0].trouble
        async with Engine([flawed, servers.resolver(Transport.UDP)], PATIENT) as engine:
            outcomes = await engine.resolve(names(200))

    assert {it.verdict for it in alone} == {Verdict.TIMEOUT}
    assert servers.web.requests == servers.tls.connections == 0
    assert wrong(outcomes) == []


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS])
@LOOPS
def test_connections_that_break_off_lose_nothing(loop, transport):
    async def check() -> None:
        async with every_transport() as servers:
            settings = EngineSettings(timeout=10.0, tries=1, soft_tries=1, window=200)
            async with Engine([servers.resolver(transport)], settings) as engine:
                task = asyncio.create_task(engine.resolve(names(3000)))
                for answered in (300, 900, 1500):
                    await until(lambda: engine.stats().answered >= answered)  # noqa: B023
                    servers.cut()
                outcomes = await task
                stats = engine.stats()

        assert wrong(outcomes) == []
        assert (stats.timeouts, stats.retries) == (0, 0)

    run(loop, check())


@OVER_EACH
async def test_a_port_that_nobody_listens_on_is_left_at_once(transport, dead_port):
    dead = Resolver(dead_port.host, dead_port.port, transport, url=url_of(transport))
    async with every_transport() as servers:
        settings = EngineSettings(timeout=60.0, soft_delay=0.001)
        async with Engine([dead, servers.resolver(Transport.UDP)], settings) as engine:
            # With these time-outs nobody waits for the dead one.
            assert wrong(await engine.resolve(names(500))) == []
            assert engine.stats().resolvers[0].suspect


def url_of(transport: Transport) -> str:
    over_https = transport in (Transport.HTTPS, Transport.HTTPS_JSON)
    return "https://dns.sandbox/dns-query" if over_https else ""


@OVER_EACH
async def test_settings_that_cannot_be_read_cost_only_the_resolver(transport):
    broken = Resolver("127.0.0.1", 1, transport, url="nonsense", ca_pem="nonsense")
    async with every_transport() as servers:
        async with Engine([broken, servers.resolver(Transport.UDP)], QUICK) as engine:
            assert wrong(await engine.resolve(names(200))) == []


@OVER_EACH
@LOOPS
def test_an_engine_that_is_closed_in_the_middle_leaves_nothing_open(loop, transport):
    async def check() -> None:
        async with every_transport() as servers:
            async with Engine([servers.resolver(transport)], PATIENT) as engine:
                task = asyncio.create_task(engine.resolve(names(5000)))
                await until(lambda: engine.stats().answered >= 50)
            # By then all may be settled.
            with contextlib.suppress(EngineClosed):
                await task
            assert [it for it in asyncio.all_tasks() if "Channel." in repr(it.get_coro())] == []

    run(loop, check())


@OVER_EACH
async def test_questions_that_were_only_just_asked_are_ended_too(transport):
    async with every_transport() as servers:
        # Whatever turn of the loop the end falls into.
        for turns in range(1, 8):
            async with Engine([servers.resolver(transport)], PATIENT) as engine:
                task = asyncio.create_task(engine.resolve(names(5)))
                for _ in range(turns):
                    await asyncio.sleep(0)
            # By then all may be settled.
            with contextlib.suppress(EngineClosed):
                await task
            assert [it for it in asyncio.all_tasks() if "Channel." in repr(it.get_coro())] == []
