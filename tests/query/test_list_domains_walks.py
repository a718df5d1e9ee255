"""ListDomains while others write, and what its tokens and cursors promise."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.chassis.postgres import PLANNED_ONCE, PLANS_ONCE, open_pool
from services.chassis.seal import Seal, binding
from services.query.reads import Reads
from services.query.service import QueryService
from tests.query.conftest import KEY, Analysis, Made, Query, Writer

POSITION, NAME = pb.DOMAIN_ORDER_POSITION, pb.DOMAIN_ORDER_NAME
SCORE, SETTLE_TIME = pb.DOMAIN_ORDER_SCORE, pb.DOMAIN_ORDER_SETTLE_TIME
ORDERS = [POSITION, NAME, SCORE, SETTLE_TIME]
RESOLVED, NXDOMAIN, TIMEOUT = 1, 2, 6
MANY, CHUNK = 100_000, 1_000


async def large_campaign(writer: Writer) -> Made:
    """A hundred thousand names in no order, half of them settled, and a score for every eighth."""
    made = await writer.campaign(0)
    await writer.connection.execute(
        """INSERT INTO domains
        SELECT $1, g, substr(md5(g::text), 1, 12) || '.example'
        FROM generate_series(0, $2 - 1) g""",
        made.no,
        MANY,
    )
    await writer.connection.execute(
        "UPDATE campaigns SET name_count = $2 WHERE no = $1", made.no, MANY
    )
    await writer.order_names(made, block=400)
    await writer.plan(made, MANY, CHUNK)
    for first in range(0, MANY, 2 * CHUNK):
        await settle(writer, made, first)
    await writer.connection.execute(
        """INSERT INTO page_analyses (campaign_no, run, position, score, check_time_us)
        SELECT $1, 1, g, hashint4(g) & 511, 0 FROM generate_series(0, $2 - 1, 8) g""",
        made.no,
        MANY,
    )
    await writer.show(made, 4, 1)
    return made


async def settle(writer: Writer, made: Made, first: int) -> None:
    """One chunk by one statement: the rows matter, not who makes them."""
    async with writer.connection.transaction():
        await writer.connection.execute(
            """UPDATE chunks SET state = 'done', done_time = now(), outcome_counts = ARRAY[$3::int]
            WHERE campaign_no = $1 AND phase = 2 AND first_position = $2""",
            made.no,
            first,
            CHUNK,
        )
        await writer.connection.execute(
            """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count,
                tcp, duration_us, check_time_us)
            SELECT $1, 1, g, 1, 0, 1, false, 1, 1 FROM generate_series($2::int, $2 + $3 - 1) g""",
            made.no,
            first,
            CHUNK,
        )
        await writer.connection.execute("SELECT append_event($1, '')", made.no)


async def walk(
    query: Query, request: pb.ListDomainsRequest
) -> AsyncIterator[pb.ListDomainsResponse]:
    """This page and all behind it, in the direction that `last` says."""
    backward = bool(request.last)
    page = await query.stub.ListDomains(request)
    yield page
    while token := (page.previous_page_token if backward else page.next_page_token):
        page = await query.stub.ListDomains(led(request, token))
        yield page


def led(request: pb.ListDomainsRequest, token: str) -> pb.ListDomainsRequest:
    return pb.ListDomainsRequest(
        campaign_id=request.campaign_id,
        filter=request.filter,
        order=request.order,
        descending=request.descending,
        page_token=token,
        page_size=request.first or request.last or request.page_size,
    )


def positions(pages: Sequence[pb.ListDomainsResponse]) -> list[int]:
    return [domain.position for page in pages for domain in page.domains]


async def refused(query: Query, request: pb.ListDomainsRequest) -> tuple[object, str, list[str]]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await query.stub.ListDomains(request)
    status = rpc_status.from_call(refusal.value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(bad)
    return refusal.value.code(), info.reason, [v.field for v in bad.field_violations]


async def test_walks_in_every_order_see_every_domain_once_while_others_are_written(
    query: Query, writer: Writer
) -> None:
    made = await large_campaign(writer)
    settled = {p for first in range(0, MANY, 2 * CHUNK) for p in range(first, first + CHUNK)}
    present = {
        POSITION: set(range(MANY)),
        NAME: set(range(MANY)),
        SCORE: set(range(0, MANY, 8)),
        SETTLE_TIME: settled,
    }
    walking = True

    async def write() -> int:
        """Settle what is open, in no order, and insert scores everywhere, until the walks end."""
        firsts = list(range(CHUNK, MANY, 2 * CHUNK))
        random.Random(1).shuffle(firsts)
        written = 0
        while walking and written < len(firsts):
            await settle(writer, made, firsts[written])
            await writer.connection.execute(
                """INSERT INTO page_analyses (campaign_no, run, position, score, check_time_us)
                SELECT $1, 1, g, hashint4(g) & 511, 0 FROM generate_series($2::int, $3, 400) g""",
                made.no,
                1 + written * 8,
                MANY - 1,
            )
            written += 1
        return written

    async def walked(order: int, last: bool) -> tuple[int, list[int]]:
        request = pb.ListDomainsRequest(
            campaign_id=str(made), order=order, descending=order == SCORE
        )
        if last:
            request.last = 1_000
        else:
            request.first = 1_000
        pages = [page async for page in walk(query, request)]
        return order, positions(pages)

    writing = asyncio.create_task(write())
    walks = await asyncio.gather(
        *(walked(order, last) for order in ORDERS for last in (False, True))
    )
    walking = False
    assert await writing > 0
    for order, seen in walks:
        assert len(seen) == len(set(seen)), pb.DomainOrder.Name(order)
        assert set(seen) >= present[order], pb.DomainOrder.Name(order)


async def test_page_looks_at_some_thousand_candidates_at_most(query: Query, writer: Writer) -> None:
    made = await large_campaign(writer)
    for order in ORDERS:
        request = pb.ListDomainsRequest(
            campaign_id=str(made),
            order=order,
            filter=DomainFilter(dns_verdicts=[RESOLVED], name_contains="zz"),
        )
        page = await query.stub.ListDomains(request)
        assert (len(page.domains), page.has_next) == (0, True)
        assert 0 < page.examined_count <= 8_000


async def test_no_plan_reads_a_table_from_its_beginning_while_nothing_is_known_of_it(
    database_url: str, writer: Writer
) -> None:
    made = await large_campaign(writer)
    asked: dict[str, Sequence[Any]] = {}
    filters: list[dict[str, Any]] = [
        {},
        {"dns_verdicts": [RESOLVED]},
        {"dns_verdicts": [RESOLVED, TIMEOUT], "http_verdicts": [1], "lead_statuses": [1]},
        {"dns_pending": True, "name_contains": "ab"},
        {"min_score": 0.2, "has_warnings": False},
        {"keywords": ["a", "b"], "warnings": [1], "lead_reasons": [2]},
        {"tlds": ["example"], "name_prefix": "a"},
    ]
    pool = await open_pool(
        database_url,
        application_name="query",
        max_size=4,
        read_only=True,
        on_statement=lambda text, arguments, *_: asked.setdefault(text, arguments),
    )
    async with pool:
        service = QueryService(reads=Reads(pool), seal=Seal([KEY]))
        for order in ORDERS:
            for chosen in filters:
                request = pb.ListDomainsRequest(
                    campaign_id=str(made), order=order, filter=DomainFilter(**chosen)
                )
                answer = await service.ListDomains(request, None)  # type: ignore[arg-type]
                page = pb.ListDomainsResponse.FromString(answer)
                if page.next_page_token:
                    request.page_token = page.next_page_token
                    await service.ListDomains(request, None)  # type: ignore[arg-type]
    assert len(asked) > 20
    for number, (text, arguments) in enumerate(asked.items()):
        planned = PLANS_ONCE if text.startswith(PLANNED_ONCE) else PLANS_EACH_TIME
        await writer.connection.execute(planned)
        values = ", ".join(map(literal, arguments))
        await writer.connection.execute(f"PREPARE s{number} AS {text}")
        execute = f"EXECUTE s{number}({values})" if values else f"EXECUTE s{number}"
        lines = [row[0] for row in await writer.connection.fetch(f"EXPLAIN {execute}")]
        for table in ("domains", "dns_results", "page_analyses", "leads", "http_results"):
            assert not any(f"Seq Scan on {table}_" in line for line in lines), text
        if planned is PLANS_ONCE:
            assert not any("Seq Scan" in line for line in lines), text
        if "FULL JOIN" in text:
            # A block and the names in it are put together by one.
            loops = sum("Nested Loop" in line for line in lines)
            assert loops == text.count("LATERAL"), text


# As a read-only pool does, unless it is told otherwise.
PLANS_EACH_TIME = "SET plan_cache_mode = force_custom_plan; RESET enable_seqscan"


def literal(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "'{" + ",".join(f'"{each}"' for each in value) + "}'"
    return "NULL" if value is None else f"'{value}'"


async def rerun_campaign(writer: Writer) -> Made:
    """Three hundred names with results of a first run of every phase."""
    made = await writer.campaign(300)
    await writer.order_names(made)
    await writer.plan(made, 300, 50)
    for first in range(0, 300, 50):
        await writer.settle(made, first, [RESOLVED] * 50)
    await writer.settle_http(made, dict.fromkeys(range(300), 1))
    await writer.settle_analysis(made, {p: Analysis(p % 100) for p in range(300)})
    await writer.settle_leads(made, dict.fromkeys(range(300), 2))
    return made


async def rerun(writer: Writer, made: Made) -> None:
    """A second run of every phase with other results is shown from now on."""
    await writer.plan(made, 300, 50, run=2)
    for first in range(0, 300, 50):
        await writer.settle(made, first, [NXDOMAIN] * 50, run=2)
    await writer.settle_http(made, dict.fromkeys(range(300), 9), run=2)
    await writer.settle_analysis(made, {p: Analysis(500 + p) for p in range(300)}, run=2)
    await writer.settle_leads(made, dict.fromkeys(range(300), 3), run=2)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("chosen", [{}, {"dns_verdicts": [RESOLVED], "lead_reasons": [2]}])
async def test_walk_shows_the_runs_it_began_with(
    query: Query, writer: Writer, order: int, chosen: dict[str, Any]
) -> None:
    made = await rerun_campaign(writer)
    request = pb.ListDomainsRequest(
        campaign_id=str(made), order=order, page_size=70, filter=DomainFilter(**chosen)
    )
    walked = walk(query, request)
    pages = [await anext(walked)]
    await rerun(writer, made)
    pages += [page async for page in walked]
    assert sorted(positions(pages)) == list(range(300))
    for domain in [domain for page in pages for domain in page.domains]:
        assert (domain.dns.verdict, domain.http.verdict) == (RESOLVED, 1)
        assert (domain.analysis.score < 0.2, domain.lead.reason) == (True, 2)
    new = await query.stub.ListDomains(
        pb.ListDomainsRequest(campaign_id=str(made), order=order, page_size=1000)
    )
    assert {domain.dns.verdict for domain in new.domains} == {NXDOMAIN}
    assert {domain.lead.reason for domain in new.domains} == {3}


@pytest.mark.parametrize("order", ORDERS)
async def test_cursors_lead_to_the_domains_behind_and_ahead_of_theirs(
    query: Query, writer: Writer, order: int
) -> None:
    made = await rerun_campaign(writer)

    async def page(**asked: Any) -> pb.ListDomainsResponse:
        return await query.stub.ListDomains(
            pb.ListDomainsRequest(campaign_id=str(made), order=order, **asked)
        )

    every = positions([await page(first=1000)])
    begin, end = await page(first=20), await page(last=20)
    assert (positions([begin]), positions([end])) == (every[:20], every[-20:])
    second = await page(first=30, after=begin.end_cursor)
    assert positions([second]) == every[20:50]
    assert (second.has_previous, second.has_next) == (True, True)
    assert positions([await page(after=second.start_cursor, page_size=5)]) == every[21:26]
    assert positions([await page(last=7, before=second.start_cursor)]) == every[13:20]
    ahead = await page(last=50, before=second.start_cursor)
    assert (positions([ahead]), ahead.has_previous, ahead.has_next) == (every[:20], False, True)
    behind = await page(first=50, after=end.end_cursor)
    assert (positions([behind]), behind.has_previous, behind.has_next) == ([], True, False)
    assert positions([await page(page_token=behind.previous_page_token, page_size=3)]) == every[-3:]


async def test_domain_shows_what_every_phase_found(query: Query, writer: Writer) -> None:
    made = await writer.campaign(3)
    await writer.plan(made, 3, 3)
    await writer.settle(made, 0, [RESOLVED, RESOLVED, TIMEOUT])
    await writer.settle_http(made, {0: 1, 1: 9})
    await writer.settle_analysis(made, {0: Analysis(125, [1, 3], {"b": 2, "a": 2, "c": 9})})
    await writer.settle_leads(made, {0: 1, 1: 9, 2: 8})
    request = pb.ListDomainsRequest(campaign_id=str(made))
    fetched, missing, mute = (await query.stub.ListDomains(request)).domains
    assert (fetched.http.status_code, fetched.http.title) == (200, "Page 0")
    assert (fetched.http.content_size, len(fetched.http.content_sha256)) == (10_000, 32)
    assert (fetched.http.truncated, fetched.http.duration.nanos) == (True, 250_500_000)
    assert (fetched.analysis.score, list(fetched.analysis.warnings)) == (0.125, [1, 3])
    hits = [(hit.keyword, hit.hit_count) for hit in fetched.analysis.keyword_hits]
    assert hits == [("c", 9), ("a", 2), ("b", 2)]
    assert (fetched.lead.status, fetched.lead.reason, len(fetched.lead.contacts)) == (1, 1, 0)
    assert (missing.http.verdict, missing.HasField("analysis"), missing.lead.status) == (
        9,
        False,
        3,
    )
    assert (mute.HasField("http"), mute.lead.status) == (False, 4)
    whole = await query.stub.GetDomain(pb.GetDomainRequest(campaign_id=str(made), position=0))
    assert [contact.value for contact in whole.domain.lead.contacts] == ["info@name.example"]
    assert whole.domain.dns.evidence.reason == "said by two"


async def test_order_of_names_is_refused_until_it_is_made(query: Query, writer: Writer) -> None:
    made = await writer.campaign(10)
    request = pb.ListDomainsRequest(campaign_id=str(made), order=NAME)
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "ORDER_NOT_READY")
    assert (await refused(query, request))[:2] == expected
    await writer.finish_generation(made)
    assert (await refused(query, request))[:2] == expected
    await writer.order_names(made)
    assert len((await query.stub.ListDomains(request)).domains) == 10


async def test_everything_that_does_not_go_together_is_named(query: Query, writer: Writer) -> None:
    made = await writer.campaign(10)
    for asked, fields in (
        ({"first": 1, "last": 1}, ["first"]),
        ({"first": 1, "page_size": 1}, ["first"]),
        ({"last": 1, "page_size": 1, "page_token": "x"}, ["last", "last"]),
        ({"after": "x", "before": "x"}, ["after"]),
        ({"after": "x", "last": 1}, ["after"]),
        ({"before": "x", "first": 1}, ["first"]),
        ({"after": "x", "page_token": "x"}, ["after"]),
        ({"start_position": 1, "order": NAME}, ["start_position"]),
        ({"start_position": 1, "last": 1}, ["start_position"]),
        (
            {"filter": DomainFilter(tlds=["com"]), "dns_verdicts": [1], "dns_pending": True},
            ["dns_pending", "filter", "filter"],
        ),
        (
            {"filter": DomainFilter(dns_pending=True, keywords=["a"], has_warnings=False)},
            ["filter.dns_pending", "filter.dns_pending"],
        ),
        ({"filter": DomainFilter(min_score=0.3, max_score=0.2)}, ["filter.min_score"]),
        (
            {"filter": DomainFilter(warnings=[1], has_warnings=False)},
            ["filter.has_warnings"],
        ),
    ):
        request = pb.ListDomainsRequest(campaign_id=str(made), **asked)
        assert await refused(query, request) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELDS",
            fields,
        )
    for asked in ({"page_size": -1}, {"first": -1}, {"last": -5}, {"order": 99}):
        request = pb.ListDomainsRequest(campaign_id=str(made), **asked)
        assert (await refused(query, request))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_tokens_and_cursors_are_not_taken_for_each_other(
    query: Query, writer: Writer
) -> None:
    made = await rerun_campaign(writer)
    id_ = str(made)
    page = await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=id_, page_size=10))
    for changed, field in (
        (pb.ListDomainsRequest(campaign_id=id_, page_token=page.end_cursor), "page_token"),
        (pb.ListDomainsRequest(campaign_id=id_, after=page.next_page_token), "after"),
        (pb.ListDomainsRequest(campaign_id=id_, before=page.next_page_token), "before"),
        (pb.ListDomainsRequest(campaign_id=id_, after=page.end_cursor, order=SCORE), "after"),
        (
            pb.ListDomainsRequest(campaign_id=id_, page_token=page.next_page_token, order=NAME),
            "page_token",
        ),
        (
            pb.ListDomainsRequest(
                campaign_id=id_, page_token=page.next_page_token, descending=True
            ),
            "page_token",
        ),
        (
            pb.ListDomainsRequest(
                campaign_id=id_,
                page_token=page.next_page_token,
                filter=DomainFilter(tlds=["example"]),
            ),
            "page_token",
        ),
    ):
        assert await refused(query, changed) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_TOKEN",
            [field],
        )


async def test_page_token_of_the_version_before_leads_on(query: Query, writer: Writer) -> None:
    made = await writer.campaign(30)
    bound = binding("ListDomains", pb.ListDomainsRequest(campaign_id=str(made)).SerializeToString())

    async def page(forward: bool, position: int) -> pb.ListDomainsResponse:
        token = Seal([KEY]).seal(struct.pack(">B?q", 1, forward, position), bound)
        return await query.stub.ListDomains(
            pb.ListDomainsRequest(campaign_id=str(made), page_size=10, page_token=token)
        )

    onward, back = await page(True, 10), await page(False, 20)
    assert positions([onward]) == positions([back]) == list(range(10, 20))
    assert onward.has_previous
    assert back.has_next


async def test_an_entry_may_be_named_in_another_order_with_the_same_token(
    query: Query, writer: Writer
) -> None:
    made = await rerun_campaign(writer)
    request = pb.ListDomainsRequest(
        campaign_id=str(made),
        page_size=10,
        filter=DomainFilter(dns_verdicts=[RESOLVED, TIMEOUT], tlds=["example", "com"]),
    )
    page = await query.stub.ListDomains(request)
    request.filter.CopyFrom(DomainFilter(dns_verdicts=[TIMEOUT, RESOLVED], tlds=["com", "example"]))
    request.page_token = page.next_page_token
    assert positions([await query.stub.ListDomains(request)]) == list(range(10, 20))


async def test_total_is_exact_where_counters_know_and_an_estimate_elsewhere(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign([f"n{n}.{'com' if n % 4 else 'net'}" for n in range(400)])
    await writer.count_names(made, 50)
    await writer.plan(made, 400, 100)
    for first in (0, 100, 200):
        await writer.settle(made, first, [RESOLVED] * 40 + [NXDOMAIN] * 60)
    await writer.settle_http(made, {p: 1 if p % 2 else 9 for p in range(40)})
    await writer.settle_analysis(made, {p: Analysis(p, [1] * (p % 3)) for p in range(1, 40, 2)})
    await writer.settle_leads(made, {p: 1 if p < 10 else 2 for p in range(1, 40, 2)})
    for chosen, total in (
        ({}, 400),
        ({"dns_verdicts": [RESOLVED]}, 120),
        ({"dns_pending": True}, 100),
        ({"http_verdicts": [1, 9]}, 40),
        ({"lead_statuses": [1]}, 5),
        ({"lead_reasons": [1, 2]}, 20),
        ({"tlds": ["com"]}, 300),
    ):
        page = await query.stub.ListDomains(
            pb.ListDomainsRequest(campaign_id=str(made), page_size=3, filter=DomainFilter(**chosen))
        )
        assert (page.total_size, page.total_size_estimated) == (total, False), chosen
    request = pb.ListDomainsRequest(
        campaign_id=str(made),
        page_size=3,
        filter=DomainFilter(dns_verdicts=[RESOLVED], tlds=["com"]),
    )
    pages = [page async for page in walk(query, request)]
    assert len(positions(pages)) == 90
    assert {page.total_size_estimated for page in pages} == {True}
    (total,) = {page.total_size for page in pages}
    assert 60 <= total <= 120
    for order, total in ((SCORE, 20), (SETTLE_TIME, 300)):
        page = await query.stub.ListDomains(
            pb.ListDomainsRequest(campaign_id=str(made), page_size=3, order=order)
        )
        assert (page.total_size, page.total_size_estimated) == (total, False)


async def test_total_of_what_is_put_in_order_whole_is_exact(query: Query, writer: Writer) -> None:
    made = await writer.campaign(60)
    await writer.order_names(made)
    await writer.plan(made, 60, 60)
    await writer.settle(made, 0, [RESOLVED] * 60)
    await writer.settle_analysis(made, {n: Analysis(n, [], {"k": 1}) for n in range(0, 60, 5)})
    for order in (NAME, SCORE, SETTLE_TIME):
        page = await query.stub.ListDomains(
            pb.ListDomainsRequest(
                campaign_id=str(made),
                page_size=4,
                order=order,
                filter=DomainFilter(keywords=["k"]),
            )
        )
        assert (len(page.domains), page.total_size, page.total_size_estimated) == (4, 12, False)


async def test_a_walk_by_name_goes_on_when_names_were_sorted_into_other_blocks(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign([f"n{n * 7919 % 1009:04}.example" for n in range(100)])
    await writer.order_names(made, block=16)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=40, order=NAME)
    page = await query.stub.ListDomains(request)
    found = [domain.name for domain in page.domains]

    for block in (7, 50):
        await writer.connection.execute("DELETE FROM name_orders WHERE campaign_no = $1", made.no)
        await writer.order_names(made, block=block)
        request.page_token = page.next_page_token
        page = await query.stub.ListDomains(request)
        found += [domain.name for domain in page.domains]

    assert found == sorted(f"n{n * 7919 % 1009:04}.example" for n in range(100))
    assert not page.next_page_token


async def test_pages_of_what_few_domains_match_are_full_in_every_order_and_see_more_of_it(
    query: Query, writer: Writer
) -> None:
    names, every = 6_000, 10
    made = await writer.campaign([f"name-{n:04}.example" for n in range(names)])
    await writer.order_names(made, block=400)
    await writer.plan(made, names, names)
    await writer.settle(made, 0, [RESOLVED] * names)
    with_keyword = range(0, names - every, every)
    await writer.settle_analysis(made, {n: Analysis(n % 997, [], {"k": 1}) for n in with_keyword})
    # Last in every order.
    late = names - 1
    for order in ORDERS:
        request = pb.ListDomainsRequest(
            campaign_id=str(made), order=order, filter=DomainFilter(keywords=["k"])
        )
        pages = [page async for page in walk(query, request)]
        assert [len(page.domains) for page in pages] == [100] * 5 + [99]
        assert sorted(positions(pages)) == list(with_keyword)
    await writer.settle_analysis(made, {late: Analysis(1_000, [], {"k": 1})})
    for order in ORDERS:
        request = pb.ListDomainsRequest(
            campaign_id=str(made), order=order, filter=DomainFilter(keywords=["k"])
        )
        pages = [page async for page in walk(query, request)]
        assert sorted(positions(pages)) == [*with_keyword, late]
        assert positions(pages)[-1] == late
        request.descending = True
        page = await query.stub.ListDomains(request)
        assert page.domains[0].position == late


async def test_page_is_of_the_campaign_as_it_is_however_long_it_was_another(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(4)
    await writer.plan(made, 4, 4)
    request = pb.ListDomainsRequest(campaign_id=str(made))

    async def seen_three_times() -> tuple[int, int, set[bool]]:
        for _ in range(3):
            page = await query.stub.ListDomains(request)
        settled = {each.HasField("dns") for each in page.domains}
        return page.total_size, len(page.domains), settled

    assert await seen_three_times() == (4, 4, {False})
    await writer.settle(made, 0, [RESOLVED] * 4)
    assert {each.dns.verdict for each in (await query.stub.ListDomains(request)).domains} == {1}
    assert await seen_three_times() == (4, 4, {True})
    await writer.add_names(made, ["more.example"])
    page = await query.stub.ListDomains(request)
    assert (page.total_size, page.domains[-1].name) == (5, "more.example")
    assert await seen_three_times() == (5, 5, {True, False})
    await writer.connection.execute(
        "UPDATE campaigns SET delete_time = now() WHERE no = $1", made.no
    )
    assert (await refused(query, request))[0] is grpc.StatusCode.NOT_FOUND
