"""`domainflow database ...`: how the database is, what queries take, and what to do about it."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from rich.markup import escape
from rich.table import Table

from domainflow.query.v1 import database_pb2 as pb
from domainflow.query.v1 import query_service_pb2_grpc
from services.cli import terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.exits import ExitCode

PAGE_SIZE = 1000
# Tables that a person is shown: those with the most rows.
SHOWN_TABLES = 12
_SEVERITY = pb.Recommendation.Severity

JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def group() -> typer.Typer:
    """The commands below `domainflow database`."""
    made = typer.Typer(no_args_is_help=True, help="How the database is, and what to do about it.")
    made.command("status")(status)
    made.command("queries")(queries)
    made.command("recommendations")(recommendations)
    return made


def status(
    json: JsonOption = False, server: ServerOption = "", data: DataOption = DATA_FOLDER
) -> None:
    """Show the server, the connections of every process, and how much is read by index."""

    async def show_status() -> None:
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            answer = await stub.GetDatabaseStatus(pb.GetDatabaseStatusRequest(), timeout=DEADLINE)
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
            return
        for line in headlines(answer):
            terminal.paper().print(escape(line))
        terminal.paper().print()
        terminal.show(pool_table(answer.pools))
        for leak in leaks(answer.pools):
            terminal.paper().print(f"[bold red]not given back:[/] {escape(leak)}")
        terminal.paper().print()
        terminal.show(index_table(answer.index_uses[:SHOWN_TABLES]))

    run(show_status())


def queries(
    slow: Annotated[
        bool, typer.Option("--slow", help="Slow queries with their plans, the slowest first.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, help="Rows at most; the newest, or the slowest.")
    ] = 100,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show what the queries of each method took, minute by minute, of the last 7 days."""

    async def show_queries() -> None:
        found: list[pb.QueryFigures | pb.SlowQuery] = []
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            token = ""
            while len(found) < limit:
                request = pb.ListQueryPerformanceRequest(
                    page_size=min(limit - len(found), PAGE_SIZE), page_token=token, slow_only=slow
                )
                page = await stub.ListQueryPerformance(request, timeout=DEADLINE)
                found += page.slow_queries if slow else page.figures
                if not (token := page.next_page_token):
                    break
        if json or not terminal.is_watched():
            for each in found:
                terminal.emit(terminal.as_json(each))
        elif slow:
            for each in found:
                assert isinstance(each, pb.SlowQuery)
                terminal.paper().print("\n".join(slow_query(each)), markup=False)
        else:
            terminal.show(figures_table([f for f in found if isinstance(f, pb.QueryFigures)]))

    run(show_queries())


def recommendations(
    json: JsonOption = False, server: ServerOption = "", data: DataOption = DATA_FOLDER
) -> None:
    """Say what to do about the database, the most urgent first.

    Exit code 1 when something is urgent, so that a watch can call it.
    """

    async def show_recommendations() -> ExitCode:
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            answer = await stub.ListRecommendations(
                pb.ListRecommendationsRequest(), timeout=DEADLINE
            )
        if json or not terminal.is_watched():
            for each in answer.recommendations:
                terminal.emit(terminal.as_json(each))
        elif answer.recommendations:
            terminal.show(recommendation_table(answer.recommendations))
        else:
            terminal.say("nothing to do")
        urgent = any(each.severity == each.SEVERITY_URGENT for each in answer.recommendations)
        return ExitCode.FAILURE if urgent else ExitCode.OK

    raise typer.Exit(run(show_recommendations()))


def headlines(answer: pb.GetDatabaseStatusResponse) -> Iterator[str]:
    yield (
        f"PostgreSQL {answer.server_version}, {answer.size_bytes / 1024**3:,.2f} GB,"
        f" tables of {answer.migration}"
    )
    if answer.HasField("replica"):
        replica = answer.replica
        lag = f"{_seconds(replica.lag):.1f} s" if replica.HasField("lag") else "an unknown time"
        yield f"replica: {f'used, {lag} behind' if replica.reachable else replica.reason}"
    if answer.HasField("counters_check_time"):
        when = f"{answer.counters_check_time.ToDatetime():%Y-%m-%d %H:%M} UTC"
        yield f"counters: compared last at {when}, {answer.counter_drift_count:,} were wrong"
    else:
        yield "counters: not compared with the rows yet"


def pool_table(pools: Sequence[pb.ConnectionPool]) -> Table:
    figures = ("open", "in use", "most", "waiting", "taken", "mean wait", "longest wait")
    shown = terminal.table("", ("process", *figures), right=figures)
    for pool in pools:
        shown.add_row(
            escape(pool.process),
            str(pool.open_count),
            str(pool.in_use_count),
            str(pool.max_count),
            str(pool.waiting_count),
            f"{pool.acquire_count:,}",
            _milliseconds(pool.mean_wait),
            _milliseconds(pool.longest_wait),
        )
    return shown


def leaks(pools: Sequence[pb.ConnectionPool]) -> Iterator[str]:
    for pool in pools:
        for leak in pool.leaks:
            age = terminal.span(_seconds(leak.age))
            yield f"{pool.process}, for {age}, taken at {leak.taken_at}"


def index_table(uses: Sequence[pb.IndexUse]) -> Table:
    figures = ("rows", "by index", "whole", "share")
    shown = terminal.table("", ("table", *figures, "indexes never used"), right=figures)
    for use in uses:
        shown.add_row(
            escape(use.table),
            f"{use.row_count:,}",
            f"{use.index_scan_count:,}",
            f"{use.sequential_scan_count:,}",
            f"{use.ratio:.1%}",
            escape(", ".join(use.unused_indexes)),
        )
    return shown


def figures_table(found: Sequence[pb.QueryFigures]) -> Table:
    figures = ("queries", "rows", "mean", "p95", "longest")
    shown = terminal.table("", ("minute", "method", *figures), right=figures)
    for minute, of_minute in itertools.groupby(
        found, key=lambda each: f"{each.begin_time.ToDatetime():%Y-%m-%d %H:%M} UTC"
    ):
        for number, each in enumerate(of_minute):
            shown.add_row(
                "" if number else minute,
                escape(each.method),
                f"{each.query_count:,}",
                f"{each.row_count:,}",
                _milliseconds(each.mean),
                _milliseconds(each.p95),
                _milliseconds(each.longest),
            )
    return shown


def slow_query(slow: pb.SlowQuery) -> Iterator[str]:
    when = f"{slow.end_time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
    yield f"{slow.method}, {_milliseconds(slow.duration)}, {when}"
    yield slow.statement
    yield f"{slow.plan or 'no plan could be made'}\n"


def recommendation_table(found: Sequence[pb.Recommendation]) -> Table:
    shown = terminal.table("", ("", "what", "found"))
    for each in found:
        colour = "bold red" if each.severity == each.SEVERITY_URGENT else "yellow"
        severity = _SEVERITY.Name(each.severity).removeprefix("SEVERITY_").lower()
        shown.add_row(f"[{colour}]{severity}[/]", escape(each.code), escape(each.finding))
        shown.add_row("", "", f"[{colour}]{escape(each.action)}[/]")
    return shown


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _milliseconds(duration: Duration) -> str:
    return f"{duration.ToNanoseconds() / 1e6:,.1f} ms"
