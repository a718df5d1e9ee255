"""`domainflow domains changes, diff`."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from rich.console import Console
from typer.testing import CliRunner

from domainflow.query.v1 import query_service_pb2_grpc
from domainflow.query.v1 import stream_pb2 as pb
from domainflow.validation.v1.dns_pb2 import DnsResult
from services.cli.__main__ import app
from services.cli.changes import change_table, difference_table

DIFFERENCE = pb.Difference(
    position=7,
    name="a.com",
    fields=["verdict", "addresses"],
    base_dns=DnsResult(verdict=1),
    dns=DnsResult(verdict=2),
)


def change(first: int) -> pb.ChangeBatch:
    return pb.ChangeBatch(
        phase=2,
        revision=40 + first,
        domain_count=2,
        positions=[first, first + 1],
        names=[f"name-{first}.com", f"name-{first + 1}.com"],
        outcomes=[2, 0],
        cursor=str(first + 2),
    )


class Changing(query_service_pb2_grpc.QueryServiceServicer):
    """Three batches; the first call is cut after the first one, the second after the next."""

    def __init__(self, *, cuts_differences: bool = False) -> None:
        self.calls = 0
        self.cuts_differences = cuts_differences

    def StreamChanges(self, request: Any, context: Any) -> Iterator[pb.StreamChangesResponse]:
        assert request.since_revision == 12
        self.calls += 1
        for first in range(int(request.cursor or 0), 6, 2):
            yield pb.StreamChangesResponse(batch=change(first))
            if self.calls == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the door is closing")
            if self.calls == 2:
                return
        yield pb.StreamChangesResponse(summary=pb.ChangeSummary(revision=99))

    def StreamDifferences(
        self, request: Any, context: Any
    ) -> Iterator[pb.StreamDifferencesResponse]:
        assert (request.base_run, request.run) == (1, 3)
        if not request.cursor:
            batch = pb.DifferenceBatch(differences=[DIFFERENCE], cursor="8")
            yield pb.StreamDifferencesResponse(batch=batch)
            if self.cuts_differences:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the door is closing")
        yield pb.StreamDifferencesResponse(
            report=pb.DifferenceReport(
                base_run=1,
                run=3,
                compared_count=1_000,
                equal_count=999,
                verdict_changes=[pb.VerdictChange(base_verdict=1, verdict=2, count=1)],
                field_counts={"addresses": 1},
            )
        )


def test_every_change_is_a_line_however_often_the_stream_is_cut(serve: Callable[..., str]) -> None:
    address = serve(rows=Changing())
    arguments = ["domains", "changes", "an-id", "--since", "12", "--server", address]

    result = CliRunner().invoke(app(), arguments)

    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["position"] for row in rows] == list(range(6))
    assert rows[0] == {
        "phase": "PHASE_DNS_VALIDATION",
        "revision": 40,
        "position": 0,
        "name": "name-0.com",
        "outcome": "NXDOMAIN",
    }
    assert rows[1]["outcome"] is None
    assert "6 changes; go on with --since 99" in result.stderr


def test_differences_are_lines_and_the_figures_words(serve: Callable[..., str]) -> None:
    address = serve(rows=Changing())
    arguments = ["domains", "diff", "an-id", "--base-run", "1", "--run", "3", "--server", address]

    result = CliRunner().invoke(app(), arguments)

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["fields"] == ["verdict", "addresses"]
    assert "1,000 names compared, 999 equal" in result.stderr
    assert "1 from RESOLVED to NXDOMAIN" in result.stderr
    assert "1 differ in addresses" in result.stderr
    assert "cut" not in result.stderr


def test_figures_of_a_stream_that_was_cut_are_said_to_be_of_a_part(
    serve: Callable[..., str],
) -> None:
    address = serve(rows=Changing(cuts_differences=True))
    arguments = ["domains", "diff", "an-id", "--base-run", "1", "--run", "3", "--server", address]

    result = CliRunner().invoke(app(), arguments)

    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert "the connection was cut: figures are of the part after it" in result.stderr


def test_tables_say_what_was_and_what_is() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(change_table(change(0)))
        console.print(difference_table([DIFFERENCE]))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["1", "name-1.com", "(taken", "back)"] in lines
    assert ["7", "a.com", "RESOLVED", "NXDOMAIN", "verdict,", "addresses"] in lines
