"""What a worker needs: a database, an empty queue, engines, and the sandbox's resolver."""

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from nats.aio.client import Client

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from domainflow.validation.v1.validation_service_pb2_grpc import (
    ValidationServiceStub,
    add_ValidationServiceServicer_to_server,
)
from services.campaign.store import Store as CampaignStore
from services.chassis.http_settings import networks_of
from services.chassis.postgres import Pool, open_pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Mix
from services.validation.dns_probe import DnsProbe
from services.validation.engines import Engines
from services.validation.http.addresses import AddressPolicy
from services.validation.persona_store import Personas
from services.validation.service import RULES, ValidationService
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
async def stub(pool: Pool, store: Store, engines: Engines) -> AsyncIterator[ValidationServiceStub]:
    """The service behind a port, with its guard. Settings may name networks within 127.0.0.0/8."""
    service = ValidationService(
        store=store,
        engines=engines,
        personas=Personas(pool),
        seal=Seal([b"k" * 32]),
        policy=AddressPolicy(networks_of("127.0.0.0/8")),
    )
    guard = CallGuard(
        rules=RULES, thorough_rules=service.thorough_rules, max_calls=20, max_streams=10
    )
    # As services/chassis/server.py has it.
    limit = ("grpc.max_receive_message_length", 4 * 1024 * 1024)
    server = grpc.aio.server(interceptors=[guard], options=[limit])
    add_ValidationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield ValidationServiceStub(channel)
    await server.stop(0)


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
