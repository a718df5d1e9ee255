"""From made-up names to leads through the door, while parts die: every name against the truth."""

import asyncio
import json
import random
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import json_format

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, event_pb2
from domainflow.query.v1 import stream_pb2
from domainflow.validation.v1 import http_settings_pb2
from services.cli.demo import NETWORK, accounting_errors, read_back, request
from services.cli.demo_pages import Web
from services.cli.demo_sandbox import Sandbox
from services.suite.suite import Options, Suite
from tests.eventually import eventually
from tests.system.campaigns import SEED, World, insist
from tests.system.conftest import reached

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux listens on all of 127.0.0.0/8"),
    pytest.mark.timeout(240),
]
NAMES = 1_200
HTTP = campaign_pb2.PHASE_HTTP_VALIDATION
OVER = campaign_pb2.PHASE_STATUS_COMPLETED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.sandbox", "--die-with-parent"),
        *("--seed", str(SEED), "--web"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout
        told = json.loads(await process.stdout.readline())
        yield Sandbox(tuple(told["dns"]), web=Web.told(told["web"]))
    finally:
        process.terminate()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(folder: Path, sandbox: Sandbox) -> AsyncIterator[World]:
    options = Options(
        http_workers=2,
        analysis_workers=1,
        environment={**Options().environment, "HTTP_ALLOWED_NETWORKS": NETWORK},
    )
    async with (
        Suite(folder, options) as suite,
        reached(suite, folder, sandbox.resolvers[0]) as world,
    ):
        yield world


async def test_sites_are_read_once_whatever_dies_meanwhile(world: World, sandbox: Sandbox) -> None:
    campaign_id = await _begun(world, sandbox)
    dice = random.Random(SEED)
    workers = ["http-worker-1", "http-worker-2"]
    dice.shuffle(workers)

    await _settled(world, campaign_id, HTTP, 0.1)
    killed = [world.kill(workers[0])]
    await _settled(world, campaign_id, HTTP, 0.2)
    ended = await world.value(
        """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
           WHERE application_name LIKE 'domainflow%' AND pid <> pg_backend_pid()"""
    )
    killed += [world.kill("campaign"), world.kill("validation"), world.kill("analysis-worker-1")]
    await _settled(world, campaign_id, HTTP, 0.4)
    killed.append(world.kill(workers[1]))
    for each in killed:
        await each.is_back()
    campaign = await _finished(world, campaign_id)

    assert ended > 0
    assert [phase.status for phase in campaign.phases] == [OVER] * 5
    # What the dead had claimed was done by another attempt.
    assert await _most_attempts(world, campaign_id) > 1
    assert await _settled_more_than_once(world, campaign_id) == Counter()
    assert await _mistakes(world, campaign_id, sandbox) == []


async def test_leads_say_the_same_in_json(world: World) -> None:
    campaign_id = await world.value("SELECT id::text FROM campaigns ORDER BY no LIMIT 1")
    asked = stream_pb2.StreamLeadsRequest(campaign_ids=[campaign_id])
    told = [row async for message in world.query.StreamLeads(asked) for row in message.batch.leads]

    body = {"campaignIds": [campaign_id]}
    async with world.http.post("/v1/leads:stream", json=body) as answer:
        messages = [
            json_format.Parse(line, stream_pb2.StreamLeadsResponse())
            async for line in answer.content
        ]

    assert [row for message in messages for row in message.batch.leads] == told
    assert messages[-1].summary.row_count == len(told) > 0
    assert any(row.lead.contacts for row in told)


async def test_scores_and_decisions_are_made_once_whatever_dies_meanwhile(
    world: World, sandbox: Sandbox
) -> None:
    campaign_id = await world.value("SELECT id::text FROM campaigns ORDER BY no LIMIT 1")
    asked = campaign_service_pb2.RerunPhaseRequest(
        campaign_id=campaign_id,
        phase=campaign_pb2.PHASE_CONTENT_ANALYSIS,
        request_id=str(uuid.uuid4()),
    )
    await insist(world.campaigns.RerunPhase, asked)
    await world.kill("analysis-worker-1").is_back()
    campaign = await _finished(world, campaign_id)

    assert [phase.run for phase in campaign.phases] == [1, 1, 1, 2, 2]
    assert await _settled_more_than_once(world, campaign_id) == Counter()
    assert await _mistakes(world, campaign_id, sandbox) == []


async def _begun(world: World, sandbox: Sandbox) -> str:
    asked = request(NAMES, sandbox.settings(), sandbox.web)
    # Small, so that there are some to be lost.
    asked.configuration.http.chunk_size = 100
    for lane in asked.configuration.http.settings.retry_lanes:
        if lane.reason == http_settings_pb2.HttpRetryLane.REASON_TIMEOUT:
            # Names that say nothing say it twice in every attempt anyhow, over both schemes.
            lane.attempt_limit = 1
    campaign_id: str = (await insist(world.campaigns.CreateCampaign, asked)).campaign.campaign_id
    await insist(
        world.campaigns.StartCampaign,
        campaign_service_pb2.StartCampaignRequest(
            campaign_id=campaign_id, request_id=str(uuid.uuid4())
        ),
    )
    return campaign_id


async def _settled(world: World, campaign_id: str, phase: int, share: float) -> None:
    """Wait until so much of a phase is settled, and it runs."""

    async def is_so_far() -> None:
        rows = await world.rows(
            """SELECT p.status, p.name_count, coalesce(sum(c.name_count), 0) AS settled
               FROM phases p JOIN campaigns k ON k.no = p.campaign_no
               LEFT JOIN chunks c ON c.campaign_no = p.campaign_no AND c.phase = p.phase
                   AND c.run = p.run AND c.state = 'done'
               WHERE k.id::text = $1 AND p.phase = $2 GROUP BY p.status, p.name_count""",
            campaign_id,
            phase,
        )
        (row,) = rows
        if row["status"] in ("COMPLETED", "FAILED"):
            raise RuntimeError(f"the phase was {row['status']} before so much was settled")
        assert row["status"] == "RUNNING"
        assert row["settled"] > share * row["name_count"]

    await eventually(is_so_far, within=60)


async def _finished(world: World, campaign_id: str) -> campaign_pb2.Campaign:
    asked = campaign_service_pb2.GetCampaignRequest(campaign_id=campaign_id)

    async def is_over() -> campaign_pb2.Campaign:
        campaign: campaign_pb2.Campaign = (
            await insist(world.campaigns.GetCampaign, asked)
        ).campaign
        assert campaign.phases[-1].status == OVER
        return campaign

    return await eventually(is_over, within=150)


async def _most_attempts(world: World, campaign_id: str) -> int:
    most: int = await world.value(
        """SELECT max(attempt) FROM chunks c JOIN campaigns k ON k.no = c.campaign_no
           WHERE k.id::text = $1 AND phase = $2""",
        campaign_id,
        HTTP,
    )
    return most


async def _settled_more_than_once(world: World, campaign_id: str) -> "Counter[Any]":
    """Chunks of later phases by how much too often their events say that they were settled."""
    settled: Counter[Any] = Counter()
    rows = await world.rows(
        """SELECT e.body FROM events e JOIN campaigns k ON k.no = e.campaign_no
           WHERE k.id::text = $1""",
        campaign_id,
    )
    for (body,) in rows:
        event = event_pb2.Event.FromString(body)
        if event.WhichOneof("kind") == "chunk_settled" and event.chunk_settled.phase >= HTTP:
            chunk = event.chunk_settled
            settled[chunk.phase, chunk.run, chunk.first_position] += 1
    assert settled
    return settled - Counter(dict.fromkeys(settled, 1))


async def _mistakes(world: World, campaign_id: str, sandbox: Sandbox) -> list[str]:
    """All that is not as the sandbox knows it to be."""
    check = await read_back(world.channel, campaign_id, NAMES, SEED, sandbox.web)
    asked = campaign_service_pb2.GetReceiptRequest(campaign_id=campaign_id)
    receipt = (await insist(world.campaigns.GetReceipt, asked)).receipt
    assert check.pages
    found = check.mistakes + accounting_errors(receipt, NAMES, check.verdicts)
    return found + check.pages.accounting_errors(receipt)
