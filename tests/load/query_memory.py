"""Resident memory of the query process after a stream of 2M names, against one of 100k."""

from typing import Any
from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from tests.load.dataset import LARGE, SMALL, dataset
from tests.load.query_server import QueryServer, query_server


def run() -> list[dict[str, Any]]:
    data = dataset()
    after_small, _ = _streamed_mb(data.database_url, data.small)
    after_large, highest = _streamed_mb(data.database_url, data.large)
    return [
        {
            "name": "query_memory",
            "value": after_large,
            "unit": "MB",
            "yardstick": {"name": f"after {SMALL} names", "value": after_small, "unit": "MB"},
            "ratio": after_large / after_small,
            "target": "ratio <= 1.1",
            "names": LARGE,
            "highest_on_the_way": highest,
        }
    ]


def _streamed_mb(database_url: str, campaign_id: UUID) -> tuple[float, float]:
    """Memory of a fresh process at the end of a stream, and the most it had at any message."""
    with query_server(database_url) as server:
        request = pb.StreamDomainsRequest(campaign_ids=[str(campaign_id)])
        highest = max(_rss_while(server, request))
        return server.rss_mb(), highest


def _rss_while(server: QueryServer, request: pb.StreamDomainsRequest) -> list[float]:
    return [server.rss_mb() for _ in server.stub.StreamDomains(request)]
