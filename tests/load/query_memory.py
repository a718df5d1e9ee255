"""Resident memory of the query process after streams of 2M rows, against streams of 100k, and while
a reader stands still."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1 import stream_pb2
from tests.load.dataset import SMALL, Dataset, dataset
from tests.load.query_server import QueryServer, query_server

# Streams that somebody began to read and does not go on with.
STALLED = 1


def run() -> list[dict[str, Any]]:
    data = dataset()
    return [
        _measured(data, "query_memory", _names),
        _measured(data, "query_memory_enriched", _enriched),
        _stalled(data),
    ]


def _names(server: QueryServer, campaign_id: UUID) -> Iterable[Any]:
    return server.stub.StreamDomains(pb.StreamDomainsRequest(campaign_ids=[str(campaign_id)]))


def _enriched(server: QueryServer, campaign_id: UUID) -> Iterable[Any]:
    request = stream_pb2.StreamEnrichedRequest(campaign_ids=[str(campaign_id)])
    return server.stub.StreamEnriched(request)


def _measured(data: Dataset, name: str, stream: Any) -> dict[str, Any]:
    """A fresh process each: what it has at the end of a stream, and most at any message."""
    after = {}
    highest = 0.0
    for campaign_id in (data.small, data.large):
        with query_server(data.database_url) as server:
            highest = max(_rss_while(server, stream(server, campaign_id)))
            after[campaign_id] = server.rss_mb()
    return _result(
        name,
        after[data.large],
        f"after {SMALL} names",
        after[data.small],
        names=data.large_count,
        highest_on_the_way=highest,
    )


def _stalled(data: Dataset) -> dict[str, Any]:
    """Others read everything meanwhile: long enough for an unbounded producer to do so, too."""
    with query_server(data.database_url) as server:
        list(_enriched(server, data.small))
        before = server.rss_mb()
        # Kept: a stream that nobody holds is cancelled.
        stalled = [iter(_enriched(server, data.large)) for _ in range(STALLED)]
        for each in stalled:
            next(each)
        highest = max(_rss_while(server, _enriched(server, data.large)))
        return _result(
            "query_memory_stalled",
            server.rss_mb(),
            f"before, after {SMALL} names",
            before,
            streams_standing_still=STALLED,
            highest_on_the_way=highest,
        )


def _result(
    name: str,
    value: float,
    yardstick: str,
    yardstick_value: float,
    target: str = "ratio <= 1.1",
    **more: Any,
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": "MB",
        "yardstick": {"name": yardstick, "value": yardstick_value, "unit": "MB"},
        "ratio": value / yardstick_value,
        "target": target,
        **more,
    }


def _rss_while(server: QueryServer, messages: Iterable[Any]) -> list[float]:
    return [server.rss_mb() for _ in messages]
