"""Rows a second through StreamEnriched, against psql copying the same join of the same server: from
the tables and from a sealed copy. Of many campaigns: stream_many."""

import time
from statistics import median
from typing import Any

from domainflow.query.v1 import stream_pb2 as pb
from tests.load.copying import copy_seconds, enriched_query, make_copies
from tests.load.dataset import Dataset, dataset
from tests.load.query_server import QueryServer, query_server

ROUNDS = 3


def run() -> list[dict[str, Any]]:
    data = dataset()
    plain = _measured(data, "stream_enriched", "ratio >= 1.0", sealed=False)
    make_copies(data.database_url)
    return [plain, _measured(data, "stream_enriched_sealed", "ratio >= 3", sealed=True)]


def _measured(data: Dataset, name: str, target: str, *, sealed: bool) -> dict[str, Any]:
    copied, streamed = [], []
    with query_server(data.database_url) as server:
        _stream(server, data, sealed)
        for _ in range(ROUNDS):
            seconds = copy_seconds(data.database_url, enriched_query(data.large_no))
            copied.append(data.large_count / seconds)
            streamed.append(data.large_count / _stream(server, data, sealed))
    value, yardstick = median(streamed), median(copied)
    return {
        "name": name,
        "value": value,
        "unit": "rows/s",
        "yardstick": {
            "name": "psql COPY of the join TO STDOUT",
            "value": yardstick,
            "unit": "rows/s",
        },
        "ratio": value / yardstick,
        "target": target,
        "rows": data.large_count,
        "rounds": {"streamed": streamed, "copied": copied},
    }


def _stream(server: QueryServer, data: Dataset, sealed: bool) -> float:
    """Seconds until the summary; every row is counted on this side, in every column."""
    request = pb.StreamEnrichedRequest(campaign_ids=[str(data.large)])
    begun, received, summary = time.perf_counter(), 0, None
    for message in server.stub.StreamEnriched(request):
        if message.HasField("batch"):
            batch = message.batch
            assert len(batch.names) == len(batch.titles) == len(batch.lead_reasons)
            received += len(batch.names)
        else:
            summary = message.summary
    elapsed = time.perf_counter() - begun
    assert summary is not None
    assert received == summary.row_count == data.large_count
    assert summary.performance.sealed_row_count == (received if sealed else 0)
    return elapsed
