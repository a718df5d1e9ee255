"""ListDomains: pages in both directions hold every domain once, whatever is filtered or written."""

from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from domainflow.query.v1 import query_service_pb2 as pb
from tests.query.conftest import Made, Query, Writer

RESOLVED, NXDOMAIN, SERVFAIL, TIMEOUT = 1, 2, 4, 6
VERDICTS = [
    TIMEOUT if n % 31 == 0 else RESOLVED if n % 3 == 0 else SERVFAIL if n % 7 == 0 else NXDOMAIN
    for n in range(250)
]
CHUNK = 25


async def settled_campaign(writer: Writer, *, open_chunks: tuple[int, ...] = ()) -> Made:
    """250 names in chunks of 25, all settled but those whose numbers are in `open_chunks`."""
    made = await writer.campaign(len(VERDICTS))
    await writer.plan(made, len(VERDICTS), CHUNK)
    for number, first in enumerate(range(0, len(VERDICTS), CHUNK)):
        if number not in open_chunks:
            await writer.settle(made, first, VERDICTS[first : first + CHUNK])
        elif number % 2:
            await writer.queue(made, first)
    return made


async def forward(
    query: Query, request: pb.ListDomainsRequest
) -> AsyncIterator[pb.ListDomainsResponse]:
    page = await query.stub.ListDomains(request)
    yield page
    while page.next_page_token:
        request = following(request, page.next_page_token)
        page = await query.stub.ListDomains(request)
        yield page


async def backward(
    query: Query, request: pb.ListDomainsRequest, page: pb.ListDomainsResponse
) -> AsyncIterator[pb.ListDomainsResponse]:
    while page.previous_page_token:
        request = following(request, page.previous_page_token)
        page = await query.stub.ListDomains(request)
        yield page


def following(request: pb.ListDomainsRequest, token: str) -> pb.ListDomainsRequest:
    changed = pb.ListDomainsRequest()
    changed.CopyFrom(request)
    changed.ClearField("start_position")
    changed.page_token = token
    return changed


def positions(pages: list[pb.ListDomainsResponse]) -> list[int]:
    return [domain.position for page in pages for domain in page.domains]


async def refused(query: Query, request: pb.ListDomainsRequest) -> tuple[object, str, list[str]]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await query.stub.ListDomains(request)
    status = rpc_status.from_call(refusal.value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(bad)
    return refusal.value.code(), info.reason, [v.field for v in bad.field_violations]


@pytest.mark.parametrize("page_size", [1, 7, 50, 249, 250, 251])
async def test_pages_forward_and_backward_hold_every_domain_once(
    query: Query, writer: Writer, page_size: int
) -> None:
    made = await settled_campaign(writer)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=page_size)
    pages = [page async for page in forward(query, request)]
    assert positions(pages) == list(range(250))
    assert not pages[0].previous_page_token
    assert {page.total_size for page in pages} == {250}
    returned = [page async for page in backward(query, request, pages[-1])]
    assert positions(returned[::-1]) == list(range(250 - len(pages[-1].domains)))
    assert all(page.next_page_token for page in returned)


@pytest.mark.parametrize(
    "verdicts",
    [[RESOLVED], [TIMEOUT], [SERVFAIL, TIMEOUT], [RESOLVED, NXDOMAIN, SERVFAIL, TIMEOUT], [9]],
)
@pytest.mark.parametrize("page_size", [3, 1000])
async def test_pages_filtered_by_verdict_equal_what_sql_says(
    query: Query, writer: Writer, verdicts: list[int], page_size: int
) -> None:
    made = await settled_campaign(writer, open_chunks=(2, 5))
    rows = await writer.connection.fetch(
        """SELECT d.position, d.name, r.verdict
        FROM domains d JOIN dns_results r USING (campaign_no, position)
        WHERE campaign_no = $1 AND r.verdict = ANY($2::int[]) ORDER BY 1""",
        made.no,
        verdicts,
    )
    request = pb.ListDomainsRequest(
        campaign_id=str(made), page_size=page_size, dns_verdicts=verdicts
    )
    pages = [page async for page in forward(query, request)]
    found = [(d.position, d.name, d.dns.verdict) for page in pages for d in page.domains]
    assert found == [tuple(row) for row in rows]
    assert {page.total_size for page in pages} == {len(rows)}
    returned = [page async for page in backward(query, request, pages[-1])]
    assert (
        positions(returned[::-1])
        == [row["position"] for row in rows][: len(rows) - len(pages[-1].domains)]
    )


