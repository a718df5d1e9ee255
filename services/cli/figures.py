"""`domainflow campaign funnel, rejections, tlds` and `domainflow counters check`: from counters."""

from collections.abc import Iterable

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.query.v1 import query_service_pb2_grpc, summary_pb2
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
from services.cli.exits import Failure
from services.cli.options import CampaignArgument, JsonOption
from services.cli.progress import phase_label

PAGE_SIZE = 1000
# Seconds that counting all rows may take: as many as the door allows.
PATIENCE = 300.0


def counters_group() -> typer.Typer:
    """The commands below `domainflow counters`."""
    made = typer.Typer(no_args_is_help=True, help="Whether the counters are right.")
    made.command("check")(check_counters)
    return made


def funnel(
    campaign_id: CampaignArgument,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show how many names went from phase to phase: a table on a terminal, NDJSON otherwise."""

    async def work() -> None:
        request = summary_pb2.GetFunnelRequest(campaign_id=campaign_id)
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            answer = await stub.GetFunnel(request, timeout=DEADLINE)
        if json or not terminal.is_watched():
            for step in answer.steps:
                terminal.emit(terminal.as_json(step))
        else:
            terminal.show(funnel_table(answer.steps))

    run(work())


def rejections(
    campaign_id: CampaignArgument,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show where the names went that are no leads: a table on a terminal, JSON otherwise."""

    async def work() -> None:
        request = summary_pb2.GetRejectionSummaryRequest(campaign_id=campaign_id)
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            answer = await stub.GetRejectionSummary(request, timeout=DEADLINE)
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
        else:
            terminal.show(rejection_table(answer))

    run(work())


def tlds(
    campaign_id: CampaignArgument,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show what was found below each top-level domain: a table on a terminal, NDJSON otherwise."""

    async def work() -> None:
        request = summary_pb2.ListTldCountsRequest(campaign_id=campaign_id, page_size=PAGE_SIZE)
        counts: list[summary_pb2.TldCount] = []
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            while True:
                page = await stub.ListTldCounts(request, timeout=DEADLINE)
                counts += page.tld_counts
                request.page_token = page.next_page_token
                if not request.page_token:
                    break
        if json or not terminal.is_watched():
            for each in counts:
                terminal.emit(terminal.as_json(each))
        else:
            terminal.show(tld_table(counts))

    run(work())


def check_counters(
    campaign_id: CampaignArgument,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Count all rows of a campaign and compare. Exit code 1 when a counter is wrong."""

    async def work() -> None:
        request = summary_pb2.CheckCountersRequest(campaign_id=campaign_id)
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            answer = await stub.CheckCounters(request, timeout=PATIENCE)
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
        elif answer.drifts:
            terminal.show(drift_table(answer.drifts))
        terminal.say(f"{answer.row_count:,} rows counted, as of revision {answer.revision:,}")
        if answer.drifts:
            raise Failure(f"{len(answer.drifts):,} counters are not what the rows say")

    run(work())


def funnel_table(steps: Iterable[summary_pb2.FunnelStep]) -> Table:
    """One row a phase."""
    made = terminal.table(
        "",
        ("phase", "names", "settled", "went on", "share"),
        right=("names", "settled", "went on", "share"),
    )
    for step in steps:
        made.add_row(
            phase_label(step.phase),
            f"{step.name_count:,}",
            f"{step.settled_count:,}",
            f"{step.passed_count:,}",
            f"{step.pass_ratio:.1%}" if step.settled_count else "",
        )
    return made


def rejection_table(answer: summary_pb2.GetRejectionSummaryResponse) -> Table:
    """An account: what is there, and where it went."""
    made = terminal.table("", ("", "", "names"), right=("names",))
    made.add_row("names", "", f"{answer.name_count:,}")
    made.add_row("leads", "", f"{answer.lead_count:,}")
    made.add_row("pending", "", f"{answer.pending_count:,}")
    for each in answer.rejections:
        made.add_row(phase_label(each.phase), escape(each.outcome), f"{each.count:,}")
    return made


def tld_table(counts: Iterable[summary_pb2.TldCount]) -> Table:
    """One row a top-level domain."""
    made = terminal.table("", ("below", "names", "found"), right=("names",))
    for each in counts:
        found = ", ".join(f"{one.outcome} {one.count:,}" for one in each.outcome_counts)
        made.add_row(escape(each.tld), f"{each.name_count:,}", escape(found))
    return made


def drift_table(drifts: Iterable[summary_pb2.CounterDrift]) -> Table:
    """One row a counter that is wrong."""
    headings = ("phase", "run", "counter", "says", "rows")
    made = terminal.table("", headings, right=("run", "says", "rows"))
    for each in drifts:
        made.add_row(
            phase_label(each.phase),
            str(each.run),
            escape(each.counter),
            f"{each.counted:,}",
            f"{each.actual:,}",
        )
    return made
