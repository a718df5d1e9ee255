"""StreamDomains: whole, resumable after every batch, and idle when nobody reads."""

import asyncio
import struct
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.consistency_pb2 import READ_SOURCE_PRIMARY
from services.chassis.seal import Seal, binding
from services.query.ahead import ahead
from services.query.batches import domain_payload
from services.query.columns import Columns
from services.query.sealed import MESSAGE_LIMIT
from tests.query.conftest import KEY, Query, Writer
from tests.query.test_list_domains import RESOLVED, SERVFAIL, TIMEOUT, VERDICTS, settled_campaign

ALL_COLUMNS = [
    pb.DOMAIN_COLUMN_NAME,
    pb.DOMAIN_COLUMN_POSITION,
    pb.DOMAIN_COLUMN_DNS_VERDICT,
    pb.DOMAIN_COLUMN_ADDRESSES,
]


async def streamed(
    query: Query, request: pb.StreamDomainsRequest
) -> tuple[list[pb.DomainBatch], pb.StreamSummary]:
    messages = [message async for message in query.stub.StreamDomains(request)]
    assert [message.WhichOneof("kind") for message in messages] == [
        *["batch"] * (len(messages) - 1),
        "summary",
    ]
    return [message.batch for message in messages[:-1]], messages[-1].summary


async def to_the_end(stream: Any) -> pb.StreamSummary:
    while (message := await stream.read()) is not grpc.aio.EOF:
        last = message
    return last.summary


def names(batches: list[pb.DomainBatch]) -> list[tuple[str, str]]:
    return [(batch.campaign_id, name) for batch in batches for name in batch.names]


def resumed(request: pb.StreamDomainsRequest, cursor: str) -> pb.StreamDomainsRequest:
    changed = pb.StreamDomainsRequest()
    changed.CopyFrom(request)
    changed.cursor = cursor
    return changed


async def nobody_is_connected_for_work(query: Query, writer: Writer) -> None:
    """Return once every connection of the pool is back and none has a transaction."""
    busy = """SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'query' AND datname = current_database() AND state <> 'idle'"""
    while await writer.connection.fetchval(busy):
        pass
    while query.pool.get_idle_size() < query.pool.get_size():
        await writer.connection.fetchval("SELECT 1")


@pytest.mark.parametrize("length", [127, 128, 253])
async def test_names_come_whole_however_long_they_are(
    query: Query, writer: Writer, length: int
) -> None:
    longest = "a" * (length - 8) + ".example"
    lists = [[longest], [longest, "b.example"], ["b.example", longest], ["b.example"]]
    made = [await writer.campaign(each) for each in lists]
    # Those of each alone, and of several that are read together.
    for chosen in ([0], [1], [2], [0, 1, 2, 3]):
        request = pb.StreamDomainsRequest(campaign_ids=[str(made[n]) for n in chosen])
        batches, _ = await streamed(query, request)
        assert [list(batch.names) for batch in batches] == [lists[n] for n in chosen]


async def test_campaigns_come_one_after_the_other_in_the_order_asked_for(
    query: Query, writer: Writer
) -> None:
    first, second, empty = [await writer.campaign(size) for size in (12, 5, 0)]
    ids = [str(second), str(empty), str(first)]
    batches, summary = await streamed(
        query, pb.StreamDomainsRequest(campaign_ids=ids, batch_size=5)
    )
    assert names(batches) == [
        *((str(second), f"name-{n}.example") for n in range(5)),
        *((str(first), f"name-{n}.example") for n in range(12)),
    ]
    assert [batch.domain_count for batch in batches] == [5, 5, 5, 2]
    assert (summary.domain_count, list(summary.unreachable)) == (17, [])
    assert summary.performance.row_count == 17
    assert summary.freshness.source == READ_SOURCE_PRIMARY
    # Only the column that was asked for by default.
    assert not any(b.positions or b.dns_verdicts or b.addresses for b in batches)


async def test_unknown_campaigns_are_listed_and_stop_nothing(query: Query, writer: Writer) -> None:
    made, unknown = await writer.campaign(3), [str(uuid4()), str(uuid4())]
    request = pb.StreamDomainsRequest(campaign_ids=[unknown[0], str(made), unknown[1]])
    batches, summary = await streamed(query, request)
    assert len(names(batches)) == summary.domain_count == 3
    assert list(summary.unreachable) == unknown
    _, after = await streamed(query, resumed(request, batches[0].cursor))
    assert (after.domain_count, list(after.unreachable)) == (0, unknown)


