"""Figures from counters: GetDomainSummary, ListTldCounts."""

from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1 import summary_pb2
from domainflow.validation.v1.lead_pb2 import LEAD_STATUS_UNSPECIFIED
from services.chassis.errors import CampaignNotFound
from services.chassis.seal import binding
from services.query.outcomes import DNS, GENERATION, HTTP, LEAD_STATUSES, LEADS, outcome_name
from services.query.part import Context, Part, coerced, the_campaign
from services.query.tld_token import TldPlace
from services.query.totals import TldCount, Totals

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000


class SummaryService(Part):
    """Figures from counters, whatever the size of the campaign."""

    async def GetDomainSummary(
        self, request: pb.GetDomainSummaryRequest, context: Context
    ) -> pb.GetDomainSummaryResponse:
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id))
        counts = await Totals(read.pool).counts(UUID(request.campaign_id))
        if counts is None:
            raise CampaignNotFound(request.campaign_id)
        dns = counts.outcomes(DNS)
        return pb.GetDomainSummaryResponse(
            name_count=counts.name_count,
            dns_verdict_counts=[
                pb.DnsVerdictCount(verdict=verdict, count=count)  # type: ignore[arg-type]
                for verdict, count in dns.items()
            ],
            dns_pending_count=counts.name_count - sum(dns.values()),
            http_verdict_counts=[
                summary_pb2.HttpVerdictCount(verdict=verdict, count=count)  # type: ignore[arg-type]
                for verdict, count in counts.outcomes(HTTP).items()
            ],
            lead_reason_counts=[
                summary_pb2.LeadReasonCount(
                    reason=reason,  # type: ignore[arg-type]
                    status=LEAD_STATUSES.get(reason, LEAD_STATUS_UNSPECIFIED),
                    count=count,
                )
                for reason, count in counts.outcomes(LEADS).items()
            ],
            freshness=read.freshness,
        )

    async def ListTldCounts(
        self, request: summary_pb2.ListTldCountsRequest, context: Context
    ) -> summary_pb2.ListTldCountsResponse:
        bound = binding("ListTldCounts", request.campaign_id.encode())
        place = None
        if request.page_token:
            place = TldPlace.open(self._seal, request.page_token, bound)
        read = await self._reads.begin(
            request.consistency, UUID(request.campaign_id), least=place.revision if place else 0
        )
        campaign = await the_campaign(read, request.campaign_id)
        place = place or TldPlace("", campaign.runs, campaign.revision)
        size = coerced(request.page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        totals = Totals(read.pool)
        # One more than the page shows whether anything follows it.
        found = await totals.tlds(campaign.no, place.runs, place.after, size + 1)
        response = summary_pb2.ListTldCountsResponse(
            tld_counts=map(_tld_count, found[:size]),
            total_size=await totals.tld_size(campaign.no, place.runs),
            freshness=read.freshness,
        )
        if len(found) > size:
            following = TldPlace(found[size - 1].tld, place.runs, campaign.revision)
            response.next_page_token = following.seal(self._seal, bound)
        return response


def _tld_count(counted: TldCount) -> summary_pb2.TldCount:
    return summary_pb2.TldCount(
        tld=counted.tld,
        name_count=sum(counted.outcomes.get(GENERATION, {}).values()),
        outcome_counts=[
            summary_pb2.TldOutcomeCount(
                phase=phase,  # type: ignore[arg-type]
                outcome=outcome_name(phase, outcome),
                count=count,
            )
            for phase, counts in sorted(counted.outcomes.items())
            if phase != GENERATION
            for outcome, count in counts.items()
        ],
    )
