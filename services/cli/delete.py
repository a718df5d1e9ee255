"""`domainflow campaign delete`: asks, begins, and stays until the campaigns are gone."""

import asyncio
import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
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
from services.cli.follow import look
from services.cli.options import ReasonOption
from services.cli.progress import Tally
from services.cli.retry import Patience

if TYPE_CHECKING:
    from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceAsyncStub

# Campaigns a call may delete.
MAX_IDS = 1000
# Seconds between looks at how far it is, and campaigns looked at: those asked for first go first.
PERIOD = 0.25
LOOKED_AT = 20


def delete(
    campaign_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Campaign ids.")],
    force: Annotated[
        bool, typer.Option("--force", help="Cancel first those that run or are paused.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option(help="Stay until they are gone.")] = True,
    reason: ReasonOption = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Delete campaigns and everything known of their names. It cannot be undone.

    Deleted names stay taken: no other campaign gets them. Exit code 1 when a campaign was refused;
    the others are deleted nevertheless. Without a terminal --yes is needed.
    """
    ids = list(dict.fromkeys(campaign_ids))
    if not yes:
        if not sys.stdin.isatty():
            # A script says what it means: nothing brings deleted results back.
            raise typer.BadParameter("nobody is there to be asked", param_hint="--yes")
        what = "this campaign" if len(ids) == 1 else f"these {len(ids):,} campaigns"
        typer.confirm(f"Delete {what} and all results?", abort=True, err=True)

    async def work() -> ExitCode:
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            begun: list[campaign_pb2.Campaign] = []
            refused: list[campaign_service_pb2.RefusedCampaign] = []
            for first in range(0, len(ids), MAX_IDS):
                request = campaign_service_pb2.DeleteCampaignsRequest(
                    campaign_ids=ids[first : first + MAX_IDS],
                    force=force,
                    reason=reason,
                    request_id=str(uuid.uuid4()),
                )
                answer = await stub.DeleteCampaigns(request, timeout=DEADLINE)
                begun += answer.campaigns
                refused += answer.refused
            for each in refused:
                terminal.complain(f"{each.campaign_id}: {each.message} [{each.reason}]")
            if begun and wait:
                await _until_gone(stub, begun)
                terminal.say(f"deleted: {_count(len(begun))}")
            elif begun:
                terminal.say(f"being deleted: {_count(len(begun))}")
        return ExitCode.FAILURE if refused else ExitCode.OK

    raise typer.Exit(run(work(), lambda: "what has begun goes on; `campaign list --all` shows it"))


def _count(campaigns: int) -> str:
    return "1 campaign" if campaigns == 1 else f"{campaigns:,} campaigns"


async def _until_gone(
    stub: "CampaignServiceAsyncStub", campaigns: Sequence[campaign_pb2.Campaign]
) -> None:
    total = sum(campaign.deletion.row_count for campaign in campaigns)
    left = {campaign.campaign_id: campaign.deletion for campaign in campaigns}
    with Tally(terminal.eyes(), "rows deleted", total=total) as tally:
        patience = Patience(on_wait=tally.trouble)
        while left:
            for campaign_id in list(left)[:LOOKED_AT]:
                campaign = await look(stub, campaign_id, patience)
                if campaign is None:
                    del left[campaign_id]
                else:
                    left[campaign_id] = campaign.deletion
            # Those that are gone count in full.
            missing = sum(max(0, each.row_count - each.deleted_count) for each in left.values())
            tally.move(count=max(0, total - missing), done=max(0, total - missing))
            if left:
                await asyncio.sleep(PERIOD)
