"""CampaignService: one short method per RPC, protobuf in and out."""

import hashlib
import os
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar
from uuid import UUID

from domainflow.campaign.v1 import campaign_pb2
from domainflow.campaign.v1 import campaign_service_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2_grpc as pb_grpc
from services.campaign.campaign import Action, Campaign, Mode, Phase, Priority, available
from services.campaign.configuration import CONFIGURATION_FIELDS, phases, with_part
from services.campaign.events import proto_phase, proto_status
from services.campaign.outcomes import balances, phase_receipt
from services.campaign.render import campaign_to_pb, phase_to_pb
from services.campaign.requests import RequestKey
from services.campaign.store import NewCampaign, Store
from services.campaign.upload import Uploader, upload_to_pb
from services.campaign.watch import Hub
from services.chassis.errors import FieldViolation, InvalidFields, InvalidToken
from services.chassis.seal import Seal, binding

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_PAGE = struct.Struct(">Bi")
_PAGE_VERSION = 1
_PAGE_BINDING = binding("ListCampaigns", b"")

Context = Any
# The answers to transitions: all of one shape, one message each (contracts grow apart).
Transitioned = TypeVar(
    "Transitioned",
    pb.StartCampaignResponse,
    pb.PauseCampaignResponse,
    pb.ResumeCampaignResponse,
    pb.CancelCampaignResponse,
    pb.TransitionCampaignResponse,
    pb.RetryCampaignResponse,
    pb.SkipPhaseResponse,
    pb.RerunPhaseResponse,
)


