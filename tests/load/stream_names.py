"""Names a second through StreamDomains, against psql copying the same rows of the same server."""

import subprocess
import time
from statistics import median
from typing import Any
from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from services.suite.postgres import binaries
from tests.load.dataset import LARGE, dataset
from tests.load.query_server import QueryServer, query_server

ROUNDS = 3
BATCH_SIZE = 10_000


def run() -> list[dict[str, Any]]:
    data = dataset()
    copied, streamed = [], []
    with query_server(data.database_url) as server:
        _stream(server, data.small)
        for _ in range(ROUNDS):
            copied.append(LARGE / _copy_seconds(data.database_url, data.large_no))
            streamed.append(LARGE / _stream(server, data.large))
    value, yardstick = median(streamed), median(copied)
    return [
        {
            "name": "stream_names",
            "value": value,
            "unit": "names/s",
            "yardstick": {"name": "psql COPY TO STDOUT", "value": yardstick, "unit": "names/s"},
            "ratio": value / yardstick,
            "target": "ratio >= 0.7",
            "names": LARGE,
            "rounds": {"streamed": streamed, "copied": copied},
        }
    ]


def _stream(server: QueryServer, campaign_id: UUID) -> float:
    """Seconds until the summary; every name is counted on this side."""
    request = pb.StreamDomainsRequest(campaign_ids=[str(campaign_id)], batch_size=BATCH_SIZE)
    begun, received, summary = time.perf_counter(), 0, None
    for message in server.stub.StreamDomains(request):
        if message.HasField("batch"):
            received += len(message.batch.names)
        else:
            summary = message.summary
    elapsed = time.perf_counter() - begun
    assert summary is not None
    assert received == summary.domain_count
    return elapsed


def _copy_seconds(database_url: str, campaign_no: int) -> float:
    """Seconds of the fastest way out there is: no join, no order, nobody who looks at the rows."""
    query = f"COPY (SELECT name FROM domains WHERE campaign_no = {campaign_no}) TO STDOUT"
    begun = time.perf_counter()
    subprocess.run(
        [str(binaries() / "psql"), "--no-psqlrc", "--dbname", database_url, "--command", query],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun
