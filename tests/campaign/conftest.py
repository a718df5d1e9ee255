"""A store over a real database, and the campaign service behind a real port."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import pytest

from domainflow.campaign.v1.campaign_service_pb2_grpc import (
    CampaignServiceStub,
    add_CampaignServiceServicer_to_server,
)
from services.campaign.configuration import RULES
from services.campaign.service import CampaignService
from services.campaign.store import Store
from services.campaign.watch import Hub
from services.chassis.postgres import Pool, open_pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard

Serve = Callable[..., AbstractAsyncContextManager[CampaignServiceStub]]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, application_name="campaign", max_size=12) as pool:
        yield pool


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool)


@pytest.fixture
def serve(store: Store) -> Serve:
    """The service, with a hub that sends bookmarks as often as asked."""

    @asynccontextmanager
    async def serving(heartbeat: float = 15.0) -> AsyncIterator[CampaignServiceStub]:
        hub = Hub(store, heartbeat=heartbeat)
        guard = CallGuard(rules=RULES, max_calls=200, max_streams=50)
        server = grpc.aio.server(interceptors=[guard])
        service = CampaignService(store=store, hub=hub, seal=Seal([b"k" * 32]), wake=hub.wake)
        add_CampaignServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        following = asyncio.create_task(hub.follow())
        try:
            # Who does not read on stops the server soon.
            options = [("grpc.http2.bdp_probe", 0)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                yield CampaignServiceStub(channel)
        finally:
            await server.stop(0)
            following.cancel()
            await asyncio.wait([following])

    return serving


@pytest.fixture
async def campaigns(serve: Serve) -> AsyncIterator[CampaignServiceStub]:
    async with serve() as stub:
        yield stub
