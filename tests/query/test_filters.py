"""One filter means the same everywhere: pages, streams and read sessions against one oracle."""

import random
from collections.abc import Sequence
from typing import Any

import grpc
import pyarrow as pa
import pytest

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1 import read_session_pb2, stream_pb2
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.query.conditions import check_filter
from tests.query.conftest import LEAD_STATUS_OF, Analysis, Made, Query, Writer
from tests.refusals import read

SIZE = 240
VERDICTS = [1, 1, 1, 2, 2, 6, 7]
HTTP_VERDICTS = [1, 1, 1, 9, 9, 4]
KEYWORDS = ["shop", "cart", "rare_one", "10% off"]
TLDS = ["com", "example", "co", "xn--p1ai"]
ORDERS = [
    pb.DOMAIN_ORDER_POSITION,
    pb.DOMAIN_ORDER_NAME,
    pb.DOMAIN_ORDER_SCORE,
    pb.DOMAIN_ORDER_SETTLE_TIME,
]


async def campaign_of_two_runs(writer: Writer, dice: random.Random) -> Made:
    """Names with gaps in every phase. Each phase has results of two runs, one of which is shown."""
    names = [f"{dice.choice(['a', 'b_c', 'b-c'])}{n}.{dice.choice(TLDS)}" for n in range(SIZE)]
    made = await writer.campaign(names)
    await writer.count_names(made, 100)
    await writer.order_names(made, block=64)
    for run in (1, 2):
        await writer.plan(made, SIZE, 40, run=run)
        for first in range(0, SIZE, 40):
            # Of the run that is shown, a chunk is open.
            if (run, first) != (2, 80):
                await writer.settle(made, first, dice.choices(VERDICTS, k=40), run=run)
    for run, shown in ((1, True), (2, False)):
        found = dice.sample(range(SIZE), 150)
        http = {n: dice.choice(HTTP_VERDICTS) for n in found}
        await writer.settle_http(made, http, run=run, shown=shown)
    for run in (1, 2):
        pages = {
            n: Analysis(
                dice.choice([0, 1, 299, 300, 301, 999, 1000, dice.randrange(1001)]),
                warnings=dice.choice([[], [], [1], [1, 3], [4]]),
                keywords={word: 1 for word in KEYWORDS if dice.random() < 0.2},
            )
            for n in dice.sample(range(SIZE), 130)
        }
        await writer.settle_analysis(made, pages, run=run)
        reasons = {n: dice.randint(1, 11) for n in dice.sample(range(SIZE), 140)}
        await writer.settle_leads(made, reasons, run=run, shown=run == 2)
    return made


ORACLE = """
SELECT d.position, d.name, r.verdict AS dns, h.verdict AS http, a.score, a.warnings, l.reason,
    ARRAY(SELECT keyword FROM keyword_hits k
        WHERE (k.campaign_no, k.run, k.position) = ($1, 2, d.position)) AS keywords
FROM domains d
LEFT JOIN dns_results r ON (r.campaign_no, r.run, r.position) = ($1, 2, d.position)
LEFT JOIN http_results h ON (h.campaign_no, h.run, h.position) = ($1, 1, d.position)
LEFT JOIN page_analyses a ON (a.campaign_no, a.run, a.position) = ($1, 2, d.position)
LEFT JOIN leads l ON (l.campaign_no, l.run, l.position) = ($1, 2, d.position)
WHERE d.campaign_no = $1 ORDER BY d.position"""


def matches(chosen: DomainFilter, row: Any) -> bool:
    """As the contract says it, field by field."""
    name, warnings = row["name"], row["warnings"]
    tests = {
        "dns_verdicts": row["dns"] in chosen.dns_verdicts,
        "dns_pending": row["dns"] is None,
        "http_verdicts": row["http"] in chosen.http_verdicts,
        "lead_statuses": LEAD_STATUS_OF.get(row["reason"]) in chosen.lead_statuses,
        "lead_reasons": row["reason"] in chosen.lead_reasons,
        "min_score": row["score"] is not None and row["score"] >= chosen.min_score * 1000 - 1e-6,
        "max_score": row["score"] is not None and row["score"] <= chosen.max_score * 1000 + 1e-6,
        "tlds": name.rpartition(".")[2] in chosen.tlds,
        "name_prefix": name.startswith(chosen.name_prefix),
        "name_contains": chosen.name_contains in name,
        "keywords": bool(set(row["keywords"]) & set(chosen.keywords)),
        "warnings": any((warnings or 0) >> (number - 1) & 1 for number in chosen.warnings),
        "has_warnings": warnings is not None and bool(warnings) == chosen.has_warnings,
    }
    return all(tests[field.name] for field, _ in chosen.ListFields())


def some(dice: random.Random, values: Sequence[Any]) -> list[Any]:
    return dice.sample(values, dice.randint(1, min(3, len(values))))


def any_filter(dice: random.Random) -> DomainFilter:
    """One to four fields; every value there is, some that there is not; nothing that is refused."""
    while check_filter(chosen := _any_filter(dice)):
        pass
    return chosen


