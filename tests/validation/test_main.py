"""What a worker runs as, and what it starts."""

import asyncio
import sys

import pytest

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.sandbox.dns_server import SandboxDns
from services.sandbox.truth import truth
from services.validation.attempt import End, NotPrepared
from services.validation.isolation import NOT_PREPARED, Isolation
from services.validation.store import ChunkKey, Store
from tests.campaigns import validating

NAMES = [f"name-{number}.com" for number in range(100)]
PYTHON = [sys.executable, "-m"]


@pytest.mark.parametrize(
    ("command", "status"),
    [(["services.validation", "work"], 2), (["services.validation.alone"], NOT_PREPARED)],
)
async def test_a_pool_without_a_probe_is_refused(command: list[str], status: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *PYTHON, *command, "mail", stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == status
    known = "dns, http, analysis"
    assert said.decode() == f"there are no workers for the pool 'mail', only for: {known}\n"


@pytest.mark.parametrize("variable", ["HTTP_ALLOWED_NETWORKS", "HTTP_DENIED_NETWORKS"])
async def test_networks_that_cannot_be_read_stop_the_service_from_starting(variable: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "env",
        "DATABASE_URL=postgresql://127.0.0.1:1/none",
        "VALIDATION_ADDRESS=127.0.0.1:0",
        f"{variable}=10.0.0.0/8, 10.0.0.1/8",
        *PYTHON,
        "services.validation",
        "serve",
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()

    assert process.returncode == 2
    assert said.decode() == f"{variable}: 10.0.0.1/8 has host bits set\n"


def alone(database_url: str) -> Isolation:
    return Isolation(
        ["env", f"DATABASE_URL={database_url}", *PYTHON, "services.validation.alone", "dns"]
    )


async def test_one_attempt_in_a_process_of_its_own_settles_its_chunk_once(
    database_url: str,
    pool: Pool,
    store: Store,
    campaign_store: CampaignStore,
    sandbox: SandboxDns,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, dns)
    await pool.execute("UPDATE campaigns SET name_rate_limit = 1000")
    claim = await store.claim(ChunkKey(running.campaign_no, 2, 1, 0), "worker")
    assert claim

    assert await alone(database_url).attempt(claim, lambda: 60) is End.SETTLED
    assert await alone(database_url).attempt(claim, lambda: 60) is End.NOT_OURS

    found = await pool.fetch("SELECT verdict FROM dns_results ORDER BY position")
    settings = sandbox.settings
    assert [row["verdict"] for row in found] == [
        truth(name, settings.seed, settings.mix).verdict for name in NAMES
    ]


async def test_one_attempt_with_settings_that_cannot_be_used_blames_no_name(
    database_url: str, store: Store, campaign_store: CampaignStore
) -> None:
    running = await validating(campaign_store, NAMES, DnsConfiguration(window=20_000))
    claim = await store.claim(ChunkKey(running.campaign_no, 2, 1, 0), "worker")
    assert claim
    with pytest.raises(NotPrepared, match="window is 20000"):
        await alone(database_url).attempt(claim, lambda: 60)
