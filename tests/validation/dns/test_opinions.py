"""What second opinions make of first ones."""

import pytest

from services.validation.dns.opinions import (
    Standing,
    compare,
    is_shared,
    majority,
    policy_of,
    settled,
    wanted,
    with_opinions,
)
from services.validation.dns.plan import OpinionPolicy
from services.validation.dns.verdict import Agreement, Evidence, Opinion, Outcome, Verdict

R, N, E = Verdict.RESOLVED, Verdict.NXDOMAIN, Verdict.NO_DATA
S, X, T, B = Verdict.SERVFAIL, Verdict.REFUSED, Verdict.TIMEOUT, Verdict.BOGUS


def said(verdict: Verdict, resolver: str = "192.0.2.53:53") -> Outcome:
    addresses = ("192.0.2.1",) if verdict is R else ()
    return Outcome("x.test", verdict, 0, addresses, (), -1, resolver, 1, 1000, False)


@pytest.mark.parametrize(
    ("first", "second", "standing"),
    [
        (R, R, Standing.CONFIRMED),
        (N, N, Standing.CONFIRMED),
        (S, S, Standing.CONFIRMED),
        (B, S, Standing.CONFIRMED),
        (R, S, Standing.UNCONFIRMED),
        (R, T, Standing.UNCONFIRMED),
        (E, X, Standing.UNCONFIRMED),
        (B, R, Standing.UNCONFIRMED),
        (R, B, Standing.UNMASKED),
        (R, N, Standing.CONTRADICTED),
        (R, E, Standing.CONTRADICTED),
        (E, N, Standing.CONTRADICTED),
        (S, R, Standing.OPEN),
        (T, N, Standing.OPEN),
        (S, X, Standing.OPEN),
    ],
)
def test_a_first_answer_stands_as_the_second_lets_it(first, second, standing):
    assert compare(said(first), said(second)) is standing


@pytest.mark.parametrize(
    ("heard", "verdict"),
    [
        ((R, N, N), N),
        ((N, R), N),
        ((R, N), R),
        ((S, R), R),
        ((T, S), S),
        ((T, T, S), T),
        ((X, S, Verdict.ERROR), S),
    ],
)
def test_most_decide_and_of_equals_who_says_more(heard, verdict):
    assert majority([said(it) for it in heard]).verdict is verdict


@pytest.mark.parametrize(
    ("heard", "verdict"),
    [
        ((S, R, R), R),
        ((S, R), None),
        ((S, R, N), None),
        ((S, S, R), None),
        ((R, R, N, N), None),
    ],
)
def test_two_usable_answers_alike_settle_what_one_resolver_failed_at(heard, verdict):
    outcome = settled([said(it) for it in heard])

    assert (outcome and outcome.verdict) == verdict


def test_a_lone_operator_is_never_asked_twice():
    assert policy_of(OpinionPolicy.ALL, 1) is OpinionPolicy.NONE
    assert policy_of(OpinionPolicy.AUTOMATIC, 1) is OpinionPolicy.NONE
    assert policy_of(OpinionPolicy.AUTOMATIC, 2) is OpinionPolicy.POSITIVES_AND_ODD
    assert policy_of(OpinionPolicy.ODD, 2) is OpinionPolicy.ODD


def test_what_could_not_be_asked_gets_no_second_opinion():
    unasked = said(Verdict.ERROR)._replace(attempts=0)

    assert wanted([unasked, said(E)], OpinionPolicy.ALL, 100) == [1]


def test_a_failure_heard_from_two_operators_is_shared():
    opinions = (Opinion("a", "one", S, 2, ()), Opinion("b", "two", S, 2, ()))

    assert is_shared(said(S)._replace(evidence=Evidence(opinions=opinions)))
    assert not is_shared(said(S)._replace(evidence=Evidence(opinions=opinions[:1])))
    assert not is_shared(said(T)._replace(evidence=Evidence(opinions=opinions)))
    assert not is_shared(said(R)._replace(evidence=Evidence(opinions=opinions)))


def test_opinions_are_added_to_what_was_heard_before():
    before = Evidence(opinions=(Opinion("a", "one", S, 2, ()),), reason="SERVFAIL 2x")
    opinion = Opinion("b", "two", R, 0, ("192.0.2.1",))

    outcome = with_opinions(
        said(R)._replace(evidence=before),
        Agreement.CONFIRMED,
        (opinion,),
        reason="asked again",
        attempts=2,
        duration_us=500,
    )

    assert outcome.evidence.opinions == (*before.opinions, opinion)
    assert outcome.evidence.reason == "SERVFAIL 2x; asked again"
    assert (outcome.attempts, outcome.duration_us) == (3, 1500)
