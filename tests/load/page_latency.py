"""Milliseconds of one ListDomains page of 100 over gRPC: every order with every field of the
filter, at different depths of two million domains and in both directions, from copies for pages;
and every order without a filter from the tables, as while a campaign runs.

The yardstick is the first page without a filter in order of position, in the same run.
"""

import math
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from tests.load.copying import make_copies
from tests.load.dataset import HTTP_NOT_FOUND, KEYWORDS, RARE_VERDICT, RESOLVED, dataset
from tests.load.query_server import QueryServer, query_server

PAGE_SIZE, LARGEST = 100, 1_000
# Pages that are measured at a depth, and the depths in pages of 100; None: the end.
PAGES = 40
DEPTHS: tuple[int | None, ...] = (1, 100, 1_000, None)
TARGET_MS = 5.0
ORDERS = {
    "position": pb.DOMAIN_ORDER_POSITION,
    "name": pb.DOMAIN_ORDER_NAME,
    "score": pb.DOMAIN_ORDER_SCORE,
    "settled": pb.DOMAIN_ORDER_SETTLE_TIME,
}
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "resolved": {"dns_verdicts": [RESOLVED]},
    "rare verdict": {"dns_verdicts": [RARE_VERDICT]},
    "two verdicts": {"dns_verdicts": [RESOLVED, RARE_VERDICT]},
    "pending": {"dns_pending": True},
    "not found": {"http_verdicts": [HTTP_NOT_FOUND]},
    "qualified": {"lead_statuses": [1]},
    "low score": {"lead_reasons": [2]},
    "score range": {"min_score": 0.25, "max_score": 0.75},
    "one score": {"min_score": 0.5, "max_score": 0.5},
    "tld": {"tlds": ["com"]},
    "rare tld": {"tlds": ["rare"]},
    "prefix": {"name_prefix": "name-7"},
    "contains": {"name_contains": "ab"},
    "keyword": {"keywords": [KEYWORDS[1]]},
    "rare keyword": {"keywords": [KEYWORDS[2]]},
    "a warning": {"warnings": [2]},
    "no warnings": {"has_warnings": False},
    "resolved and qualified, com": {
        "dns_verdicts": [RESOLVED],
        "lead_statuses": [1],
        "tlds": ["com"],
    },
    "fetched, keyword, over 0.5": {
        "http_verdicts": [1],
        "keywords": [KEYWORDS[1]],
        "min_score": 0.5,
    },
    "nothing": {"dns_verdicts": [RARE_VERDICT], "http_verdicts": [1]},
}
# One of a thousand domains: put in order whole for the first page.
PUT_IN_ORDER = "rare keyword"


def run() -> list[dict[str, Any]]:
    data = dataset()
    make_copies(data.database_url, seal=False)
    with query_server(data.database_url) as server:
        results = from_tables(server, data.large)
    make_copies(data.database_url)
    with query_server(data.database_url) as server:
        return [*measure(server, data.large), *results]


def from_tables(server: QueryServer, campaign_id: UUID) -> list[dict[str, Any]]:
    """As `measure`, without filters, while there is no copy for pages: one result an order."""
    yardstick = _first_pages(server, campaign_id)
    return [
        _result(
            f"page_latency, {order}, from the tables",
            [
                taken
                for _, request in _begins(server, campaign_id, order, "none")
                for taken in _timed(server, request, PAGES)
            ],
            yardstick,
        )
        for order in ORDERS
    ]


def _first_pages(server: QueryServer, campaign_id: UUID) -> float:
    # The first pages after a start meet cold caches: not what is measured.
    _timed(server, _request(campaign_id, "position", "none"), PAGES)
    return _p95(_timed(server, _request(campaign_id, "position", "none"), PAGES))


def measure(server: QueryServer, campaign_id: UUID) -> list[dict[str, Any]]:
    """One result an order and filter, of all depths and both directions together, and one a depth
    of the plain walk."""
    yardstick = _first_pages(server, campaign_id)
    results: list[dict[str, Any]] = []
    for order in ORDERS:
        for chosen in FILTERS:
            times: list[float] = []
            for depth, request in _begins(server, campaign_id, order, chosen):
                here = _timed(server, request, PAGES)
                if chosen == "none":
                    name = f"page_latency, {order}, page {depth or 'at the end'}"
                    results.append(_result(name, here, yardstick))
                if chosen == PUT_IN_ORDER and order != "position" and not times:
                    name = f"page_latency, {order}, {chosen}, its very first page"
                    results.append(_result(name, here[:1], yardstick))
                times += here
            results.append(_result(f"page_latency, {order}, {chosen}", times, yardstick))
    return results


def _result(name: str, times: list[float], yardstick: float) -> dict[str, Any]:
    times = sorted(times)
    return {
        "name": name,
        "value": _p95(times),
        "unit": "ms (p95)",
        "yardstick": {
            "name": "page 1 by position without a filter",
            "value": yardstick,
            "unit": "ms (p95)",
        },
        "ratio": _p95(times) / yardstick,
        "target": f"p95 < {TARGET_MS:g} ms",
        "p50": times[len(times) // 2],
        "pages": len(times),
    }


def _begins(
    server: QueryServer, campaign_id: UUID, order: str, chosen: str
) -> Iterator[tuple[int | None, pb.ListDomainsRequest]]:
    """Where the measured pages begin: at each depth, onward and back."""
    request = _request(campaign_id, order, chosen)
    yield 1, request
    # In steps of 1,000, which are not measured.
    request.page_size = LARGEST
    depth = 1
    for wanted in DEPTHS[1:]:
        if wanted is None:
            break
        while depth < wanted:
            page = server.stub.ListDomains(request)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
            depth += LARGEST // PAGE_SIZE
        else:
            onward = pb.ListDomainsRequest()
            onward.CopyFrom(request)
            onward.page_size = PAGE_SIZE
            yield wanted, onward
            page = server.stub.ListDomains(onward)
            if page.previous_page_token:
                onward.page_token = page.previous_page_token
                yield wanted, onward
    last = _request(campaign_id, order, chosen)
    last.ClearField("page_size")
    last.last = PAGE_SIZE
    yield None, last


def _request(campaign_id: UUID, order: str, chosen: str) -> pb.ListDomainsRequest:
    return pb.ListDomainsRequest(
        campaign_id=str(campaign_id),
        page_size=PAGE_SIZE,
        order=ORDERS[order],
        filter=DomainFilter(**FILTERS[chosen]),
    )


def _timed(server: QueryServer, request: pb.ListDomainsRequest, pages: int) -> list[float]:
    """Milliseconds of consecutive pages, in the direction that the first one leads on."""
    mine = pb.ListDomainsRequest()
    mine.CopyFrom(request)
    times = []
    backward = False
    for number in range(pages):
        begun = time.perf_counter()
        page = server.stub.ListDomains(mine)
        times.append((time.perf_counter() - begun) * 1000)
        assert len(page.domains) <= PAGE_SIZE
        if number == 0:
            backward = not page.next_page_token
        token = page.previous_page_token if backward else page.next_page_token
        if not token:
            break
        mine.ClearField("last")
        mine.page_size = PAGE_SIZE
        mine.page_token = token
    return times


def _p95(times: list[float]) -> float:
    """The least that 95 % of the times are not above: of 20, the second longest."""
    return sorted(times)[math.ceil(len(times) * 0.95) - 1]