@pytest.mark.parametrize("open_chunks", [(), (0,), (9,), (0, 1, 4, 5, 9), tuple(range(10))])
@pytest.mark.parametrize("page_size", [4, 25, 1000])
async def test_pending_pages_hold_exactly_the_names_of_open_chunks(
    query: Query, writer: Writer, open_chunks: tuple[int, ...], page_size: int
) -> None:
    made = await settled_campaign(writer, open_chunks=open_chunks)
    expected = [n for chunk in open_chunks for n in range(chunk * CHUNK, (chunk + 1) * CHUNK)]
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=page_size, dns_pending=True)
    pages = [page async for page in forward(query, request)]
    assert positions(pages) == expected
    assert {page.total_size for page in pages} == {len(expected)}
    assert not any(domain.HasField("dns") for page in pages for domain in page.domains)
    returned = [page async for page in backward(query, request, pages[-1])]
    assert positions(returned[::-1]) == expected[: len(expected) - len(pages[-1].domains)]


async def test_before_the_dns_phase_begins_everything_is_pending(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(30)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=8, dns_pending=True)
    pages = [page async for page in forward(query, request)]
    assert positions(pages) == list(range(30))
    assert pages[0].total_size == 30
    returned = [page async for page in backward(query, request, pages[-1])]
    assert positions(returned[::-1]) == list(range(24))


async def test_names_without_a_chunk_yet_are_pending_too(query: Query, writer: Writer) -> None:
    made = await writer.campaign(30)
    await writer.plan(made, 20, 10)
    await writer.settle(made, 0, [RESOLVED] * 10)
    for page_size in (3, 10, 100):
        request = pb.ListDomainsRequest(
            campaign_id=str(made), page_size=page_size, dns_pending=True
        )
        pages = [page async for page in forward(query, request)]
        assert positions(pages) == list(range(10, 30))
        assert pages[0].total_size == 20


async def test_a_domain_carries_its_evidence(query: Query, writer: Writer) -> None:
    made = await writer.campaign(3)
    await writer.plan(made, 2, 2)
    await writer.settle(made, 0, [TIMEOUT, RESOLVED])
    page = await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))
    mute, resolved, pending = page.domains
    assert not pending.HasField("dns")
    assert (mute.dns.verdict, mute.dns.rcode, mute.dns.resolver) == (TIMEOUT, -1, "")
    assert not mute.dns.HasField("ttl")
    assert not mute.dns.addresses
    assert (resolved.position, resolved.name) == (1, "name-1.example")
    assert resolved.dns.verdict == RESOLVED
    assert list(resolved.dns.addresses) == ["198.51.100.1", "2001:db8::1"]
    assert list(resolved.dns.cname_chain) == ["alias.example", "target.example"]
    assert resolved.dns.ttl.seconds == 300
    assert resolved.dns.attempt_count == 2
    assert resolved.dns.duration.ToMicroseconds() == 1_500_250
    assert resolved.dns.check_time.ToMicroseconds() == 1_750_000_000_123_457


async def test_results_of_the_shown_run_alone_are_seen(query: Query, writer: Writer) -> None:
    made = await writer.campaign(4)
    await writer.plan(made, 4, 4, run=1)
    await writer.settle(made, 0, [NXDOMAIN] * 4, run=1)
    await writer.plan(made, 4, 4, run=2)
    await writer.settle(made, 0, [RESOLVED] * 4, run=2)
    await writer.connection.execute("UPDATE phases SET result_run = 1 WHERE phase = 2")
    page = await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))
    assert [domain.dns.verdict for domain in page.domains] == [NXDOMAIN] * 4
    await writer.connection.execute("UPDATE phases SET result_run = 2 WHERE phase = 2")
    request = pb.ListDomainsRequest(campaign_id=str(made), dns_verdicts=[RESOLVED])
    page = await query.stub.ListDomains(request)
    assert (len(page.domains), page.total_size) == (4, 4)


