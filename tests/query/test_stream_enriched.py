"""StreamEnriched: all that is known, in step with what SQL says, whatever is filtered."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from domainflow.query.v1 import stream_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.query.columns import COLUMNS
from tests.query.conftest import Analysis, Made, Query, Writer
from tests.refusals import read

RESOLVED, NXDOMAIN, TIMEOUT = 1, 2, 6
HTTP_OK, NOT_FOUND = 1, 9
QUALIFIED, LOW_SCORE, DNS_TIMEOUT = 1, 2, 8
SIZE = 400
TLDS = ("com", "net", "example")


async def campaign_with_everything(writer: Writer) -> Made:
    """Names with gaps in every phase: DNS settled but for a chunk, HTTP of what resolved, ..."""
    made = await writer.campaign([f"name-{n}.{TLDS[n % 3]}" for n in range(SIZE)])
    await writer.finish_generation(made)
    await writer.plan(made, SIZE, 50)
    for first in (0, 50, 150, 200, 250, 300, 350):
        verdicts = [
            RESOLVED if n % 2 == 0 else TIMEOUT if n % 25 == 1 else NXDOMAIN
            for n in range(first, first + 50)
        ]
        await writer.settle(made, first, verdicts)
    resolved = [n for n in range(SIZE) if n % 2 == 0 and not 100 <= n < 150]
    http = {n: HTTP_OK if n % 3 else NOT_FOUND for n in resolved if n < 320}
    await writer.settle_http(made, http)
    pages = [n for n, verdict in http.items() if verdict == HTTP_OK]
    await writer.settle_analysis(
        made,
        {
            n: Analysis(
                n * 7 % 1001,
                warnings=[1, 3] if n % 40 == 2 else [],
                keywords={"shop": 2, **({"rare": 1} if n % 50 == 4 else {})} if n % 4 == 0 else {},
            )
            for n in pages
        },
    )
    await writer.settle_leads(
        made,
        {n: QUALIFIED if n * 7 % 1001 > 500 else LOW_SCORE for n in pages}
        | dict.fromkeys(range(1, 100, 25), DNS_TIMEOUT),
    )
    return made


ORACLE = """
SELECT d.position AS positions, d.name AS names, coalesce(r.verdict, 0) AS dns_verdicts,
    coalesce(r.addresses, '') AS addresses, coalesce(r.check_time_us, 0) AS dns_check_times_us,
    coalesce(h.verdict, 0) AS http_verdicts, coalesce(h.status_code, 0) AS http_status_codes,
    coalesce(h.final_url, '') AS final_urls, coalesce(h.title, '') AS titles,
    coalesce(a.score, -1) AS scores_permille, coalesce(l.status, 0) AS lead_statuses,
    coalesce(l.reason, 0) AS lead_reasons, a.warnings,
    ARRAY(SELECT keyword FROM keyword_hits k
        WHERE (k.campaign_no, k.run, k.position) = ($1, 1, d.position)) AS keywords
