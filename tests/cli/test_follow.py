from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from domainflow.campaign.v1.event_pb2 import DeletionProgress
from services.cli.connection import connected
from services.cli.exits import ExitCode
from services.cli.follow import follow, say_next
from services.cli.retry import Patience

CAMPAIGN = "01890000-0000-7000-8000-000000000001"
Message = campaign_service_pb2.WatchCampaignsResponse


class Deleted(campaign_service_pb2_grpc.CampaignServiceServicer):
    """One campaign, which is deleted while it is watched."""

    def WatchCampaigns(
        self, request: campaign_service_pb2.WatchCampaignsRequest, context: Any
    ) -> Iterator[Message]:
        yield Message(state=campaign_pb2.Campaign(campaign_id=CAMPAIGN, revision=1))
        for deleted, finished in ((40, False), (100, True)):
            progress = DeletionProgress(
                campaign_id=CAMPAIGN, row_count=100, deleted_count=deleted, finished=finished
            )
            yield Message(deletion=progress)


class Ended(campaign_service_pb2_grpc.CampaignServiceServicer):
    """One campaign that is over; asked how it ended, it answers with these codes first."""

    def __init__(self, *codes: grpc.StatusCode) -> None:
        self._codes = list(codes)

    def WatchCampaigns(
        self, request: campaign_service_pb2.WatchCampaignsRequest, context: Any
    ) -> Iterator[Message]:
        yield Message(state=_completed())

    def GetCampaign(
        self, request: campaign_service_pb2.GetCampaignRequest, context: Any
    ) -> campaign_service_pb2.GetCampaignResponse:
        if self._codes:
            context.abort(self._codes.pop(0), "not now")
        return campaign_service_pb2.GetCampaignResponse(campaign=_completed())


def _completed() -> campaign_pb2.Campaign:
    return campaign_pb2.Campaign(
        campaign_id=CAMPAIGN, revision=9, status=campaign_pb2.PHASE_STATUS_COMPLETED
    )


async def test_how_it_ended_is_asked_again_while_the_door_is_away(serve: Any) -> None:
    # More often than the channel repeats a call by itself.
    away = Ended(*[grpc.StatusCode.UNAVAILABLE] * 6)
    async with connected(serve(campaigns=away)) as channel:
        stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)

        code = await follow(stub, CAMPAIGN, patience=Patience(shortest=0.01))

    assert code is ExitCode.OK


async def test_a_campaign_that_is_deleted_right_after_its_end_counts_as_deleted(
    serve: Any, capsys: Any
) -> None:
    async with connected(serve(campaigns=Ended(grpc.StatusCode.NOT_FOUND))) as channel:
        stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)

        code = await follow(stub, CAMPAIGN)

    assert code is ExitCode.CANCELLED
    assert "deleted" in capsys.readouterr().err


async def test_a_campaign_that_is_deleted_is_followed_no_further(serve: Any, capsys: Any) -> None:
    async with connected(serve(campaigns=Deleted())) as channel:
        stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)

        code = await follow(stub, CAMPAIGN)

    assert code is ExitCode.CANCELLED
    assert "deleted" in capsys.readouterr().err


def test_who_went_as_far_as_leads_is_shown_the_way_to_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_next("an-id", " --data d", leads=True)
    say_next("an-id", "")

    leads, names = capsys.readouterr().err.replace("\n", " ").split("completed;")[1:]
    assert "domainflow domains leads an-id --data d" in leads
    assert "domainflow domains export an-id" in names