async def test_a_walk_is_complete_while_chunks_are_being_settled(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(len(VERDICTS))
    await writer.plan(made, len(VERDICTS), CHUNK)
    to_settle = list(range(0, len(VERDICTS), CHUNK))
    seen: list[pb.Domain] = []
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=10)
    async for page in forward(query, request):
        seen.extend(page.domains)
        if to_settle:
            first = to_settle.pop(len(to_settle) // 2)
            await writer.settle(made, first, VERDICTS[first : first + CHUNK])
    assert [domain.position for domain in seen] == list(range(250))
    # Some were seen before their chunk was settled, some after; none with a wrong verdict.
    verdicts = [(domain.position, domain.dns.verdict) for domain in seen if domain.HasField("dns")]
    assert 0 < len(verdicts) < 250
    assert all(VERDICTS[position] == verdict for position, verdict in verdicts)


async def test_a_pending_walk_never_shows_a_settled_name_nor_skips_an_open_one(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(len(VERDICTS))
    await writer.plan(made, len(VERDICTS), CHUNK)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=10, dns_pending=True)
    seen: list[int] = []
    settled: list[int] = []
    async for page in forward(query, request):
        assert not set(positions([page])) & {
            n for first in settled for n in range(first, first + CHUNK)
        }
        seen.extend(positions([page]))
        if len(settled) < 4:
            # Ahead of the walker, behind it, and right under its feet.
            first = [225, 0, 50, 75][len(settled)]
            await writer.settle(made, first, VERDICTS[first : first + CHUNK])
            settled.append(first)
    assert len(seen) == len(set(seen))
    assert set(range(100, 225)) <= set(seen)


async def test_paging_begins_at_start_position_and_can_go_back_from_there(
    query: Query, writer: Writer
) -> None:
    made = await settled_campaign(writer)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=20, start_position=110)
    pages = [page async for page in forward(query, request)]
    assert positions(pages) == list(range(110, 250))
    returned = [page async for page in backward(query, request, pages[0])]
    assert positions(returned[::-1]) == list(range(110))


async def test_a_start_behind_the_end_is_an_empty_page_with_a_way_back(
    query: Query, writer: Writer
) -> None:
    made = await settled_campaign(writer)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=20, start_position=999_999_999)
    page = await query.stub.ListDomains(request)
    assert (len(page.domains), page.next_page_token, page.total_size) == (0, "", 250)
    returned = [page async for page in backward(query, request, page)]
    assert positions(returned[:1]) == list(range(230, 250))
    assert not returned[0].next_page_token


async def test_an_empty_campaign_is_one_empty_page(query: Query, writer: Writer) -> None:
    made = await writer.campaign(0)
    page = await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))
    assert (len(page.domains), page.total_size, page.total_size_estimated) == (0, 0, False)
    assert (page.next_page_token, page.previous_page_token) == ("", "")
    assert (page.start_cursor, page.end_cursor) == ("", "")
    assert (page.has_next, page.has_previous) == (False, False)


async def test_a_page_holds_100_domains_by_default_and_1000_at_most(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(1200)
    for asked, got in ((0, 100), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)):
        request = pb.ListDomainsRequest(campaign_id=str(made), page_size=asked)
        assert len((await query.stub.ListDomains(request)).domains) == got


async def test_the_page_size_may_change_between_pages(query: Query, writer: Writer) -> None:
    made = await writer.campaign(50)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=10)
    page = await query.stub.ListDomains(request)
    request = following(request, page.next_page_token)
    request.page_size = 15
    assert positions([await query.stub.ListDomains(request)]) == list(range(10, 25))


async def test_an_unknown_campaign_is_not_found(query: Query) -> None:
    for chosen in ({}, {"dns_pending": True}):
        request = pb.ListDomainsRequest(campaign_id=str(uuid4()), **chosen)
        assert (await refused(query, request))[:2] == (
            grpc.StatusCode.NOT_FOUND,
            "CAMPAIGN_NOT_FOUND",
        )


async def test_a_token_for_other_arguments_is_refused(query: Query, writer: Writer) -> None:
    made, other = await settled_campaign(writer), await writer.campaign(100)
    token = (
        await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))
    ).next_page_token
    for changed in (
        pb.ListDomainsRequest(campaign_id=str(other), page_token=token),
        pb.ListDomainsRequest(campaign_id=str(made), page_token=token, dns_verdicts=[RESOLVED]),
        pb.ListDomainsRequest(campaign_id=str(made), page_token=token, dns_pending=True),
        pb.ListDomainsRequest(campaign_id=str(made), page_token=token[:-1]),
        pb.ListDomainsRequest(campaign_id=str(made), page_token="not a token"),
    ):
        assert await refused(query, changed) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_TOKEN",
            ["page_token"],
        )


