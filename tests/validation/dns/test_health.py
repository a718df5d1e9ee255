"""What is made of resolvers by what they said; time is an argument."""

from services.validation.dns.health import Change, Checked, Finding, Roster, Rules, finding
from services.validation.dns.plan import Canary, CanaryKind
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.stats import ResolverState
from services.validation.dns.verdict import Outcome, Verdict

ONE, TWO = Resolver("192.0.2.1"), Resolver("198.51.100.1")
GOOD = Canary(CanaryKind.GOOD, "example.com")
ABSENT = Canary(CanaryKind.NXDOMAIN, "*.com")
LARGE = Canary(CanaryKind.TRUNCATED, "large.example")
BOGUS = Canary(CanaryKind.BOGUS, "bogus.example")
PASSED, FAILED, LIED, UNHEARD = Finding.PASSED, Finding.FAILED, Finding.LIED, Finding.UNHEARD


def roster(*resolvers: Resolver, canaries: bool = True) -> Roster:
    return Roster(resolvers or (ONE, TWO), Rules.of(30), canaries=canaries)


def said(canary: Canary, **by: Finding) -> list[Checked]:
    """What resolver one and resolver two said."""
    labels = {"one": str(ONE), "two": str(TWO)}
    return [Checked(labels[key], canary, canary.name, it, "that") for key, it in by.items()]


def play(it: Roster, now: float, *answers: list[Checked]) -> list[Change]:
    """One whole round; only those that are due are heard."""
    asked = it.due(now)
    labels = {str(resolver) for resolver in asked}
    changes = []
    for results in answers:
        heard = [result for result in results if result.resolver in labels]
        changes += it.checked(heard, now, now)
    return changes + it.concluded(asked, now)


def test_one_lie_is_enough_and_tells_since_when_nothing_is_sure() -> None:
    it = roster()
    assert play(it, 10, said(ABSENT, one=PASSED, two=PASSED)) == []

    (change,) = play(it, 40, said(ABSENT, one=LIED, two=PASSED))

    assert change.resolver == ONE
    assert change.state is ResolverState.QUARANTINED
    assert change.lied_since == 10
    assert change.retry_at == 70


def test_who_never_told_the_truth_lied_from_the_beginning() -> None:
    (change,) = play(roster(), 40, said(ABSENT, one=LIED, two=PASSED))

    assert change.lied_since == float("-inf")


def test_a_good_canary_has_to_fail_twice_in_a_row() -> None:
    it = roster()
    assert play(it, 0, said(GOOD, one=FAILED, two=PASSED)) == []
    assert it.wait(30, 0) == 3
    assert play(it, 3, said(GOOD, one=PASSED, two=PASSED)) == []
    assert play(it, 33, said(GOOD, one=FAILED, two=PASSED)) == []

    (change,) = play(it, 36, said(GOOD, one=FAILED, two=PASSED))

    assert change.lied_since is None
    assert "2 times in a row" in change.reason


def test_a_lost_answer_counts_neither_way() -> None:
    it = roster()
    for now in range(10):
        assert play(it, now, said(GOOD, one=UNHEARD, two=PASSED)) == []
    assert it.wait(30, 10) == 30


def test_who_answers_but_not_over_tcp_is_quarantined() -> None:
    it = roster()
    rounds = said(GOOD, one=PASSED, two=PASSED), said(LARGE, one=UNHEARD, two=PASSED)
    assert play(it, 0, *rounds) == []

    (change,) = play(it, 3, *rounds)

    assert change.resolver == ONE


def test_a_canary_that_nobody_passes_says_nothing() -> None:
    it = roster()
    for now in range(5):
        answers = said(ABSENT, one=LIED, two=LIED), said(GOOD, one=FAILED, two=UNHEARD)
        assert play(it, now, *answers) == []
    one = it.healths[str(ONE)]
    assert not one.records[ABSENT].passed
    assert one.score == 1.0
    assert "disregarded" in one.reason


def test_a_lone_resolver_is_reported_and_never_quarantined() -> None:
    it = roster(ONE)

    assert play(it, 0, said(ABSENT, one=LIED)) == []
    for _ in range(10):
        assert it.wrong(str(ONE), 1) is None

    assert it.healths[str(ONE)].wrong == 10
    assert "there is no other" in it.healths[str(ONE)].reason


