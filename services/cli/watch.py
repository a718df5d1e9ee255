"""One watch out of many streams: whatever is cut is taken up after the last event seen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
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
    include_system: bool = False,
    silence_limit: float = SILENCE_LIMIT,
) -> AsyncIterator[campaign_service_pb2.WatchCampaignsResponse]:
    """Yield the messages of WatchCampaigns, no event twice and none left out.

    A state counts as having seen all events up to its revision. When the service no longer keeps
    the revision to resume from, the campaign begins anew with its present state, and the suite's
    own history with the events to come.
    """
    seen = _Seen()
    while True:
        request = campaign_service_pb2.WatchCampaignsRequest(
            campaign_ids=campaign_ids,
            resume_revisions=seen.revisions,
            until_finished=until_finished,
            include_system=include_system,
            resume_system_revision=seen.system if include_system else None,
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
                if seen.take(message):
                    yield message
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE and seen:
                seen.forget(refusal.read(error).metadata.get("campaign_id"))
                continue
            await patience.wait(error)
        finally:
            call.cancel()


@dataclass(slots=True)
class _Seen:
    """How far a watch is: what to resume from when it is cut."""

    revisions: dict[str, int] = field(default_factory=dict)
    # Of the suite's own history; none before anything is known of it.
    system: int | None = None

    def __bool__(self) -> bool:
        return bool(self.revisions) or self.system is not None

    def forget(self, campaign_id: str | None) -> None:
        """Begin anew with one campaign, with the suite's own history (""), or with all."""
        if campaign_id == "" and self.system is not None:
            self.system = None
        elif campaign_id is None or self.revisions.pop(campaign_id, None) is None:
            self.revisions.clear()
            self.system = None

    def take(self, message: campaign_service_pb2.WatchCampaignsResponse) -> bool:
        """Note what the message tells of the position; False for an event that was seen before."""
        match message.WhichOneof("kind"):
            case "state":
                self.revisions[message.state.campaign_id] = message.state.revision
            case "event":
                event = message.event
                if event.revision <= self.revisions.get(event.campaign_id, 0):
                    return False
                self.revisions[event.campaign_id] = event.revision
            case "system_event":
                if message.system_event.revision <= (self.system or 0):
                    return False
                self.system = message.system_event.revision
            case "deletion":
                if message.deletion.finished:
                    self.revisions.pop(message.deletion.campaign_id, None)
            case "bookmark":
                for campaign_id, revision in message.bookmark.revisions.items():
                    known = self.revisions.get(campaign_id, 0)
                    self.revisions[campaign_id] = max(revision, known)
                self.system = max(message.bookmark.system_revision, self.system or 0)
        return True
