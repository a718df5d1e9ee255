"""A receipt for eyes: every name accounted for, phase by phase."""

from rich.console import Console
from rich.table import Table

from domainflow.campaign.v1 import campaign_pb2
from services.cli.progress import phase_label, status_label
from services.cli.terminal import span, table


def show(receipt: campaign_pb2.Receipt, console: Console) -> None:
    """The table and below it the hashes over names and outcomes."""
    console.print(as_table(receipt))
    for line in hashes(receipt):
        console.print(line, soft_wrap=True)


def as_table(receipt: campaign_pb2.Receipt) -> Table:
    """One row per outcome, then the sum."""
    made = table("", ("phase", "outcome", "names"), right=("names",))
    for phase in receipt.phases:
        title = f"{phase_label(phase.phase)}, run {phase.run}, {status_label(phase.status)}"
        for outcome in sorted(phase.outcomes, key=lambda o: -o.count):
            made.add_row(title, outcome.outcome, f"{outcome.count:,}")
            title = ""
        for name, count in (
            ("(not settled)", phase.unsettled_count),
            ("(asked for, but the pattern had no more)", phase.missing_count),
            ("(repeated lines, left out)", phase.duplicate_count),
            ("(rejected lines, left out)", phase.rejected_count),
        ):
            if count:
                made.add_row(title, name, f"{count:,}", style="yellow")
                title = ""
        verdict = "=" if settled(phase) + phase.unsettled_count == phase.name_count else "!="
        elapsed = span(phase.elapsed.ToTimedelta().total_seconds())
        made.add_row(
            f"took {elapsed}",
            f"sum {verdict} names to settle",
            f"{phase.name_count:,}",
            style="bold",
        )
        made.add_section()
    return made


def hashes(receipt: campaign_pb2.Receipt) -> list[str]:
    """One line per completed phase; too long for a column."""
    return [
        f"{phase_label(phase.phase)} sha256 {phase.content_sha256}"
        for phase in receipt.phases
        if phase.content_sha256
    ]


def settled(phase: campaign_pb2.PhaseReceipt) -> int:
    """Names of the phase that have an outcome."""
    return sum(outcome.count for outcome in phase.outcomes)
