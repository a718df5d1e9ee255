"""The part of CampaignService that lists, changes, copies and removes campaigns."""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from domainflow.campaign.v1 import campaign_service_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2_grpc as pb_grpc
from services.campaign.arguments import asked_mode, asked_priority, uuid7
from services.campaign.campaign import Campaign
from services.campaign.catalogue import Change
from services.campaign.deletion import Refused
from services.campaign.filter import parse_filter, parse_order
from services.campaign.page_token import Place
from services.campaign.render import campaign_to_pb
from services.campaign.store import Store
from services.chassis.requests import request_key
from services.chassis.seal import Seal, binding

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

Context = Any
Answered = TypeVar(
    "Answered",
    pb.UpdateCampaignResponse,
    pb.ArchiveCampaignResponse,
    pb.UnarchiveCampaignResponse,
    pb.DuplicateCampaignResponse,
    pb.DeleteCampaignResponse,
)


class CatalogueService(pb_grpc.CampaignServiceServicer):
    """See campaign_service.proto for every RPC's contract."""

    def __init__(self, *, store: Store, seal: Seal, wake: Callable[[], None]) -> None:
        self._store = store
        self._seal = seal
        self._wake = wake

    async def ListCampaigns(
        self, request: pb.ListCampaignsRequest, context: Context
    ) -> pb.ListCampaignsResponse:
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        bound = _list_binding(request)
        order = parse_order(request.order_by)
        after = Place.open(self._seal, request.page_token, bound) if request.page_token else None
        # One more than asked for tells whether there is a next page.
        campaigns = await self._store.catalogue.page(
            parse_filter(request.filter),
            order,
            after,
            size + 1,
            archived=request.show_archived,
            deleted=request.show_deleted,
        )
        response = pb.ListCampaignsResponse(
            campaigns=[campaign_to_pb(campaign, full=False) for campaign in campaigns[:size]]
        )
        if len(campaigns) > size:
            last = campaigns[size - 1]
            place = Place(getattr(last, order.field), last.no)
            response.next_page_token = place.seal(self._seal, bound)
        return response

    async def UpdateCampaign(
        self, request: pb.UpdateCampaignRequest, context: Context
    ) -> pb.UpdateCampaignResponse:
        change = Change(
            name=request.name if request.HasField("name") else None,
            mode=asked_mode(request.mode),
            priority=asked_priority(request.priority),
            name_rate_limit=(
                request.name_rate_limit if request.HasField("name_rate_limit") else None
            ),
        )
        response = await self._store.catalogue.update(
            UUID(request.campaign_id),
            change,
            etag=request.etag,
            reason=request.reason,
            key=request_key(request),
            answer=_in_full(pb.UpdateCampaignResponse),
            validate_only=request.validate_only,
        )
        self._wake()
        return pb.UpdateCampaignResponse.FromString(response)

    async def ArchiveCampaign(
        self, request: pb.ArchiveCampaignRequest, context: Context
    ) -> pb.ArchiveCampaignResponse:
        response = await self._store.catalogue.archive(
            UUID(request.campaign_id),
            archived=True,
            reason=request.reason,
            key=request_key(request),
            answer=_in_full(pb.ArchiveCampaignResponse),
        )
        self._wake()
        return pb.ArchiveCampaignResponse.FromString(response)

    async def UnarchiveCampaign(
        self, request: pb.UnarchiveCampaignRequest, context: Context
    ) -> pb.UnarchiveCampaignResponse:
        response = await self._store.catalogue.archive(
            UUID(request.campaign_id),
            archived=False,
            reason=request.reason,
            key=request_key(request),
            answer=_in_full(pb.UnarchiveCampaignResponse),
        )
        self._wake()
        return pb.UnarchiveCampaignResponse.FromString(response)

    async def DuplicateCampaign(
        self, request: pb.DuplicateCampaignRequest, context: Context
    ) -> pb.DuplicateCampaignResponse:
        response = await self._store.catalogue.duplicate(
            UUID(request.campaign_id),
            uuid7(),
            request.name,
            key=request_key(request),
            answer=_in_full(pb.DuplicateCampaignResponse),
            validate_only=request.validate_only,
        )
        self._wake()
        return pb.DuplicateCampaignResponse.FromString(response)

    async def DeleteCampaign(
        self, request: pb.DeleteCampaignRequest, context: Context
    ) -> pb.DeleteCampaignResponse:
        response = await self._store.deletions.begin(
            UUID(request.campaign_id),
            etag=request.etag,
            force=request.force,
            reason=request.reason,
            key=request_key(request),
            answer=_in_full(pb.DeleteCampaignResponse),
            validate_only=request.validate_only,
        )
        self._wake()
        return pb.DeleteCampaignResponse.FromString(response)

    async def DeleteCampaigns(
        self, request: pb.DeleteCampaignsRequest, context: Context
    ) -> pb.DeleteCampaignsResponse:
        def answer(begun: list[Campaign], refused: list[Refused]) -> bytes:
            return pb.DeleteCampaignsResponse(
                campaigns=[campaign_to_pb(campaign, full=False) for campaign in begun],
                refused=[
                    pb.RefusedCampaign(
                        campaign_id=str(each.campaign_id),
                        reason=each.why.reason,
                        message=each.why.message,
                    )
                    for each in refused
                ],
            ).SerializeToString()

        response = await self._store.deletions.begin_many(
            # Two spellings of one id are one campaign.
            list(dict.fromkeys(UUID(campaign_id) for campaign_id in request.campaign_ids)),
            force=request.force,
            reason=request.reason,
            key=request_key(request),
            answer=answer,
            validate_only=request.validate_only,
        )
        self._wake()
        return pb.DeleteCampaignsResponse.FromString(response)


def _in_full(response_type: type[Answered]) -> Callable[[Campaign], bytes]:
    """Makes the answer that tells the whole campaign."""

    def answer(campaign: Campaign) -> bytes:
        return response_type(campaign=campaign_to_pb(campaign, full=True)).SerializeToString()

    return answer


def _list_binding(request: pb.ListCampaignsRequest) -> bytes:
    # By taking away what may change, a field that the contract gains is bound from its first day.
    bound = pb.ListCampaignsRequest()
    bound.CopyFrom(request)
    for free in ("page_size", "page_token"):
        bound.ClearField(free)
    return binding("ListCampaigns", bound.SerializeToString(deterministic=True))
