"""`domainflow resolvers`."""

import json
from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from typer.testing import CliRunner

from domainflow.validation.v1 import dns_settings_pb2, resolver_pb2, validation_service_pb2_grpc
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.cli.__main__ import app
from services.cli.resolvers import resolver_table

LIAR = resolver_pb2.ResolverReport(
    resolver="192.0.2.1:53",
    transport=dns_settings_pb2.DNS_TRANSPORT_UDP,
    operator="nobody",
    worker_id="machine-7-aa",
    state=resolver_pb2.RESOLVER_STATE_QUARANTINED,
    reason="said 203.0.113.80 of a name that does not exist",
    retry_time=Timestamp(seconds=1090),
    score=0.25,
    question_count=1_234_567,
    agree_count=3,
    disagree_count=1234,
    wrong_count=17,
    latency=Duration(nanos=12_300_000),
    loss=0.004,
    window=240,
    canaries=[
        resolver_pb2.CanaryResult(passed=True),
        resolver_pb2.CanaryResult(passed=False),
    ],
)


class Validation(validation_service_pb2_grpc.ValidationServiceServicer):
    def ListResolvers(self, request: Any, context: Any) -> Any:
        asked = resolver_pb2.ResolverReport(resolver=request.resolver, worker_id=request.worker_id)
        return pb.ListResolversResponse(resolvers=[LIAR, asked])


def test_reports_are_told_in_json_a_line_each(serve: Callable[..., str]) -> None:
    address = serve(validation=Validation())
    arguments = ["resolvers", "192.0.2.9:53", "--worker", "w", "--json", "--server", address]

    result = CliRunner().invoke(app(), arguments)

    assert result.exit_code == 0, result.stderr
    liar, asked = (json.loads(line) for line in result.stdout.splitlines())
    assert liar["state"] == "RESOLVER_STATE_QUARANTINED"
    assert (asked["resolver"], asked["workerId"]) == ("192.0.2.9:53", "w")


def test_the_table_shows_the_figures_and_the_reason() -> None:
    console = Console(width=400)
    with console.capture() as capture:
        console.print(resolver_table([LIAR, resolver_pb2.ResolverReport()], now=1000))
    shown = capture.get()

    for figure in (
        *("192.0.2.1:53", "nobody", "UDP", "machine-7-aa", "quarantined for 1:30", "0.25"),
        *("1,234,567", "0.4%", "12.3 ms", "240", "1,234", "17", "1 of 2", LIAR.reason),
    ):
        assert figure in shown
