"""One watch out of many streams: whatever is cut is taken up after the last event seen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import grpc

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2
from services.cli import refusal, retry

if TYPE_CHECKING:
    from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceAsyncStub

# The service promises a bookmark every 15 s; a stream silent for three times as long is dead.
SILENCE_LIMIT = 45.0

FINAL_STATUSES = frozenset(
    {
        campaign_pb2.PHASE_STATUS_COMPLETED,
        campaign_pb2.PHASE_STATUS_FAILED,
        campaign_pb2.PHASE_STATUS_SKIPPED,
        campaign_pb2.PHASE_STATUS_CANCELLED,
    }
)


def is_over(campaign: campaign_pb2.Campaign) -> bool:
    """Whether nothing more happens by itself; a failed or cancelled phase ends the campaign too."""
    return campaign.status in FINAL_STATUSES


async def watch(
    stub: "CampaignServiceAsyncStub",
    campaign_ids: Sequence[str],
    patience: retry.Patience,
    *,
    until_finished: bool = True,
    silence_limit: float = SILENCE_LIMIT,
) -> AsyncIterator[campaign_service_pb2.WatchCampaignsResponse]:
    """Yield the messages of WatchCampaigns, no event twice and none left out.

    A state counts as having seen all events up to its revision. When the service no longer keeps
    the revision to resume from, the campaign begins anew with its present state.
    """
    seen: dict[str, int] = {}
    while True:
        request = campaign_service_pb2.WatchCampaignsRequest(
            campaign_ids=campaign_ids, resume_revisions=seen, until_finished=until_finished
        )
        call = stub.WatchCampaigns(request)
        try:
            while True:
                try:
                    async with asyncio.timeout(silence_limit):
                        message = await call.read()
                except TimeoutError:
                    raise retry.cut(f"nothing was heard for {silence_limit:g} s") from None
                if message is grpc.aio.EOF:
                    return
                assert isinstance(message, campaign_service_pb2.WatchCampaignsResponse)
                patience.progressed()
                if _is_news(message, seen):
                    yield message
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE and seen:
                forgotten = refusal.read(error).metadata.get("campaign_id", "")
                if seen.pop(forgotten, None) is None:
                    seen.clear()
                continue
            await patience.wait(error)
        finally:
            call.cancel()


def _is_news(message: campaign_service_pb2.WatchCampaignsResponse, seen: dict[str, int]) -> bool:
    """Note what the message tells of the position; False for an event that was seen before."""
    match message.WhichOneof("kind"):
        case "state":
            seen[message.state.campaign_id] = message.state.revision
        case "event":
            event = message.event
            if event.revision <= seen.get(event.campaign_id, 0):
                return False
            seen[event.campaign_id] = event.revision
        case "bookmark":
            for campaign_id, revision in message.bookmark.revisions.items():
                seen[campaign_id] = max(revision, seen.get(campaign_id, 0))
    return True
