"""`domainflow domains leads`: whom to talk to, in bulk."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.query.v1 import query_service_pb2_grpc
from domainflow.query.v1 import stream_pb2 as pb
from domainflow.validation.v1 import lead_pb2
from services.cli import filter_options, terminal
from services.cli.changes import messages
from services.cli.connection import DATA_FOLDER, DataOption, ServerOption, connected, locate, run
from services.cli.exits import ExitCode, Failure
from services.cli.options import CampaignArgument

# Contacts of a lead that a table has room for, the surest ones.
_SHOWN = 3


def leads(
    campaign_id: CampaignArgument,
    lead: Annotated[
        list[str] | None,
        typer.Option(
            "--lead",
            metavar="STATUS",
            help="Names with this decision, such as REJECTED; repeat for more. Default: QUALIFIED.",
        ),
    ] = None,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show all leads with their contacts, and why they are leads: NDJSON unless on a terminal.

    Example:

        domainflow domains leads ID > leads.ndjson
    """
    statuses = filter_options.numbers("--lead", lead_pb2.LeadStatus, "LEAD_STATUS_", lead)
    request = pb.StreamLeadsRequest(campaign_ids=[campaign_id], statuses=statuses)

    async def work() -> None:
        count = 0
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            async for message in messages(stub.StreamLeads, request, "summary"):
                if message.summary.unreachable:
                    raise Failure(f"there is no campaign {campaign_id}", ExitCode.FAILURE)
                rows = message.batch.leads
                count += len(rows)
                if terminal.is_watched():
                    if rows:
                        terminal.show(table(rows))
                    continue
                for row in rows:
                    terminal.emit(terminal.as_json(row))
        terminal.say(f"{count:,} names")

    run(work(), lambda: "interrupted; the leads so far are not all")


def table(rows: Iterable[pb.LeadRow]) -> Table:
    """One row a name."""
    made = terminal.table(
        "", ("position", "name", "score", "contacts", "why"), right=("position", "score")
    )
    for row in rows:
        made.add_row(
            f"{row.position:,}",
            escape(row.name),
            f"{row.score:.3f}" if row.HasField("score") else "",
            escape(", ".join(each.value for each in row.lead.contacts[:_SHOWN])),
            escape(row.lead.detail),
        )
    return made
