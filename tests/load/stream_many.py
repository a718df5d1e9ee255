"""Rows a second of one stream over 1,000 campaigns, against one psql copying the same rows of all
of them: names and all that is known of large ones, and of small ones, in which a campaign's own
cost shows, all that is known, what matches a filter, and leads."""

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, TypeAlias

from domainflow.query.v1 import query_service_pb2, stream_pb2
from domainflow.query.v1.filter_pb2 import DomainFilter
from tests.load.copying import copy_seconds
from tests.load.dataset import RESOLVED, dataset
from tests.load.many_campaigns import Many, many_campaigns
from tests.load.query_server import QueryServer, query_server

ROUNDS = 3
CAMPAIGNS = 1_000
LARGE, SMALL = 10_000, 1_000

Call: TypeAlias = Callable[[QueryServer], Iterable[Any]]


def run() -> list[dict[str, Any]]:
    database_url = dataset("1k").database_url
    large = many_campaigns(database_url, CAMPAIGNS, LARGE, results=True)
    names = query_service_pb2.StreamDomainsRequest(campaign_ids=map(str, large.ids))
    everything = stream_pb2.StreamEnrichedRequest(campaign_ids=map(str, large.ids))
    made = [
        _compared(
            database_url,
            "stream_many_names",
            "ratio >= 1.0",
            lambda server: server.stub.StreamDomains(names),
            f"SELECT name FROM domains WHERE {large.range()} ORDER BY campaign_no, position",
        ),
        _compared(
            database_url,
            "stream_many_enriched",
            "ratio >= 1.0",
            lambda server: server.stub.StreamEnriched(everything),
            _joined(large, "true"),
        ),
    ]
    small = many_campaigns(database_url, CAMPAIGNS, SMALL, results=True)
    ids = list(map(str, small.ids))
    every = stream_pb2.StreamEnrichedRequest(campaign_ids=ids)
    resolved = stream_pb2.StreamEnrichedRequest(
        campaign_ids=ids, filter=DomainFilter(dns_verdicts=[RESOLVED])
    )
    leads = stream_pb2.StreamLeadsRequest(campaign_ids=ids)
    calls: list[tuple[str, str, Call, str]] = [
        ("stream_many_small", "", lambda server: server.stub.StreamEnriched(every), "true"),
        (
            "stream_many_filtered",
            "",
            lambda server: server.stub.StreamEnriched(resolved),
            f"r.verdict = {RESOLVED}",
        ),
        ("stream_many_leads", "", lambda server: server.stub.StreamLeads(leads), "l.status = 1"),
    ]
    for name, target, call, condition in calls:
        made.append(_compared(database_url, name, target, call, _joined(small, condition)))
    return made


def _joined(many: Many, condition: str) -> str:
    """The columns of StreamEnriched of the first run of all campaigns, in their order."""
    joins = "".join(
        f" LEFT JOIN {table} {alias} ON {alias}.campaign_no = d.campaign_no"
        f" AND {many.range(f'{alias}.')} AND {alias}.run = 1 AND {alias}.position = d.position"
        for table, alias in (
            ("dns_results", "r"),
            ("http_results", "h"),
            ("page_analyses", "a"),
            ("leads", "l"),
        )
    )
    return f"""SELECT d.position, d.name, r.verdict, r.addresses, r.check_time_us, h.verdict,
        h.status_code, h.final_url, h.title, a.score, l.status, l.reason
        FROM domains d{joins} WHERE {many.range("d.")} AND {condition}
        ORDER BY d.campaign_no, d.position"""


def _compared(database_url: str, name: str, target: str, call: Call, query: str) -> dict[str, Any]:
    copied, streamed = [], []
    count = 0
    with query_server(database_url) as server:
        _stream(server, call)
        for _ in range(ROUNDS):
            seconds = copy_seconds(database_url, query)
            elapsed, count = _stream(server, call)
            copied.append(count / seconds)
            streamed.append(count / elapsed)
    value, yardstick = median(streamed), median(copied)
    return {
        "name": name,
        "value": value,
        "unit": "rows/s",
        "yardstick": {
            "name": "one psql COPY TO STDOUT of all, in order",
            "value": yardstick,
            "unit": "rows/s",
        },
        "ratio": value / yardstick,
        "target": target,
        "rows": count,
        "ms_per_campaign": count / value / CAMPAIGNS * 1000,
        "rounds": {"streamed": streamed, "copied": copied},
    }


def _stream(server: QueryServer, call: Call) -> tuple[float, int]:
    """Seconds until the summary, and rows; each is counted on this side."""
    begun, received, summary = time.perf_counter(), 0, None
    for message in call(server):
        if message.HasField("summary"):
            summary = message.summary
        elif isinstance(message.batch, stream_pb2.LeadBatch):
            received += len(message.batch.leads)
        else:
            received += len(message.batch.names)
    elapsed = time.perf_counter() - begun
    assert summary is not None
    assert received == summary.performance.row_count > 0
    return elapsed, received
