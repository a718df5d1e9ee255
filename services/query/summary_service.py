"""Figures from counters."""

from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from services.chassis.errors import CampaignNotFound
from services.query.part import Context, Part
from services.query.totals import Totals


class SummaryService(Part):
    """GetDomainSummary."""

    async def GetDomainSummary(
        self, request: pb.GetDomainSummaryRequest, context: Context
    ) -> pb.GetDomainSummaryResponse:
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id))
        counters = await Totals(read.pool).counters(UUID(request.campaign_id))
        if counters is None:
            raise CampaignNotFound(request.campaign_id)
        return pb.GetDomainSummaryResponse(
            name_count=counters.campaign.name_count,
            dns_verdict_counts=[
                pb.DnsVerdictCount(verdict=verdict, count=count)  # type: ignore[arg-type]
                for verdict, count in counters.by_verdict.items()
            ],
            dns_pending_count=counters.pending,
        )
