"""Bulk rows: streams them, takes a cut stream up at its cursor, writes NDJSON or CSV.

A stream is over only when its summary came; one that ends without was cut off.
"""

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from enum import StrEnum
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

import grpc

from domainflow.query.v1 import query_service_pb2
from domainflow.validation.v1 import dns_pb2
from services.cli import retry
from services.cli.exits import Failure

if TYPE_CHECKING:
    from domainflow.query.v1.query_service_pb2_grpc import QueryServiceAsyncStub


class Format(StrEnum):
    NDJSON = "ndjson"
    CSV = "csv"
    # To files only.
    PARQUET = "parquet"


class Column(StrEnum):
    """Names of the fields in the output; `campaign_id` comes with every batch."""

    CAMPAIGN_ID = "campaign_id"
    POSITION = "position"
    NAME = "name"
    DNS_VERDICT = "dns_verdict"
    ADDRESSES = "addresses"


DEFAULT_COLUMNS = (Column.NAME, Column.DNS_VERDICT, Column.ADDRESSES)

_COLUMNS = {
    Column.POSITION: query_service_pb2.DOMAIN_COLUMN_POSITION,
    Column.NAME: query_service_pb2.DOMAIN_COLUMN_NAME,
    Column.DNS_VERDICT: query_service_pb2.DOMAIN_COLUMN_DNS_VERDICT,
    Column.ADDRESSES: query_service_pb2.DOMAIN_COLUMN_ADDRESSES,
}
_VERDICTS: dict[int, str] = {
    number: name.removeprefix("DNS_VERDICT_") if number else ""
    for name, number in dns_pb2.DnsVerdict.items()
}

Message = query_service_pb2.StreamDomainsResponse
Batch = query_service_pb2.DomainBatch


def verdict_name(number: int) -> str:
    """`RESOLVED`; empty without a verdict, the number for one that this client does not know."""
    return _VERDICTS.get(number, str(number))


def request(
    campaign_ids: Sequence[str],
    columns: Iterable[Column],
    verdicts: Iterable["dns_pb2.DnsVerdict.ValueType"] = (),
) -> query_service_pb2.StreamDomainsRequest:
    return query_service_pb2.StreamDomainsRequest(
        campaign_ids=campaign_ids,
        dns_verdicts=verdicts,
        # Without any the service would send names that nobody asked for, so ask for the smallest.
        columns=[_COLUMNS[c] for c in columns if c in _COLUMNS]
        or [query_service_pb2.DOMAIN_COLUMN_POSITION],
    )


async def stream(
    stub: "QueryServiceAsyncStub",
    asked: query_service_pb2.StreamDomainsRequest,
    patience: retry.Patience,
    *,
    on_summary: Callable[[query_service_pb2.StreamSummary], None] | None = None,
) -> AsyncIterator[Batch]:
    """Yield every batch once, in order. A cursor counts when its batch has been taken."""
    going_on = query_service_pb2.StreamDomainsRequest()
    going_on.CopyFrom(asked)
    while True:
        call = stub.StreamDomains(going_on)
        received = 0
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                assert isinstance(message, Message)
                patience.progressed()
                if message.WhichOneof("kind") == "summary":
                    if message.summary.domain_count != received:
                        raise Failure(
                            f"the service sent {message.summary.domain_count:,} domains and"
                            f" {received:,} arrived: the export is not complete"
                        )
                    if on_summary:
                        on_summary(message.summary)
                    return
                received += message.batch.domain_count
                going_on.cursor = message.batch.cursor
                yield message.batch
            raise retry.cut("the stream ended before its summary")
        except grpc.aio.AioRpcError as error:
            await patience.wait(error)
        finally:
            call.cancel()


def header(form: Format, columns: Sequence[Column]) -> str:
    """What stands before the first row."""
    return ",".join(columns) + "\n" if form is Format.CSV else ""


def rows(form: Format, columns: Sequence[Column], batch: Batch) -> str:
    """A batch as text, one line per domain."""
    if form is Format.CSV:
        text = io.StringIO()
        values = [_csv_column(column, batch) for column in columns]
        csv.writer(text, lineterminator="\n").writerows(zip(*values, strict=True))
        return text.getvalue()
    # Each column is encoded as a whole and the rows are joined from templates: a json.dumps per
    # row takes six times as long.
    template = "{" + ",".join(f'"{column}":%s' for column in columns) + "}\n"
    encoded = [_json_column(column, batch) for column in columns]
    return "".join([template % row for row in zip(*encoded, strict=True)])


def _csv_column(column: Column, batch: Batch) -> Sequence[object]:
    match column:
        case Column.CAMPAIGN_ID:
            return [batch.campaign_id] * batch.domain_count
        case Column.POSITION:
            return batch.positions
        case Column.NAME:
            return batch.names
        case Column.DNS_VERDICT:
            return [verdict_name(number) for number in batch.dns_verdicts]
        case Column.ADDRESSES:
            return batch.addresses


def _json_column(column: Column, batch: Batch) -> Sequence[str]:
    match column:
        case Column.CAMPAIGN_ID:
            return [f'"{batch.campaign_id}"'] * batch.domain_count
        case Column.POSITION:
            return [str(position) for position in batch.positions]
        case Column.NAME:
            return [encode_basestring_ascii(name) for name in batch.names]
        case Column.DNS_VERDICT:
            known = {n: f'"{verdict_name(n)}"' if n else "null" for n in set(batch.dns_verdicts)}
            return [known[number] for number in batch.dns_verdicts]
        case Column.ADDRESSES:
            return [
                '["' + text.replace(",", '","') + '"]' if text else "[]" for text in batch.addresses
            ]
