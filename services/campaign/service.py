"""CampaignService: one short method per RPC, protobuf in and out."""

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar
from uuid import UUID

from domainflow.campaign.v1 import campaign_pb2
from domainflow.campaign.v1 import campaign_service_pb2 as pb
from services.campaign.arguments import asked_mode, asked_phase, asked_priority, uuid7
from services.campaign.campaign import Action, Campaign, Mode, Phase, Priority, available
from services.campaign.catalogue import NewCampaign
from services.campaign.catalogue_service import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, CatalogueService
from services.campaign.configuration import phases
from services.campaign.dead_letters import BEGINNING, Place
from services.campaign.events import proto_phase, proto_status
from services.campaign.names_service import NamesService
from services.campaign.outcomes import balances, phase_receipt
from services.campaign.render import (
    campaign_to_pb,
    dead_letter_to_pb,
    letter_state,
    phase_to_pb,
)
from services.campaign.store import Store
from services.campaign.watch import Hub
from services.chassis.errors import FieldViolation, InvalidFields, InvalidToken
from services.chassis.requests import request_key
from services.chassis.seal import Seal, binding

_PAGE_VERSION = 1
# Version; campaign number, phase, run and position of the last letter of the page before.
_LETTERS_PAGE = struct.Struct(">Biiii")

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


class CampaignService(CatalogueService, NamesService):
    """What is to be done. See campaign_service.proto for every RPC's contract."""

    def __init__(self, *, store: Store, hub: Hub, seal: Seal, wake: Callable[[], None]) -> None:
        super().__init__(store=store, seal=seal, wake=wake)
        self._hub = hub

    async def CreateCampaign(
        self, request: pb.CreateCampaignRequest, context: Context
    ) -> pb.CreateCampaignResponse:
        new = NewCampaign(
            id=uuid7(),
            name=request.name,
            mode=asked_mode(request.mode) or Mode.STEP_BY_STEP,
            phases=phases(request),
            configuration=request.configuration.SerializeToString(),
            priority=asked_priority(request.priority) or Priority.NORMAL,
            name_rate_limit=request.name_rate_limit,
        )

        def answer(campaign: Campaign) -> bytes:
            message = campaign_to_pb(campaign, full=True)
            return pb.CreateCampaignResponse(campaign=message).SerializeToString()

        response = await self._store.create(
            new, request_key(request), answer, validate_only=request.validate_only
        )
        return pb.CreateCampaignResponse.FromString(response)

    async def GetCampaign(
        self, request: pb.GetCampaignRequest, context: Context
    ) -> pb.GetCampaignResponse:
        campaign = await self._store.get(UUID(request.campaign_id))
        return pb.GetCampaignResponse(campaign=campaign_to_pb(campaign, full=True))

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
            request, Action.START, pb.StartCampaignResponse, phase=asked_phase(request)
        )

    async def PauseCampaign(
        self, request: pb.PauseCampaignRequest, context: Context
    ) -> pb.PauseCampaignResponse:
        return await self._transition(
            request, Action.PAUSE, pb.PauseCampaignResponse, phase=asked_phase(request)
        )

    async def ResumeCampaign(
        self, request: pb.ResumeCampaignRequest, context: Context
    ) -> pb.ResumeCampaignResponse:
        return await self._transition(
            request, Action.RESUME, pb.ResumeCampaignResponse, phase=asked_phase(request)
        )

    async def CancelCampaign(
        self, request: pb.CancelCampaignRequest, context: Context
    ) -> pb.CancelCampaignResponse:
        return await self._transition(
            request, Action.CANCEL, pb.CancelCampaignResponse, phase=asked_phase(request)
        )

    async def RetryCampaign(
        self, request: pb.RetryCampaignRequest, context: Context
    ) -> pb.RetryCampaignResponse:
        return await self._transition(
            request, Action.RETRY, pb.RetryCampaignResponse, phase=asked_phase(request)
        )

    async def SkipPhase(
        self, request: pb.SkipPhaseRequest, context: Context
    ) -> pb.SkipPhaseResponse:
        return await self._transition(
            request, Action.SKIP, pb.SkipPhaseResponse, phase=asked_phase(request)
        )

    async def RerunPhase(
        self, request: pb.RerunPhaseRequest, context: Context
    ) -> pb.RerunPhaseResponse:
        return await self._transition(
            request, Action.RERUN, pb.RerunPhaseResponse, phase=asked_phase(request)
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
            request.configuration.SerializeToString(),
            etag=request.etag,
            reason=request.reason,
            key=request_key(request),
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
            key=request_key(request),
            answer=answer,
        )
        self._wake()
        return response_type.FromString(response)

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

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        arguments = f"{request.campaign_id} {request.state}".encode()
        bound = binding("ListDeadLetters", arguments)
        # One more than asked for tells whether there is a next page.
        letters = await self._store.dead_letters.page(
            UUID(request.campaign_id) if request.campaign_id else None,
            letter_state(request.state),
            self._letters_start(request.page_token, bound),
            size + 1,
        )
        response = pb.ListDeadLettersResponse(
            dead_letters=[dead_letter_to_pb(letter) for letter in letters[:size]]
        )
        if len(letters) > size:
            place = letters[size - 1].place
            payload = _LETTERS_PAGE.pack(
                _PAGE_VERSION, place.campaign_no, place.phase, place.run, place.position
            )
            response.next_page_token = self._seal.seal(payload, bound)
        return response

    def _letters_start(self, token: str, bound: bytes) -> Place:
        if not token:
            return BEGINNING
        payload = self._seal.open(token, bound, field="page_token")
        if len(payload) != _LETTERS_PAGE.size or payload[0] != _PAGE_VERSION:
            raise InvalidToken("is of a kind this version does not know", field="page_token")
        return Place(*_LETTERS_PAGE.unpack(payload)[1:])

    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        letter = await self._store.dead_letters.get(
            UUID(request.campaign_id), Phase(request.phase), request.run, request.position
        )
        return pb.GetDeadLetterResponse(dead_letter=dead_letter_to_pb(letter))

    async def RedriveDeadLetters(
        self, request: pb.RedriveDeadLettersRequest, context: Context
    ) -> pb.RedriveDeadLettersResponse:
        response = await self._store.dead_letters.redrive(
            UUID(request.campaign_id),
            Phase(request.phase),
            request.positions,
            reason=request.reason,
            key=request_key(request),
            answer=lambda n: pb.RedriveDeadLettersResponse(count=n).SerializeToString(),
        )
        self._wake()
        return pb.RedriveDeadLettersResponse.FromString(response)

    async def DiscardDeadLetters(
        self, request: pb.DiscardDeadLettersRequest, context: Context
    ) -> pb.DiscardDeadLettersResponse:
        response = await self._store.dead_letters.discard(
            UUID(request.campaign_id),
            Phase(request.phase),
            request.positions,
            reason=request.reason,
            key=request_key(request),
            answer=lambda n: pb.DiscardDeadLettersResponse(count=n).SerializeToString(),
        )
        return pb.DiscardDeadLettersResponse.FromString(response)

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
