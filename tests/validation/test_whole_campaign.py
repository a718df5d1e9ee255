"""A campaign from its pattern to its receipt: dispatcher, queue, workers and tables together."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.campaign.campaign import Mode, Status
from services.campaign.dispatcher import Dispatcher
from services.campaign.outcomes import balances, phase_receipt
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.sandbox.dns_server import SandboxDns
from services.sandbox.truth import truth
from services.validation.dns.verdict import Verdict
from services.validation.dns_probe import DnsProbe
from services.validation.store import Store
from services.validation.worker import Worker
from tests.campaigns import from_pattern, generating, history, new_campaign
from tests.eventually import eventually

TOTAL = 26**2 * 5


@pytest.fixture
async def running(
    campaign_store: CampaignStore, queue: Client, dns: DnsConfiguration
) -> AsyncIterator[RunningPhase]:
    """A campaign in full sequence that a dispatcher moves on."""
    configuration = from_pattern(
        length=3, characters="abcdefghijklmnopqrstuvwxyz", name_count=TOTAL, dns=dns
    )
    running = await generating(campaign_store, new_campaign(configuration, mode=Mode.FULL_SEQUENCE))
    task = asyncio.create_task(Dispatcher(store=campaign_store, queue=queue).dispatch())
    yield running
    task.cancel()
    await asyncio.wait([task])


async def test_workers_that_come_and_go_settle_every_name_once(
    running: RunningPhase,
    campaign_store: CampaignStore,
    pool: Pool,
    store: Store,
    queue: Client,
    probe: DnsProbe,
    sandbox: SandboxDns,
) -> None:
    async def some_settled() -> None:
        campaign = await campaign_store.get(running.campaign_id)
        assert campaign.phases[1].settled_count > 0

    async def completed() -> None:
        campaign = await campaign_store.get(running.campaign_id)
        assert campaign.current.status is Status.COMPLETED
        assert campaign.is_finished

    for number in range(4):
        worker = Worker(
            store=store, queue=queue, probe=probe, worker_id=f"{number}", host="h", pid=number
        )
        working = asyncio.create_task(worker.work())
        await eventually(some_settled if number < 3 else completed, within=20)
        working.cancel()
        await asyncio.wait([working])

    rows = await pool.fetch(
        """SELECT d.name, r.verdict FROM domains d
           LEFT JOIN dns_results r USING (campaign_no, position) ORDER BY d.position"""
    )
    settings = sandbox.settings
    assert len(rows) == TOTAL
    assert [row["verdict"] for row in rows] == [
        truth(row["name"], settings.seed, settings.mix).verdict for row in rows
    ]

    accounts = await campaign_store.accounts(running.campaign_id)
    receipts = [
        phase_receipt(state, tally, digests, accounts.upload)
        for state, tally, digests in zip(
            accounts.campaign.phases, accounts.tallies, accounts.digests, strict=True
        )
    ]
    assert balances(accounts.campaign, receipts)
    assert [receipt.unsettled_count for receipt in receipts] == [0, 0]

    # What the contract says about the digest, computed from nothing but the tables.
    chunks = b""
    for first in range(0, TOTAL, 100):
        lines = [
            f"{row['name']} {Verdict(row['verdict']).name}\n" for row in rows[first : first + 100]
        ]
        chunks += hashlib.sha256("".join(lines).encode()).digest()
    assert receipts[1].content_sha256 == hashlib.sha256(chunks).hexdigest()
    generated = "".join(f"{row['name']} GENERATED\n" for row in rows)
    chunk = hashlib.sha256(generated.encode()).digest()
    assert receipts[0].content_sha256 == hashlib.sha256(chunk).hexdigest()

    settled = [
        event.chunk_settled
        for event in await history(campaign_store, running.campaign_no)
        if event.chunk_settled.phase == 2
    ]
    assert sorted(chunk.first_position for chunk in settled) == list(range(0, TOTAL, 100))
    for receipt_outcome in receipts[1].outcomes:
        assert receipt_outcome.count == sum(
            outcome.count
            for chunk in settled
            for outcome in chunk.outcomes
            if outcome.outcome == receipt_outcome.outcome
        )
