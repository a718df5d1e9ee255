"""`domainflow campaign funnel, rejections, tlds` and `domainflow counters check`."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner, Result

from domainflow.query.v1 import query_service_pb2_grpc
from domainflow.query.v1 import summary_pb2 as pb
from services.cli.__main__ import app
from services.cli.figures import drift_table, funnel_table, rejection_table, tld_table

FUNNEL = pb.GetFunnelResponse(
    steps=[
        pb.FunnelStep(phase=1, name_count=1_000, settled_count=1_000, passed_count=1_000),
        pb.FunnelStep(
            phase=2, name_count=1_000, settled_count=900, passed_count=450, pass_ratio=0.5
        ),
    ]
)
REJECTIONS = pb.GetRejectionSummaryResponse(
    name_count=1_000,
    pending_count=550,
    rejections=[pb.Rejection(phase=2, outcome="NXDOMAIN", count=450)],
)
COM, NET = (
    pb.TldCount(
        tld=tld,
        name_count=1_000,
        outcome_counts=[pb.TldOutcomeCount(phase=2, outcome="NXDOMAIN", count=450)],
    )
    for tld in ("com", "net")
)
DRIFT = pb.CounterDrift(phase=2, run=1, counter="com NXDOMAIN", counted=451, actual=450)


class Figures(query_service_pb2_grpc.QueryServiceServicer):
    def __init__(self, drifts: list[pb.CounterDrift]) -> None:
        self.drifts = drifts

    def GetFunnel(self, request: Any, context: Any) -> Any:
        return FUNNEL

    def GetRejectionSummary(self, request: Any, context: Any) -> Any:
        return REJECTIONS

    def ListTldCounts(self, request: Any, context: Any) -> Any:
        if request.page_token:
            return pb.ListTldCountsResponse(tld_counts=[NET])
        return pb.ListTldCountsResponse(tld_counts=[COM], next_page_token="more")

    def CheckCounters(self, request: Any, context: Any) -> Any:
        return pb.CheckCountersResponse(row_count=1_900, drifts=self.drifts, revision=7)


def run(serve: Callable[..., str], *arguments: str, drifts: list[pb.CounterDrift]) -> Result:
    address = serve(rows=Figures(drifts))
    return CliRunner().invoke(app(), [*arguments, "an-id", "--server", address])


@pytest.mark.parametrize(
    ("command", "field", "values"),
    [
        ("funnel", "passedCount", ["1000", "450"]),
        ("rejections", "pendingCount", ["550"]),
        ("tlds", "tld", ["com", "net"]),
    ],
)
def test_figures_are_told_in_json(
    serve: Callable[..., str], command: str, field: str, values: list[str]
) -> None:
    result = run(serve, "campaign", command, drifts=[])

    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)[field] for line in result.stdout.splitlines()] == values


def test_a_check_fails_when_a_counter_is_wrong(serve: Callable[..., str]) -> None:
    right = run(serve, "counters", "check", drifts=[])
    wrong = run(serve, "counters", "check", drifts=[DRIFT])

    assert right.exit_code == 0, right.stderr
    assert "1,900 rows counted, as of revision 7" in right.stderr
    assert wrong.exit_code == 1
    assert "1 counters are not what the rows say" in wrong.stderr
    assert json.loads(wrong.stdout)["drifts"][0]["counter"] == "com NXDOMAIN"


def drawn(table: Table) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines()]


def test_tables_show_the_figures() -> None:
    assert drawn(funnel_table(FUNNEL.steps))[-1] == [
        "DNS", "validation", "1,000", "900", "450", "50.0%",
    ]  # fmt: skip
    assert drawn(rejection_table(REJECTIONS))[-1] == ["DNS", "validation", "NXDOMAIN", "450"]
    assert drawn(tld_table([COM]))[-1] == ["com", "1,000", "NXDOMAIN", "450"]
    assert drawn(drift_table([DRIFT]))[-1][-4:] == ["com", "NXDOMAIN", "451", "450"]