class CampaignService(pb_grpc.CampaignServiceServicer):
    """What is to be done. See campaign_service.proto for every RPC's contract."""

    def __init__(self, *, store: Store, hub: Hub, seal: Seal, wake: Callable[[], None]) -> None:
        self._store = store
        self._hub = hub
        self._seal = seal
        self._wake = wake

    async def CreateCampaign(
        self, request: pb.CreateCampaignRequest, context: Context
    ) -> pb.CreateCampaignResponse:
        new = NewCampaign(
            id=_uuid7(),
            name=request.name,
            mode=_mode(request.mode),
            phases=phases(request),
            configuration=request.configuration.SerializeToString(),
            priority=_priority(request.priority) or Priority.NORMAL,
            name_rate_limit=request.name_rate_limit,
        )

        def answer(campaign: Campaign) -> bytes:
            message = campaign_to_pb(campaign, full=True)
            return pb.CreateCampaignResponse(campaign=message).SerializeToString()

        response = await self._store.create(
            new, _request_key(request), answer, validate_only=request.validate_only
        )
        return pb.CreateCampaignResponse.FromString(response)

    async def GetCampaign(
        self, request: pb.GetCampaignRequest, context: Context
    ) -> pb.GetCampaignResponse:
        campaign = await self._store.get(UUID(request.campaign_id))
        return pb.GetCampaignResponse(campaign=campaign_to_pb(campaign, full=True))

    async def ListCampaigns(
        self, request: pb.ListCampaignsRequest, context: Context
    ) -> pb.ListCampaignsResponse:
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        # One more than asked for tells whether there is a next page.
        campaigns = await self._store.page(self._page_start(request.page_token), size + 1)
        response = pb.ListCampaignsResponse(
            campaigns=[campaign_to_pb(campaign, full=False) for campaign in campaigns[:size]]
        )
        if len(campaigns) > size:
            payload = _PAGE.pack(_PAGE_VERSION, campaigns[size - 1].no)
            response.next_page_token = self._seal.seal(payload, _PAGE_BINDING)
        return response

    def _page_start(self, token: str) -> int | None:
        if not token:
            return None
        payload = self._seal.open(token, _PAGE_BINDING, field="page_token")
        if len(payload) != _PAGE.size or payload[0] != _PAGE_VERSION:
            raise InvalidToken("is of a kind this version does not know", field="page_token")
        no: int = _PAGE.unpack(payload)[1]
        return no

    async def GetCampaignPhases(
        self, request: pb.GetCampaignPhasesRequest, context: Context
    ) -> pb.GetCampaignPhasesResponse:
        campaign = await self._store.get(UUID(request.campaign_id))
        return pb.GetCampaignPhasesResponse(
            current_phase=proto_phase(campaign.current.phase),
            status=proto_status(campaign.current.status),
            phases=[phase_to_pb(state) for state in campaign.phases],
            available_transitions=[
                pb.AvailableTransition(
                    phase=proto_phase(phase),
                    action=campaign_pb2.PhaseAction.Value(f"PHASE_ACTION_{action}"),
                    to_status=proto_status(to_status),
                )
                for phase, action, to_status in available(campaign)
            ],
        )

    async def StartCampaign(
        self, request: pb.StartCampaignRequest, context: Context
    ) -> pb.StartCampaignResponse:
        return await self._transition(
            request, Action.START, pb.StartCampaignResponse, phase=_phase(request)
        )

    async def PauseCampaign(
        self, request: pb.PauseCampaignRequest, context: Context
    ) -> pb.PauseCampaignResponse:
        return await self._transition(
            request, Action.PAUSE, pb.PauseCampaignResponse, phase=_phase(request)
        )

    async def ResumeCampaign(
        self, request: pb.ResumeCampaignRequest, context: Context
    ) -> pb.ResumeCampaignResponse:
        return await self._transition(
            request, Action.RESUME, pb.ResumeCampaignResponse, phase=_phase(request)
        )

    async def CancelCampaign(
        self, request: pb.CancelCampaignRequest, context: Context
    ) -> pb.CancelCampaignResponse:
        return await self._transition(
            request, Action.CANCEL, pb.CancelCampaignResponse, phase=_phase(request)
        )

    async def RetryCampaign(
        self, request: pb.RetryCampaignRequest, context: Context
    ) -> pb.RetryCampaignResponse:
        return await self._transition(
            request, Action.RETRY, pb.RetryCampaignResponse, phase=_phase(request)
        )

    async def SkipPhase(
        self, request: pb.SkipPhaseRequest, context: Context
    ) -> pb.SkipPhaseResponse:
        return await self._transition(
            request, Action.SKIP, pb.SkipPhaseResponse, phase=_phase(request)
        )

    async def RerunPhase(
        self, request: pb.RerunPhaseRequest, context: Context
    ) -> pb.RerunPhaseResponse:
        return await self._transition(
            request, Action.RERUN, pb.RerunPhaseResponse, phase=_phase(request)
        )

    async def ConfigurePhase(
        self, request: pb.ConfigurePhaseRequest, context: Context
    ) -> pb.ConfigurePhaseResponse:
        phase = Phase(request.phase)

        def answer(campaign: Campaign) -> bytes:
            message = campaign_to_pb(campaign, full=True)
            return pb.ConfigurePhaseResponse(campaign=message).SerializeToString()

        response = await self._store.configure(
            UUID(request.campaign_id),
            phase,
            lambda stored: with_part(stored, phase, request.configuration),
            field=CONFIGURATION_FIELDS[phase],
            etag=request.etag,
            reason=request.reason,
            key=_request_key(request),
            answer=answer,
            validate_only=request.validate_only,
        )
        return pb.ConfigurePhaseResponse.FromString(response)

    async def TransitionCampaign(
        self, request: pb.TransitionCampaignRequest, context: Context
    ) -> pb.TransitionCampaignResponse:
        target = Phase(request.target_phase)
        return await self._transition(
            request, Action.START, pb.TransitionCampaignResponse, phase=target
        )

    async def _transition(
        self,
        request: Any,
        action: Action,
        response_type: type[Transitioned],
        *,
        phase: Phase | None = None,
    ) -> Transitioned:
        def answer(campaign: Campaign) -> bytes:
            message = campaign_to_pb(campaign, full=False)
            return response_type(campaign=message).SerializeToString()

        response = await self._store.transition(
            UUID(request.campaign_id),
            action,
            phase=phase,
            reason=request.reason,
            key=_request_key(request),
            answer=answer,
        )
        self._wake()
        return response_type.FromString(response)

    async def UploadNames(
        self, request: AsyncIterator[pb.UploadNamesRequest], context: Context
    ) -> pb.UploadNamesResponse:
        uploader: Uploader | None = None
        async for part in request:
            if uploader is None:
                _require_ids(part)
                uploader = await Uploader.open(
                    self._store, UUID(part.campaign_id), UUID(part.upload_id)
                )
            await uploader.store(part.offset, part.lines)
            if part.finish:
                await uploader.finish()
                self._wake()
        if uploader is None:
            raise InvalidFields([FieldViolation("campaign_id", "no message was sent")])
        return uploader.response()

    async def GetUpload(
        self, request: pb.GetUploadRequest, context: Context
    ) -> pb.GetUploadResponse:
        campaign = await self._store.get(UUID(request.campaign_id))
        upload = await self._store.names.upload(campaign.no)
        return pb.GetUploadResponse(upload=upload_to_pb(upload) if upload else None)

    async def GetReceipt(
        self, request: pb.GetReceiptRequest, context: Context
    ) -> pb.GetReceiptResponse:
        accounts = await self._store.accounts(UUID(request.campaign_id))
        campaign = accounts.campaign
        receipt = campaign_pb2.Receipt(campaign_id=str(campaign.id))
        receipt.read_time.GetCurrentTime()
        ledger = zip(campaign.phases, accounts.tallies, accounts.digests, strict=True)
        for state, tally, digests in ledger:
            upload = accounts.upload if state.phase is Phase.DOMAIN_GENERATION else None
            entry = phase_receipt(state, tally, digests, upload)
            if state.start_time is not None:
                end = state.end_time or receipt.read_time.ToDatetime(state.start_time.tzinfo)
                entry.elapsed.FromTimedelta(end - state.start_time)
            receipt.phases.append(entry)
        receipt.balanced = balances(campaign, receipt.phases)
        return pb.GetReceiptResponse(receipt=receipt)

    async def WatchCampaigns(
        self, request: pb.WatchCampaignsRequest, context: Context
    ) -> AsyncIterator[pb.WatchCampaignsResponse]:
        if request.until_finished and not request.campaign_ids:
            description = "needs campaign_ids: all campaigns are never over"
            raise InvalidFields([FieldViolation("until_finished", description)])
        resume = {UUID(key): value for key, value in request.resume_revisions.items()}
        ids = [UUID(campaign_id) for campaign_id in request.campaign_ids]
        system = request.resume_system_revision
        watch = self._hub.watch(
            ids,
            resume,
            until_finished=request.until_finished,
            include_system=request.include_system,
            resume_system_revision=system if request.HasField("resume_system_revision") else None,
        )
        async with aclosing(watch) as messages:
            async for message in messages:
                yield message


