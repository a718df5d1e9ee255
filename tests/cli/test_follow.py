from collections.abc import Iterator
from typing import Any

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from domainflow.campaign.v1.event_pb2 import DeletionProgress
from services.cli.connection import connected
from services.cli.exits import ExitCode
from services.cli.follow import follow

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


async def test_a_campaign_that_is_deleted_is_followed_no_further(serve: Any, capsys: Any) -> None:
    async with connected(serve(campaigns=Deleted())) as channel:
        stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)

        code = await follow(stub, CAMPAIGN)

    assert code is ExitCode.CANCELLED
    assert "deleted" in capsys.readouterr().err
