"""Figures from counters: what counting the rows would give, for every phase and run."""

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1 import summary_pb2
from tests.query.conftest import LEAD_STATUS_OF, Analysis, Made, Query, Writer
from tests.refusals import refused

RESOLVED, NXDOMAIN, TIMEOUT = 1, 2, 6
TLDS = ("com", "net", "org")
# What is asked of each: name of the method and its request.
CALLS: list[tuple[str, Any]] = [
    ("GetDomainSummary", pb.GetDomainSummaryRequest),
    ("GetFunnel", summary_pb2.GetFunnelRequest),
    ("GetRejectionSummary", summary_pb2.GetRejectionSummaryRequest),
    ("ListTldCounts", summary_pb2.ListTldCountsRequest),
    ("CheckCounters", summary_pb2.CheckCountersRequest),
]


async def whole_campaign(writer: Writer) -> Made:
    """Thirty names: 10 resolve, 6 are fetched, 4 have a keyword, 1 is a lead; 5 wait for DNS."""
    made = await writer.campaign([f"name-{n}.{TLDS[n % 3]}" for n in range(30)])
    await writer.plan(made, 30, 5)
    for first in range(0, 25, 5):
        await writer.settle(made, first, [RESOLVED, NXDOMAIN, RESOLVED, NXDOMAIN, TIMEOUT])
    resolved = [first + n for first in range(0, 25, 5) for n in (0, 2)]
    await writer.settle_http(made, dict.fromkeys(resolved[:6], 1))
    await writer.settle_http(made, dict.fromkeys(resolved[6:9], 9))
    analyses = {
        position: Analysis(100 * n, keywords={"shop": 1} if n < 4 else {})
        for n, position in enumerate(resolved[:6])
    }
    await writer.settle_analysis(made, analyses)
    await writer.settle_leads(made, {resolved[0]: 1, resolved[1]: 2, resolved[2]: 2})
    return made


async def test_the_summary_has_every_phase_that_finds_something(
    query: Query, writer: Writer
) -> None:
    made = await whole_campaign(writer)
    summary = await query.stub.GetDomainSummary(pb.GetDomainSummaryRequest(campaign_id=str(made)))
    assert (summary.name_count, summary.dns_pending_count) == (30, 5)
    assert {(v.verdict, v.count) for v in summary.dns_verdict_counts} == {(1, 10), (2, 10), (6, 5)}
    assert {(v.verdict, v.count) for v in summary.http_verdict_counts} == {(1, 6), (9, 3)}
    assert {(r.reason, r.status, r.count) for r in summary.lead_reason_counts} == {
        (1, LEAD_STATUS_OF[1], 1),
        (2, LEAD_STATUS_OF[2], 2),
    }
    assert summary.freshness.revision > 0


async def test_the_funnel_leads_from_the_names_to_the_leads(query: Query, writer: Writer) -> None:
    made = await whole_campaign(writer)
    answer = await query.stub.GetFunnel(summary_pb2.GetFunnelRequest(campaign_id=str(made)))
    assert [(s.phase, s.name_count, s.settled_count, s.passed_count) for s in answer.steps] == [
        (1, 30, 0, 0),
        (2, 30, 25, 10),
        (3, 10, 9, 6),
        (4, 6, 6, 4),
        # Of every name that was fetched, whatever came.
        (5, 9, 3, 1),
    ]
    assert answer.steps[2].pass_ratio == 6 / 9


async def rejected(query: Query, made: Made) -> summary_pb2.GetRejectionSummaryResponse:
    answer = await query.stub.GetRejectionSummary(
        summary_pb2.GetRejectionSummaryRequest(campaign_id=str(made))
    )
    gone = sum(each.count for each in answer.rejections)
    assert answer.name_count == answer.pending_count + answer.lead_count + gone
    return answer


