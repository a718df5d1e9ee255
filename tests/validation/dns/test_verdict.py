"""Answers to verdicts."""

import pytest

from services.validation.dns.verdict import Answer, Verdict, conclude, is_final, judge

EMPTY = Answer(0, False, (), (), -1, False, False)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (EMPTY._replace(addresses=("192.0.2.1",)), Verdict.RESOLVED),
        (EMPTY, Verdict.NO_DATA),
        (EMPTY._replace(chain=("a.example",)), Verdict.NO_DATA),
        (EMPTY._replace(chain=("a.example",), looped=True), Verdict.CNAME_LOOP),
        (EMPTY._replace(referral=True), Verdict.ERROR),
        (EMPTY._replace(truncated=True), Verdict.ERROR),
        (EMPTY._replace(rcode=1), Verdict.ERROR),
        (EMPTY._replace(rcode=2), Verdict.SERVFAIL),
        (EMPTY._replace(rcode=3), Verdict.NXDOMAIN),
        (EMPTY._replace(rcode=3, chain=("a.example",)), Verdict.NXDOMAIN),
        (EMPTY._replace(rcode=4), Verdict.ERROR),
        (EMPTY._replace(rcode=5), Verdict.REFUSED),
        (EMPTY._replace(rcode=16), Verdict.ERROR),
    ],
)
def test_each_kind_of_answer_has_its_verdict(answer, verdict):
    assert judge(answer) is verdict


def test_only_words_about_the_name_itself_are_final():
    final = {verdict for verdict in Verdict if is_final(verdict)}

    assert {Verdict.RESOLVED, Verdict.NXDOMAIN, Verdict.NO_DATA, Verdict.CNAME_LOOP} <= final
    assert final.isdisjoint({Verdict.SERVFAIL, Verdict.REFUSED, Verdict.ERROR, Verdict.TIMEOUT})


@pytest.mark.parametrize(
    ("heard", "verdict"),
    [
        ({}, Verdict.TIMEOUT),
        ({Verdict.ERROR: 1}, Verdict.ERROR),
        ({Verdict.SERVFAIL: 1, Verdict.REFUSED: 3}, Verdict.REFUSED),
        ({Verdict.REFUSED: 2, Verdict.SERVFAIL: 2}, Verdict.SERVFAIL),
        ({Verdict.ERROR: 2, Verdict.REFUSED: 2}, Verdict.REFUSED),
    ],
)
def test_the_commonest_word_counts_and_a_tie_goes_to_the_more_informative(heard, verdict):
    assert conclude(heard) is verdict
