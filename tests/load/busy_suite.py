"""A running suite and campaigns on it, as the benches of the control plane use them.

BENCH_SHARE, a fraction such as 0.05, makes the campaigns of these benches so much smaller: to see
that a bench works, not for figures.
"""

import asyncio
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from services.suite.suite import Options, Suite

SHARE = float(os.environ.get("BENCH_SHARE") or 1)
GENERATION, DNS = campaign_pb2.PHASE_DOMAIN_GENERATION, campaign_pb2.PHASE_DNS_VALIDATION
RUNNING, PAUSED = campaign_pb2.PHASE_STATUS_RUNNING, campaign_pb2.PHASE_STATUS_PAUSED
COMPLETED, CANCELLED = campaign_pb2.PHASE_STATUS_COMPLETED, campaign_pb2.PHASE_STATUS_CANCELLED
LOOK_PERIOD = 0.01


def scaled(count: int, *, least: int = 1) -> int:
    """`count`, or less where BENCH_SHARE says so."""
    return max(least, int(count * SHARE))


@dataclass(frozen=True, slots=True)
class Busy:
    """A running suite, its public door and its tables."""

    suite: Suite
    folder: Path
    campaigns: Any
    database: "asyncpg.Connection[asyncpg.Record]"

    async def create(
        self,
        names: int,
        *resolvers: str,
        sequence: bool = False,
        pattern: campaign_pb2.PatternSource | None = None,
        dns: campaign_pb2.DnsConfiguration | None = None,
        http: campaign_pb2.HttpConfiguration | None = None,
        analysis: campaign_pb2.AnalysisConfiguration | None = None,
        lead: campaign_pb2.LeadConfiguration | None = None,
        **arguments: Any,
    ) -> "Load":
        """A campaign of so many names, every one asked of `resolvers`; of names that no other
        campaign has unless there is a `pattern`."""
        pattern = pattern or _new_names()
        pattern.name_count = names
        dns = dns or campaign_pb2.DnsConfiguration(window=1_000)
        dns.resolvers[:] = resolvers
        mode = (
            campaign_pb2.CAMPAIGN_MODE_FULL_SEQUENCE
            if sequence
            else campaign_pb2.CAMPAIGN_MODE_STEP_BY_STEP
        )
        request = campaign_service_pb2.CreateCampaignRequest(
            name=f"load of {names:,} names",
            mode=mode,
            configuration=campaign_pb2.CampaignConfiguration(
                generation=campaign_pb2.GenerationConfiguration(pattern=pattern),
                dns=dns,
                http=http,
                analysis=analysis,
                lead=lead,
            ),
            **arguments,
        )
        created = (await self.campaigns.CreateCampaign(request)).campaign
        no = await self.database.fetchval(
            "SELECT no FROM campaigns WHERE id::text = $1", created.campaign_id
        )
        return Load(self, created.campaign_id, no, names)

    def pid(self, part: str) -> int:
        found = self.suite.processes[part].pid
        assert found is not None, f"{part} does not run"
        return found

    def worker_pids(self) -> list[int]:
        return [self.pid(name) for name in self.suite.processes if name.startswith("worker-")]


@dataclass(frozen=True, slots=True)
class Load:
    """A campaign of a bench."""

    busy: Busy
    campaign_id: str
    no: int
    names: int

    async def do(self, action: str, **arguments: Any) -> campaign_pb2.Campaign:
        """Start, Pause, Resume, Cancel, Update: the service's answer."""
        request = getattr(campaign_service_pb2, f"{action}CampaignRequest")(
            campaign_id=self.campaign_id, **arguments
        )
        answer = await getattr(self.busy.campaigns, f"{action}Campaign")(request)
        campaign: campaign_pb2.Campaign = answer.campaign
        return campaign

    async def state(self, phase: int) -> campaign_pb2.PhaseState:
        phases = (await self.do("Get")).phases
        return next(state for state in phases if state.phase == phase)

    async def settled(self, phase: int = DNS) -> int:
        """Names of a phase that are settled, from the ledger: sees what is committed."""
        found: int = await self.busy.database.fetchval(
            """SELECT coalesce(sum(name_count), 0) FROM chunks
               WHERE campaign_no = $1 AND phase = $2 AND state = 'done'""",
            self.no,
            phase,
        )
        return found

    async def until_settled(self, names: int, phase: int = DNS) -> None:
        """Return when so many names are settled or the phase is over."""
        while await self.settled(phase) < names:
            state = await self.state(phase)
            if state.status != RUNNING:
                return
            await asyncio.sleep(0.05)

    async def start(self) -> None:
        await self.do("Start")

    async def completed(self, phase: int = DNS) -> campaign_pb2.PhaseState:
        """Wait for the end of a phase; anything but completion is an error."""
        while True:
            state = await self.state(phase)
            if state.status == COMPLETED:
                return state
            assert state.status not in (CANCELLED, campaign_pb2.PHASE_STATUS_FAILED), state
            await asyncio.sleep(0.05)

    async def generated(self) -> None:
        """Go through generation."""
        await self.start()
        await self.completed(GENERATION)

    async def is_balanced(self) -> bool:
        return (await self.receipt()).balanced

    async def receipt(self) -> campaign_pb2.Receipt:
        request = campaign_service_pb2.GetReceiptRequest(campaign_id=self.campaign_id)
        receipt: campaign_pb2.Receipt = (await self.busy.campaigns.GetReceipt(request)).receipt
        return receipt

    async def outcomes(self, phase: int) -> dict[str, int]:
        """Names of a phase by outcome; speed is worth nothing unless each is accounted for."""
        (told,) = [each for each in (await self.receipt()).phases if each.phase == phase]
        outcomes = {each.outcome: each.count for each in told.outcomes}
        assert sum(outcomes.values()) == told.name_count
        return outcomes


@asynccontextmanager
async def busy_suite(
    workers: int,
    environment: Mapping[str, str] | None = None,
    *,
    http_workers: int = 0,
    analysis_workers: int = 0,
) -> AsyncIterator[Busy]:
    """Start a suite in a folder of its own, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="domainflow-load-"))
    options = Options(
        workers=workers,
        http_workers=http_workers,
        analysis_workers=analysis_workers,
        environment={**os.environ, **(environment or {})},
    )
    retry = [
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    try:
        async with (
            Suite(folder, options) as suite,
            grpc.aio.insecure_channel(
                suite.address.removeprefix("http://"), options=retry
            ) as channel,
        ):
            database = await asyncpg.connect(suite.database_url)
            try:
                stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
                yield Busy(suite, folder, stub, database)
            finally:
                await database.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_names() -> campaign_pb2.PatternSource:
    return campaign_pb2.PatternSource(
        type=campaign_pb2.PATTERN_TYPE_PREFIX,
        prefix_length=7,
        character_set="0123456789",
        constant=f"x{uuid.uuid4().hex[:10]}",
        tlds=[".com"],
    )


def seconds(state: campaign_pb2.PhaseState) -> float:
    """How long a phase took, as it says itself."""
    return (state.end_time.ToNanoseconds() - state.start_time.ToNanoseconds()) / 1e9


def now() -> float:
    """One clock for all processes of this machine."""
    return time.monotonic()
