"""`domainflow database`: what is asked, and what is shown of the answer."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from domainflow.query.v1 import database_pb2 as pb
from domainflow.query.v1.query_service_pb2_grpc import QueryServiceServicer
from services.cli.__main__ import app
from services.cli.database import (
    figures_table,
    headlines,
    index_table,
    leaks,
    pool_table,
    recommendation_table,
    slow_query,
)

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
POOL = pb.ConnectionPool(
    process="query machine 7",
    max_count=10,
    acquire_count=1_234_567,
    longest_wait=timedelta(milliseconds=12.5),
    leaks=[pb.ConnectionLeak(taken_at="a/b.py:7 f", age=timedelta(seconds=67))],
)
FIGURES = [
    pb.QueryFigures(
        method=f"Method{number}",
        begin_time=NOON,
        query_count=9_000,
        mean=timedelta(milliseconds=1.5),
    )
    for number in range(3)
]
SLOW = pb.SlowQuery(
    method="ListDomains", end_time=NOON, duration=timedelta(seconds=1), statement="SELECT 1"
)
URGENT = pb.Recommendation(
    severity=pb.Recommendation.SEVERITY_URGENT, code="LEAK", finding="[found]", action="do"
)
NOTE = pb.Recommendation(severity=pb.Recommendation.SEVERITY_NOTE, code="NOTE")


class Rows(QueryServiceServicer):
    def __init__(self, *advice: pb.Recommendation) -> None:
        self.advice = advice

    def GetDatabaseStatus(self, request: Any, context: Any) -> Any:
        return pb.GetDatabaseStatusResponse(server_version="18.4", pools=[POOL])

    def ListQueryPerformance(self, request: Any, context: Any) -> Any:
        if request.slow_only:
            return pb.ListQueryPerformanceResponse(slow_queries=[SLOW])
        first = int(request.page_token or 0)
        more = str(first + 1) if first < 2 else ""
        return pb.ListQueryPerformanceResponse(figures=[FIGURES[first]], next_page_token=more)

    def ListRecommendations(self, request: Any, context: Any) -> Any:
        return pb.ListRecommendationsResponse(recommendations=self.advice)


def told(serve: Callable[..., str], *command: str, advice: Any = ()) -> Result:
    address = serve(rows=Rows(*advice))
    return CliRunner().invoke(app(), ["database", *command, "--server", address])


def shown(table: Any) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_status_is_told_in_json(serve: Callable[..., str]) -> None:
    result = told(serve, "status", "--json")

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["pools"][0]["acquireCount"] == "1234567"


@pytest.mark.parametrize(("limit", "methods"), [(2, ["Method0", "Method1"]), (100, None)])
def test_queries_are_walked_as_far_as_asked(
    serve: Callable[..., str], limit: int, methods: list[str] | None
) -> None:
    result = told(serve, "queries", "--limit", str(limit))

    assert result.exit_code == 0, result.stderr
    found = [json.loads(line)["method"] for line in result.stdout.splitlines()]
    assert found == (methods or [each.method for each in FIGURES])


def test_slow_queries_are_told_with_their_statements(serve: Callable[..., str]) -> None:
    result = told(serve, "queries", "--slow")

    assert json.loads(result.stdout)["statement"] == "SELECT 1"


@pytest.mark.parametrize(
    ("advice", "code"), [([NOTE, URGENT], 1), ([NOTE], 0), ([], 0)], ids=["urgent", "note", "none"]
)
def test_what_is_urgent_ends_with_one(
    serve: Callable[..., str], advice: list[pb.Recommendation], code: int
) -> None:
    result = told(serve, "recommendations", advice=advice)

    assert result.exit_code == code
    assert len(result.stdout.splitlines()) == len(advice)


def test_people_are_shown_the_figures() -> None:
    assert "1,234,567" in shown(pool_table([POOL]))
    assert "12.5 ms" in shown(pool_table([POOL]))
    assert list(leaks([POOL])) == ["query machine 7, for 1:07, taken at a/b.py:7 f"]
    use = pb.IndexUse(table="leads", row_count=9, ratio=0.987, unused_indexes=["a", "b"])
    assert "98.7%" in shown(index_table([use]))
    assert "a, b" in shown(index_table([use]))
    assert "no plan could be made\n" in list(slow_query(SLOW))


def test_a_minute_is_said_once() -> None:
    table = shown(figures_table(FIGURES))
    assert table.count("2026-11-22 12:00") == 1
    assert table.count("1.5 ms") == 3


def test_advice_is_shown_as_it_is_written() -> None:
    table = shown(recommendation_table([URGENT]))
    assert "urgent" in table
    assert "[found]" in table


def test_headlines_tell_of_replica_and_counters() -> None:
    status = pb.GetDatabaseStatusResponse(server_version="18.4", size_bytes=3 << 30)
    assert list(headlines(status))[1:] == ["counters: not compared with the rows yet"]
    status.replica.reason = "refused"
    status.counters_check_time.FromDatetime(NOON)
    assert list(headlines(status)) == [
        "PostgreSQL 18.4, 3.00 GB, tables of ",
        "replica: refused",
        "counters: compared last at 2026-11-22 12:00 UTC, 0 were wrong",
    ]
    status.replica.reachable = True
    assert "replica: used, an unknown time behind" in list(headlines(status))
