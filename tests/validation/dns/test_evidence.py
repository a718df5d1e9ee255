"""What is kept of answers that did not settle a name, and whom a name is asked of again."""

from collections import Counter
from contextlib import AsyncExitStack

import dns.edns
import dns.message

from services.validation.dns.engine import Engine
from services.validation.dns.settings import EngineSettings, Lane
from services.validation.dns.verdict import Outcome, Verdict
from tests.validation.dns.replies import names, reply

SERVFAIL, REFUSED, TIMEOUT, RESOLVED = (
    Verdict.SERVFAIL,
    Verdict.REFUSED,
    Verdict.TIMEOUT,
    Verdict.RESOLVED,
)


def opinions(outcome: Outcome) -> list[tuple[str, Verdict, int, int]]:
    assert outcome.evidence is not None
    return [(it.resolver, it.verdict, it.rcode, it.count) for it in outcome.evidence.opinions]


async def test_silence_uses_up_nothing_of_what_servfail_is_granted(scripted):
    said = iter([None, 2, None, None, None, 2, 2])

    def answer(question: bytes) -> list[bytes]:
        rcode = next(said)
        return [] if rcode is None else [reply(question, rcode=rcode)]

    settings = EngineSettings(timeout=0.1, tries=3, soft_delay=0)
    async with scripted(answer) as resolver, Engine([resolver], settings) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.rcode, outcome.attempts) == (SERVFAIL, 2, 7)
    assert opinions(outcome) == [(str(resolver), TIMEOUT, -1, 4), (str(resolver), SERVFAIL, 2, 3)]
    assert outcome.evidence is not None
    assert outcome.evidence.reason == "TIMEOUT 4x, SERVFAIL 3x"
    assert outcome.evidence.opinions[1].duration_us > 0


async def test_a_name_is_mute_only_when_three_resolvers_were(scripted):
    asked: Counter[int] = Counter()
    settings = EngineSettings(timeout=0.1, tries=1)
    async with AsyncExitStack() as stack:
        resolvers = []
        for number in range(4):

            def script(question: bytes, number: int = number) -> list[bytes]:
                if b"mute" not in question.lower():
                    return [reply(question, rcode=3)]
                asked[number] += 1
                return []

            resolvers.append(await stack.enter_async_context(scripted(script)))
        engine = await stack.enter_async_context(Engine(resolvers, settings))
        (outcome,) = await engine.resolve(["mute.example"])

    assert (outcome.verdict, outcome.attempts) == (TIMEOUT, 3)
    assert sorted(asked.values()) == [1, 1, 1]
    assert {(verdict, count) for _, verdict, _, count in opinions(outcome)} == {(TIMEOUT, 1)}
    assert len({resolver for resolver, *_ in opinions(outcome)}) == 3


async def test_a_dead_resolver_s_silence_says_nothing_of_a_name(scripted, mute):
    seen: set[bytes] = set()

    def some_lost_once(question: bytes) -> list[bytes]:
        name = question[12:].lower()
        # A few only: more at once, and this resolver is taken for dead too.
        lost = b"lost" in name and name not in seen
        seen.add(name)
        return [] if lost else [reply(question, "192.0.2.1")]

    asked = [f"{'lost' if number % 8 == 0 else 'name'}{number}.example" for number in range(128)]
    # Long enough that the other one is in time on a busy machine too.
    settings = EngineSettings(timeout=0.6, tries=2)
    async with scripted(some_lost_once) as alive:
        async with Engine([mute, alive], settings) as engine:
            outcomes = await engine.resolve(asked)

            assert engine.stats().resolvers[0].suspect

    assert {outcome.verdict for outcome in outcomes} == {RESOLVED}
    # Both were mute about these.
    assert max(outcome.attempts for outcome in outcomes) >= 3


async def test_those_not_asked_yet_are_asked_again_first(scripted):
    async with AsyncExitStack() as stack:
        failing = [
            await stack.enter_async_context(scripted(lambda q: [reply(q, rcode=2)]))
            for _ in range(3)
        ]
        good = await stack.enter_async_context(scripted(lambda q: [reply(q, "192.0.2.1")]))
        settings = EngineSettings(soft_delay=0)
        engine = await stack.enter_async_context(Engine([*failing, good], settings))
        outcomes = await engine.resolve(names(40))

    assert {outcome.verdict for outcome in outcomes} == {RESOLVED}
    assert max(outcome.attempts for outcome in outcomes) <= 4
    for outcome in outcomes:
        if outcome.attempts > 1:
            said = opinions(outcome)
            assert said[-1] == (str(good), RESOLVED, 0, 1)
            assert {count for *_, count in said} == {1}


