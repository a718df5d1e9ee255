"""The engine against the sandbox's truth, and against servers that misbehave on purpose."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Behaviour, Mix, truth
from services.validation.dns import congestion, wire
from services.validation.dns.engine import Engine, EngineClosed
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Outcome, Verdict
from tests.validation.dns.replies import QUICK, names, reply, until

HARD = (
    "nodata", "servfail", "refused", "mute", "slow", "chain",
    "dangling", "loop", "wildcard", "large", "unusable", "bogus", "v6_only", "v6_broken",
)  # fmt: skip
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


def run(loop, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


def wrong(outcomes: list[Outcome], mix: Mix, seed: int = 1) -> list[Outcome]:
    """Outcomes that differ from the truth in verdict, addresses or chain."""
    found = []
    for outcome in outcomes:
        right = truth(outcome.name, seed, mix)
        evidence = (outcome.verdict, sorted(outcome.addresses), outcome.chain)
        if evidence != (right.answered, sorted(right.addresses), right.chain):
            found.append(outcome)
    return found


# Truth


async def check_heavy_faults() -> None:
    # Mute names cost all time-outs of all tries; the few here keep the test short.
    mix = Mix(mute=0.05)
    faults = Faults(loss=0.2, servfail=0.05, late=0.05, truncate=0.05, bogus=0.05)
    settings = EngineSettings(window=2000, timeout=0.3, tries=12, soft_tries=6, soft_delay=0.002)
    asked = names(10_000) + names(10_000, "child.zone.example")
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                SandboxDns(SandboxDnsSettings(mix=mix, faults=faults, fault_seed=number))
            )
            for number in (1, 2)
        ]
        resolvers = [Resolver(*server.address) for server in servers]
        engine = await stack.enter_async_context(Engine(resolvers, settings))
        batches = await asyncio.gather(
            *(engine.resolve(asked[at : at + 2000]) for at in range(0, len(asked), 2000))
        )
        outcomes = [outcome for batch in batches for outcome in batch]

        assert [outcome.name for outcome in outcomes] == asked
        assert wrong(outcomes, mix) == []
        assert {outcome.verdict for outcome in outcomes} >= set(Verdict) - {
            Verdict.WILDCARD,
            Verdict.BOGUS,
            # Never the engine's.
            Verdict.DEAD_LETTER,
        }
        assert any(outcome.tcp for outcome in outcomes)
        assert engine.stats().in_flight == 0


def test_20000_names_through_heavy_faults_get_the_right_verdicts():
    run(uvloop.new_event_loop, check_heavy_faults())


async def check_one_of_two_dead(dead: Resolver) -> None:
    mix = Mix(mute=0)
    settings = EngineSettings(timeout=0.2, window=1000)
    async with SandboxDns(SandboxDnsSettings(mix=mix)) as server:
        async with Engine([dead, Resolver(*server.address)], settings) as engine:
            outcomes = await engine.resolve(names(5000))

            assert wrong(outcomes, mix) == []
            by_name = {it.resolver: it for it in engine.stats().resolvers}
            assert by_name[str(dead)].suspect
            assert by_name[str(dead)].sent < 1500


@LOOPS
def test_one_of_two_resolvers_mute_changes_no_verdict(loop, mute):
    run(loop, check_one_of_two_dead(mute))


@LOOPS
def test_one_of_two_resolvers_refusing_changes_no_verdict(loop, dead_port):
    run(loop, check_one_of_two_dead(dead_port))


async def test_a_resolver_without_a_route_changes_no_verdict():
    # 2001:db8::/32 is for documentation; here it has no route or no listener.
    mix = Mix(mute=0, slow=0)
    async with SandboxDns(SandboxDnsSettings(mix=mix)) as server:
        nowhere = Resolver("2001:db8::1")
        async with Engine([nowhere, Resolver(*server.address)], QUICK) as engine:
            assert wrong(await engine.resolve(names(500)), mix) == []


async def test_a_resolver_that_comes_back_is_used_again(scripted, dead_port):
    async with scripted(lambda question: [reply(question, rcode=3)]) as alive:
        async with Engine([dead_port, alive], QUICK) as engine:
            await engine.resolve(names(200))
            assert [it.suspect for it in engine.stats().resolvers] == [True, False]

            loop = asyncio.get_running_loop()
            settings = SandboxDnsSettings(dead_port.host, dead_port.port, mix=Mix(mute=0))
            async with SandboxDns(settings):
                deadline = loop.time() + 5
                while engine.stats().resolvers[0].suspect and loop.time() < deadline:
                    await engine.resolve(names(200))
                assert not engine.stats().resolvers[0].suspect


@LOOPS
def test_a_window_smaller_than_the_batch_is_enough(loop):
    async def check() -> None:
        mix = Mix(mute=0)
        async with SandboxDns(SandboxDnsSettings(mix=mix)) as server:
            settings = EngineSettings(window=10, sockets_per_resolver=2, queries_per_socket=100)
            async with Engine([Resolver(*server.address)], settings) as engine:
                batches = await asyncio.gather(*(engine.resolve(names(300)) for _ in range(4)))
        assert [wrong(batch, mix) for batch in batches] == [[], [], [], []]

    run(loop, check())


async def test_ipv6_resolvers_are_asked():
    mix = Mix(mute=0, slow=0)
    try:
        server = await SandboxDns(SandboxDnsSettings(host="::1", mix=mix)).__aenter__()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    try:
        async with Engine([Resolver(*server.address)], QUICK) as engine:
            outcomes = await engine.resolve(names(300))
    finally:
        await server.__aexit__(None, None, None)

    assert wrong(outcomes, mix) == []
    assert outcomes[0].resolver.startswith("[::1]:")


# Evidence


async def test_a_truncated_answer_is_asked_for_over_tcp():
    mix = Mix(nxdomain=0, resolves=0, truncated=1, **dict.fromkeys(HARD, 0))
    async with SandboxDns(SandboxDnsSettings(mix=mix)) as server:
        async with Engine([Resolver(*server.address)], QUICK) as engine:
            outcomes = await engine.resolve(names(50))

    assert wrong(outcomes, mix) == []
    assert all(outcome.tcp and outcome.attempts == 1 for outcome in outcomes)
    assert len(outcomes[0].addresses) == 90


async def test_the_outcome_carries_its_evidence(scripted):
    async with scripted(lambda question: [reply(question, "192.0.2.7")]) as resolver:
        async with Engine([resolver], QUICK) as engine:
            (outcome,) = await engine.resolve(["www.x.example"])

    assert outcome._replace(duration_us=0) == Outcome(
        "www.x.example", Verdict.RESOLVED, 0, ("192.0.2.7",), (), 60, str(resolver), 1, 0, False
    )
    assert outcome.duration_us > 0


async def test_silence_is_a_timeout_after_every_try(mute):
    async with Engine([mute], QUICK) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.rcode, outcome.attempts) == (Verdict.TIMEOUT, -1, 3)
    assert outcome.resolver == str(mute)


async def test_names_that_cannot_be_asked_are_errors_among_good_ones(scripted):
    bad = ["", "a..b", "a" * 64 + ".example", "é.example", "a." * 127 + "b"]
    async with scripted(lambda question: [reply(question, rcode=3)]) as resolver:
        async with Engine([resolver], QUICK) as engine:
            outcomes = await engine.resolve(["x.example", *bad, "y.example"])
            only_bad = await engine.resolve(bad)

    assert [outcome.verdict.name for outcome in outcomes] == [
        "NXDOMAIN",
        *["ERROR"] * 5,
        "NXDOMAIN",
    ]
    assert [outcome.attempts for outcome in only_bad] == [0] * 5


# Forgery


@pytest.mark.parametrize("total", [1, 40, 2000])
async def test_a_resolver_that_folds_case_is_still_used(total):
    mix = Mix(mute=0, slow=0)
    settings = SandboxDnsSettings(mix=mix, faults=Faults(fold_case=True))
    async with SandboxDns(settings) as server:
        async with Engine([Resolver(*server.address)], QUICK) as engine:
            outcomes = await engine.resolve(names(total))

    assert wrong(outcomes, mix) == []


async def test_ids_and_case_vary_between_questions(scripted):
    seen: list[bytes] = []

    def record(question: bytes) -> list[bytes]:
        seen.append(question)
        return [reply(question, rcode=3)]

    async with scripted(record) as resolver, Engine([resolver], QUICK) as engine:
        await engine.resolve(["the-same-name.example"] * 400)

    assert len({question[:2] for question in seen}) > 390
    assert len({question[12:] for question in seen}) > 200


# Calls


@LOOPS
def test_cancelling_one_call_leaves_the_others_right(loop):
    async def check() -> None:
        mix = Mix(mute=0)
        async with SandboxDns(SandboxDnsSettings(mix=mix)) as server:
            settings = EngineSettings(window=500)
            async with Engine([Resolver(*server.address)], settings) as engine:
                tasks = [asyncio.create_task(engine.resolve(names(1000))) for _ in range(5)]
                await until(lambda: engine.stats().in_flight)
                for task in (tasks[0], tasks[3]):
                    task.cancel()
                done = await asyncio.gather(*(tasks[at] for at in (1, 2, 4)))
                await asyncio.wait(tasks)

                assert [task.cancelled() for task in tasks] == [True, False, False, True, False]
                assert [wrong(batch, mix) for batch in done] == [[], [], []]
                assert (engine.stats().in_flight, engine.stats().waiting) == (0, 0)

    run(loop, check())


async def test_a_small_call_takes_its_turn_before_large_ones_are_through():
    mix = Mix(mute=0, slow=0)
    async with SandboxDns(SandboxDnsSettings(mix=mix)) as server:
        async with Engine([Resolver(*server.address)], EngineSettings(window=100)) as engine:
            large = [asyncio.create_task(engine.resolve(names(3000))) for _ in range(2)]
            await until(lambda: engine.stats().waiting > 5000)

            assert wrong(await engine.resolve(names(20)), mix) == []

            assert engine.stats().waiting > 3000
            assert [wrong(await each, mix) for each in large] == [[], []]


async def test_a_cancelled_call_gives_its_place_in_the_window_back(mute):
    async with Engine([mute], EngineSettings(window=50, timeout=60)) as engine:
        stuck = asyncio.create_task(engine.resolve(names(500)))
        await until(lambda: engine.stats().in_flight)
        assert (engine.stats().in_flight, engine.stats().waiting) == (50, 450)

        stuck.cancel()
        await asyncio.wait([stuck])

        assert (engine.stats().in_flight, engine.stats().waiting) == (0, 0)


async def test_a_call_cancelled_while_on_tcp_is_let_go():
    mix = Mix(nxdomain=0, resolves=0, truncated=1, **dict.fromkeys(HARD, 0))
    faults = Faults(delay=0.05)
    async with SandboxDns(SandboxDnsSettings(mix=mix, faults=faults)) as server:
        async with Engine([Resolver(*server.address)], EngineSettings()) as engine:
            asking = asyncio.create_task(engine.resolve(names(20)))
            await until(lambda: engine.stats().tcp)
            asking.cancel()
            await asyncio.wait([asking])
            assert engine.stats().in_flight == 0

            assert wrong(await engine.resolve(names(5)), mix) == []


async def test_closing_the_engine_ends_its_calls(mute):
    async with Engine([mute], EngineSettings(timeout=60)) as engine:
        stuck = asyncio.create_task(engine.resolve(names(5)))
        await until(lambda: engine.stats().in_flight)

    with pytest.raises(EngineClosed):
        await stuck
    with pytest.raises(EngineClosed):
        await engine.resolve(["x.example"])


async def test_nothing_is_asked_after_closing(mute):
    settings = EngineSettings(timeout=0.05, tries=50)
    async with Engine([mute], settings) as engine:
        calls = [asyncio.create_task(engine.resolve(names(500))) for _ in range(4)]
        # The first burst of retries is out, and the others are due.
        await until(lambda: engine.stats().retries)
        sent = engine.stats().sent
    ends = await asyncio.gather(*calls, return_exceptions=True)

    assert {type(end) for end in ends} == {EngineClosed}
    assert engine.stats().sent == sent
    assert engine.stats().in_flight == 0


async def test_a_closed_engine_can_be_opened_again(scripted):
    async with scripted(lambda question: [reply(question, rcode=3)]) as resolver:
        engine = Engine([resolver], QUICK)
        for _ in range(2):
            async with engine:
                (outcome,) = await engine.resolve(["x.example"])
                assert (outcome.verdict, outcome.attempts) == (Verdict.NXDOMAIN, 1)


async def test_a_first_burst_never_exceeds_what_a_resolver_may_hold(scripted):
    asked: list[bytes] = []

    def never(question: bytes) -> list[bytes]:
        asked.append(question)
        return []

    async with scripted(never) as resolver:
        async with Engine([resolver], EngineSettings(timeout=60)) as engine:
            stuck = asyncio.create_task(engine.resolve(names(500)))
            await until(lambda: asked)
            first = engine.stats().in_flight
            await until(lambda: len(asked) == 500)
            stuck.cancel()
            await asyncio.wait([stuck])

    assert first == congestion.START


async def test_no_names_are_no_outcomes(mute):
    async with Engine([mute]) as engine:
        assert await engine.resolve([]) == []


async def test_aaaa_of_names_without_is_no_data():
    mix = Mix(nxdomain=0, mute=0)
    known = [truth(name, 1, mix) for name in names(50)]
    existing = [it.name for it in known if it.behaviour is Behaviour.RESOLVES and not it.aaaa]
    async with SandboxDns(SandboxDnsSettings(mix=mix)) as server:
        async with Engine([Resolver(*server.address)]) as engine:
            outcomes = await engine.resolve(existing, qtype=wire.AAAA)

    assert existing
    assert {outcome.verdict for outcome in outcomes} == {Verdict.NO_DATA}


async def test_an_ipv4_address_is_no_answer_to_aaaa(scripted):
    async with scripted(lambda question: [reply(question, "192.0.2.1")]) as resolver:
        async with Engine([resolver]) as engine:
            (outcome,) = await engine.resolve(["x.example"], qtype=wire.AAAA)

    assert (outcome.verdict, outcome.addresses) == (Verdict.NO_DATA, ())


@pytest.mark.parametrize(
    "wrong_setting",
    [
        {"window": 0},
        {"window": 10_001},
        {"timeout": 0},
        {"tries": 0},
        {"tcp_limit": 0},
    ],
)
def test_settings_out_of_their_limits_are_refused(wrong_setting):
    with pytest.raises(ValueError, match=next(iter(wrong_setting))):
        EngineSettings(**wrong_setting)


def test_an_engine_without_resolvers_is_refused():
    with pytest.raises(ValueError, match="at least one resolver"):
        Engine([])


async def test_names_of_any_length_are_asked_about_in_one_go(scripted):
    heard = []

    def listen(question: bytes) -> list[bytes]:
        heard.append(question[12:].lower())
        return [reply(question, rcode=3)]

    # As long as each other, longer, shorter, and of all lengths.
    lengths = [9] * 40 + [20] * 40 + [3] * 40 + list(range(1, 60)) + [63, 1] * 10
    asked = [f"{number:x}".rjust(length, "x") + ".example" for number, length in enumerate(lengths)]
    async with scripted(listen) as resolver, Engine([resolver]) as engine:
        outcomes = await engine.resolve(asked)

    assert [outcome.name for outcome in outcomes] == asked
    assert {outcome.verdict for outcome in outcomes} == {Verdict.NXDOMAIN}
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert len(heard) == len(asked)