FROM domains d
LEFT JOIN dns_results r ON (r.campaign_no, r.run, r.position) = ($1, 1, d.position)
LEFT JOIN http_results h ON (h.campaign_no, h.run, h.position) = ($1, 1, d.position)
LEFT JOIN page_analyses a ON (a.campaign_no, a.run, a.position) = ($1, 1, d.position)
LEFT JOIN leads l ON (l.campaign_no, l.run, l.position) = ($1, 1, d.position)
WHERE d.campaign_no = $1 ORDER BY d.position"""


async def rows_by_sql(writer: Writer, made: Made) -> list[dict[str, Any]]:
    return [dict(row) for row in await writer.connection.fetch(ORACLE, made.no)]


def rows(batches: Sequence[pb.EnrichedBatch], paths: Sequence[str] = ()) -> list[tuple[Any, ...]]:
    """Each batch transposed; its columns have to be of one length."""
    wanted = paths or list(COLUMNS)
    found = []
    for batch in batches:
        columns = [getattr(batch, path) for path in wanted]
        assert {len(column) for column in columns} == {batch.domain_count}
        found += list(zip(*columns, strict=True))
    return found


async def streamed(
    query: Query, request: pb.StreamEnrichedRequest
) -> tuple[list[pb.EnrichedBatch], pb.BulkSummary]:
    messages = [message async for message in query.stub.StreamEnriched(request)]
    kinds = [message.WhichOneof("kind") for message in messages]
    assert kinds == [*["batch"] * (len(messages) - 1), "summary"]
    return [message.batch for message in messages[:-1]], messages[-1].summary


def resumed(request: Any, cursor: str) -> Any:
    changed = type(request)()
    changed.CopyFrom(request)
    changed.cursor = cursor
    return changed


@pytest.mark.parametrize("size", [7, 50, 10_000])
async def test_every_column_equals_what_sql_says(query: Query, writer: Writer, size: int) -> None:
    made = await campaign_with_everything(writer)
    request = pb.StreamEnrichedRequest(campaign_ids=[str(made)], batch_size=size)
    batches, summary = await streamed(query, request)
    expected = await rows_by_sql(writer, made)
    assert rows(batches) == [tuple(row[path] for path in COLUMNS) for row in expected]
    assert {batch.campaign_id for batch in batches} == {str(made)}
    performance = summary.performance
    assert summary.row_count == performance.row_count == SIZE
    assert performance.rows_per_second > 0
    assert performance.database_duration.ToMicroseconds() > 0
    assert performance.sealed_row_count == 0
    assert summary.freshness.revision == await writer.connection.fetchval(
        "SELECT revision FROM campaigns WHERE no = $1", made.no
    )


@pytest.mark.parametrize(
    "paths",
    [[path] for path in COLUMNS] + [["names", "scores_permille"], ["titles", "lead_reasons"]],
    ids=lambda paths: "+".join(paths),
)
async def test_only_the_columns_asked_for_are_sent(
    query: Query, writer: Writer, paths: list[str]
) -> None:
    made = await campaign_with_everything(writer)
    request = pb.StreamEnrichedRequest(
        campaign_ids=[str(made)], read_mask=FieldMask(paths=paths), batch_size=60
    )
    batches, _ = await streamed(query, request)
    expected = await rows_by_sql(writer, made)
    assert rows(batches, paths) == [tuple(row[path] for path in paths) for row in expected]
    sent = {field.name for batch in batches for field, _ in batch.ListFields()}
    assert sent <= {"campaign_id", "domain_count", "cursor", *paths}


FILTERS: dict[str, tuple[DomainFilter, Any]] = {
    "verdict": (DomainFilter(dns_verdicts=[RESOLVED]), lambda r: r["dns_verdicts"] == RESOLVED),
    "rare verdict": (DomainFilter(dns_verdicts=[TIMEOUT]), lambda r: r["dns_verdicts"] == TIMEOUT),
    "verdicts": (
        DomainFilter(dns_verdicts=[TIMEOUT, NXDOMAIN]),
        lambda r: r["dns_verdicts"] in (TIMEOUT, NXDOMAIN),
    ),
    "no name has it": (DomainFilter(dns_verdicts=[9]), lambda r: False),
    "pending": (DomainFilter(dns_pending=True), lambda r: r["dns_verdicts"] == 0),
    "pending below a TLD": (
        DomainFilter(dns_pending=True, tlds=["net"], name_contains="2"),
        lambda r: r["dns_verdicts"] == 0 and r["names"].endswith(".net") and "2" in r["names"],
    ),
    "http": (DomainFilter(http_verdicts=[NOT_FOUND]), lambda r: r["http_verdicts"] == NOT_FOUND),
    "leads": (DomainFilter(lead_statuses=[1]), lambda r: r["lead_statuses"] == 1),
    "timeouts": (DomainFilter(lead_statuses=[4]), lambda r: r["lead_statuses"] == 4),
    "reason": (
        DomainFilter(lead_reasons=[LOW_SCORE, DNS_TIMEOUT]),
        lambda r: r["lead_reasons"] in (LOW_SCORE, DNS_TIMEOUT),
    ),
    "scores": (
        DomainFilter(min_score=0.3, max_score=0.6),
        lambda r: 300 <= r["scores_permille"] <= 600,
    ),
    "lowest score": (DomainFilter(min_score=0), lambda r: r["scores_permille"] >= 0),
    "TLDs": (
        DomainFilter(tlds=["net", "com"]),
        lambda r: r["names"].rpartition(".")[2] in ("net", "com"),
    ),
    "prefix": (DomainFilter(name_prefix="name-1"), lambda r: r["names"].startswith("name-1")),
    "text": (DomainFilter(name_contains="-_"), lambda r: False),
    "keyword": (DomainFilter(keywords=["rare"]), lambda r: "rare" in r["keywords"]),
    "keywords": (
        DomainFilter(keywords=["rare", "shop"]),
        lambda r: {"rare", "shop"} & set(r["keywords"]),
    ),
    "warning": (DomainFilter(warnings=[2, 3]), lambda r: (r["warnings"] or 0) & 0b110),
    "warnings": (DomainFilter(has_warnings=True), lambda r: r["warnings"]),
    "no warnings": (DomainFilter(has_warnings=False), lambda r: r["warnings"] == 0),
    "many": (
        DomainFilter(
            dns_verdicts=[RESOLVED],
            http_verdicts=[HTTP_OK],
            lead_statuses=[1, 2],
            min_score=0.1,
            tlds=["com", "example"],
            keywords=["shop"],
        ),
        lambda r: (
            r["http_verdicts"] == HTTP_OK
            and r["scores_permille"] >= 100
            and not r["names"].endswith(".net")
            and "shop" in r["keywords"]
        ),
    ),
    "contradiction": (
        DomainFilter(dns_verdicts=[NXDOMAIN], http_verdicts=[HTTP_OK]),
        lambda r: False,
    ),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_filters_leave_what_sql_leaves_and_resume_anywhere(
    query: Query, writer: Writer, name: str
) -> None:
    made = await campaign_with_everything(writer)
    chosen, matches = FILTERS[name]
    expected = [row["names"] for row in await rows_by_sql(writer, made) if matches(row)]
    for size in (3, 64, 1000):
        request = pb.StreamEnrichedRequest(campaign_ids=[str(made)], filter=chosen, batch_size=size)
        batches, summary = await streamed(query, request)
        assert [name for batch in batches for name in batch.names] == expected
        assert summary.row_count == len(expected)
        if batches:
            middle = len(batches) // 2
            rest, _ = await streamed(query, resumed(request, batches[middle].cursor))
            left = [name for batch in batches[middle + 1 :] for name in batch.names]
            assert [name for batch in rest for name in batch.names] == left
    limited = pb.StreamEnrichedRequest(
        campaign_ids=[str(made)], filter=chosen, batch_size=4, campaign_limit=6
    )
    batches, _ = await streamed(query, limited)
    assert [name for batch in batches for name in batch.names] == expected[:6]
    if batches:
        rest, _ = await streamed(query, resumed(limited, batches[0].cursor))
        count = batches[0].domain_count
        assert [name for batch in rest for name in batch.names] == expected[count:6]


@pytest.mark.parametrize("column", ["title", "final_url"])
async def test_no_text_with_a_line_end_gets_into_the_tables(writer: Writer, column: str) -> None:
    """Streams join texts with them: one would put every later text beside the wrong name."""
    made = await campaign_with_everything(writer)
    with pytest.raises(asyncpg.CheckViolationError):
        await writer.connection.execute(
            f"UPDATE http_results SET {column} = E'one\\ntwo' WHERE campaign_no = $1", made.no
        )


async def test_a_limit_counts_for_every_campaign(query: Query, writer: Writer) -> None:
    made = [await writer.campaign(size) for size in (12, 3, 20)]
    request = pb.StreamEnrichedRequest(
        campaign_ids=[str(made[0]), str(uuid4()), str(made[1]), str(made[2])],
        read_mask=FieldMask(paths=["positions"]),
        campaign_limit=10,
        batch_size=4,
    )
    batches, summary = await streamed(query, request)
    assert [list(batch.positions) for batch in batches] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9],
        [0, 1, 2],
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9],
    ]  # fmt: skip
    assert list(summary.unreachable) == [request.campaign_ids[1]]
    assert summary.freshness.revision == 0
    rest, _ = await streamed(query, resumed(request, batches[1].cursor))
    assert [list(batch.positions) for batch in rest] == [
        list(batch.positions) for batch in batches[2:]
    ]


async def test_hundreds_of_campaigns_come_in_order(query: Query, writer: Writer) -> None:
    """More than are looked up at once."""
    await writer.connection.execute(
        """WITH made AS (
            INSERT INTO campaigns
                (id, name, mode, initial_phase, final_phase, configuration, name_count)
            SELECT gen_random_uuid(), 'one of many', 'STEP_BY_STEP', 1, 2, '', 3
            FROM generate_series(1, 600) RETURNING no
        )
        INSERT INTO domains
        SELECT no, n, 'name-' || no || '-' || n FROM made, generate_series(0, 2) n"""
    )
    campaigns = await writer.connection.fetch(
        "SELECT id::text, no FROM campaigns ORDER BY random()"
    )
    ids = [row["id"] for row in campaigns]
    unknown = str(uuid4())
    ids.insert(550, unknown)
    request = pb.StreamEnrichedRequest(campaign_ids=ids, read_mask=FieldMask(paths=["names"]))
    batches, summary = await streamed(query, request)
    assert [(batch.campaign_id, list(batch.names)) for batch in batches] == [
        (row["id"], [f"name-{row['no']}-{n}" for n in range(3)]) for row in campaigns
    ]
    assert list(summary.unreachable) == [unknown]
    rest, summary = await streamed(query, resumed(request, batches[580].cursor))
    assert [batch.campaign_id for batch in rest] == [batch.campaign_id for batch in batches[581:]]
    assert list(summary.unreachable) == [unknown]


async def test_campaigns_read_together_say_what_each_says_alone(
    query: Query, writer: Writer
) -> None:
    """Of different runs, with gaps in every phase, without names, without results, deleted."""
    made = [
        await campaign_with_everything(writer),
        await writer.campaign(30),
        await writer.campaign(0),
        await campaign_with_everything(writer),
        await writer.campaign(90),
    ]
    await writer.plan(made[4], 90, 90, run=7)
    await writer.settle(made[4], 0, [RESOLVED, NXDOMAIN] * 45, run=7)
    await writer.connection.execute(
        "DELETE FROM domains WHERE campaign_no = $1 AND position IN (0, 7)", made[1].no
    )
    alone = []
    for each in made:
        request = pb.StreamEnrichedRequest(campaign_ids=[str(each)])
        alone += [
            (b.campaign_id, row) for b in (await streamed(query, request))[0] for row in rows([b])
        ]
    assert len(alone) == 2 * SIZE + 28 + 90
    ids = list(map(str, made))
    for size in (10_000, 70):
        request = pb.StreamEnrichedRequest(campaign_ids=ids, batch_size=size)
        batches, _ = await streamed(query, request)
        assert [(b.campaign_id, row) for b in batches for row in rows([b])] == alone
        for count, batch in enumerate(batches, start=1):
            rest, _ = await streamed(query, resumed(request, batch.cursor))
            assert [list(b.names) for b in rest] == [list(b.names) for b in batches[count:]]
    await writer.connection.execute(
        "UPDATE campaigns SET delete_time = now() WHERE no = $1", made[3].no
    )
    batches, summary = await streamed(query, resumed(request, ""))
    assert {batch.campaign_id for batch in batches} == {ids[0], ids[1], ids[4]}
    assert list(summary.unreachable) == [ids[3]]


async def test_the_next_campaign_is_searched_before_the_first_one_is_sent(
    query: Query, writer: Writer
) -> None:
    ids = [str(await campaign_with_everything(writer)) for _ in range(2)]
    waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    calls = [
        lambda: query.stub.StreamEnriched(
            pb.StreamEnrichedRequest(campaign_ids=ids, filter=DomainFilter(lead_statuses=[1]))
        ),
        lambda: query.stub.StreamLeads(pb.StreamLeadsRequest(campaign_ids=ids)),
    ]
    for call in calls:
        async with writer.connection.transaction():
            await writer.connection.execute("LOCK TABLE leads IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.create_task(all_of(call()))
            while await writer.connection.fetchval(waiting) < 2:
                pass
        found = [message.batch.campaign_id for message in (await reading)[:-1]]
        assert found == ids


async def test_of_campaigns_read_together_only_the_deleted_one_is_not_reached(
    query: Query, writer: Writer
) -> None:
    """The deletion begins when all of them are looked up, and none is read."""
    ids = [str(await campaign_with_everything(writer)) for _ in range(3)]
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with writer.connection.transaction():
        await writer.connection.execute("LOCK TABLE domains IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(streamed(query, pb.StreamEnrichedRequest(campaign_ids=ids)))
        while not await writer.connection.fetchval(waiting):
            pass
        await writer.connection.execute(
            "UPDATE campaigns SET delete_time = now() WHERE id = $1::uuid", ids[1]
        )
    batches, summary = await reading
    assert [batch.campaign_id for batch in batches] == [ids[0], ids[2]]
    assert [batch.domain_count for batch in batches] == [SIZE, SIZE]
    assert list(summary.unreachable) == [ids[1]]


async def all_of(call: Any) -> list[Any]:
    return [message async for message in call]


async def test_a_rerun_that_completes_meanwhile_mixes_nothing(query: Query, writer: Writer) -> None:
    made = await writer.campaign(2000)
    await writer.plan(made, 2000, 2000)
    await writer.settle(made, 0, [RESOLVED] * 2000)
    request = pb.StreamEnrichedRequest(
        campaign_ids=[str(made)],
        read_mask=FieldMask(paths=["names", "dns_verdicts"]),
        batch_size=100,
    )
    filtered = pb.StreamEnrichedRequest(
        campaign_ids=[str(made)], filter=DomainFilter(dns_verdicts=[RESOLVED]), batch_size=100
    )
    calls = [query.stub.StreamEnriched(each) for each in (request, filtered)]
    firsts = [(await call.read()).batch for call in calls]
    await writer.plan(made, 2000, 2000, run=2)
    await writer.settle(made, 0, [NXDOMAIN] * 2000, run=2)
    for call in calls:
        found = []
        while (message := await call.read()).HasField("batch"):
            found.append(message.batch)
        assert {v for batch in found for v in batch.dns_verdicts} == {RESOLVED}
        assert sum(batch.domain_count for batch in found) == 1900
    # Nor does a stream that is taken up again afterwards.
    for again, first in zip((request, filtered), firsts, strict=True):
        rest, _ = await streamed(query, resumed(again, first.cursor))
        assert {v for batch in rest for v in batch.dns_verdicts} == {RESOLVED}
        assert sum(batch.domain_count for batch in rest) == 1900
    # A new one shows the new run.
    batches, _ = await streamed(query, request)
    assert {v for batch in batches for v in batch.dns_verdicts} == {NXDOMAIN}
    assert (await streamed(query, filtered))[0] == []


async def test_what_cannot_be_is_refused_by_name(query: Query, writer: Writer) -> None:
    made = str(await writer.campaign(1))
    for request, field in (
        (
            pb.StreamEnrichedRequest(
                campaign_ids=[made], read_mask=FieldMask(paths=["names", "naems", "cursor"])
            ),
            "read_mask",
        ),
        (
            pb.StreamEnrichedRequest(
                campaign_ids=[made], filter=DomainFilter(dns_pending=True, http_verdicts=[1])
            ),
            "filter.dns_pending",
        ),
        (
            pb.StreamEnrichedRequest(
                campaign_ids=[made, str(uuid4())], consistency={"at_least_as_fresh": 1}
            ),
            "consistency.at_least_as_fresh",
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await streamed(query, request)
        assert read(caught.value).fields == {field}
    with pytest.raises(grpc.aio.AioRpcError, match="'naems', 'cursor'"):
        await streamed(
            query,
            pb.StreamEnrichedRequest(
                campaign_ids=[made], read_mask=FieldMask(paths=["names", "naems", "cursor"])
            ),
        )
