"""What follows the first question, against scripted resolvers and authorities."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import dns.message
import dns.rcode
import pytest

from services.validation.dns import facts, wire
from services.validation.dns.examiner import Examiner
from services.validation.dns.plan import Delegations, Examination, OpinionPolicy, Plan
from services.validation.dns.settings import EngineSettings
from services.validation.dns.upstream import Route
from services.validation.dns.verdict import Agreement, Verdict
from tests.validation.dns.replies import until
from tests.validation.dns.zones import MUTE, Question, Saying, Zone, resolver, served

PATIENT = EngineSettings(timeout=0.4, tries=4, soft_tries=2, soft_delay=0.01)
V4, V6, OTHER = "192.0.2.1", "2001:db8::1", "192.0.2.66"
ALL_TYPES = (wire.A, wire.AAAA, wire.NS, wire.SOA, wire.MX)

Say = Callable[[Question], Saying]


@asynccontextmanager
async def examiner(
    scripted,
    *says: Say,
    asked: Sequence[list[Question]] = (),
    delegations: Delegations | None = None,
    **examination,
) -> AsyncIterator[Examiner]:
    """One resolver, each with an operator of its own, for each of `says`."""
    settings = {"wildcards": False, "canaries": (), "delegations": delegations, **examination}
    async with AsyncExitStack() as stack:
        resolvers = []
        for number, say in enumerate(says):
            heard = asked[number] if asked else None
            server = await stack.enter_async_context(scripted(resolver(say, heard)))
            resolvers.append(replace(server, operated_by=f"operator {number}"))
        plan = Plan(tuple(resolvers), PATIENT, Examination(**settings))
        yield await stack.enter_async_context(Examiner(plan))


def by_name(**answers: dict[str, Saying]) -> Say:
    """What is said of "<key>.test", by type; other types have no data, other names do not exist."""

    def say(question: Question) -> Saying:
        known = answers.get(question.name.removesuffix(".test"))
        return "NXDOMAIN" if known is None else known.get(question.kind, [])

    return say


def by_type(**answers: Saying) -> Say:
    return lambda question: answers[question.kind]


def constantly(said: Saying) -> Say:
    return lambda question: said


# Types of record


async def test_every_type_asked_for_has_its_own_answer(scripted):
    say = by_name(
        both={
            "A": [V4],
            "AAAA": [V6],
            "NS": ["ns1.both.test."],
            "SOA": ["ns1.both.test. mail.both.test. 1 2 3 4 5"],
            "MX": ["10 mx.both.test."],
        },
    )
    async with examiner(scripted, say, qtypes=ALL_TYPES) as examines:
        (outcome,) = await examines.examine(["both.test"])

    assert (outcome.verdict, outcome.addresses) == (Verdict.RESOLVED, (V4, V6))
    assert [(it.qtype, it.verdict, it.records) for it in outcome.evidence.records] == [
        (wire.A, Verdict.RESOLVED, (V4,)),
        (wire.AAAA, Verdict.RESOLVED, (V6,)),
        (wire.NS, Verdict.RESOLVED, ("ns1.both.test",)),
        (wire.SOA, Verdict.RESOLVED, ("ns1.both.test mail.both.test 1 2 3 4 5",)),
        (wire.MX, Verdict.RESOLVED, ("10 mx.both.test",)),
    ]
    assert outcome.attempts == 5


@pytest.mark.parametrize("failure", ["SERVFAIL", "REFUSED", "NXDOMAIN", MUTE])
async def test_a_failing_aaaa_never_hides_a(scripted, failure):
    say = by_name(x={"A": [V4], "AAAA": failure})
    async with examiner(scripted, say, qtypes=(wire.A, wire.AAAA)) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert (outcome.verdict, outcome.addresses, outcome.rcode) == (Verdict.RESOLVED, (V4,), 0)
    assert outcome.evidence.records[1].verdict is not Verdict.RESOLVED


@pytest.mark.parametrize("failure", [[], "SERVFAIL", "REFUSED", "NOTIMP"])
async def test_aaaa_alone_resolves_a_name(scripted, failure):
    say = by_name(x={"A": failure, "AAAA": [V6]})
    async with examiner(scripted, say, qtypes=(wire.A, wire.AAAA)) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert (outcome.verdict, outcome.addresses) == (Verdict.RESOLVED, (V6,))
    assert outcome.evidence.records[0].verdict is not Verdict.RESOLVED
    assert "AAAA has addresses" in outcome.evidence.reason


async def test_names_that_do_not_exist_are_asked_about_once(scripted):
    asked: list[Question] = []
    async with examiner(scripted, by_name(), asked=[asked], qtypes=ALL_TYPES) as examines:
        outcomes = await examines.examine([f"x{number}.test" for number in range(50)])

    assert {it.verdict for it in outcomes} == {Verdict.NXDOMAIN}
    assert all(it.evidence is None for it in outcomes)
    assert len(asked) == 50


async def test_outcomes_keep_the_order_of_the_names(scripted):
    say = by_name(a={"A": [V4]}, b={"AAAA": [V6]}, c={"A": "SERVFAIL"}, e={"A": [V4], "AAAA": [V6]})
    names = [f"{letter}.test" for letter in "abcdeabcde"]
    async with examiner(scripted, say, qtypes=(wire.A, wire.AAAA)) as examines:
        outcomes = await examines.examine(names)

    assert [it.name for it in outcomes] == names
    assert [it.verdict.name for it in outcomes[:5]] == [
        "RESOLVED",
        "RESOLVED",
        "SERVFAIL",
        "NXDOMAIN",
        "RESOLVED",
    ]


async def test_without_a_the_name_is_asked_for_aaaa(scripted):
    asked: list[Question] = []
    say = by_name(x={"AAAA": [V6]})
    async with examiner(scripted, say, asked=[asked], qtypes=(wire.AAAA,)) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert (outcome.verdict, outcome.addresses) == (Verdict.RESOLVED, (V6,))
    assert [it.kind for it in asked] == ["AAAA"]


# Broken signatures


async def test_a_name_that_only_resolves_unchecked_is_bogus(scripted):
    def say(question: Question) -> Saying:
        return [OTHER] if question.unchecked else "SERVFAIL"

    async with examiner(scripted, say) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert (outcome.verdict, outcome.addresses, outcome.rcode) == (Verdict.BOGUS, (), 2)
    assert (Verdict.RESOLVED, (OTHER,)) in [
        (it.verdict, it.addresses) for it in outcome.evidence.opinions
    ]
    assert "broken signatures" in outcome.evidence.reason


async def test_a_name_that_fails_either_way_is_not_bogus(scripted):
    async with examiner(scripted, constantly("SERVFAIL")) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert outcome.verdict is Verdict.SERVFAIL


async def test_a_passing_failure_is_not_bogus(scripted):
    failing = True

    def say(question: Question) -> Saying:
        nonlocal failing
        failing &= not question.unchecked
        return "SERVFAIL" if failing else [V4]

    async with examiner(scripted, say) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert (outcome.verdict, outcome.addresses) == (Verdict.RESOLVED, (V4,))


async def test_a_resolver_that_names_broken_signatures_is_not_asked_to_repeat_itself(scripted):
    asked: list[Question] = []

    def say(question: Question) -> Saying:
        return [OTHER] if question.unchecked else "SERVFAIL 6"

    async with examiner(scripted, say, asked=[asked]) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert outcome.verdict is Verdict.BOGUS
    assert [it.unchecked for it in asked] == [False, False, True]


async def test_a_complaint_about_signatures_is_heard_before_an_answer(scripted):
    """The first resolver complains, the next one does not validate and answers."""

    def validating(question: Question) -> Saying:
        return [OTHER] if question.unchecked else "SERVFAIL 7"

    says = (validating, constantly([OTHER]))
    async with examiner(scripted, *says, opinion=OpinionPolicy.NONE) as examines:
        outcomes = [
            (await examines.examine(["x.test"]))[0]
            # Every other begins with the one that validates.
            for _ in range(4)
        ]

    complained = [it for it in outcomes if it.evidence is not None]
    assert complained
    assert {(it.verdict, it.addresses) for it in complained} == {(Verdict.BOGUS, ())}


async def test_a_second_resolver_that_validates_unmasks_what_the_first_believed(scripted):
    def validating(question: Question) -> Saying:
        return [OTHER] if question.unchecked else "SERVFAIL"

    says = (constantly([OTHER]), validating)
    names = [f"x{number}.test" for number in range(10)]
    async with examiner(scripted, *says) as examines:
        outcomes = await examines.examine(names)

    assert {(it.verdict, it.addresses) for it in outcomes} == {(Verdict.BOGUS, ())}


# Second opinions


async def test_another_operator_confirms_what_resolves(scripted):
    asked: list[list[Question]] = [[], []]
    say = by_name(x={"A": [V4]})
    async with examiner(scripted, say, say, asked=asked) as examines:
        resolved, absent = await examines.examine(["x.test", "y.test"])
        agreed = [it.agreed for it in examines.canaries.healths]

    assert resolved.evidence.agreement is Agreement.CONFIRMED
    (opinion,) = resolved.evidence.opinions
    assert opinion.resolver != resolved.resolver
    assert resolved.attempts == 2
    assert absent.evidence is None
    assert sorted(len(each) for each in asked) in ([1, 2], [2, 1])
    assert agreed == [1, 1]


@pytest.mark.parametrize(
    ("policy", "asked_again"),
    [
        (OpinionPolicy.NONE, set()),
        (OpinionPolicy.ODD, {"empty.test"}),
        (OpinionPolicy.POSITIVES_AND_ODD, {"empty.test", "x.test"}),
        (OpinionPolicy.AUTOMATIC, {"empty.test", "x.test"}),
        (OpinionPolicy.ALL, {"empty.test", "x.test", "absent.test"}),
    ],
)
async def test_the_policy_says_what_is_asked_again(scripted, policy, asked_again):
    say = by_name(x={"A": [V4]}, empty={})
    async with examiner(scripted, say, say, opinion=policy) as examines:
        outcomes = await examines.examine(["x.test", "empty.test", "absent.test"])

    assert {it.name for it in outcomes if it.attempts == 2} == asked_again
    assert {it.name for it in outcomes if it.evidence is not None} == asked_again


async def test_a_share_of_the_positives_may_do(scripted):
    names = [f"name{number}.test" for number in range(100)]
    say = constantly([V4])
    async with examiner(scripted, say, say, positive_percent=30) as examines:
        once = await examines.examine(names)
        again = await examines.examine(names)

    chosen = {it.name for it in once if it.evidence}
    assert 10 < len(chosen) < 60
    # The same ones every time.
    assert chosen == {it.name for it in again if it.evidence}


async def test_one_operator_is_not_asked_twice(scripted):
    asked: list[Question] = []
    async with examiner(scripted, constantly([V4]), asked=[asked]) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert (outcome.evidence, len(asked)) == (None, 1)


async def test_other_addresses_elsewhere_are_no_contradiction(scripted):
    async with examiner(scripted, constantly([V4]), constantly([OTHER])) as examines:
        (outcome,) = await examines.examine(["x.test"])

    assert outcome.verdict is Verdict.RESOLVED
    assert outcome.evidence.agreement is Agreement.CONFIRMED
    assert "different addresses" in outcome.evidence.reason


@pytest.mark.parametrize("failure", ["SERVFAIL", "REFUSED"])
async def test_a_positive_that_nobody_else_can_confirm_stays(scripted, failure):
    says = (constantly([V4]), constantly(failure))
    async with examiner(scripted, *says) as examines:
        outcomes = await examines.examine([f"x{number}.test" for number in range(20)])

    assert {it.verdict for it in outcomes} == {Verdict.RESOLVED}
    assert {it.evidence.agreement for it in outcomes} == {Agreement.UNCONFIRMED}


@pytest.mark.parametrize("qtypes", [(wire.A,), (wire.A, wire.AAAA)], ids=["a", "both"])
async def test_the_authority_finds_out_a_liar(scripted, qtypes):
    """Names that do not exist, one resolver that gives addresses for all of them."""
    say = by_name(x={"A": [V4]})
    servers = {
        "127.0.0.2": Zone("", children={"test": [("ns.test", "127.0.0.3")]}),
        "127.0.0.3": Zone("test", {("x.test", "A"): [V4]}),
    }
    names = [f"absent{number}.test" for number in range(100)] + ["x.test"]
    async with (
        served(scripted, servers) as delegations,
        examiner(
            scripted, say, by_type(A=[OTHER], AAAA=[V6]), delegations=delegations, qtypes=qtypes
        ) as examines,
    ):
        outcomes = await examines.examine(names)
        honest, liar = examines.canaries.healths

    assert {it.verdict for it in outcomes[:-1]} == {Verdict.NXDOMAIN}
    assert outcomes[-1].verdict is Verdict.RESOLVED
    overruled = [it for it in outcomes if it.evidence is not None and it.evidence.walk]
    # Those that came to the liar first.
    assert overruled
    for outcome in overruled:
        assert outcome.evidence.agreement is Agreement.DECIDED_BY_AUTHORITY
        assert outcome.addresses == ()
        assert [it.zone for it in outcome.evidence.walk] == [".", "test"]
        assert {it.verdict for it in outcome.evidence.opinions} == {
            Verdict.RESOLVED,
            Verdict.NXDOMAIN,
        }
        assert facts.of(outcome) == (False, False)
    assert (honest.wrong, liar.wrong) == (0, len(overruled))


async def test_without_the_authority_more_of_the_resolvers_decide(scripted):
    absent = constantly("NXDOMAIN")
    names = [f"x{number}.test" for number in range(100)]
    async with examiner(scripted, absent, absent, constantly([OTHER])) as examines:
        outcomes = await examines.examine(names)

    assert {it.verdict for it in outcomes} == {Verdict.NXDOMAIN}
    disputed = [it for it in outcomes if it.evidence is not None]
    assert disputed
    assert {it.evidence.agreement for it in disputed} == {Agreement.DISPUTED}
    assert {len(it.evidence.opinions) for it in disputed} == {3}


async def test_a_failure_gives_way_when_two_others_know_better(scripted):
    """The first resolver refuses all; the two others know the name."""
    refusing, knowing = constantly("REFUSED"), constantly([V4])
    async with examiner(scripted, refusing, knowing, knowing) as examines:
        first = examines.plan.resolvers[0]
        route = Route(resolver=first)
        outcomes = await examines.engine.resolve(["x.test"], route=route)
        changed = await examines.second_opinions.seek(outcomes, [0])

    assert (outcomes[0].verdict, outcomes[0].addresses) == (Verdict.RESOLVED, (V4,))
    assert outcomes[0].evidence.agreement is Agreement.CONFIRMED
    assert changed == [0]


async def test_a_failure_does_not_give_way_to_one_answer_alone(scripted):
    """The authority fails at the name as well: whoever knows it is alone."""

    def refuse(query):
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.REFUSED)
        return [response.to_wire()]

    servers = {"127.0.0.2": Zone("", instead=refuse)}
    async with (
        served(scripted, servers) as delegations,
        examiner(
            scripted, constantly("REFUSED"), constantly([OTHER]), delegations=delegations
        ) as examines,
    ):
        route = Route(resolver=examines.plan.resolvers[0])
        outcomes = await examines.engine.resolve(["x.test"], route=route)
        await examines.second_opinions.seek(outcomes, [0])

    assert (outcomes[0].verdict, outcomes[0].addresses) == (Verdict.REFUSED, ())
    assert outcomes[0].evidence.agreement is Agreement.DECIDED_BY_AUTHORITY


async def test_a_quarantined_operator_confirms_nothing(scripted):
    asked: list[list[Question]] = [[], []]
    says = (constantly([V4]), constantly("NXDOMAIN"))
    async with examiner(scripted, *says, asked=asked) as examines:
        examines.engine.quarantine(examines.plan.resolvers[1])
        (outcome,) = await examines.examine(["x.test"])

    assert outcome.verdict is Verdict.RESOLVED
    assert outcome.evidence.agreement is Agreement.UNCONFIRMED
    assert not asked[1]


async def test_names_overruled_into_existence_get_their_other_types(scripted):
    """One resolver denies what exists: it blocks, or is behind."""
    zone = {("x.test", "A"): [V4], ("x.test", "AAAA"): [V6]}
    servers = {"127.0.0.2": Zone("", {("x.test", kind): data for (_, kind), data in zone.items()})}
    knowing = by_name(x={"A": [V4], "AAAA": [V6]})
    async with (
        served(scripted, servers) as delegations,
        examiner(
            scripted,
            constantly("NXDOMAIN"),
            knowing,
            delegations=delegations,
            qtypes=(wire.A, wire.AAAA),
            opinion=OpinionPolicy.ALL,
        ) as examines,
    ):
        outcomes = await examines.examine(["x.test"] * 6)

    assert {it.verdict for it in outcomes} == {Verdict.RESOLVED}
    assert {it.addresses[0] for it in outcomes} == {V4}
    assert {len(it.evidence.records) for it in outcomes} == {2}


# Liars found out meanwhile


@pytest.mark.parametrize(
    ("liars", "policy"),
    [(1, OpinionPolicy.NONE), (2, OpinionPolicy.AUTOMATIC)],
    ids=["nobody else asked", "liars confirm each other"],
)
async def test_what_rests_on_liars_alone_is_asked_again_elsewhere(scripted, liars, policy):
    released: list[bool] = []
    asked: list[Question] = []

    def slowly(say: Saying) -> Say:
        def script(question: Question) -> Saying:
            if question.name != "slow.test":
                return say
            if released:
                return "NXDOMAIN"
            asked.append(question)
            # The last answer that everything else waits for.
            return [OTHER] if len(asked) < liars else MUTE

        return script

    says = [slowly([OTHER])] * liars + [slowly("NXDOMAIN")]
    names = [f"x{number}.test" for number in range(100)]
    async with examiner(scripted, *says, opinion=policy) as examines:
        examination = asyncio.create_task(examines.examine([*names, "slow.test"]))
        await until(lambda: len(asked) >= liars and examines.engine.stats().in_flight == 1)
        for resolver_ in examines.plan.resolvers[:liars]:
            examines.engine.quarantine(resolver_)
            examines.redo(str(resolver_))
        released.append(True)
        outcomes = await examination

    assert {it.verdict for it in outcomes} == {Verdict.NXDOMAIN}
    asked_again = [it for it in outcomes if it.evidence and "lying" in it.evidence.reason]
    assert asked_again