@pytest.mark.parametrize("verdicts", [[], [RESOLVED], [RESOLVED, TIMEOUT], [TIMEOUT], [9]])
async def test_columns_equal_what_sql_says(
    query: Query, writer: Writer, verdicts: list[int]
) -> None:
    made = await settled_campaign(writer, open_chunks=(2, 9))
    rows = await writer.connection.fetch(
        """SELECT d.name, d.position, coalesce(r.verdict, 0), coalesce(r.addresses, '')
        FROM domains d LEFT JOIN dns_results r USING (campaign_no, position)
        WHERE campaign_no = $1 AND ($2::int[] = '{}' OR r.verdict = ANY($2)) ORDER BY position""",
        made.no,
        verdicts,
    )
    request = pb.StreamDomainsRequest(
        campaign_ids=[str(made)], dns_verdicts=verdicts, columns=ALL_COLUMNS, batch_size=20
    )
    batches, summary = await streamed(query, request)
    found = [
        row
        for b in batches
        for row in zip(b.names, b.positions, b.dns_verdicts, b.addresses, strict=True)
    ]
    assert found == [tuple(row) for row in rows]
    assert summary.domain_count == len(rows)


@pytest.mark.parametrize("verdicts", [[], [RESOLVED]])
@pytest.mark.parametrize("column", ALL_COLUMNS)
async def test_each_column_can_be_had_alone(
    query: Query, writer: Writer, column: int, verdicts: list[int]
) -> None:
    made = await settled_campaign(writer)
    request = pb.StreamDomainsRequest(
        campaign_ids=[str(made)], columns=[column], dns_verdicts=verdicts
    )
    [batch], _ = await streamed(query, request)
    expected = [n for n, verdict in enumerate(VERDICTS) if not verdicts or verdict in verdicts]
    columns = {
        pb.DOMAIN_COLUMN_NAME: (batch.names, [f"name-{n}.example" for n in expected]),
        pb.DOMAIN_COLUMN_POSITION: (batch.positions, expected),
        pb.DOMAIN_COLUMN_DNS_VERDICT: (batch.dns_verdicts, [VERDICTS[n] for n in expected]),
        pb.DOMAIN_COLUMN_ADDRESSES: (
            batch.addresses,
            [
                f"198.51.100.{n % 250},2001:db8::1" if VERDICTS[n] == RESOLVED else ""
                for n in expected
            ],
        ),
    }
    for number, (found, wanted) in columns.items():
        assert list(found) == (wanted if number == column else [])
    assert batch.domain_count == len(expected)


@pytest.mark.parametrize("verdicts", [[], [RESOLVED, TIMEOUT], [SERVFAIL, TIMEOUT]])
async def test_a_stream_resumes_exactly_after_every_batch(
    query: Query, writer: Writer, verdicts: list[int]
) -> None:
    ids = [str(await settled_campaign(writer)), str(uuid4()), str(await writer.campaign(40))]
    request = pb.StreamDomainsRequest(campaign_ids=ids, batch_size=10, dns_verdicts=verdicts)
    batches, summary = await streamed(query, request)
    assert len(batches) > 3
    for count, batch in enumerate(batches, start=1):
        again = resumed(request, batch.cursor)
        again.batch_size = 11
        rest, rest_summary = await streamed(query, again)
        assert names(rest) == names(batches[count:])
        assert rest_summary.domain_count == sum(b.domain_count for b in batches[count:])
        assert rest_summary.unreachable == summary.unreachable


