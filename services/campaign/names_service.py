"""The part of CampaignService where names come from: a look at a pattern, and uploaded lists."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from domainflow.campaign.v1 import campaign_service_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2_grpc as pb_grpc
from services.campaign.configuration import asked_of
from services.campaign.preview import preview
from services.campaign.render import preview_to_pb
from services.campaign.store import Store
from services.campaign.upload import (
    MAX_REJECTED_SHOWN,
    Uploader,
    rejection_to_pb,
    upload_to_pb,
)
from services.chassis.errors import FieldViolation, InvalidFields

DEFAULT_SAMPLE_SIZE = 10

Context = Any


class NamesService(pb_grpc.CampaignServiceServicer):
    """See campaign_service.proto for every RPC's contract."""

    _store: Store
    _wake: Callable[[], None]

    async def PreviewPattern(
        self, request: pb.PreviewPatternRequest, context: Context
    ) -> pb.PreviewPatternResponse:
        asked = asked_of(request.pattern, "pattern.")
        survey = await self._store.reservations.survey(asked)
        return preview_to_pb(preview(asked, survey, request.sample_size or DEFAULT_SAMPLE_SIZE))

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
            await uploader.store(part.offset, part.lines, finish=part.finish)
            if part.finish:
                self._wake()
        if uploader is None:
            raise InvalidFields([FieldViolation("campaign_id", "no message was sent")])
        return uploader.response()

    async def GetUpload(
        self, request: pb.GetUploadRequest, context: Context
    ) -> pb.GetUploadResponse:
        campaign = await self._store.get(UUID(request.campaign_id))
        upload = await self._store.names.upload(campaign.no)
        rejections = await self._store.names.rejections(campaign.no, MAX_REJECTED_SHOWN)
        return pb.GetUploadResponse(
            upload=upload_to_pb(upload) if upload else None,
            rejected_lines=map(rejection_to_pb, rejections),
        )


def _require_ids(part: pb.UploadNamesRequest) -> None:
    missing = [field for field in ("campaign_id", "upload_id") if not getattr(part, field)]
    if missing:
        raise InvalidFields(
            FieldViolation(field, "is required in the first message") for field in missing
        )
