"""`domainflow domains changes, diff`: what changed since a revision, what two runs disagree on."""

import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Annotated, Any

import grpc
import typer
from rich.markup import escape
from rich.table import Table

from domainflow.campaign.v1 import campaign_pb2
from domainflow.query.v1 import query_service_pb2_grpc
from domainflow.query.v1 import stream_pb2 as pb
from domainflow.validation.v1 import dns_pb2, http_pb2, lead_pb2
from services.cli import retry, terminal
from services.cli.connection import (
    DATA_FOLDER,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.options import CampaignArgument, PhaseWord
from services.cli.progress import phase_label

# Phase -> its enum of outcomes and their prefix; the analysis has three words for them.
_ENUMS: dict[int, tuple[Any, str]] = {
    campaign_pb2.PHASE_DNS_VALIDATION: (dns_pb2.DnsVerdict, "DNS_VERDICT_"),
    campaign_pb2.PHASE_HTTP_VALIDATION: (http_pb2.HttpVerdict, "HTTP_VERDICT_"),
    campaign_pb2.PHASE_LEAD_EXTRACTION: (lead_pb2.LeadReason, "LEAD_REASON_"),
}
_WORDS: dict[int, dict[int, str]] = {
    campaign_pb2.PHASE_DOMAIN_GENERATION: {1: "GENERATED"},
    campaign_pb2.PHASE_CONTENT_ANALYSIS: {1: "WITH_KEYWORD", 2: "WITHOUT_KEYWORD", 3: "ERROR"},
}
PhaseOption = Annotated[
    PhaseWord | None, typer.Option(case_sensitive=False, help="Only this phase's results.")
]


def changes(
    campaign_id: CampaignArgument,
    since: Annotated[
        int, typer.Option(min=0, help="Revision of the campaign to begin after; 0: everything.")
    ] = 0,
    phase: PhaseOption = None,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show every name whose result changed since a revision: NDJSON unless on a terminal.

    An outcome of null was taken back. Standard error says which revision to go on from.

    Example:

        domainflow domains changes ID --since 120 > changes.ndjson
    """
    request = pb.StreamChangesRequest(campaign_id=campaign_id, since_revision=since)
    if phase is not None:
        request.phase = phase.number

    async def work() -> None:
        count = 0
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            async for message in messages(stub.StreamChanges, request, "summary"):
                if message.WhichOneof("kind") == "summary":
                    terminal.say(
                        f"{count:,} changes; go on with --since {message.summary.revision}"
                    )
                    continue
                count += message.batch.domain_count
                if terminal.is_watched():
                    terminal.show(change_table(message.batch))
                else:
                    for line in change_lines(message.batch):
                        terminal.emit(line)

    run(work(), lambda: "interrupted; the changes so far are not all")


def diff(
    campaign_id: CampaignArgument,
    phase: PhaseOption = None,
    base_run: Annotated[
        int, typer.Option(min=0, help="The earlier run. Default: the one before --run.")
    ] = 0,
    later_run: Annotated[
        int, typer.Option("--run", min=0, help="The later run. Default: the one that is shown.")
    ] = 0,
    verdicts_only: Annotated[
        bool, typer.Option("--verdicts-only", help="Not where the evidence alone differs.")
    ] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show every name on which two runs of a phase differ: NDJSON unless on a terminal.

    Standard error has the figures.
    """
    request = pb.StreamDifferencesRequest(
        campaign_id=campaign_id, base_run=base_run, run=later_run, verdicts_only=verdicts_only
    )
    if phase is not None:
        request.phase = phase.number

    # Cursors at which the stream was taken up again; empty at its beginning.
    resumed: list[str] = []

    async def work() -> None:
        patience = retry.Patience(on_wait=lambda _: resumed.append(request.cursor))
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            async for message in messages(stub.StreamDifferences, request, "report", patience):
                if message.WhichOneof("kind") == "report":
                    for line in report_lines(message.report, request.phase):
                        terminal.say(line)
                    if any(resumed):
                        terminal.say("the connection was cut: figures are of the part after it")
                elif terminal.is_watched():
                    terminal.show(difference_table(message.batch.differences))
                else:
                    for each in message.batch.differences:
                        terminal.emit(terminal.as_json(each))

    run(work(), lambda: "interrupted; the differences so far are not all")


async def messages(
    method: Callable[[Any], Any], request: Any, end: str, patience: retry.Patience | None = None
) -> AsyncIterator[Any]:
    """Every message of a stream once, whose last one is of the kind `end`; a stream that is cut is
    taken up where it was."""
    patience = patience or retry.Patience()
    while True:
        call = method(request)
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                patience.progressed()
                yield message
                if message.WhichOneof("kind") == end:
                    return
                request.cursor = message.batch.cursor
            raise retry.cut(f"the stream ended before its {end}")
        except grpc.aio.AioRpcError as error:
            await patience.wait(error)
        finally:
            call.cancel()


def outcome_label(phase: int, outcome: int) -> str:
    """`NXDOMAIN`; empty for none, the number for one that this client does not know."""
    if not outcome:
        return ""
    if phase in _WORDS:
        return _WORDS[phase].get(outcome, str(outcome))
    enum, prefix = _ENUMS[phase]
    names: dict[int, str] = {n: name.removeprefix(prefix) for name, n in enum.items()}
    return names.get(outcome, str(outcome))


def change_lines(batch: pb.ChangeBatch) -> Iterable[str]:
    """One object a name."""
    head = {"phase": campaign_pb2.Phase.Name(batch.phase), "revision": batch.revision}
    labels = {number: outcome_label(batch.phase, number) or None for number in {*batch.outcomes}}
    for position, name, outcome in zip(batch.positions, batch.names, batch.outcomes, strict=True):
        row = {**head, "position": position, "name": name, "outcome": labels[outcome]}
        yield json.dumps(row, separators=(",", ":"))


def change_table(batch: pb.ChangeBatch) -> Table:
    """One row a name."""
    title = f"{phase_label(batch.phase)}, revision {batch.revision:,}"
    made = terminal.table(title, ("position", "name", "outcome"), right=("position",))
    for position, name, outcome in zip(batch.positions, batch.names, batch.outcomes, strict=True):
        label = outcome_label(batch.phase, outcome) or "(taken back)"
        made.add_row(f"{position:,}", escape(name), escape(label))
    return made


def difference_table(differences: Iterable[pb.Difference]) -> Table:
    """One row a name: what was, what is, and which fields differ."""
    headings = ("position", "name", "was", "is", "differs")
    made = terminal.table("", headings, right=("position",))
    for each in differences:
        made.add_row(
            f"{each.position:,}",
            escape(each.name),
            _verdict(each, "base_"),
            _verdict(each, ""),
            ", ".join(each.fields),
        )
    return made


def _verdict(difference: pb.Difference, which: str) -> str:
    for kind, phase in (
        ("dns", campaign_pb2.PHASE_DNS_VALIDATION),
        ("http", campaign_pb2.PHASE_HTTP_VALIDATION),
    ):
        if difference.HasField(f"{which}{kind}"):  # type: ignore[arg-type]
            return outcome_label(phase, getattr(difference, f"{which}{kind}").verdict)
    return "(nothing)"


def report_lines(report: pb.DifferenceReport, phase: int) -> Iterable[str]:
    """The figures in words."""
    phase = phase or campaign_pb2.PHASE_DNS_VALIDATION
    yield (
        f"run {report.base_run} and run {report.run}: {report.compared_count:,} names compared,"
        f" {report.equal_count:,} equal, {report.evidence_count:,} with other evidence"
    )
    for change in report.verdict_changes:
        before = outcome_label(phase, change.base_verdict) or "(nothing)"
        after = outcome_label(phase, change.verdict) or "(nothing)"
        yield f"{change.count:,} from {before} to {after}"
    for field, count in sorted(report.field_counts.items(), key=lambda item: -item[1]):
        yield f"{count:,} differ in {field}"
