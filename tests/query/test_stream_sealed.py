"""Streams out of sealed copies: the rows of the tables, and never any that are not true."""

import asyncio
from typing import Any

import pytest

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1 import stream_pb2
from services.query.batches import ALL, NAMES_ONLY, domain_payload, enriched_payload
from services.query.campaigns import Runs, read_campaigns
from services.query.columns import ColumnStore
from services.query.derived import source_version, true_copies
from services.query.sealed import (
    DOMAIN_BATCH,
    ENRICHED,
    MESSAGE_LIMIT,
    NAMES,
    SEGMENT_SIZE,
    Segment,
    grouped,
    tiles,
    varint,
)
from tests.query.conftest import Made, Query, Writer

RESOLVED, NXDOMAIN = 1, 2
SIZE = 5 * SEGMENT_SIZE + 1234


async def settled_campaign(writer: Writer) -> Made:
    made = await writer.campaign(SIZE)
    await writer.finish_generation(made)
    await writer.plan(made, SIZE, SIZE)
    await writer.settle(made, 0, [RESOLVED if n % 3 else NXDOMAIN for n in range(SIZE)])
    await writer.settle_http(made, dict.fromkeys(range(0, SIZE, 7), 1))
    return made


async def seal(query: Query, writer: Writer, made: Made, kind: str) -> int:
    """As the maintainer does it."""
    version = await source_version(query.pool, made.no, kind)
    copy: int = await writer.connection.fetchval(
        """INSERT INTO derivations (campaign_no, kind, source_version, name_count)
        VALUES ($1, $2, $3, $4) RETURNING id""",
        made.no,
        kind,
        version,
        SIZE,
    )
    runs = (await read_campaigns(query.pool, [made.id]))[made.id].runs
    store = ColumnStore(query.pool)
    for first in range(0, SIZE, SEGMENT_SIZE):
        end = min(first + SEGMENT_SIZE, SIZE)
        columns = await store.columns(
            made.no, runs, first, end, NAMES_ONLY if kind == NAMES else ALL
        )
        assert columns is not None
        await writer.connection.execute(
            "INSERT INTO segments VALUES ($1, $2, $3, $4)",
            copy,
            first,
            end - first,
            (domain_payload if kind == NAMES else enriched_payload)(columns),
        )
    await writer.connection.execute(
        "UPDATE derivations SET finish_time = now() WHERE id = $1", copy
    )
    return copy


def names_request(made: Made, **more: Any) -> pb.StreamDomainsRequest:
    return pb.StreamDomainsRequest(campaign_ids=[str(made)], **more)


def enriched_request(made: Made, **more: Any) -> stream_pb2.StreamEnrichedRequest:
    return stream_pb2.StreamEnrichedRequest(campaign_ids=[str(made)], **more)


async def streamed(query: Query, request: Any) -> tuple[list[Any], Any]:
    method = type(request).DESCRIPTOR.name.removesuffix("Request")
    messages = [message async for message in getattr(query.stub, method)(request)]
    assert messages[-1].HasField("summary")
    return [message.batch for message in messages[:-1]], messages[-1].summary


def joined(batches: list[Any]) -> Any:
    """All batches as one, without what differs from call to call."""
    whole = type(batches[0])()
    for batch in batches:
        whole.MergeFrom(batch)
    whole.ClearField("cursor")
    whole.ClearField("domain_count")
    return whole


@pytest.mark.parametrize(
    ("kind", "request_of"), [(NAMES, names_request), (ENRICHED, enriched_request)]
)
async def test_a_copy_says_what_the_tables_say(
    query: Query, writer: Writer, kind: str, request_of: Any
) -> None:
    made = await settled_campaign(writer)
    plain, summary = await streamed(query, request_of(made))
    assert summary.performance.sealed_row_count == 0
    await seal(query, writer, made, kind)
    for size, counts in (
        (0, [10_000, 10_000, 6234] if kind == NAMES else [5000] * 5 + [1234]),
        (5_000, [5000] * 5 + [1234]),
        (10_000, [10_000, 10_000, 6234]),
        (7_000, [5000] * 4 + [6234]),
        (4_000, None),
    ):
        batches, summary = await streamed(query, request_of(made, batch_size=size))
        assert joined(batches) == joined(plain)
        if counts is not None:
            assert [batch.domain_count for batch in batches] == counts
        assert summary.performance.row_count == SIZE
        assert summary.performance.sealed_row_count == (SIZE if size != 4_000 else 0)
        if kind == ENRICHED and not size:
            limited, summary = await streamed(query, request_of(made, campaign_limit=12_345))
            assert list(joined(limited).names) == list(joined(plain).names)[:12_345]
    # What does not ask for exactly what is in it comes from the tables.
    others: list[Any] = [
        names_request(made, columns=[pb.DOMAIN_COLUMN_POSITION]),
        names_request(made, dns_verdicts=[RESOLVED]),
        enriched_request(made, read_mask={"paths": ["names"]}),
        enriched_request(made, filter={"dns_verdicts": [RESOLVED]}),
    ]
    for other in others:
        _, summary = await streamed(query, other)
        assert summary.performance.sealed_row_count == 0