def test_the_last_one_admitted_stays() -> None:
    it = roster()
    play(it, 0, said(ABSENT, one=LIED, two=PASSED))

    assert all(it.wrong(str(TWO), 1) is None for _ in range(10))


def test_who_passes_everything_twice_after_the_backoff_is_readmitted() -> None:
    it = roster()
    play(it, 0, said(ABSENT, one=LIED, two=PASSED))
    well = said(ABSENT, one=PASSED, two=PASSED), said(GOOD, one=PASSED, two=PASSED)

    assert it.due(29) == [TWO]
    assert play(it, 30, *well) == []
    assert it.wait(30, 30) == 3
    (change,) = play(it, 33, *well)

    assert (change.resolver, change.state) == (ONE, ResolverState.ADMITTED)
    assert change.previous is ResolverState.QUARANTINED


def test_the_backoff_doubles_up_to_half_an_hour_and_an_hour_of_good_behaviour_ends_that() -> None:
    it = roster()
    well = said(ABSENT, one=PASSED, two=PASSED)
    now, waits = 0.0, []
    for _ in range(8):
        play(it, now, said(ABSENT, one=LIED, two=PASSED))
        retry_at = it.healths[str(ONE)].retry_at
        waits.append(retry_at - now)
        play(it, retry_at, well)
        (change,) = play(it, retry_at, well)
        assert change.state is ResolverState.ADMITTED
        now = retry_at + 1
    assert waits == [30, 60, 120, 240, 480, 960, 1800, 1800]

    play(it, now + 3600, well)
    (change,) = play(it, now + 3601, said(ABSENT, one=LIED, two=PASSED))
    assert change.retry_at == now + 3601 + 30


def test_who_fails_after_the_backoff_stays_out_for_longer() -> None:
    it = roster()
    play(it, 0, said(ABSENT, one=LIED, two=PASSED))

    play(it, 30, said(ABSENT, one=PASSED, two=PASSED), said(GOOD, one=UNHEARD, two=PASSED))

    assert it.healths[str(ONE)].retry_at == 90


def test_without_canaries_the_backoff_alone_readmits() -> None:
    it = roster(canaries=False)
    for _ in range(3):
        change = it.wrong(str(ONE), 0)
    assert change is not None
    assert change.lied_since == float("-inf")

    (back,) = play(it, 30)

    assert back.state is ResolverState.ADMITTED


def test_three_wrong_answers_among_the_latest_fifty_opinions_are_too_many() -> None:
    it = roster()
    for _ in range(100):
        assert it.wrong(str(ONE), 0) is None
        for _ in range(25):
            it.agreed(str(ONE))
    it.disagreed(str(ONE))
    for _ in range(50):
        it.agreed(str(ONE))
    assert it.wrong(str(ONE), 0) is None
    assert it.wrong(str(ONE), 0) is None

    change = it.wrong(str(ONE), 0)

    assert change is not None
    assert change.reason == "wrong 3 times of the latest 50, says the authority"


def test_some_wrong_answers_among_a_thousand_told_of_at_once_are_not_too_many() -> None:
    """As after a chunk: first all that agree, then what the authority decided."""
    it = roster()
    for _ in range(10):
        it.agreed(str(ONE), 1000)
        assert [it.wrong(str(ONE), 0) for _ in range(20)] == [None] * 20

    it.agreed(str(ONE), 1000)
    changes = [it.wrong(str(ONE), 0) for _ in range(100)]

    (change,) = filter(None, changes)
    assert change.reason == "wrong 50 times of the latest 50, says the authority"


def test_canaries_passed_between_wrong_answers_vouch_for_nothing() -> None:
    it = roster()
    play(it, 10, said(ABSENT, one=PASSED, two=PASSED))
    assert it.wrong(str(ONE), 11) is None
    assert it.wrong(str(ONE), 12) is None
    play(it, 40, said(ABSENT, one=PASSED, two=PASSED))
    change = it.wrong(str(ONE), 41)

    assert change is not None
    assert change.lied_since == float("-inf")


