"""Names a second through StreamDomains, against psql copying the same rows of the same server: from
the tables, of one campaign and of many, and from a sealed copy."""

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg

from domainflow.query.v1 import query_service_pb2 as pb
from tests.load.copying import copy_seconds, make_copies, names_query
from tests.load.dataset import analyse, campaign, dataset
from tests.load.query_server import QueryServer, query_server

ROUNDS = 3
BATCH_SIZE = 10_000
# The second case: as many names in all as there is time to make.
CAMPAIGNS, EACH = 100, 10_000


def run() -> list[dict[str, Any]]:
    data = dataset()
    many = asyncio.run(_many(data.database_url))
    one = _measured(
        data.database_url,
        "stream_names",
        "ratio >= 1.0",
        [data.large],
        [data.large_no],
        sealed=False,
    )
    of_many = _measured(
        data.database_url,
        f"stream_names_{CAMPAIGNS}_campaigns",
        "ratio >= 0.8",
        list(many),
        list(many.values()),
        sealed=False,
    )
    make_copies(data.database_url)
    sealed = _measured(
        data.database_url,
        "stream_names_sealed",
        "ratio >= 2",
        [data.large],
        [data.large_no],
        sealed=True,
    )
    return [one, of_many, sealed]


def _measured(
    database_url: str,
    name: str,
    target: str,
    campaign_ids: Sequence[UUID],
    campaign_nos: Sequence[int],
    *,
    sealed: bool,
) -> dict[str, Any]:
    copied, streamed = [], []
    count = 0
    with query_server(database_url) as server:
        _stream(server, campaign_ids, sealed)
        for _ in range(ROUNDS):
            seconds = copy_seconds(database_url, names_query(*campaign_nos))
            elapsed, count = _stream(server, campaign_ids, sealed)
            copied.append(count / seconds)
            streamed.append(count / elapsed)
    value, yardstick = median(streamed), median(copied)
    return {
        "name": name,
        "value": value,
        "unit": "names/s",
        "yardstick": {"name": "psql COPY TO STDOUT", "value": yardstick, "unit": "names/s"},
        "ratio": value / yardstick,
        "target": target,
        "names": count,
        "rounds": {"streamed": streamed, "copied": copied},
    }


def _stream(server: QueryServer, campaign_ids: Sequence[UUID], sealed: bool) -> tuple[float, int]:
    """Seconds until the summary, and names; every one is counted on this side."""
    request = pb.StreamDomainsRequest(campaign_ids=map(str, campaign_ids), batch_size=BATCH_SIZE)
    begun, received, summary = time.perf_counter(), 0, None
    for message in server.stub.StreamDomains(request):
        if message.HasField("batch"):
            received += len(message.batch.names)
        else:
            summary = message.summary
    elapsed = time.perf_counter() - begun
    assert summary is not None
    assert received == summary.domain_count
    assert summary.performance.sealed_row_count == (received if sealed else 0)
    return elapsed, received


async def _many(database_url: str) -> dict[UUID, int]:
    connection = await asyncpg.connect(database_url)
    try:
        made = dict([await campaign(connection, EACH) for _ in range(CAMPAIGNS)])
        await analyse(connection)
    finally:
        await connection.close()
    return made
