"""An uploaded list, part by part: lines -> names, with what was left out."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from domainflow.campaign.v1 import campaign_service_pb2 as pb
from services.campaign.campaign import Phase
from services.campaign.configuration import pattern_range
from services.campaign.names import Upload
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.chassis.domain_name import NotADomainName, normalise
from services.chassis.errors import WrongNameSource

MAX_REJECTED_SHOWN = 100
MAX_LINE_SHOWN = 300


class Uploader:
    """One stream of UploadNames."""

    def __init__(self, store: Store, running: RunningPhase, upload_id: UUID) -> None:
        self._store = store
        self._running = running
        self._upload_id = upload_id
        self._upload: Upload | None = None
        self._rejected: list[pb.RejectedLine] = []

    @classmethod
    async def open(cls, store: Store, campaign_id: UUID, upload_id: UUID) -> "Uploader":
        """Raises CampaignNotFound, TransitionNotAllowed, WrongNameSource."""
        running = await store.names.running_phase(campaign_id, Phase.DOMAIN_GENERATION)
        if pattern_range(running.configuration) is not None:
            raise WrongNameSource(
                "the campaign's names come from a pattern",
                campaign_id=campaign_id,
                source="pattern",
            )
        return cls(store, running, upload_id)

    async def store(self, offset: int, lines: Sequence[str]) -> None:
        """Store one part, all or nothing. Raises what Store.append_upload raises."""
        # In a thread: 10,000 lines of Unicode take up to 3 s, and all other calls wait on the loop.
        names, rejected = await asyncio.to_thread(_sort_out, offset, lines)
        self._upload = await self._store.names.append_upload(
            self._running, self._upload_id, offset, names, len(rejected)
        )
        self._rejected += rejected[: MAX_REJECTED_SHOWN - len(self._rejected)]

    async def finish(self) -> None:
        """The list is complete."""
        self._upload = await self._store.names.finish_upload(self._running, self._upload_id)

    def response(self) -> pb.UploadNamesResponse:
        """What the whole stream did."""
        assert self._upload is not None
        return pb.UploadNamesResponse(
            upload=upload_to_pb(self._upload), rejected_lines=self._rejected
        )


def _sort_out(offset: int, lines: Sequence[str]) -> tuple[list[str], list[pb.RejectedLine]]:
    """The names among the lines, in order, and the lines that are none."""
    names, rejected = [], []
    for number, line in enumerate(lines, offset):
        try:
            names.append(normalise(line))
        except NotADomainName as problem:
            shown = line[:MAX_LINE_SHOWN]
            rejected.append(pb.RejectedLine(offset=number, line=shown, reason=str(problem)))
    return names, rejected


def upload_to_pb(upload: Upload) -> pb.Upload:
    """How far the upload is."""
    return pb.Upload(
        upload_id=str(upload.upload_id),
        next_offset=upload.next_offset,
        accepted_count=upload.accepted_count,
        duplicate_count=upload.duplicate_count,
        rejected_count=upload.rejected_count,
        finished=upload.finished,
    )
