"""An uploaded list, part by part: lines -> names, with what was left out."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from domainflow.campaign.v1 import campaign_service_pb2 as pb
from services.campaign.configuration import has_pattern
from services.campaign.names import Rejection, Upload
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
        self._rejected: list[Rejection] = []

    @classmethod
    async def open(cls, store: Store, campaign_id: UUID, upload_id: UUID) -> "Uploader":
        """Raises CampaignNotFound, WrongNameSource."""
        running = await store.names.generation(campaign_id)
        if has_pattern(running.configuration):
            raise WrongNameSource(
                "the campaign's names come from a pattern",
                campaign_id=campaign_id,
                source="pattern",
            )
        return cls(store, running, upload_id)

    async def store(self, offset: int, lines: Sequence[str], *, finish: bool) -> None:
        """Store one part, all or nothing. Raises what Names.append_upload raises."""
        # In a thread: 10,000 lines of Unicode take up to 3 s, and all other calls wait on the loop.
        names, rejected = await asyncio.to_thread(_sort_out, offset, lines)
        self._upload = await self._store.names.append_upload(
            self._running, self._upload_id, offset, names, rejected, finish=finish
        )
        self._rejected += rejected[: MAX_REJECTED_SHOWN - len(self._rejected)]

    def response(self) -> pb.UploadNamesResponse:
        """What the whole stream did."""
        assert self._upload is not None
        return pb.UploadNamesResponse(
            upload=upload_to_pb(self._upload),
            rejected_lines=map(rejection_to_pb, self._rejected),
        )


def _sort_out(offset: int, lines: Sequence[str]) -> tuple[list[str], list[Rejection]]:
    """The names among the lines, in order, and the lines that are none."""
    names, rejected = [], []
    for number, line in enumerate(lines, offset):
        try:
            names.append(normalise(line))
        except NotADomainName as problem:
            rejected.append(Rejection(number, _shown(line), _shown(str(problem))))
    return names, rejected


def _shown(text: str) -> str:
    """As much of a text as is shown; NUL, which no table takes, is replaced."""
    return text[:MAX_LINE_SHOWN].replace("\0", "\ufffd")


def rejection_to_pb(rejection: Rejection) -> pb.RejectedLine:
    """A line that is no DNS name."""
    return pb.RejectedLine(offset=rejection.offset, line=rejection.line, reason=rejection.reason)


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
