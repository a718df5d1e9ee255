"""Pages for people: ListDomains and GetDomain."""

from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from services.chassis.errors import CampaignNotFound, DomainNotFound, FieldViolation
from services.chassis.seal import binding
from services.query.messages import domain
from services.query.page_token import PagePlace
from services.query.pages import Filter, Pages
from services.query.part import Context, Part, coerced, total_of
from services.query.totals import Totals

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000


class PageService(Part):
    """ListDomains and GetDomain."""

    async def ListDomains(
        self, request: pb.ListDomainsRequest, context: Context
    ) -> pb.ListDomainsResponse:
        chosen = Filter(tuple(request.dns_verdicts), request.dns_pending)
        bound = _page_binding(request)
        place = PagePlace(forward=True, position=request.start_position)
        if request.page_token:
            place = PagePlace.open(self._seal, request.page_token, bound)
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id))
        pages = Pages(read.pool)
        no, name_count, total = await total_of(Totals(read.pool), request.campaign_id, chosen)

        size = coerced(request.page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        first, end = (place.position, name_count) if place.forward else (0, place.position)
        # One more than the page shows whether anything follows it.
        rows = await pages.domains(
            no, chosen, first, min(end, name_count), limit=size + 1, forward=place.forward
        )
        more = len(rows) > size
        if more:
            rows = rows[:-1] if place.forward else rows[1:]
        first, end = place.position, place.position
        if rows:
            first, end = rows[0]["position"], rows[-1]["position"] + 1
        if place.forward:
            after = more
            before = await pages.any_domain(no, chosen, 0, min(first, name_count))
        else:
            after = await pages.any_domain(no, chosen, end, name_count)
            before = more
        return pb.ListDomainsResponse(
            domains=[domain(row) for row in rows],
            next_page_token=PagePlace(True, end).seal(self._seal, bound) if after else "",
            previous_page_token=PagePlace(False, first).seal(self._seal, bound) if before else "",
            total_size=total,
        )

    async def GetDomain(
        self, request: pb.GetDomainRequest, context: Context
    ) -> pb.GetDomainResponse:
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id))
        campaign = await Totals(read.pool).campaign(UUID(request.campaign_id))
        if campaign is None:
            raise CampaignNotFound(request.campaign_id)
        row = await Pages(read.pool).domain(campaign.no, request.position)
        if row is None:
            raise DomainNotFound(request.campaign_id, request.position)
        found = domain(row)
        if row["evidence"]:
            found.dns.evidence.MergeFromString(row["evidence"])
        return pb.GetDomainResponse(domain=found)


def check_list(request: pb.ListDomainsRequest) -> list[FieldViolation]:
    violations = []
    if request.page_token and request.start_position:
        violations.append(FieldViolation("start_position", "not together with page_token"))
    if request.dns_pending and request.dns_verdicts:
        violations.append(FieldViolation("dns_pending", "not together with dns_verdicts"))
    return violations


def _page_binding(request: pb.ListDomainsRequest) -> bytes:
    # By taking away what may change, a field that the contract gains is bound from its first day.
    bound = pb.ListDomainsRequest()
    bound.CopyFrom(request)
    for free in ("page_size", "page_token", "start_position"):
        bound.ClearField(free)
    bound.dns_verdicts.sort()
    return binding("ListDomains", bound.SerializeToString(deterministic=True))