async def test_rejections_balance_through_a_rerun(query: Query, writer: Writer) -> None:
    made = await whole_campaign(writer)
    before = await rejected(query, made)
    # Six of nine are not decided on, which HTTP and the analysis have rejected or not.
    assert (before.name_count, before.lead_count, before.pending_count) == (30, 1, 5 + 1 + 6)
    assert [(r.phase, r.outcome, r.count) for r in before.rejections] == [
        (2, "NXDOMAIN", 10),
        (2, "TIMEOUT", 5),
        (5, "LOW_SCORE", 2),
    ]

    # What another run has found is shown at once, and what rests on the old one no more.
    await writer.show(made, 2, 2)
    await writer.connection.execute(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
        VALUES ($1, 2, 2, 0, 30, 'ready')""",
        made.no,
    )
    await writer.settle(made, 0, [RESOLVED] * 6 + [NXDOMAIN] * 24, run=2)
    rerun = await rejected(query, made)
    assert (rerun.lead_count, rerun.pending_count) == (0, 6)
    await writer.settle_http(made, {0: 1, 1: 9}, run=2)
    assert (await rejected(query, made)).pending_count == 5


async def test_tlds_are_listed_once_each_whatever_the_page_size(
    query: Query, writer: Writer
) -> None:
    made = await whole_campaign(writer)
    rows = await writer.connection.fetch(
        """SELECT split_part(name, '.', -1), verdict
        FROM domains JOIN dns_results USING (campaign_no, position)"""
    )
    expected = Counter((tld, verdict) for tld, verdict in rows)
    for size in (1, 2, 3, 0):
        request = summary_pb2.ListTldCountsRequest(campaign_id=str(made), page_size=size)
        found = []
        while True:
            page = await query.stub.ListTldCounts(request)
            assert page.total_size == 3
            found += page.tld_counts
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert [each.tld for each in found] == ["com", "net", "org"]
    names = {1: "RESOLVED", 2: "NXDOMAIN", 6: "TIMEOUT"}
    assert {
        (each.tld, one.outcome): one.count
        for each in found
        for one in each.outcome_counts
        if one.phase == 2
    } == {(tld, names[verdict]): count for (tld, verdict), count in expected.items()}


async def test_a_walk_through_the_tlds_stays_with_the_runs_it_began_with(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(["a.com", "b.net"])
    await writer.plan(made, 2, 2)
    await writer.settle(made, 0, [RESOLVED, RESOLVED])
    request = summary_pb2.ListTldCountsRequest(campaign_id=str(made), page_size=1)
    first = await query.stub.ListTldCounts(request)
    await writer.show(made, 2, 2)

    request.page_token = first.next_page_token
    second = await query.stub.ListTldCounts(request)
    assert [one.outcome for one in second.tld_counts[0].outcome_counts] == ["RESOLVED"]

    request.campaign_id = str(await writer.campaign(1))
    refusal = await refused(query.stub.ListTldCounts(request))
    assert (refusal.reason, refusal.fields) == ("INVALID_TOKEN", {"page_token"})


@pytest.mark.parametrize(("method", "request_type"), CALLS)
async def test_an_unknown_campaign_is_not_found(
    query: Query, method: str, request_type: Any
) -> None:
    refusal = await refused(getattr(query.stub, method)(request_type(campaign_id=str(uuid4()))))
    assert refusal.reason == "CAMPAIGN_NOT_FOUND"


@pytest.mark.parametrize(("method", "request_type"), CALLS)
async def test_a_campaign_without_anything_has_figures_too(
    query: Query, writer: Writer, method: str, request_type: Any
) -> None:
    made = await writer.campaign(0)
    answer = await getattr(query.stub, method)(request_type(campaign_id=str(made)))
    assert not getattr(answer, "drifts", [])


async def test_pages_do_not_wait_behind_counting(query: Query, writer: Writer) -> None:
    """All who count wait for a table, as many as may; a page comes meanwhile."""
    made = await whole_campaign(writer)
    request = summary_pb2.CheckCountersRequest(campaign_id=str(made))
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with writer.connection.transaction():
        await writer.connection.execute("LOCK TABLE ledger_totals IN ACCESS EXCLUSIVE MODE")
        checks = [asyncio.ensure_future(query.stub.CheckCounters(request)) for _ in range(6)]
        while await writer.connection.fetchval(waits) < query.pool.get_max_size() - 2:
            pass
        page = await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))
        assert len(page.domains) == 30
    assert not any(answer.drifts for answer in await asyncio.gather(*checks))


async def test_a_campaign_whose_deletion_begins_meanwhile_has_no_drift(
    query: Query, writer: Writer
) -> None:
    made = await whole_campaign(writer)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with writer.connection.transaction():
        await writer.connection.execute("LOCK TABLE domains IN ACCESS EXCLUSIVE MODE")
        request = summary_pb2.CheckCountersRequest(campaign_id=str(made))
        check = asyncio.create_task(refused(query.stub.CheckCounters(request)))
        while not await writer.connection.fetchval(waits):
            pass
        await writer.connection.execute("UPDATE campaigns SET delete_time = now()")
        await writer.connection.execute("DELETE FROM domains WHERE position < 10")
    assert (await check).reason == "CAMPAIGN_NOT_FOUND"


async def test_drift_is_told_with_the_names_of_the_outcomes(query: Query, writer: Writer) -> None:
    made = await whole_campaign(writer)
    request = summary_pb2.CheckCountersRequest(campaign_id=str(made))
    assert not (await query.stub.CheckCounters(request)).drifts

    await writer.connection.execute("UPDATE ledger_totals SET outcome_counts[2] = 99")
    drifts = (await query.stub.CheckCounters(request)).drifts
    assert (drifts[0].counter, drifts[0].counted, drifts[0].actual) == ("NXDOMAIN", 99, 10)
