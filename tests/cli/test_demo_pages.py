"""What the demo says of pages that are as they should be, and of others."""

from hashlib import sha256

import pytest

from domainflow.campaign.v1 import campaign_pb2
from domainflow.query.v1.query_service_pb2 import Domain
from domainflow.validation.v1 import analysis_pb2, http_pb2, lead_pb2, page_pb2
from services.cli.demo_pages import (
    FETCHING,
    PageCheck,
    Row,
    Web,
    decision,
    expected_hits,
    kind_name,
    reason_name,
    verdict_name,
)
from services.sandbox.truth import Mix, truth
from services.sandbox.web_pages import body
from services.sandbox.web_truth import OK, WebTruth, WebWorld

SEED = 3
WEB = Web(8080, 8443, 8081, "127.64.0.0/10", "")
WORLD = WebWorld(SEED)
SCORE = 500
KNOWN = [
    known
    for number in range(3_000)
    if (known := WORLD.truth(f"name{number}.com")) is not None
    and truth(known.name, SEED, Mix()).verdict == 1
]


def right_row(known: WebTruth) -> Row:
    verdict = known.verdict(FETCHING)
    if verdict != OK:
        return Row(known.name, 1, verdict, known.status(FETCHING), "", "", -1, decision(known, -1))
    host, path = known.landing
    port = WEB.https_port if known.scheme == "https" else WEB.http_port
    url = f"{known.scheme}://{host}:{port}{path}"
    assert known.page
    return Row(known.name, 1, OK, 200, url, known.page.title, SCORE, decision(known, SCORE))


def right_domain(known: WebTruth) -> Domain:
    assert known.page
    return Domain(
        name=known.name,
        http=http_pb2.HttpResult(
            truncated=known.truncated,
            content_sha256=b"" if known.truncated else sha256(body(known)).digest(),
        ),
        analysis=analysis_pb2.PageAnalysis(
            keyword_hits=[
                analysis_pb2.KeywordHit(keyword=keyword, hit_count=count)
                for keyword, count in expected_hits(known).items()
            ]
        ),
        page=page_pb2.PageEvidence(
            kind=page_pb2.PageKind.Value(kind_name(known)),
            keyword_match=bool(known.page.all_hits),
            contacts=[
                lead_pb2.Contact(kind=lead_pb2.ContactKind.ValueType(it.kind), value=it.value)
                for it in known.page.contacts
            ],
        ),
    )


@pytest.fixture
def check() -> PageCheck:
    return PageCheck(WEB, WORLD)


def test_right_rows_have_no_mistake(check: PageCheck) -> None:
    assert [mistake for known in KNOWN if (mistake := check.row(right_row(known)))] == []
    assert check.verdicts.total() == check.reasons.total() == len(KNOWN)
    assert len(check.verdicts) > 15
    assert set(check.reasons) >= {"QUALIFIED", "NO_KEYWORDS", "PARKED", "HTTP_ERROR"}


def test_right_pages_have_no_mistake(check: PageCheck) -> None:
    with_page = [known for known in KNOWN if known.verdict(FETCHING) == OK]

    assert [m for known in with_page if (m := check.page(right_domain(known)))] == []


@pytest.mark.parametrize(
    "spoiled",
    [
        {"http_verdict": 2},
        {"status": 201},
        {"final_url": "https://elsewhere.com/"},
        {"title": "Another"},
        {"score": -1},
        {"lead_reason": lead_pb2.LEAD_REASON_SUPPRESSED},
        {"dns_verdict": 2},
    ],
)
def test_one_spoiled_field_of_a_row_is_found(check: PageCheck, spoiled: dict[str, object]) -> None:
    known = next(it for it in KNOWN if it.page and it.page.all_hits)
    row = right_row(known)
    fields = {name: getattr(row, name) for name in Row.__slots__}

    mistake = check.row(Row(**{**fields, **spoiled}))

    assert known.name in mistake


@pytest.mark.parametrize("spoiled", ["kind", "hits", "match", "contacts", "hash", "truncated"])
def test_one_spoiled_field_of_a_page_is_found(check: PageCheck, spoiled: str) -> None:
    known = next(it for it in KNOWN if it.page and it.page.contacts and it.page.all_hits)
    domain = right_domain(known)
    match spoiled:
        case "kind":
            domain.page.kind = page_pb2.PAGE_KIND_LOGIN
        case "hits":
            domain.analysis.keyword_hits[0].hit_count += 1
        case "match":
            domain.page.keyword_match = False
        case "contacts":
            del domain.page.contacts[0]
        case "hash":
            domain.http.content_sha256 = bytes(32)
        case "truncated":
            domain.http.truncated = True

    assert known.name in check.page(domain)


def test_decision_follows_from_the_score() -> None:
    known = next(
        it
        for it in KNOWN
        if it.page and it.page.all_hits and not it.template and it.page.filling > 4_000
    )

    assert reason_name(decision(known, 270)) == "QUALIFIED"
    assert reason_name(decision(known, 240)) == "QUALIFIED"
    assert reason_name(decision(known, 239)) == "LOW_SCORE"


def account(**counts: dict[str, int]) -> campaign_pb2.Receipt:
    return campaign_pb2.Receipt(
        phases=[
            campaign_pb2.PhaseReceipt(
                phase=campaign_pb2.Phase.Value(phase),
                name_count=sum(outcomes.values()),
                outcomes=[
                    campaign_pb2.OutcomeCount(outcome=outcome, count=count)
                    for outcome, count in outcomes.items()
                ],
            )
            for phase, outcomes in counts.items()
        ]
    )


def test_receipt_is_held_against_the_rows(check: PageCheck) -> None:
    for known in KNOWN:
        check.row(right_row(known))
    right = {
        "PHASE_HTTP_VALIDATION": dict(check.verdicts),
        "PHASE_CONTENT_ANALYSIS": {
            "WITH_KEYWORD": check.matches[True],
            "WITHOUT_KEYWORD": check.matches[False],
        },
        "PHASE_LEAD_EXTRACTION": dict(check.reasons),
    }
    wrong = {**right, "PHASE_HTTP_VALIDATION": {**check.verdicts, "OK": check.verdicts["OK"] - 1}}

    assert check.accounting_errors(account(**right)) == []
    assert len(check.accounting_errors(account(**wrong))) == 1
    assert len(check.accounting_errors(campaign_pb2.Receipt())) == 3


def test_numbers_of_later_contracts_are_told_as_they_are() -> None:
    assert verdict_name(http_pb2.HTTP_VERDICT_OK) == "OK"
    assert verdict_name(99) == "99"
