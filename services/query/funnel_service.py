"""GetFunnel and GetRejectionSummary, and whether the counters behind them are right."""

from typing import Any, cast
from uuid import UUID

import asyncpg

from domainflow.campaign.v1.campaign_pb2 import PRIORITY_LOW
from domainflow.query.v1 import summary_pb2
from domainflow.query.v1.consistency_pb2 import Consistency
from services.chassis.errors import CampaignNotFound
from services.chassis.postgres import Pool
from services.query.counter_check import check_counters
from services.query.funnel import funnel, rejections
from services.query.outcomes import outcome_name
from services.query.part import Context, Part, the_campaign
from services.query.reads import Read
from services.query.totals import CampaignCounts, Totals
from services.query.turns import Turns


class FunnelService(Part):
    """GetFunnel, GetRejectionSummary and CheckCounters."""

    async def GetFunnel(
        self, request: summary_pb2.GetFunnelRequest, context: Context
    ) -> summary_pb2.GetFunnelResponse:
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id))
        counts = await _counts(read, request.campaign_id)
        return summary_pb2.GetFunnelResponse(
            steps=[
                summary_pb2.FunnelStep(
                    phase=step.phase,  # type: ignore[arg-type]
                    name_count=step.name_count,
                    settled_count=step.settled,
                    passed_count=step.passed,
                    pass_ratio=step.passed / step.settled if step.settled else 0,
                )
                for step in funnel(counts.name_count, counts.phases)
            ],
            freshness=read.freshness,
        )

    async def GetRejectionSummary(
        self, request: summary_pb2.GetRejectionSummaryRequest, context: Context
    ) -> summary_pb2.GetRejectionSummaryResponse:
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id))
        counts = await _counts(read, request.campaign_id)
        summary = rejections(counts.name_count, counts.phases)
        return summary_pb2.GetRejectionSummaryResponse(
            name_count=summary.name_count,
            pending_count=summary.pending,
            lead_count=summary.leads,
            rejections=[
                summary_pb2.Rejection(
                    phase=one.phase,  # type: ignore[arg-type]
                    outcome=outcome_name(one.phase, one.outcome),
                    count=one.count,
                )
                for one in summary.rejected
            ],
            freshness=read.freshness,
        )

    async def CheckCounters(
        self, request: summary_pb2.CheckCountersRequest, context: Context
    ) -> summary_pb2.CheckCountersResponse:
        read = await self._reads.begin(Consistency(), UUID(request.campaign_id))
        campaign = await the_campaign(read, request.campaign_id)
        reads = cast(Pool, _InTurns(read.pool, self._turns))
        checked = await check_counters(reads, campaign.no)
        if checked is None:
            raise CampaignNotFound(request.campaign_id)
        return checked


class _InTurns:
    """What a check asks a pool for, each time in a turn of its own: counting is for nobody to
    wait for."""

    def __init__(self, pool: Pool, turns: Turns) -> None:
        self._pool = pool
        self._turns = turns

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self._turns.turn(PRIORITY_LOW):
            return await self._pool.fetch(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        async with self._turns.turn(PRIORITY_LOW):
            return await self._pool.fetchval(statement, *arguments)


async def _counts(read: Read, campaign_id: str) -> CampaignCounts:
    counts = await Totals(read.pool).counts(UUID(campaign_id))
    if counts is None:
        raise CampaignNotFound(campaign_id)
    return counts
