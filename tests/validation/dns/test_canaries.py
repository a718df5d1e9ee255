"""Canaries on the wire: liars, the dead and those without TCP among resolvers that do well."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Behaviour, Mix, truth
from services.validation.dns.canaries import Canaries
from services.validation.dns.engine import Engine, EngineClosed
from services.validation.dns.health import Change, Health
from services.validation.dns.plan import CANARIES, Canary, CanaryKind, Examination, Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.stats import ResolverState
from services.validation.dns.verdict import Outcome
from tests.eventually import eventually

ADMITTED, QUARANTINED = ResolverState.ADMITTED, ResolverState.QUARANTINED
NAMES = [f"name-{number}.com" for number in range(300)]
ABSENT = [name for name in NAMES if truth(name, 1, Mix()).behaviour is Behaviour.NXDOMAIN][:50]
SETTINGS = EngineSettings(timeout=0.3, tries=3, soft_delay=0.0)


class Watched:
    """An engine whose resolvers are watched."""

    def __init__(self, engine: Engine, canaries: Canaries) -> None:
        self.engine = engine
        self.canaries = canaries
        self.changes: list[Change] = []
        canaries.listeners.append(self.changes.append)

    async def ask(self, names: Sequence[str]) -> list[Outcome]:
        async with self.canaries.in_use():
            return await self.engine.resolve(names)

    def health(self, server: SandboxDns) -> Health:
        return next(it for it in self.canaries.healths if it.resolver == resolver_of(server))


def resolver_of(server: SandboxDns) -> Resolver:
    return Resolver(*server.address)


@asynccontextmanager
async def watched(
    *resolvers: Resolver,
    canaries: tuple[Canary, ...] = CANARIES,
    period: float = 0.1,
) -> AsyncIterator[Watched]:
    examination = Examination(canaries=canaries, canary_period=period)
    plan = Plan(resolvers, SETTINGS, examination)
    async with Engine(resolvers, SETTINGS) as engine:
        it = Watched(engine, Canaries(plan, engine))
        try:
            yield it
        finally:
            await it.canaries.close()


@asynccontextmanager
async def serving(faults: Faults | None = None, port: int = 0) -> AsyncIterator[SandboxDns]:
    async with SandboxDns(SandboxDnsSettings(port=port, faults=faults or Faults())) as server:
        yield server


@pytest.fixture
async def honest() -> AsyncIterator[SandboxDns]:
    async with serving() as server:
        yield server


async def test_a_liar_is_out_before_the_first_name(honest: SandboxDns) -> None:
    async with (
        serving(Faults(lying=1.0)) as liar,
        watched(resolver_of(liar), resolver_of(honest), period=60) as it,
    ):
        outcomes = await it.ask(ABSENT)

        (change,) = it.changes
        assert (change.resolver, change.state) == (resolver_of(liar), QUARANTINED)
        assert change.lied_since == float("-inf")
    assert {outcome.resolver for outcome in outcomes} == {str(resolver_of(honest))}
    assert {outcome.verdict for outcome in outcomes} == {2}


async def test_who_begins_to_lie_is_found_and_readmitted_when_it_stops(honest: SandboxDns) -> None:
    async with serving() as other, watched(resolver_of(other), resolver_of(honest)) as it:

        async def out() -> None:
            assert [change.state for change in it.changes] == [QUARANTINED]

        async def back() -> None:
            assert it.changes[-1].state is ADMITTED

        async with it.canaries.in_use():
            assert it.health(other).truthful_at > 0
            other.lie()
            await eventually(out)
            since = it.changes[0].lied_since
            assert since is not None
            assert since > 0
            other.lie(0)
            await eventually(back)
        assert (it.health(other).level, it.health(honest).level) == (1, 0)


async def test_nobody_is_asked_while_nobody_uses_them(honest: SandboxDns) -> None:
    async with serving() as other, watched(resolver_of(other), resolver_of(honest)) as it:
        await it.ask(ABSENT)
        other.lie()

        # The round that may still be under way asks before this one is answered.
        outcomes = await it.ask(ABSENT)
        while not it.changes:
            outcomes = await it.ask(ABSENT)

        assert outcomes
        assert it.changes[0].resolver == resolver_of(other)


async def test_who_has_no_tcp_is_quarantined(honest: SandboxDns, scripted) -> None:
    large = next(name for name in NAMES if truth(name, 1, Mix()).behaviour is Behaviour.TRUNCATED)
    canaries = Canary(CanaryKind.GOOD, "example.com"), Canary(CanaryKind.TRUNCATED, large)

    def answer(question: bytes) -> list[bytes]:
        return [honest.respond(question, udp=True)[0]]

    async with (
        scripted(answer) as without,
        watched(resolver_of(honest), without, canaries=canaries) as it,
        it.canaries.in_use(),
    ):

        async def out() -> None:
            assert [change.resolver for change in it.changes] == [without]

        await eventually(out)


async def test_who_refuses_everything_is_quarantined(honest: SandboxDns, scripted) -> None:
    def refuse(question: bytes) -> list[bytes]:
        return [question[:2] + b"\x81\x85\0\1\0\0\0\0\0\0" + question[12:-11]]

    async with (
        scripted(refuse) as refusing,
        watched(resolver_of(honest), refusing) as it,
        it.canaries.in_use(),
    ):

        async def out() -> None:
            assert [change.resolver for change in it.changes] == [refusing]

        await eventually(out)
        assert "REFUSED" in it.changes[0].reason


async def test_a_mute_resolver_is_left_to_the_engine_until_it_is_back(honest: SandboxDns) -> None:
    async with serving() as server:
        port = server.address[1]
    dead = Resolver("127.0.0.1", port)
    async with watched(dead, resolver_of(honest)) as it:
        outcomes = await it.ask(ABSENT * 4)
        assert {outcome.resolver for outcome in outcomes} == {str(resolver_of(honest))}

        async with serving(port=port):

            async def answers() -> None:
                outcomes = await it.ask(ABSENT)
                assert str(dead) in {outcome.resolver for outcome in outcomes}

            await eventually(answers)
        assert it.changes == []


async def test_a_canary_that_nobody_passes_is_disregarded() -> None:
    async with (
        serving(Faults(lying=1.0)) as one,
        serving(Faults(lying=1.0)) as two,
        watched(resolver_of(one), resolver_of(two)) as it,
    ):
        await it.ask(ABSENT)

        assert it.changes == []
        assert all("disregarded" in health.reason for health in it.canaries.healths)


async def test_who_validates_is_known_by_the_bogus_canary(honest: SandboxDns) -> None:
    async with watched(resolver_of(honest)) as it, it.canaries.in_use():

        async def known() -> None:
            assert it.health(honest).validates

        await eventually(known)


async def test_without_canaries_nothing_is_asked(honest: SandboxDns, scripted) -> None:
    asked = set()

    def answer(question: bytes) -> list[bytes]:
        asked.add(question[12:-11].lower())
        return [honest.respond(question, udp=True)[0]]

    async with scripted(answer) as one, watched(one, canaries=()) as it:
        await it.ask(ABSENT)

    assert len(asked) == len(ABSENT)


async def test_what_the_authority_finds_wrong_puts_a_resolver_out(honest: SandboxDns) -> None:
    async with (
        serving() as other,
        watched(resolver_of(other), resolver_of(honest), period=60) as it,
    ):
        for _ in range(3):
            it.canaries.wrong(str(resolver_of(other)))
        assert [change.state for change in it.changes] == [QUARANTINED]

        outcomes = await it.ask(ABSENT)

        assert {outcome.resolver for outcome in outcomes} == {str(resolver_of(honest))}


async def test_who_is_out_comes_back_although_nobody_used_them_when_its_time_was_over(
    honest: SandboxDns,
) -> None:
    async with (
        serving() as other,
        watched(resolver_of(other), resolver_of(honest), canaries=()) as it,
    ):
        for _ in range(3):
            it.canaries.wrong(str(resolver_of(other)))

        async def over() -> None:
            assert it.health(other).retry_at + 0.05 < time.monotonic()

        async def back() -> None:
            assert it.changes[-1].state is ADMITTED

        await eventually(over)
        async with it.canaries.in_use():
            await eventually(back)


async def test_a_round_that_was_due_while_nobody_used_them_is_made_up_for(
    honest: SandboxDns, scripted
) -> None:
    """One more round decides about a resolver: it is due soon after the one before."""
    asked = []

    def refuse_first(question: bytes) -> list[bytes]:
        asked.append(time.monotonic())
        answer = honest.respond(question, udp=True)[0]
        # NOTIMP: nothing the engine believes at once, nor anything it asks again for ever.
        return [answer[:3] + b"\x04" + answer[4:]] if len(asked) <= SETTINGS.tries else [answer]

    good = (Canary(CanaryKind.GOOD, "example.com"),)
    async with (
        scripted(refuse_first) as one,
        watched(one, resolver_of(honest), canaries=good, period=2) as it,
    ):
        async with it.canaries.in_use():
            pass
        (health,) = (each for each in it.canaries.healths if each.resolver == one)
        assert health.is_in_doubt

        async def due() -> None:
            assert asked[-1] + 0.3 < time.monotonic()

        async def decided() -> None:
            assert not health.is_in_doubt

        await eventually(due)
        assert health.is_in_doubt
        async with it.canaries.in_use():
            await eventually(decided)


async def test_a_closed_engine_is_said_to_be_closed(honest: SandboxDns) -> None:
    async with watched(resolver_of(honest), period=0) as it:
        await it.ask(ABSENT[:1])
    with pytest.raises(EngineClosed):
        await it.ask(ABSENT[:1])
    async with watched(resolver_of(honest), period=0) as it:
        async with it.canaries.in_use():
            await it.engine.__aexit__(None, None, None)
        with pytest.raises(EngineClosed):
            await it.ask(ABSENT[:1])


async def test_a_cancelled_caller_leaves_the_watch_to_the_others(mute: Resolver) -> None:
    async with watched(mute) as it:
        first = asyncio.create_task(it.ask(ABSENT[:1]))
        second = asyncio.create_task(it.ask(ABSENT[:1]))
        await asyncio.sleep(0)
        first.cancel()

        assert len(await second) == 1
        assert first.cancelled()
