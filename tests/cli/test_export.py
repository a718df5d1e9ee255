import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc
from domainflow.validation.v1 import dns_pb2
from services.cli import export
from services.cli.connection import connected
from services.cli.exits import Failure
from services.cli.export import Column, Format
from services.cli.retry import Patience

CAMPAIGN = "01890000-0000-7000-8000-000000000001"
Message = query_service_pb2.StreamDomainsResponse


class Rows(query_service_pb2_grpc.QueryServiceServicer):
    """`count` names in batches of ten. Each call ends as the next of `cuts` says, after so many
    batches: ("abort", 3) with an error, ("end", 3) in good order but without a summary."""

    def __init__(self, count: int, cuts: list[tuple[str, int]], *, claim: int = 0) -> None:
        self.count = count
        self.cuts = cuts
        self.claim = claim
        self.calls = 0

    def StreamDomains(
        self, request: query_service_pb2.StreamDomainsRequest, context: Any
    ) -> Iterator[Message]:
        self.calls += 1
        how, left = self.cuts.pop(0) if self.cuts else ("", -1)
        first = int(request.cursor or 0)
        for number, start in enumerate(range(first, self.count, 10)):
            if number == left:
                if how == "abort":
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the door is closing")
                return
            end = min(start + 10, self.count)
            batch = query_service_pb2.DomainBatch(
                campaign_id=CAMPAIGN,
                domain_count=end - start,
                names=[f"name{i}.com" for i in range(start, end)],
                cursor=str(end),
            )
            yield Message(batch=batch)
        summary = query_service_pb2.StreamSummary(domain_count=self.count - first + self.claim)
        yield Message(summary=summary)


async def names(address: str, **patience: float) -> list[str]:
    asked = export.request([CAMPAIGN], [Column.NAME])
    async with connected(address) as channel:
        stub = query_service_pb2_grpc.QueryServiceStub(channel)
        quick = Patience(shortest=0.001, longest=0.01, **patience)
        batches = [batch async for batch in export.stream(stub, asked, quick)]
    return [name for batch in batches for name in batch.names]


async def test_cut_export_has_no_gap_and_no_repeat(serve: Any) -> None:
    rows = Rows(95, cuts=[("abort", 3), ("end", 1), ("abort", 0), ("end", 0), ("abort", 2)])

    received = await names(serve(rows=rows))

    assert received == [f"name{i}.com" for i in range(95)]
    assert rows.calls == 6


async def test_stream_without_summary_is_cut_not_complete(serve: Any) -> None:
    rows = Rows(20, cuts=[("end", 0)] * 10_000)

    with pytest.raises(grpc.aio.AioRpcError, match="before its summary"):
        await names(serve(rows=rows), first_limit=0.02)

    assert rows.calls > 1


async def test_summary_that_disagrees_with_the_rows_is_a_failure(serve: Any) -> None:
    with pytest.raises(Failure, match="not complete"):
        await names(serve(rows=Rows(20, cuts=[], claim=1)))


def batch() -> export.Batch:
    return query_service_pb2.DomainBatch(
        campaign_id=CAMPAIGN,
        domain_count=3,
        names=["a.com", 'odd"\\\u00e9.com', "c.com"],
        positions=[7, 8, 2**40],
        dns_verdicts=[dns_pb2.DNS_VERDICT_RESOLVED, 0, dns_pb2.DNS_VERDICT_NXDOMAIN],
        addresses=["192.0.2.1,2001:db8::1", "", ""],
    )


def test_ndjson_has_one_object_per_name_with_null_for_pending() -> None:
    text = export.rows(Format.NDJSON, list(Column), batch())

    assert [json.loads(line) for line in text.splitlines()] == [
        {
            "campaign_id": CAMPAIGN,
            "position": 7,
            "name": "a.com",
            "dns_verdict": "RESOLVED",
            "addresses": ["192.0.2.1", "2001:db8::1"],
        },
        {
            "campaign_id": CAMPAIGN,
            "position": 8,
            "name": 'odd"\\\u00e9.com',
            "dns_verdict": None,
            "addresses": [],
        },
        {
            "campaign_id": CAMPAIGN,
            "position": 2**40,
            "name": "c.com",
            "dns_verdict": "NXDOMAIN",
            "addresses": [],
        },
    ]


def test_csv_reads_back_with_the_header_of_its_columns() -> None:
    columns = (Column.NAME, Column.DNS_VERDICT, Column.ADDRESSES)

    text = export.header(Format.CSV, columns) + export.rows(Format.CSV, columns, batch())

    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "dns_verdict", "addresses"],
        ["a.com", "RESOLVED", "192.0.2.1,2001:db8::1"],
        ['odd"\\\u00e9.com', "", ""],
        ["c.com", "NXDOMAIN", ""],
    ]


def test_verdict_of_a_newer_service_is_kept_as_its_number() -> None:
    newer = query_service_pb2.DomainBatch(domain_count=1, dns_verdicts=[99])

    assert export.rows(Format.NDJSON, [Column.DNS_VERDICT], newer) == '{"dns_verdict":"99"}\n'
