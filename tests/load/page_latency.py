"""Milliseconds of one ListDomains page of 100 at different depths of two million domains."""

import time
from typing import Any
from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from tests.load.dataset import LARGE, RARE_VERDICT, dataset
from tests.load.query_server import QueryServer, query_server

PAGES = 200
PAGE_SIZE = 100
RESOLVED = 1
# What is asked for besides the campaign, and whether the pages lead backward.
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("depth 1", {}, False),
    ("depth 1M", {"start_position": LARGE // 2}, False),
    ("depth 1.9M", {"start_position": LARGE * 95 // 100}, False),
    ("depth 1M backward", {"start_position": LARGE // 2}, True),
    ("resolved, depth 1", {"dns_verdicts": [RESOLVED]}, False),
    ("resolved, depth 1M", {"dns_verdicts": [RESOLVED], "start_position": LARGE // 2}, False),
    (
        "rare verdict, depth 1M",
        {"dns_verdicts": [RARE_VERDICT], "start_position": 1_000_000},
        False,
    ),
    (
        "two verdicts, depth 1M backward",
        {"dns_verdicts": [RESOLVED, RARE_VERDICT], "start_position": LARGE // 2},
        True,
    ),
]


def run() -> list[dict[str, Any]]:
    data = dataset()
    results: list[dict[str, Any]] = []
    with query_server(data.database_url) as server:
        # The first pages after a start are planned anew and meet cold caches: not what is measured.
        _pages(server, data.large, {}, False)
        for name, asked, backward in CASES:
            times = _pages(server, data.large, asked, backward)
            p50, p95 = times[len(times) // 2], times[len(times) * 95 // 100]
            first = results[0]["value"] if results else p95
            results.append(
                {
                    "name": f"page_latency, {name}",
                    "value": p95,
                    "unit": "ms (p95)",
                    "yardstick": {"name": "depth 1", "value": first, "unit": "ms (p95)"},
                    "ratio": p95 / first,
                    "target": "p95 < 20 ms",
                    "p50": p50,
                    "pages": len(times),
                }
            )
    return results


def _pages(
    server: QueryServer, campaign_id: UUID, asked: dict[str, Any], backward: bool
) -> list[float]:
    """Milliseconds of consecutive pages, sorted."""
    fixed = {key: value for key, value in asked.items() if key != "start_position"}
    request = pb.ListDomainsRequest(campaign_id=str(campaign_id), page_size=PAGE_SIZE, **asked)
    times = []
    for _ in range(PAGES):
        begun = time.perf_counter()
        page = server.stub.ListDomains(request)
        times.append((time.perf_counter() - begun) * 1000)
        assert len(page.domains) == PAGE_SIZE
        token = page.previous_page_token if backward else page.next_page_token
        request = pb.ListDomainsRequest(
            campaign_id=str(campaign_id), page_size=PAGE_SIZE, page_token=token, **fixed
        )
    return sorted(times)