async def test_a_stream_resumes_from_a_copy_at_any_position(query: Query, writer: Writer) -> None:
    made = await settled_campaign(writer)
    request = enriched_request(made, batch_size=3_000)
    plain, _ = await streamed(query, request)
    await seal(query, writer, made, ENRICHED)
    for count, batch in enumerate(plain[:-1], start=1):
        again = enriched_request(made, cursor=batch.cursor, batch_size=5_000)
        rest, summary = await streamed(query, again)
        assert joined(rest) == joined(plain[count:])
    # And the other way round.
    sealed, summary = await streamed(query, enriched_request(made))
    assert summary.performance.sealed_row_count == SIZE
    await writer.connection.execute("DELETE FROM segments")
    await writer.connection.execute("DELETE FROM derivations")
    rest, summary = await streamed(query, enriched_request(made, cursor=sealed[0].cursor))
    assert summary.performance.sealed_row_count == 0
    assert joined(rest) == joined(sealed[1:])


async def test_a_copy_is_read_only_while_it_is_true(query: Query, writer: Writer) -> None:
    made = await settled_campaign(writer)
    for kind in (NAMES, ENRICHED):
        await seal(query, writer, made, kind)
    # Unfinished ones never.
    await writer.connection.execute(
        """INSERT INTO derivations (campaign_no, kind, source_version, name_count)
        SELECT campaign_no, kind, source_version, name_count FROM derivations"""
    )
    finished = await writer.connection.fetch(
        "SELECT kind, id FROM derivations WHERE finish_time IS NOT NULL"
    )
    for kind, copy in finished:
        found = await true_copies(query.pool, [made.no], kind)
        assert {no: each.id for no, each in found.items()} == {made.no: copy}
    assert (await true_copies(query.pool, [made.no], ENRICHED))[made.no].runs == Runs(1, 1, 0, 0)

    # A rerun settles all names anew; only what is shown counts.
    batches, _ = await streamed(query, enriched_request(made))
    await writer.plan(made, SIZE, SIZE, run=2)
    _, summary = await streamed(query, enriched_request(made))
    assert summary.performance.sealed_row_count == 0
    await writer.settle(made, 0, [NXDOMAIN] * SIZE, run=2)
    rerun, summary = await streamed(query, enriched_request(made))
    assert set(joined(rerun).dns_verdicts) == {NXDOMAIN}
    assert summary.performance.sealed_row_count == 0
    # Names are as they were.
    _, summary = await streamed(query, names_request(made))
    assert summary.performance.sealed_row_count == SIZE
    # Whoever began with the first run ends with it, though a copy of the second one is there.
    await seal(query, writer, made, ENRICHED)
    rest, summary = await streamed(query, enriched_request(made, cursor=batches[1].cursor))
    assert joined(rest) == joined(batches[2:])
    assert summary.performance.sealed_row_count == 0
    _, summary = await streamed(query, enriched_request(made))
    assert summary.performance.sealed_row_count == SIZE


async def test_segments_that_vanish_on_the_way_are_read_from_the_tables(
    query: Query, writer: Writer
) -> None:
    made = await settled_campaign(writer)
    plain, _ = await streamed(query, enriched_request(made))
    await seal(query, writer, made, ENRICHED)
    async with writer.connection.transaction():
        # The stream has found the copy when it waits for its segments.
        await writer.connection.execute("LOCK TABLE segments IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(streamed(query, enriched_request(made)))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await writer.connection.fetchval(waits):
            pass
        await writer.connection.execute(
            "DELETE FROM segments WHERE first_position BETWEEN 10000 AND 19999"
        )
    batches, summary = await reading
    assert joined(batches) == joined(plain)
    assert summary.performance.sealed_row_count == SIZE - 4 * SEGMENT_SIZE


async def test_nothing_of_a_copy_is_sent_once_the_deletion_began(
    query: Query, writer: Writer
) -> None:
    made = await settled_campaign(writer)
    await seal(query, writer, made, NAMES)
    async with writer.connection.transaction():
        await writer.connection.execute("LOCK TABLE segments IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(streamed(query, names_request(made)))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await writer.connection.fetchval(waits):
            pass
        await writer.connection.execute("UPDATE campaigns SET delete_time = now()")
    batches, summary = await reading
    assert batches == []
    assert list(summary.unreachable) == [str(made)]


def test_a_response_around_payloads_is_the_message_of_the_contract() -> None:
    payloads = [
        pb.DomainBatch(names=["a.example", "b" * 250]).SerializeToString(),
        pb.DomainBatch(names=["c.example"], dns_verdicts=[2]).SerializeToString(),
    ]
    made = DOMAIN_BATCH.response(payloads, campaign_id="an-id", count=3, cursor="x" * 200)
    assert pb.StreamDomainsResponse.FromString(made) == pb.StreamDomainsResponse(
        batch=pb.DomainBatch(
            campaign_id="an-id",
            domain_count=3,
            names=["a.example", "b" * 250, "c.example"],
            dns_verdicts=[2],
            cursor="x" * 200,
        )
    )
    assert [varint(n) for n in (0, 127, 128, 16_384)] == [
        b"\x00",
        b"\x7f",
        b"\x80\x01",
        b"\x80\x80\x01",
    ]


def test_groups_keep_the_order_and_fit_a_message() -> None:
    small = [Segment(n * 5, 5, b"x" * 10) for n in range(7)]
    assert [len(group) for group in grouped(small, 15)] == [3, 3, 1]
    assert [len(group) for group in grouped(small, 3)] == [1] * 7
    large = [Segment(n * 5, 5, b"x" * (MESSAGE_LIMIT // 2 - 1)) for n in range(5)]
    assert [len(group) for group in grouped(large, 1000)] == [2, 2, 1]
    assert list(grouped([], 5)) == []
    assert tiles(small, 0, 35)
    assert not tiles(small, 0, 34)
    assert not tiles(small, 5, 35)
    assert not tiles(small[:3] + small[4:], 0, 35)
    assert not tiles([], 0, 35)
