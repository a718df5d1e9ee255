"""`domainflow resolvers`: the report card of every resolver that is in use."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import dns_settings_pb2, resolver_pb2, validation_service_pb2_grpc
from domainflow.validation.v1 import validation_service_pb2 as pb
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

_FIGURES = (
    "score",
    "questions",
    "loss",
    "answers in",
    "window",
    "agreed",
    "disagreed",
    "wrong",
    "canaries",
)


def resolvers(
    resolver: Annotated[
        str, typer.Argument(help="Only this one, such as 192.0.2.1:53. Default: all.")
    ] = "",
    worker: Annotated[str, typer.Option(help="Only what this worker process reports.")] = "",
    json: Annotated[
        bool, typer.Option("--json", help="JSON on standard output: a line per report.")
    ] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show how well each resolver does, worst first, by every process that uses it.

    A resolver that lies, refuses or has no TCP is quarantined: it gets canaries only, questions
    with a known answer, until it has passed them all twice.
    """

    async def list_resolvers() -> None:
        request = pb.ListResolversRequest(worker_id=worker, resolver=resolver)
        async with connected(locate(server, data)) as channel:
            stub = validation_service_pb2_grpc.ValidationServiceStub(channel)
            response = await stub.ListResolvers(request, timeout=DEADLINE)
        if json or not terminal.is_watched():
            for report in response.resolvers:
                terminal.emit(terminal.as_json(report))
            return
        terminal.show(resolver_table(response.resolvers, time.time()))

    run(list_resolvers())


def resolver_table(reports: Sequence[resolver_pb2.ResolverReport], now: float) -> Table:
    """`now` is the wall clock, in seconds."""
    headings = ("resolver", "operator", "by", "worker", "state", *_FIGURES, "because")
    shown = terminal.table("", headings, right=_FIGURES)
    for report in reports:
        transport = dns_settings_pb2.DnsTransport.Name(report.transport)
        latency = report.latency.ToMicroseconds() / 1000
        passed = sum(canary.passed for canary in report.canaries)
        shown.add_row(
            escape(report.resolver),
            escape(report.operator),
            transport.removeprefix("DNS_TRANSPORT_").replace("_", " "),
            escape(report.worker_id),
            _state(report, now),
            f"{report.score:.2f}",
            f"{report.question_count:,}",
            f"{report.loss:.1%}",
            f"{latency:,.1f} ms" if latency else "",
            f"{report.window:,}",
            f"{report.agree_count:,}",
            f"{report.disagree_count:,}",
            f"{report.wrong_count:,}",
            f"{passed} of {len(report.canaries)}" if report.canaries else "",
            escape(report.reason),
        )
    return shown


def _state(report: resolver_pb2.ResolverReport, now: float) -> str:
    name = resolver_pb2.ResolverState.Name(report.state)
    state = terminal.label(name, "RESOLVER_STATE_")
    if not report.HasField("retry_time"):
        return state
    return f"{state} for {terminal.span(max(0.0, report.retry_time.ToMicroseconds() / 1e6 - now))}"