def _mode(mode: campaign_pb2.CampaignMode.ValueType) -> Mode:
    if mode == campaign_pb2.CAMPAIGN_MODE_FULL_SEQUENCE:
        return Mode.FULL_SEQUENCE
    return Mode.STEP_BY_STEP


def _priority(priority: campaign_pb2.Priority.ValueType) -> Priority | None:
    """None when the request leaves it open."""
    if not priority:
        return None
    return Priority(campaign_pb2.Priority.Name(priority).removeprefix("PRIORITY_"))


def _phase(request: Any) -> Phase | None:
    """The phase that the request names; None for the current one."""
    return Phase(request.phase) if request.phase else None


def _request_key(request: Any) -> RequestKey | None:
    """The request's key for idempotence: its id, and a digest of everything it says."""
    if not request.request_id:
        return None
    name = request.DESCRIPTOR.full_name
    body = request.SerializeToString(deterministic=True)
    return RequestKey(UUID(request.request_id), name, hashlib.sha256(body).digest())


def _require_ids(part: pb.UploadNamesRequest) -> None:
    missing = [field for field in ("campaign_id", "upload_id") if not getattr(part, field)]
    if missing:
        raise InvalidFields(
            FieldViolation(field, "is required in the first message") for field in missing
        )


def _uuid7() -> UUID:
    """A UUID version 7 (RFC 9562): milliseconds since 1970, then random bits."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
