"""Facts to decisions, and decisions to the audit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domainflow.validation.v1 import dns_pb2, http_pb2, lead_pb2
from services.chassis.leads import (
    STATUS_OF,
    Audit,
    LeadReason,
    LeadStatus,
    Thresholds,
    audit,
    check,
)
from services.validation.content.decision import (
    Facts,
    PageFacts,
    Stage,
    decide,
    dns_stage,
    http_stage,
)

GOOD = PageFacts(content_bytes=20_000, score=0.8, keyword_count=4)


def reason_of(page, thresholds=None):
    facts = Facts(Stage.PASSED, Stage.PASSED, page)
    return decide(facts, thresholds or Thresholds()).reason


@pytest.mark.parametrize(
    ("enum", "contract", "prefix"),
    [
        (LeadReason, lead_pb2.LeadReason, "LEAD_REASON_"),
        (LeadStatus, lead_pb2.LeadStatus, "LEAD_STATUS_"),
    ],
)
def test_numbers_are_those_of_the_contract(enum, contract, prefix):
    assert {prefix + each.name: each.value for each in enum} == {
        name: number for name, number in contract.items() if number
    }


def test_every_verdict_of_dns_says_how_far_a_name_got():
    stages = {
        name.removeprefix("DNS_VERDICT_"): dns_stage(number)
        for name, number in dns_pb2.DnsVerdict.items()
        if number
    }

    assert stages.pop("RESOLVED") is Stage.PASSED
    assert stages.pop("TIMEOUT") is Stage.TIMED_OUT
    assert stages.pop("DEAD_LETTER") is Stage.DEAD_LETTER
    assert set(stages.values()) == {Stage.FAILED}


def test_every_verdict_of_http_says_how_far_a_name_got():
    stages = {
        name.removeprefix("HTTP_VERDICT_"): http_stage(number)
        for name, number in http_pb2.HttpVerdict.items()
        if number
    }

    assert stages.pop("OK") is Stage.PASSED
    assert stages.pop("TIMEOUT") is Stage.TIMED_OUT
    assert stages.pop("DEAD_LETTER") is Stage.DEAD_LETTER
    assert set(stages.values()) == {Stage.FAILED}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, LeadReason.QUALIFIED),
        ({"is_parked": True}, LeadReason.PARKED),
        ({"parked_confidence": 0.45}, LeadReason.PARKED),
        ({"parked_confidence": 0.4499}, LeadReason.QUALIFIED),
        ({"keyword_count": 0}, LeadReason.NO_KEYWORDS),
        ({"keyword_count": None}, LeadReason.QUALIFIED),
        ({"score": None}, LeadReason.NO_KEYWORDS),
        ({"score": float("nan")}, LeadReason.NO_KEYWORDS),
        ({"has_structure": False}, LeadReason.THIN_CONTENT),
        ({"score": 0.27}, LeadReason.QUALIFIED),
        ({"score": 0.27, "content_bytes": 10}, LeadReason.QUALIFIED),
        ({"score": 0.269}, LeadReason.QUALIFIED),
        ({"score": 0.269, "content_bytes": 1_024}, LeadReason.QUALIFIED),
        ({"score": 0.269, "content_bytes": 1_023}, LeadReason.THIN_CONTENT),
        ({"score": 0.24}, LeadReason.QUALIFIED),
        ({"score": 0.239}, LeadReason.LOW_SCORE),
        ({"score": 0.1, "content_bytes": 10}, LeadReason.THIN_CONTENT),
        ({"is_parked": True, "keyword_count": 0}, LeadReason.PARKED),
        ({"keyword_count": 0, "has_structure": False}, LeadReason.NO_KEYWORDS),
    ],
)
def test_the_first_fact_that_holds_decides(change, reason):
    assert reason_of(replace(GOOD, **change)) is reason


def test_structure_is_required_by_configuration_only():
    page = replace(GOOD, has_structure=False)

    assert reason_of(page, Thresholds(require_structural_signals=False)) is LeadReason.QUALIFIED


@pytest.mark.parametrize(
    ("dns", "http", "reason"),
    [
        (Stage.FAILED, Stage.PASSED, LeadReason.DNS_ERROR),
        (Stage.TIMED_OUT, Stage.FAILED, LeadReason.DNS_TIMEOUT),
        (Stage.DEAD_LETTER, Stage.FAILED, LeadReason.DEAD_LETTER),
        (Stage.PASSED, Stage.FAILED, LeadReason.HTTP_ERROR),
        (Stage.PASSED, Stage.TIMED_OUT, LeadReason.HTTP_TIMEOUT),
        (Stage.PASSED, Stage.DEAD_LETTER, LeadReason.DEAD_LETTER),
        (Stage.PASSED, Stage.PASSED, LeadReason.DEAD_LETTER),
    ],
)
def test_what_could_not_be_found_out_says_where_it_stopped(dns, http, reason):
    assert decide(Facts(dns, http, None), Thresholds()).reason is reason


stages = st.sampled_from(Stage)
pages = st.builds(
    PageFacts,
    content_bytes=st.integers(min_value=0),
    score=st.none() | st.floats(),
    keyword_count=st.none() | st.integers(min_value=0),
    is_parked=st.booleans(),
    parked_confidence=st.floats(),
    has_structure=st.booleans(),
)
all_facts = st.builds(
    Facts, stages, stages, st.none() | pages, st.sampled_from(["", "example.com"])
)


@given(stages, stages, st.none() | pages)
def test_nothing_outranks_the_suppression_list(dns, http, page):
    assert decide(Facts(dns, http, page, suppressed_by="example.com"), Thresholds()).reason is (
        LeadReason.SUPPRESSED
    )


@given(st.lists(all_facts))
def test_every_name_has_one_reason_and_the_audit_equation_holds(names):
    decisions = [decide(facts, Thresholds()) for facts in names]
    counts = {
        reason: sum(each.reason is reason for each in decisions)
        for reason in {each.reason for each in decisions}
    }

    found = audit(counts)

    assert found.analysed == len(names)
    assert found.analysed == (
        found.qualified + found.rejected + found.no_keyword + found.error + found.timeout
    )
    by_status = [each.status for each in decisions]
    assert found.qualified == by_status.count(LeadStatus.QUALIFIED)
    assert found.rejected + found.no_keyword == by_status.count(LeadStatus.REJECTED)
    assert found.error == by_status.count(LeadStatus.ERROR)
    assert found.timeout == by_status.count(LeadStatus.TIMEOUT)
    assert all(each.detail for each in decisions)


@given(st.dictionaries(st.sampled_from(LeadReason), st.integers(min_value=0)))
def test_the_audit_counts_every_reason_exactly_once(counts):
    found = audit(counts)

    assert found.analysed == sum(counts.values())
    assert found == Audit(
        analysed=found.analysed,
        qualified=found.qualified,
        rejected=found.analysed - found.qualified - found.no_keyword - found.error - found.timeout,
        no_keyword=counts.get(LeadReason.NO_KEYWORDS, 0),
        error=found.error,
        timeout=found.timeout,
    )


@pytest.mark.parametrize("counts", [{0: 1}, {12: 1}, {LeadReason.PARKED: -1}])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match=r"LeadReason|cannot be"):
        audit(counts)


def test_every_reason_determines_a_status():
    assert set(STATUS_OF) == set(LeadReason)


def test_the_defaults_are_within_their_ranges():
    assert list(check(Thresholds(), "leads")) == []


def test_every_bad_threshold_is_named_at_once():
    thresholds = Thresholds(
        match_score=float("nan"),
        low_score_grace=0.7,
        min_content_bytes=255,
        parked_confidence_floor=-0.1,
    )

    assert [each.field for each in check(thresholds, "leads")] == [
        "leads.match_score",
        "leads.low_score_grace",
        "leads.min_content_bytes",
        "leads.parked_confidence_floor",
    ]


def test_grace_above_the_threshold_is_refused():
    (problem,) = check(Thresholds(match_score=0.2, low_score_grace=0.21), "leads")

    assert problem.field == "leads.low_score_grace"
    assert "0.2" in problem.description


@given(
    st.builds(
        Thresholds,
        match_score=st.floats(0.05, 0.95),
        low_score_grace=st.floats(0, 0.6),
        min_content_bytes=st.integers(256, 2 << 20),
        parked_confidence_floor=st.floats(0, 1),
        require_structural_signals=st.booleans(),
    ).filter(lambda thresholds: not list(check(thresholds, "leads"))),
    all_facts,
    st.floats(0, 1),
)
def test_a_better_score_never_makes_a_lead_a_reject(thresholds, facts, better):
    page = facts.page
    if decide(facts, thresholds).status is not LeadStatus.QUALIFIED or better < page.score:
        return

    improved = replace(facts, page=replace(page, score=better))

    assert decide(improved, thresholds).status is LeadStatus.QUALIFIED