async def test_ordinary_names_and_those_asked_again_for_a_lost_packet_have_no_more_evidence(
    scripted,
):
    seen: set[bytes] = set()

    def some_lost(question: bytes) -> list[bytes]:
        name = question[12:].lower()
        lost = b"lost" in name and name not in seen
        seen.add(name)
        return [] if lost else [reply(question, "192.0.2.1")]

    async with scripted(some_lost) as resolver:
        async with Engine([resolver], EngineSettings(timeout=0.1)) as engine:
            outcomes = await engine.resolve(["x.example", "lost.example"])

    assert [outcome.attempts for outcome in outcomes] == [1, 2]
    assert [outcome.evidence for outcome in outcomes] == [None, None]


async def test_a_name_that_fails_in_passing_keeps_what_was_said(scripted):
    said = iter([2, 5, 0])

    def answer(question: bytes) -> list[bytes]:
        rcode = next(said)
        return [reply(question, rcode=rcode) if rcode else reply(question, "192.0.2.1")]

    async with scripted(answer) as resolver:
        async with Engine([resolver], EngineSettings(soft_delay=0)) as engine:
            (outcome,) = await engine.resolve(["x.example"])
            (stats,) = engine.stats().resolvers

    label = str(resolver)
    assert opinions(outcome) == [
        (label, SERVFAIL, 2, 1),
        (label, REFUSED, 5, 1),
        (label, RESOLVED, 0, 1),
    ]
    assert outcome.evidence is not None
    assert outcome.evidence.opinions[-1].addresses == ("192.0.2.1",)
    assert outcome.evidence.reason == "SERVFAIL 1x, REFUSED 1x, RESOLVED 1x"
    assert (stats.servfail, stats.refused) == (1, 1)


async def test_an_answer_that_comes_late_takes_the_silence_back(scripted):
    held: list[bytes] = []

    def late(question: bytes) -> list[bytes]:
        held.append(question)
        # The first answer comes with the second question; then all come in time.
        return (
            [reply(it, rcode=5) for it in held[:2]]
            if len(held) == 2
            else ([reply(question, rcode=5)] if len(held) > 2 else [])
        )

    settings = EngineSettings(timeout=0.15, tries=4, soft_delay=0, sockets_per_resolver=1)
    async with scripted(late) as resolver, Engine([resolver], settings) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert opinions(outcome) == [(str(resolver), REFUSED, 5, 4)]
    assert outcome.attempts == 4


async def test_extended_errors_are_kept_those_about_signatures_first(scripted):
    codes = iter([22, 7, 22])

    def bogus(question: bytes) -> list[bytes]:
        response = dns.message.make_response(dns.message.from_wire(question))
        response.set_rcode(2)
        response.use_edns(0, options=[dns.edns.EDEOption(next(codes))])
        return [response.to_wire()]

    settings = EngineSettings(soft_tries=3, soft_delay=0)
    async with scripted(bogus) as resolver, Engine([resolver], settings) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert outcome.verdict is SERVFAIL
    assert outcome.evidence is not None
    assert outcome.evidence.reason == "SERVFAIL 3x; extended error 7"
    assert [it.ede for it in outcome.evidence.opinions] == [7]


async def test_of_many_resolvers_ten_opinions_are_kept_the_deciding_ones_among_them(scripted):
    async with AsyncExitStack() as stack:
        rcodes = [2, 5] * 3 + [5] * 10
        resolvers = [
            await stack.enter_async_context(
                scripted(lambda question, rcode=rcode: [reply(question, rcode=rcode)])
            )
            for rcode in rcodes
        ]
        settings = EngineSettings(tries=13, soft_tries=13, soft_delay=0)
        engine = await stack.enter_async_context(Engine(resolvers, settings))
        (outcome,) = await engine.resolve(["x.example"])

    assert outcome.verdict is REFUSED
    assert len(opinions(outcome)) == 10
    assert {verdict for _, verdict, *_ in opinions(outcome)} == {REFUSED}


async def test_a_lane_s_own_budget_and_delay_are_kept_to(scripted):
    async with scripted(lambda question: [reply(question, rcode=5)]) as resolver:
        settings = EngineSettings(tries=3, lanes=(Lane(REFUSED, 2, 0.1, 0.1),))
        async with Engine([resolver], settings) as engine:
            (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.attempts) == (REFUSED, 2)
    assert outcome.duration_us >= 100_000
