"""Names a second through StreamDomains, against psql copying the same rows of the same server: from
the tables and from a sealed copy. Of many campaigns: stream_many."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any
from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from tests.load.copying import copy_seconds, make_copies, names_query
from tests.load.dataset import dataset
from tests.load.query_server import QueryServer, query_server

ROUNDS = 3
BATCH_SIZE = 10_000


def run() -> list[dict[str, Any]]:
    data = dataset()
    query = names_query(data.large_no)
    one = _measured(
        data.database_url, "stream_names", "ratio >= 1.0", [data.large], query, sealed=False
    )
    make_copies(data.database_url)
    sealed = _measured(
        data.database_url, "stream_names_sealed", "ratio >= 2", [data.large], query, sealed=True
    )
    return [one, sealed]


def _measured(
    database_url: str,
    name: str,
    target: str,
    campaign_ids: Sequence[UUID],
    query: str,
    *,
    sealed: bool,
) -> dict[str, Any]:
    copied, streamed = [], []
    count = 0
    with query_server(database_url) as server:
        _stream(server, campaign_ids, sealed)
        for _ in range(ROUNDS):
            seconds = copy_seconds(database_url, query)
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