def test_who_is_found_wrong_soon_after_a_canary_was_right_until_then() -> None:
    it = roster()
    play(it, 10, said(ABSENT, one=PASSED, two=PASSED))
    _, _, change = (it.wrong(str(ONE), 11) for _ in range(3))

    assert change is not None
    assert change.lied_since == 10


def test_disagreement_alone_costs_nothing() -> None:
    it = roster()
    for _ in range(100):
        it.disagreed(str(ONE))
    assert it.healths[str(ONE)].score == 1.0


def test_the_score_multiplies_what_goes_well() -> None:
    it = roster()
    play(it, 0, said(GOOD, one=FAILED, two=PASSED))
    it.measured(str(ONE), 298, 100, suspect=False)
    it.wrong(str(ONE), 0)

    one = it.healths[str(ONE)]

    assert one.score == (300 / 400) * (2 / 3) * (2 / 3)
    assert it.healths[str(TWO)].score == 1.0


def test_who_is_far_worse_than_the_best_is_quarantined() -> None:
    it = roster()
    it.measured(str(ONE), 20, 200, suspect=False)
    it.measured(str(TWO), 200, 20, suspect=False)

    (change,) = it.review(5)

    assert change.resolver == ONE
    assert change.lied_since is None
    assert change.reason == "score 0.10, the best has 0.91"


def test_names_that_nobody_answers_cost_nobody_its_place() -> None:
    it = roster()
    it.measured(str(ONE), 20, 2000, suspect=False)
    it.measured(str(TWO), 40, 2000, suspect=False)

    assert it.review(5) == []


def test_what_a_suspect_does_not_answer_is_left_to_the_engine() -> None:
    it = roster()
    it.measured(str(ONE), 0, 5000, suspect=True)
    it.measured(str(ONE), 10, 5000, suspect=False)

    assert it.healths[str(ONE)].score == 1.0
    assert it.review(5) == []


def test_bogus_only_tells_who_validates() -> None:
    it = roster()
    for now in range(3):
        assert play(it, now, said(BOGUS, one=FAILED, two=PASSED)) == []

    assert not it.healths[str(ONE)].validates
    assert it.healths[str(TWO)].validates
    assert it.healths[str(ONE)].score == 1.0


def outcome(verdict: Verdict, *, tcp: bool = False) -> Outcome:
    return Outcome("a.com", verdict, 0, ("192.0.2.9",), (), 60, "r", 1, 100, tcp)


def test_what_answers_say_of_each_kind_of_canary() -> None:
    def found(
        kind: CanaryKind,
        verdict: Verdict,
        unchecked: Verdict | None = None,
        *,
        tcp: bool = False,
        transport: Transport = Transport.UDP,
    ) -> Finding:
        again = outcome(unchecked) if unchecked else None
        return finding(kind, transport, outcome(verdict, tcp=tcp), again)

    good, absent = CanaryKind.GOOD, CanaryKind.NXDOMAIN
    bogus, large = CanaryKind.BOGUS, CanaryKind.TRUNCATED
    assert found(good, Verdict.RESOLVED) is PASSED
    assert found(good, Verdict.NXDOMAIN) is FAILED
    assert found(good, Verdict.REFUSED) is FAILED
    assert found(good, Verdict.TIMEOUT) is UNHEARD
    assert finding(good, Transport.UDP, None, None) is UNHEARD
    assert found(absent, Verdict.NXDOMAIN) is PASSED
    assert found(absent, Verdict.RESOLVED) is LIED
    assert found(absent, Verdict.NO_DATA) is FAILED
    assert found(bogus, Verdict.SERVFAIL, Verdict.RESOLVED) is PASSED
    # It cannot look it up at all.
    assert found(bogus, Verdict.SERVFAIL, Verdict.SERVFAIL) is FAILED
    assert found(bogus, Verdict.RESOLVED, Verdict.RESOLVED) is FAILED
    assert found(large, Verdict.RESOLVED, tcp=True) is PASSED
    assert found(large, Verdict.RESOLVED) is FAILED
    assert found(large, Verdict.ERROR) is FAILED
    assert found(large, Verdict.RESOLVED, transport=Transport.TLS) is PASSED