async def test_a_cursor_for_other_arguments_is_refused(query: Query, writer: Writer) -> None:
    ids = [str(await writer.campaign(10)), str(await writer.campaign(10))]
    request = pb.StreamDomainsRequest(campaign_ids=ids, batch_size=5)
    batches, _ = await streamed(query, request)
    cursor = batches[0].cursor
    for changed in (
        pb.StreamDomainsRequest(campaign_ids=ids[::-1], cursor=cursor),
        pb.StreamDomainsRequest(campaign_ids=ids[:1], cursor=cursor),
        pb.StreamDomainsRequest(campaign_ids=ids, cursor=cursor, dns_verdicts=[RESOLVED]),
        pb.StreamDomainsRequest(campaign_ids=ids, cursor=cursor, columns=ALL_COLUMNS),
        pb.StreamDomainsRequest(campaign_ids=ids, cursor=cursor[1:]),
        pb.StreamDomainsRequest(campaign_ids=ids, cursor="not a cursor"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT") as refusal:
            await streamed(query, changed)
        info = error_details_pb2.ErrorInfo()
        rpc_status.from_call(refusal.value).details[0].Unpack(info)
        assert (info.reason, dict(info.metadata)) == ("INVALID_TOKEN", {"field": "cursor"})


async def test_a_cursor_of_the_version_before_is_taken(query: Query, writer: Writer) -> None:
    """It said where to go on and where to end, and no runs."""
    made = await writer.campaign(12)
    request = pb.StreamDomainsRequest(campaign_ids=[str(made)])
    bound = binding("StreamDomains", request.SerializeToString(deterministic=True))
    cursor = Seal([KEY]).seal(struct.pack(">BIqq", 2, 0, 5, 10), bound)
    batches, _ = await streamed(query, resumed(request, cursor))
    assert names(batches) == [(str(made), f"name-{n}.example") for n in range(5, 10)]


async def test_names_stored_after_the_stream_began_stay_out_of_it(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(20)
    request = pb.StreamDomainsRequest(campaign_ids=[str(made)], batch_size=10)
    stream = query.stub.StreamDomains(request)
    first = (await stream.read()).batch
    await writer.add_names(made, [f"late-{n}.example" for n in range(30)])
    assert (await to_the_end(stream)).domain_count == 20
    # The bound travels in the cursor: a resumed stream ends where the first one would have.
    _, summary = await streamed(query, resumed(request, first.cursor))
    assert summary.domain_count == 10
    _, summary = await streamed(query, request)
    assert summary.domain_count == 50


async def test_positions_stay_right_when_names_are_missing(query: Query, writer: Writer) -> None:
    made = await writer.campaign(10)
    await writer.connection.execute("DELETE FROM domains WHERE position IN (0, 4)")
    request = pb.StreamDomainsRequest(
        campaign_ids=[str(made)], columns=ALL_COLUMNS[:2], batch_size=3
    )
    batches, summary = await streamed(query, request)
    assert [p for batch in batches for p in batch.positions] == [1, 2, 3, 5, 6, 7, 8, 9]
    assert names(batches)[0][1] == "name-1.example"
    assert summary.domain_count == 8


async def test_a_stream_whose_names_are_gone_ends_in_order(query: Query, writer: Writer) -> None:
    made = await writer.campaign(10)
    request = pb.StreamDomainsRequest(campaign_ids=[str(made)], batch_size=4)
    batches, _ = await streamed(query, request)
    await writer.connection.execute("DELETE FROM domains")
    await writer.connection.execute("UPDATE campaigns SET name_count = 0")
    rest, summary = await streamed(query, resumed(request, batches[0].cursor))
    assert (rest, summary.domain_count, list(summary.unreachable)) == ([], 0, [])


async def test_long_names_are_sent_in_messages_below_one_mebibyte(
    query: Query, writer: Writer
) -> None:
    long = [f"{n:05}{'x' * 240}.example" for n in range(10_000)]
    made = await writer.campaign(long)
    request = pb.StreamDomainsRequest(
        campaign_ids=[str(made)], batch_size=10_000, columns=ALL_COLUMNS
    )
    messages = [message async for message in query.stub.StreamDomains(request)]
    assert max(message.ByteSize() for message in messages) < 2**20
    batches = [message.batch for message in messages[:-1]]
    assert [name for _, name in names(batches)] == long
    for count, batch in enumerate(batches, start=1):
        _, summary = await streamed(query, resumed(request, batch.cursor))
        assert summary.domain_count == sum(b.domain_count for b in batches[count:])


def test_pieces_fit_and_add_up_whatever_the_sizes() -> None:
    texts = [("x" * (n * 37 % 70_000)) for n in range(100)]
    values = {
        "positions": range(5, 105),
        "names": "\n".join(texts),
        "addresses": texts[::-1],
        "dns_verdicts": bytes(100),
    }
    whole = Columns(range(5, 105), values, 2 * sum(map(len, texts)))
    pieces = list(whole.fitting(30))
    assert [p for piece in pieces for p in piece.positions] == list(range(5, 105))
    assert [name for piece in pieces for name in piece.texts("names")] == texts
    assert [text for piece in pieces for text in piece.texts("addresses")] == texts[::-1]
    assert max(len(piece.positions) for piece in pieces) <= 30
    for piece in pieces:
        assert piece.size() <= MESSAGE_LIMIT
        assert len(domain_payload(piece)) <= piece.size() + 20


async def test_a_batch_holds_10000_names_at_most(query: Query, writer: Writer) -> None:
    made = await writer.campaign(20_001)
    for asked, counts in (
        (0, [10_000, 10_000, 1]),
        (5_000, [5_000] * 4 + [1]),
        (2**31 - 1, [10_000, 10_000, 1]),
    ):
        request = pb.StreamDomainsRequest(campaign_ids=[str(made)], batch_size=asked)
        batches, _ = await streamed(query, request)
        assert [batch.domain_count for batch in batches] == counts


async def test_a_cancelled_stream_gives_its_connection_back(query: Query, writer: Writer) -> None:
    made = await writer.campaign(50_000)
    request = pb.StreamDomainsRequest(campaign_ids=[str(made)], batch_size=100, columns=ALL_COLUMNS)
    for _ in range(20):
        stream = query.stub.StreamDomains(request)
        await stream.read()
        stream.cancel()
    await nobody_is_connected_for_work(query, writer)
    # More streams were cancelled than there are connections, and the service still answers.
    _, summary = await streamed(query, pb.StreamDomainsRequest(campaign_ids=[str(made)]))
    assert summary.domain_count == 50_000


async def test_stalled_readers_hold_no_connection_and_stop_the_reading(
    query: Query, writer: Writer
) -> None:
    # 22 MB a stream: gRPC itself takes in a few before it lets the writer wait.
    made = await writer.campaign([f"{n:06}{'x' * 200}.example" for n in range(100_000)])
    request = pb.StreamDomainsRequest(campaign_ids=[str(made)], batch_size=1000)
    stalled = [query.stub.StreamDomains(request) for _ in range(6)]
    for stream in stalled:
        await stream.read()
    # They are more than the pool has connections, and yet others are served, long enough for
    # an unbounded producer to have read everything.
    for _ in range(300):
        page = await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))
        assert len(page.domains) == 100
    assert query.store.names_read < 6 * 100_000 / 2
    await nobody_is_connected_for_work(query, writer)
    # Whoever wakes up has lost nothing.
    assert (await to_the_end(stalled[0])).domain_count == 100_000
    for stream in stalled[1:]:
        stream.cancel()


class Made:
    """Counts what is made, and whether the making was ended."""

    def __init__(self) -> None:
        self.count = 0
        self.ended = False

    async def numbers(self, end: int) -> AsyncGenerator[int, None]:
        try:
            for number in range(end):
                await asyncio.sleep(0)
                self.count += 1
                yield number
        finally:
            self.ended = True


async def let_everything_run() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_no_more_than_the_depth_is_made_ahead() -> None:
    made = Made()
    numbers = ahead(made.numbers(50), 2)
    for taken in range(1, 10):
        assert await anext(numbers) == taken - 1
        await let_everything_run()
        assert made.count == taken + 2
    await numbers.aclose()
    assert made.ended


async def test_everything_arrives_in_order_and_then_the_end() -> None:
    assert [n async for n in ahead(Made().numbers(20), 3)] == list(range(20))


async def test_an_error_of_the_source_arrives_after_what_was_made_before_it() -> None:
    async def failing() -> AsyncGenerator[int, None]:
        yield 1
        raise LookupError

    numbers = ahead(failing(), 2)
    assert await anext(numbers) == 1
    with pytest.raises(LookupError):
        await anext(numbers)


async def test_closing_early_ends_the_making_even_in_the_middle_of_a_wait() -> None:
    made, reached = Made(), asyncio.Event()

    async def stuck() -> AsyncGenerator[int, None]:
        async for number in made.numbers(1):
            yield number
        try:
            reached.set()
            await asyncio.Event().wait()
        finally:
            made.ended = False

    numbers = ahead(stuck(), 2)
    assert await anext(numbers) == 0
    await reached.wait()
    assert made.ended
    await numbers.aclose()
    assert not made.ended


async def test_what_a_deletion_has_begun_to_take_away_is_not_sent(
    query: Query, writer: Writer
) -> None:
    made, other = await settled_campaign(writer), await writer.campaign(3)
    request = pb.StreamDomainsRequest(campaign_ids=[str(made), str(other)], columns=ALL_COLUMNS)
    async with writer.connection.transaction():
        # The stream has found the campaign when it waits for its results.
        await writer.connection.execute("LOCK TABLE dns_results IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(streamed(query, request))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await writer.connection.fetchval(waits):
            pass
        await writer.connection.execute(
            "UPDATE campaigns SET delete_time = now() WHERE no = $1", made.no
        )
        await writer.connection.execute("DELETE FROM dns_results WHERE campaign_no = $1", made.no)

    batches, summary = await reading

    assert {batch.campaign_id for batch in batches} == {str(other)}
    assert list(summary.unreachable) == [str(made)]