async def test_verdicts_may_be_named_in_another_order_with_the_same_token(
    query: Query, writer: Writer
) -> None:
    made = await settled_campaign(writer)
    request = pb.ListDomainsRequest(
        campaign_id=str(made), page_size=5, dns_verdicts=[RESOLVED, TIMEOUT]
    )
    page = await query.stub.ListDomains(request)
    request = following(request, page.next_page_token)
    del request.dns_verdicts[:]
    request.dns_verdicts.extend([TIMEOUT, RESOLVED])
    second = await query.stub.ListDomains(request)
    assert second.domains[0].position > page.domains[-1].position


async def test_a_cursor_of_a_stream_is_no_page_token(query: Query, writer: Writer) -> None:
    made = await writer.campaign(10)
    stream = query.stub.StreamDomains(pb.StreamDomainsRequest(campaign_ids=[str(made)]))
    cursor = (await stream.read()).batch.cursor
    request = pb.ListDomainsRequest(campaign_id=str(made), page_token=cursor)
    assert (await refused(query, request))[1] == "INVALID_TOKEN"


async def test_everything_wrong_with_the_arguments_is_said_at_once(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(10)
    request = pb.ListDomainsRequest(
        campaign_id=str(made),
        page_token="x",
        start_position=5,
        dns_pending=True,
        dns_verdicts=[RESOLVED],
    )
    assert await refused(query, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        ["start_position", "dns_pending"],
    )


async def test_the_summary_counts_every_name_once(query: Query, writer: Writer) -> None:
    made = await settled_campaign(writer, open_chunks=(3, 4))
    summary = await query.stub.GetDomainSummary(pb.GetDomainSummaryRequest(campaign_id=str(made)))
    settled = VERDICTS[: 3 * CHUNK] + VERDICTS[5 * CHUNK :]
    assert {each.verdict: each.count for each in summary.dns_verdict_counts} == {
        verdict: settled.count(verdict) for verdict in set(settled)
    }
    assert (summary.name_count, summary.dns_pending_count) == (250, 50)


async def test_the_summary_of_an_unknown_campaign_is_not_found(query: Query) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await query.stub.GetDomainSummary(pb.GetDomainSummaryRequest(campaign_id=str(uuid4())))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_service_cannot_write(query: Query, writer: Writer) -> None:
    made = await writer.campaign(1)
    with pytest.raises(Exception, match="read-only transaction"):
        await query.pool.execute("DELETE FROM domains WHERE campaign_no = $1", made.no)


@pytest.mark.parametrize("size", [10, 100])
async def test_campaign_that_was_the_same_for_long_is_not_found_once_it_is_being_deleted(
    query: Query, writer: Writer, size: int
) -> None:
    """Pages of such a campaign are read without asking for it first."""
    made = await writer.campaign(300)
    for order in (pb.DOMAIN_ORDER_POSITION, pb.DOMAIN_ORDER_SETTLE_TIME):
        request = pb.ListDomainsRequest(campaign_id=str(made), page_size=size, order=order)
        for _ in range(4):
            await query.stub.ListDomains(request)
    await writer.connection.execute(
        "UPDATE campaigns SET delete_time = now() WHERE no = $1", made.no
    )

    for order in (pb.DOMAIN_ORDER_POSITION, pb.DOMAIN_ORDER_SETTLE_TIME):
        request = pb.ListDomainsRequest(campaign_id=str(made), page_size=size, order=order)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await query.stub.ListDomains(request)
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_campaign_that_is_being_deleted_is_not_found(query: Query, writer: Writer) -> None:
    made, other = await writer.campaign(5), await writer.campaign(3)
    await writer.connection.execute(
        "UPDATE campaigns SET delete_time = now() WHERE no = $1", made.no
    )

    for call in (
        query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made))),
        query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made), dns_pending=True)),
        query.stub.GetDomainSummary(pb.GetDomainSummaryRequest(campaign_id=str(made))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    request = pb.StreamDomainsRequest(campaign_ids=[str(made), str(other)])
    *_, last = [message async for message in query.stub.StreamDomains(request)]
    assert last.summary.domain_count == 3
    assert list(last.summary.unreachable) == [str(made)]
