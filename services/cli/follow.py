"""Follows one campaign to its end, on a terminal or as NDJSON, and says how it ended."""

from typing import TYPE_CHECKING

import grpc

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2
from services.cli import terminal
from services.cli.connection import DEADLINE
from services.cli.exits import ExitCode
from services.cli.progress import Display, phase_label
from services.cli.refusal import Refusal
from services.cli.retry import Patience, cut
from services.cli.watch import is_over, watch

if TYPE_CHECKING:
    from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceAsyncStub


async def follow(
    stub: "CampaignServiceAsyncStub",
    campaign_id: str,
    *,
    json: bool = False,
    patience: Patience | None = None,
) -> ExitCode:
    """Returns once the campaign is over or deleted; the code says how it ended."""
    # Two writers on one terminal would overwrite each other.
    live = not (json and terminal.is_watched())
    with Display(terminal.eyes(), live=live) as display:

        def lost(cause: Refusal) -> None:
            display.trouble(f"connection lost ({cause.message}), trying again")

        patience = patience or Patience(on_wait=lost)
        while True:
            async for message in watch(stub, [campaign_id], patience, include_system=True):
                display.take(message)
                if json:
                    terminal.emit(terminal.as_json(message))
                if message.deletion.finished:
                    return ExitCode.CANCELLED
            # The stream ended in good order; the campaign itself has the last word.
            campaign = await look(stub, campaign_id, patience)
            if campaign is None:
                display.note("deleted")
                return ExitCode.CANCELLED
            # Its counts too: the last progress may be older than the end.
            display.take(campaign_service_pb2.WatchCampaignsResponse(state=campaign))
            if is_over(campaign):
                break
            await patience.wait(cut("the watch ended before the campaign"))
    return verdict(campaign)


async def look(
    stub: "CampaignServiceAsyncStub", campaign_id: str, patience: Patience
) -> campaign_pb2.Campaign | None:
    """The campaign as it is now; none when it is gone."""
    request = campaign_service_pb2.GetCampaignRequest(campaign_id=campaign_id)
    while True:
        try:
            answer = await stub.GetCampaign(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            await patience.wait(error)
            continue
        patience.progressed()
        return answer.campaign


def verdict(campaign: campaign_pb2.Campaign) -> ExitCode:
    """The code for how the campaign ended; what went wrong is said."""
    phase = phase_label(campaign.current_phase)
    if campaign.status == campaign_pb2.PHASE_STATUS_CANCELLED:
        terminal.say(f"cancelled in {phase}")
        return ExitCode.CANCELLED
    if campaign.status == campaign_pb2.PHASE_STATUS_FAILED:
        failures = [p.failure for p in campaign.phases if p.phase == campaign.current_phase]
        terminal.complain(f"{phase} failed: {' '.join(failures) or 'no cause was given'}")
        return ExitCode.PHASE_FAILED
    return ExitCode.OK


def say_next(campaign_id: str, door: str, *, leads: bool = False) -> None:
    """What one does with a completed campaign; `leads`: with one that went as far."""
    read = "leads" if leads else "export"
    terminal.say(
        f"completed; next: domainflow campaign receipt {campaign_id}{door}"
        f" or domainflow domains {read} {campaign_id}{door}"
    )
