"""Read sessions: every row in exactly one stream, exact after every message, typed."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import grpc
import pyarrow as pa
import pytest

from domainflow.query.v1 import read_session_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from domainflow.validation.v1.dns_pb2 import DnsVerdict
from domainflow.validation.v1.http_pb2 import HttpVerdict
from domainflow.validation.v1.lead_pb2 import LeadReason, LeadStatus
from services.chassis.seal import Seal
from services.query.read_sessions import COLUMNS, ReadStream
from tests.query.conftest import KEY, Analysis, Made, Query, Writer
from tests.query.test_list_domains import VERDICTS, settled_campaign
from tests.query.test_stream_domains import nobody_is_connected_for_work
from tests.refusals import Refusal, read, refused

Row = dict[str, Any]
SEAL = Seal([KEY])


async def session_of(query: Query, campaign: object, **asked: Any) -> pb.ReadSession:
    request = pb.CreateReadSessionRequest(campaign_id=str(campaign), **asked)
    return (await query.stub.CreateReadSession(request)).session


async def messages_of(query: Query, name: str, offset: int = 0) -> list[pb.ReadRowsResponse]:
    request = pb.ReadRowsRequest(read_stream=name, offset=offset)
    return [message async for message in query.stub.ReadRows(request)]


def batches_of(session: pb.ReadSession, messages: Sequence[pb.ReadRowsResponse]) -> list[Any]:
    schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema))
    batches = []
    for number, message in enumerate(messages):
        batch = pa.ipc.read_record_batch(pa.py_buffer(message.arrow_record_batch), schema)
        batch.validate(full=True)
        assert batch.num_rows == message.row_count
        assert message.arrow_schema == (b"" if number else session.arrow_schema)
        assert message.ByteSize() < 2**20
        batches.append(batch)
    return batches


def rows_of(session: pb.ReadSession, messages: Sequence[pb.ReadRowsResponse]) -> list[Row]:
    return [row for batch in batches_of(session, messages) for row in batch.to_pylist()]


async def whole(query: Query, session: pb.ReadSession) -> list[Row]:
    rows: list[Row] = []
    for stream in session.streams:
        rows += rows_of(session, await messages_of(query, stream.name))
    return rows


async def refused_rows(query: Query, name: str, offset: int = 0) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await messages_of(query, name, offset)
    return read(caught.value)


async def expected(writer: Writer, made: Made) -> list[Row]:
    """Every row, as SQL says."""
    rows = await writer.connection.fetch(
        """SELECT d.position, name, r.verdict AS dns, rcode, addresses, resolver,
            r.check_time_us, h.verdict AS http, status_code, final_url, title, score::int,
            l.status, l.reason
        FROM domains d
        LEFT JOIN dns_results r ON (r.campaign_no, r.position, r.run) = ($1, d.position, $2)
        LEFT JOIN http_results h ON (h.campaign_no, h.position, h.run) = ($1, d.position, 1)
        LEFT JOIN page_analyses a ON (a.campaign_no, a.position, a.run) = ($1, d.position, 1)
        LEFT JOIN leads l ON (l.campaign_no, l.position, l.run) = ($1, d.position, 1)
        WHERE d.campaign_no = $1 ORDER BY d.position""",
        made.no,
        await writer.connection.fetchval(
            "SELECT result_run FROM phases WHERE phase = 2 AND campaign_no = $1", made.no
        ),
    )
    return [
        {
            "position": row["position"],
            "name": row["name"],
            "dns_verdict": label(DnsVerdict, row["dns"]),
            "dns_rcode": row["rcode"],
            "addresses": None
            if row["dns"] is None
            else (row["addresses"].split(",") if row["addresses"] else []),
            "dns_resolver": row["resolver"],
            "dns_check_time": None
            if row["check_time_us"] is None
            else pa.scalar(row["check_time_us"], pa.timestamp("us", tz="UTC")).as_py(),
            "http_verdict": label(HttpVerdict, row["http"]),
            "http_status_code": row["status_code"],
            "final_url": row["final_url"],
            "title": row["title"],
            "score": None if row["score"] is None else row["score"] / 1000,
            "lead_status": label(LeadStatus, row["status"]),
            "lead_reason": label(LeadReason, row["reason"]),
        }
        for row in rows
    ]


_PREFIXES = {
    DnsVerdict: "DNS_VERDICT_",
    HttpVerdict: "HTTP_VERDICT_",
    LeadStatus: "LEAD_STATUS_",
    LeadReason: "LEAD_REASON_",
}


def label(enum: Any, number: int | None) -> str | None:
    return None if number is None else enum.Name(number).removeprefix(_PREFIXES[enum])


async def rich_campaign(writer: Writer) -> Made:
    """250 names, some chunks open; every third is below another top-level domain."""
    made = await settled_campaign(writer, open_chunks=(2, 9))
    await writer.connection.execute(
        """UPDATE domains SET name = 'other-' || position || '.test'
        WHERE campaign_no = $1 AND position % 3 = 0""",
        made.no,
    )
    await writer.settle_http(made, {n: 1 if n % 3 else 9 + n % 2 for n in range(0, 250, 2)})
    await writer.settle_analysis(
        made,
        {
            n: Analysis(
                score=n * 4,
                warnings=[1, 3] if n % 14 == 0 else [],
                keywords={"shop": 2, "cart": 1} if n % 4 == 0 else {},
            )
            for n in range(0, 250, 2)
        },
    )
    await writer.settle_leads(made, {n: 1 + n % 11 for n in range(0, 250, 5)})
    return made


async def large_campaign(writer: Writer, names: int = 30_000) -> Made:
    """Of every hundred names 45 resolved, 52 do not exist; the first ten have pages and scores, one
    in 2,000 a keyword."""
    made = await writer.campaign(names)
    await writer.plan(made, names, names)
    for statement in (
        """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count, tcp,
            duration_us, check_time_us, addresses)
        SELECT $1, 1, g, CASE WHEN g % 100 < 45 THEN 1 WHEN g % 100 < 97 THEN 2 ELSE 6 END, 0, 1,
            false, 1, g, CASE WHEN g % 100 < 45 THEN '192.0.2.1,2001:db8::' || g % 1000 END
        FROM generate_series(0, $2 - 1) g""",
        """INSERT INTO http_results (campaign_no, run, position, verdict, status_code,
            attempt_count, duration_us, check_time_us, final_url, title)
        SELECT $1, 1, g, 1, 200, 1, 1, g, 'https://name-' || g || '.example/', 'Page ' || g
        FROM generate_series(0, $2 - 1) g WHERE g % 100 < 10""",
        """INSERT INTO page_analyses (campaign_no, run, position, score, check_time_us)
        SELECT $1, 1, g, g % 1001, g FROM generate_series(0, $2 - 1) g WHERE g % 100 < 10""",
        """INSERT INTO keyword_hits (campaign_no, run, keyword, position, hit_count)
        SELECT $1, 1, 'rare', g, 1 FROM generate_series(0, $2 - 1) g WHERE g % 2000 = 3""",
    ):
        await writer.connection.execute(statement, made.no, names)
    for phase in (3, 4):
        await writer.show(made, phase, 1)
    return made


async def test_every_row_is_in_exactly_one_stream(query: Query, writer: Writer) -> None:
    made = await large_campaign(writer, 101_000)
    tables = []
    for most in (0, 2, 3, 64):
        session = await session_of(query, made, max_streams=most)
        read_side_by_side = await asyncio.gather(
            *(messages_of(query, stream.name) for stream in session.streams)
        )
        assert len(session.streams) == min(most or 1, 3)
        assert session.estimated_row_count == 101_000
        assert not session.row_count_estimated
        assert sum(stream.estimated_row_count for stream in session.streams) == 101_000
        for messages in read_side_by_side:
            assert len(messages) > 3
            assert [m.progress for m in messages] == sorted({m.progress for m in messages})
            assert messages[-1].progress == 1
        batches = [b for messages in read_side_by_side for b in batches_of(session, messages)]
        tables.append(pa.Table.from_batches(batches))
    assert tables[0]["position"].to_pylist() == list(range(101_000))
    assert all(table.equals(tables[0]) for table in tables)
    names = await writer.connection.fetch(
        "SELECT name FROM domains WHERE campaign_no = $1 ORDER BY position", made.no
    )
    assert tables[0]["name"].to_pylist() == [row["name"] for row in names]


async def test_a_schema_says_the_types_and_the_session_its_end(
    query: Query, writer: Writer
) -> None:
    made = await rich_campaign(writer)
    session = await session_of(query, made)
    schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema))
    assert {field.name: str(field.type) for field in schema} == {
        "position": "int64",
        "name": "string",
        "dns_verdict": "string",
        "dns_rcode": "int16",
        "addresses": "list<item: string>",
        "dns_resolver": "string",
        "dns_check_time": "timestamp[us, tz=UTC]",
        "http_verdict": "string",
        "http_status_code": "int16",
        "final_url": "string",
        "title": "string",
        "score": "double",
        "lead_status": "string",
        "lead_reason": "string",
    }
    assert [field.name for field in schema if not field.nullable] == ["position", "name"]
    left = session.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert 5 * 3600 < left.total_seconds() <= 6 * 3600
    assert await whole(query, session) == await expected(writer, made)


async def test_each_column_can_be_had_alone(query: Query, writer: Writer) -> None:
    made = await rich_campaign(writer)
    rows = await expected(writer, made)
    for column in COLUMNS:
        wanted = [{column: row[column]} for row in rows]
        assert await whole(query, await session_of(query, made, columns=[column])) == wanted
        some = await session_of(query, made, columns=[column], filter=DomainFilter(tlds=["test"]))
        assert await whole(query, some) == wanted[::3]


async def test_columns_come_in_the_order_asked_for(query: Query, writer: Writer) -> None:
    made = await rich_campaign(writer)
    asked = ["score", "name", "dns_verdict", "position"]
    [first, *_] = await whole(query, await session_of(query, made, columns=asked))
    assert list(first) == asked


def has(**wanted: Any) -> Callable[[Row], bool]:
    return lambda row: all(row[column] in values for column, values in wanted.items())


FILTERS: dict[str, tuple[DomainFilter, Callable[[Row], bool]]] = {
    "verdicts": (
        DomainFilter(dns_verdicts=[1, 6]),
        has(dns_verdict=["RESOLVED", "TIMEOUT"]),
    ),
    "pending": (DomainFilter(dns_pending=True), has(dns_verdict=[None])),
    "pending below a domain": (
        DomainFilter(dns_pending=True, tlds=["test"], name_contains="2"),
        lambda row: (
            row["dns_verdict"] is None and row["name"].endswith(".test") and "2" in row["name"]
        ),
    ),
    "http": (DomainFilter(http_verdicts=[1]), has(http_verdict=["OK"])),
    "status": (DomainFilter(lead_statuses=[2, 4]), has(lead_status=["REJECTED", "TIMEOUT"])),
    "reason": (DomainFilter(lead_reasons=[3]), has(lead_reason=["NO_KEYWORDS"])),
    "score": (
        DomainFilter(min_score=0.282, max_score=0.568),
        lambda row: row["score"] is not None and 0.282 <= row["score"] <= 0.568,
    ),
    "score from nought": (DomainFilter(min_score=0), lambda row: row["score"] is not None),
    "domain": (DomainFilter(tlds=["test", "org"]), lambda row: row["name"].endswith(".test")),
    "prefix": (DomainFilter(name_prefix="other-1"), lambda row: row["name"].startswith("other-1")),
    "text": (DomainFilter(name_contains="-19"), lambda row: "-19" in row["name"]),
    "keywords": (
        DomainFilter(keywords=["shop", "cart", "none"]),
        lambda row: row["score"] is not None and row["position"] % 4 == 0,
    ),
    "warning": (
        DomainFilter(warnings=[3, 4]),
        lambda row: row["score"] is not None and row["position"] % 14 == 0,
    ),
    "any warning": (
        DomainFilter(has_warnings=True),
        lambda row: row["score"] is not None and row["position"] % 14 == 0,
    ),
    "no warning": (
        DomainFilter(has_warnings=False),
        lambda row: row["score"] is not None and row["position"] % 14 != 0,
    ),
    "everything": (
        DomainFilter(
            dns_verdicts=[1, 2, 3, 4, 5, 6, 7, 8, 9],
            http_verdicts=[1, 9],
            lead_statuses=[1, 2, 3, 4],
            min_score=0.1,
            tlds=["example"],
            name_prefix="name-",
            name_contains="2",
            keywords=["cart"],
            has_warnings=False,
        ),
        lambda row: (
            row["dns_verdict"] is not None
            and row["http_verdict"] in ("OK", "NOT_FOUND")
            and row["lead_status"] is not None
            and row["score"] >= 0.1
            and row["name"].startswith("name-")
            and "2" in row["name"]
            and row["position"] % 4 == 0
            and row["position"] % 14 != 0
        ),
    ),
    "nothing": (DomainFilter(name_prefix="zzz"), lambda row: False),
}


async def test_filters_show_what_they_say(query: Query, writer: Writer) -> None:
    made = await rich_campaign(writer)
    rows = await expected(writer, made)
    for case, (chosen, matches) in FILTERS.items():
        wanted = [row for row in rows if matches(row)]
        assert bool(wanted) == (case != "nothing"), case

        session = await session_of(query, made, filter=chosen)

        assert await whole(query, session) == wanted, case
        assert session.row_count_estimated
        assert session.estimated_row_count >= len(wanted), case
        name = session.streams[0].name
        for offset in {min(offset, len(wanted)) for offset in (1, len(wanted) // 2, len(wanted))}:
            found = rows_of(session, await messages_of(query, name, offset))
            assert found == wanted[offset:], case
        beyond = await refused_rows(query, name, len(wanted) + 1)
        assert (beyond.code, beyond.reason) == ("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE"), case
        assert beyond.metadata == {"offset": str(len(wanted) + 1), "row_count": str(len(wanted))}


DENSE = DomainFilter(dns_verdicts=[2])
SPARSE = DomainFilter(keywords=["rare"], min_score=0.0)


async def test_a_stream_goes_on_exactly_after_every_message(query: Query, writer: Writer) -> None:
    made = await large_campaign(writer)
    for chosen, count in ((DomainFilter(), 30_000), (DENSE, 15_600), (SPARSE, 15)):
        session = await session_of(query, made, filter=chosen, columns=["position", "title"])
        [name] = [stream.name for stream in session.streams]
        messages = await messages_of(query, name)
        rows = rows_of(session, messages)
        assert len(rows) == count
        for message in messages:
            rest = rows_of(session, await messages_of(query, message.rest_stream))
            assert rest == rows[message.next_offset :]
            again = rows_of(session, await messages_of(query, name, message.next_offset))
            assert again == rest
        assert await messages_of(query, messages[-1].rest_stream) == []
        assert await messages_of(query, name, len(rows)) == []
        beyond = await refused_rows(query, name, len(rows) + 1)
        assert beyond.metadata == {"offset": str(len(rows) + 1), "row_count": str(len(rows))}


@pytest.mark.parametrize("chosen", [DomainFilter(), DomainFilter(dns_verdicts=[1])])
async def test_split_streams_are_the_whole_and_offsets_keep_their_meaning(
    query: Query, writer: Writer, chosen: DomainFilter
) -> None:
    made = await rich_campaign(writer)
    session = await session_of(query, made, filter=chosen)
    rows = await whole(query, session)
    for fraction in (0.0, 0.1, 0.5, 0.937):

        async def split(name: str, fraction: float = fraction) -> pb.SplitReadStreamResponse:
            request = pb.SplitReadStreamRequest(read_stream=name, fraction=fraction)
            return await query.stub.SplitReadStream(request)

        halves = await split(session.streams[0].name)
        primary = rows_of(session, await messages_of(query, halves.primary_stream.name))
        remainder = rows_of(session, await messages_of(query, halves.remainder_stream.name))
        assert primary + remainder == rows
        if not chosen.ByteSize():
            assert len(primary) == int(250 * (fraction or 0.5))
            assert halves.primary_stream.estimated_row_count == len(primary)
        offset = len(primary) // 2
        again = rows_of(session, await messages_of(query, halves.primary_stream.name, offset))
        assert again == primary[offset:]
        # On and on, until nothing can be divided any more.
        while halves.HasField("primary_stream"):
            before = halves.primary_stream.name
            halves = await split(before)
        assert not halves.HasField("remainder_stream")


async def test_an_empty_campaign_has_no_streams(query: Query, writer: Writer) -> None:
    session = await session_of(query, await writer.campaign(0), max_streams=8)
    assert (len(session.streams), session.estimated_row_count) == (0, 0)
    assert session.arrow_schema


async def test_rows_are_those_of_the_runs_that_the_session_began_with(
    query: Query, writer: Writer
) -> None:
    made = await settled_campaign(writer)
    session = await session_of(query, made, columns=["name", "dns_verdict"])
    before = await whole(query, session)
    chosen = await session_of(query, made, filter=DomainFilter(dns_verdicts=[1]))
    matching = await whole(query, chosen)

    await writer.plan(made, 250, 250, run=2)
    await writer.settle(made, 0, [2] * 250, run=2)
    await writer.add_names(made, ["late.example"])

    assert await whole(query, session) == before
    assert await whole(query, chosen) == matching
    assert {row["dns_verdict"] for row in before} > {"RESOLVED"}
    now = await whole(query, await session_of(query, made, columns=["dns_verdict"]))
    assert now == [{"dns_verdict": "NXDOMAIN"}] * 250 + [{"dns_verdict": None}]


async def test_a_filter_that_looks_at_moving_results_repeats_no_row(
    query: Query, writer: Writer
) -> None:
    """What is settled meanwhile behind the reader stays out, before him it is in, nothing twice."""
    made = await writer.campaign(60_000)
    await writer.plan(made, 60_000, 10_000)
    await writer.settle(made, 20_000, [1] * 10_000)
    session = await session_of(
        query, made, filter=DomainFilter(dns_verdicts=[1]), columns=["position"]
    )
    [message] = await messages_of(query, session.streams[0].name)
    assert message.row_count == 10_000
    await writer.settle(made, 0, [1] * 10_000)
    await writer.settle(made, 50_000, [1] * 10_000)

    fresh = await whole(query, session)
    rest = rows_of(session, await messages_of(query, message.rest_stream))

    assert len({row["position"] for row in fresh}) == len(fresh) == 30_000
    # The message said how far it had looked.
    assert rest == []
    assert message.progress == 1


async def test_messages_of_long_rows_are_below_one_mebibyte(query: Query, writer: Writer) -> None:
    made = await writer.campaign([f"{n:05}{'x' * 240}.example" for n in range(12_000)])
    session = await session_of(query, made)
    messages = await messages_of(query, session.streams[0].name)
    rows = rows_of(session, messages)
    assert [row["position"] for row in rows] == list(range(12_000))
    for message in messages:
        rest = rows_of(session, await messages_of(query, message.rest_stream))
        assert [row["position"] for row in rest] == list(range(message.next_offset, 12_000))


async def test_positions_stay_right_when_names_are_missing(query: Query, writer: Writer) -> None:
    made = await settled_campaign(writer)
    await writer.connection.execute("DELETE FROM domains WHERE position IN (0, 4, 249)")
    session = await session_of(query, made, columns=["name", "position", "dns_verdict"])
    rows = await whole(query, session)
    assert [row["position"] for row in rows] == [n for n in range(250) if n not in (0, 4, 249)]
    for row in rows:
        assert row["name"] == f"name-{row['position']}.example"
        assert row["dns_verdict"] == label(DnsVerdict, VERDICTS[row["position"]])


async def test_positions_stay_right_when_some_names_have_no_results(
    query: Query, writer: Writer
) -> None:
    made = await settled_campaign(writer)
    await writer.connection.execute("DELETE FROM dns_results WHERE position IN (0, 4, 249)")
    session = await session_of(query, made, columns=["name", "position", "dns_verdict"])
    rows = await whole(query, session)
    assert [row["position"] for row in rows] == list(range(250))
    for n, row in enumerate(rows):
        settled = n not in (0, 4, 249)
        assert row["dns_verdict"] == (label(DnsVerdict, VERDICTS[n]) if settled else None)


async def test_a_deleted_campaign_ends_its_sessions(query: Query, writer: Writer) -> None:
    made = await settled_campaign(writer)
    all_of_it = await session_of(query, made)
    some = await session_of(query, made, filter=DomainFilter(dns_verdicts=[1]))
    rows = await whole(query, some)
    async with writer.connection.transaction():
        # The streams have found the campaign when they wait for its results.
        await writer.connection.execute("LOCK TABLE dns_results IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(refused_rows(query, all_of_it.streams[0].name))
        reading_some = asyncio.create_task(messages_of(query, some.streams[0].name))
        waits = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
        while await writer.connection.fetchval(waits) < 2:
            pass
        await writer.connection.execute(
            "UPDATE campaigns SET delete_time = now() WHERE no = $1", made.no
        )
        await writer.connection.execute("DELETE FROM dns_results WHERE campaign_no = $1", made.no)

    # A transaction that began before the deletion still sees all of it.
    assert rows_of(some, await reading_some) == rows
    refusals = [await reading]
    for session in (all_of_it, some):
        refusals.append(await refused_rows(query, session.streams[0].name))
        split = pb.SplitReadStreamRequest(read_stream=session.streams[0].name)
        refusals.append(await refused(query.stub.SplitReadStream(split)))
    for refusal in refusals:
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "READ_SESSION_EXPIRED")
        assert refusal.metadata == {"campaign_id": str(made)}
    assert (await refused(session_of(query, made))).reason == "CAMPAIGN_NOT_FOUND"


async def test_streams_are_refused_when_their_time_is_over(query: Query, writer: Writer) -> None:
    made = await settled_campaign(writer)
    stream = ReadStream.open(SEAL, (await session_of(query, made)).streams[0].name)
    over = replace(stream, expire_time=int(time.time())).seal(SEAL)
    assert (await refused_rows(query, over)).reason == "READ_SESSION_EXPIRED"
    split = await refused(query.stub.SplitReadStream(pb.SplitReadStreamRequest(read_stream=over)))
    assert split.reason == "READ_SESSION_EXPIRED"


async def test_bad_requests_name_every_bad_field(query: Query, writer: Writer) -> None:
    made = await writer.campaign(3)
    refusal = await refused(
        session_of(
            query,
            made,
            columns=["colour", "name", "size"],
            max_streams=65,
            filter=DomainFilter(keywords=[f"{n}{'x' * 190}" for n in range(40)]),
        )
    )
    assert refusal.fields == {"columns[0]", "columns[2]", "max_streams", "filter"}
    assert (await refused(session_of(query, "nobody"))).fields == {"campaign_id"}
    mixed = DomainFilter(dns_pending=True, min_score=0.5, dns_verdicts=[1])
    assert (await refused(session_of(query, made, filter=mixed))).fields == {"filter.dns_pending"}
    assert (await refused(session_of(query, uuid4()))).reason == "CAMPAIGN_NOT_FOUND"
    name = (await session_of(query, made)).streams[0].name
    for bad in ("no name", name[1:], name + "A"):
        refusal = await refused_rows(query, bad)
        assert (refusal.reason, refusal.fields) == ("INVALID_TOKEN", {"read_stream"})
    assert (await refused_rows(query, name, -1)).fields == {"offset"}
    for fraction in (-0.1, 1.0, float("nan")):
        request = pb.SplitReadStreamRequest(read_stream=name, fraction=fraction)
        assert (await refused(query.stub.SplitReadStream(request))).fields == {"fraction"}


async def test_an_unfinished_reader_holds_nothing(query: Query, writer: Writer) -> None:
    made = await large_campaign(writer)
    session = await session_of(query, made, filter=DENSE)
    for _ in range(10):
        call = query.stub.ReadRows(pb.ReadRowsRequest(read_stream=session.streams[0].name))
        await call.read()
        call.cancel()
    await nobody_is_connected_for_work(query, writer)
    assert len(await whole(query, session)) == 15_600


async def test_a_session_carries_the_campaign_and_its_revision(
    query: Query, writer: Writer
) -> None:
    made = await rich_campaign(writer)
    session = await session_of(query, made)
    stream = ReadStream.open(SEAL, session.streams[0].name)
    revision = await writer.connection.fetchval(
        "SELECT revision FROM campaigns WHERE no = $1", made.no
    )
    assert (stream.campaign_id, stream.revision) == (made.id, revision)
    assert session.freshness.revision == revision
    assert session.name == str(UUID(session.name)) == str(stream.session_id)
