"""What a worker needs: a database, an empty queue, engines, and the sandbox's resolver."""

from collections.abc import AsyncIterator

import pytest
from google.protobuf.duration_pb2 import Duration
from nats.aio.client import Client

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool, open_pool
from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Mix
from services.validation.dns_probe import DnsProbe
from services.validation.engines import Engines
from services.validation.store import Store
from tests.queues import empty_queue


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, application_name="validation", max_size=12) as pool:
        yield pool


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool)


@pytest.fixture
def campaign_store(pool: Pool) -> CampaignStore:
    """The ledger's other side: makes campaigns and hands their chunks out."""
    return CampaignStore(pool)


@pytest.fixture
async def queue(nats_url: str) -> AsyncIterator[Client]:
    async with empty_queue(nats_url) as client:
        yield client


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    async with Engines() as engines:
        yield engines


@pytest.fixture
def probe(engines: Engines) -> DnsProbe:
    return DnsProbe(engines)


@pytest.fixture
async def sandbox() -> AsyncIterator[SandboxDns]:
    """Every kind of name but the mute and the slow ones, which only cost time here."""
    settings = SandboxDnsSettings(mix=Mix(mute=0, slow=0))
    async with SandboxDns(settings) as server:
        yield server


@pytest.fixture
def dns(sandbox: SandboxDns) -> DnsConfiguration:
    """Asks the sandbox."""
    return asking("{}:{}".format(*sandbox.address))


def asking(resolver: str, *, attempt_limit: int = 3) -> DnsConfiguration:
    return DnsConfiguration(
        resolvers=[resolver],
        timeout=Duration(nanos=500_000_000),
        attempt_limit=attempt_limit,
        chunk_size=100,
    )
