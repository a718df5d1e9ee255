"""The campaign service as a process is built: what it answers while a part is away."""

import asyncio
import base64
from pathlib import Path

import grpc

from domainflow.campaign.v1.campaign_service_pb2 import ListCampaignsRequest
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub
from services.campaign.__main__ import Settings, run
from services.suite.ports import Ports


async def test_calls_are_answered_while_no_queue_was_ever_there(
    database_url: str, tmp_path: Path
) -> None:
    ports = Ports(tmp_path / "ports.json")
    address = f"127.0.0.1:{await ports.claim('campaign')}"
    settings = Settings(
        database_url=database_url,
        nats_url=f"nats://127.0.0.1:{await ports.claim('nobody')}",
        campaign_address=address,
        page_token_key=base64.b64encode(b"k" * 32).decode(),
    )
    running = asyncio.create_task(run(settings))
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            listing = CampaignServiceStub(channel).ListCampaigns(
                ListCampaignsRequest(), wait_for_ready=True, timeout=20
            )
            assert not (await listing).campaigns
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])