def _any_filter(dice: random.Random) -> DomainFilter:
    scores = [0, 0.001, 0.3, 0.3004, 0.999, 1]
    names = {
        "tlds": lambda: some(dice, [*TLDS, "org", "om"]),
        "name_prefix": lambda: dice.choice(["a", "b_c", "b-", "a1", "_", "zz"]),
        "name_contains": lambda: dice.choice(["_c1", ".co", "5", "-", "..", "com"]),
    }
    every = {
        "dns_verdicts": lambda: some(dice, [1, 2, 6, 7, 9]),
        "http_verdicts": lambda: some(dice, [1, 4, 9, 2]),
        "lead_statuses": lambda: some(dice, [1, 2, 3, 4]),
        "lead_reasons": lambda: some(dice, list(range(1, 12))),
        "min_score": lambda: dice.choice(scores),
        "max_score": lambda: dice.choice(scores),
        **names,
        "keywords": lambda: some(dice, [*KEYWORDS, "none"]),
        "warnings": lambda: some(dice, [1, 2, 3, 4]),
        "has_warnings": lambda: dice.random() < 0.5,
    }
    if dice.random() < 0.1:
        chosen = {name: names[name]() for name in dice.sample(list(names), dice.randint(0, 2))}
        return DomainFilter(dns_pending=True, **chosen)
    fields = dice.sample(list(every), dice.choice([1, 1, 2, 2, 3, 4]))
    return DomainFilter(**{name: every[name]() for name in fields})


async def by_pages(query: Query, made: Made, chosen: DomainFilter, **order: Any) -> list[int]:
    """Positions on all pages; the total is that of the rows where it is said to be exact."""
    request = pb.ListDomainsRequest(campaign_id=str(made), filter=chosen, page_size=37, **order)
    found: list[int] = []
    exact = []
    while True:
        page = await query.stub.ListDomains(request)
        found += [domain.position for domain in page.domains]
        if not page.total_size_estimated:
            exact.append(page.total_size)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    if order.get("order", pb.DOMAIN_ORDER_POSITION) == pb.DOMAIN_ORDER_POSITION:
        assert set(exact) <= {len(found)}
    return found


async def by_stream(query: Query, made: Made, chosen: DomainFilter, size: int) -> list[int]:
    request = stream_pb2.StreamEnrichedRequest(
        campaign_ids=[str(made)],
        filter=chosen,
        read_mask={"paths": ["positions"]},
        batch_size=size,
    )
    return [n async for each in query.stub.StreamEnriched(request) for n in each.batch.positions]


async def by_session(query: Query, made: Made, chosen: DomainFilter) -> list[int]:
    request = read_session_pb2.CreateReadSessionRequest(
        campaign_id=str(made), filter=chosen, columns=["position"]
    )
    session = (await query.stub.CreateReadSession(request)).session
    schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema))
    found: list[int] = []
    for stream in session.streams:
        request = read_session_pb2.ReadRowsRequest(read_stream=stream.name)
        async for message in query.stub.ReadRows(request):
            batch = pa.ipc.read_record_batch(pa.py_buffer(message.arrow_record_batch), schema)
            found += batch.column("position").to_pylist()
    return found


async def test_a_filter_means_the_same_in_pages_streams_and_sessions(
    query: Query, writer: Writer
) -> None:
    dice = random.Random(20261122)
    made = await campaign_of_two_runs(writer, dice)
    rows = await writer.connection.fetch(ORACLE, made.no)
    sizes = set()
    for _ in range(150):
        chosen = any_filter(dice)
        wanted = [row for row in rows if matches(chosen, row)]
        expected = [row["position"] for row in wanted]
        sizes.add(len(expected))
        assert await by_pages(query, made, chosen) == expected, chosen
        assert await by_stream(query, made, chosen, dice.choice([3, 20, 0])) == expected, chosen
        assert await by_session(query, made, chosen) == expected, chosen
        order, descending = dice.choice(ORDERS), dice.random() < 0.5
        if order == pb.DOMAIN_ORDER_SCORE:
            wanted = [row for row in wanted if row["score"] is not None]
        if order == pb.DOMAIN_ORDER_SETTLE_TIME:
            wanted = [row for row in wanted if row["dns"] is not None]
        found = await by_pages(query, made, chosen, order=order, descending=descending)
        assert sorted(found) == [row["position"] for row in wanted], (chosen, order)
    # The filters tell apart: none, few, and many were found.
    assert 0 in sizes
    assert len(sizes) > 40


async def test_a_filter_that_cannot_be_is_refused_by_every_field(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(1)
    chosen = DomainFilter(dns_pending=True, keywords=["shop", "a\0b"], min_score=0)
    for call in (
        by_pages(query, made, chosen),
        by_stream(query, made, chosen, 0),
        by_session(query, made, chosen),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        refused = read(caught.value)
        assert refused.code == "INVALID_ARGUMENT"
        assert refused.fields == {"filter.dns_pending", "filter.keywords[1]"}
