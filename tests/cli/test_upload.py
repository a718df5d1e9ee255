import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from domainflow.campaign.v1 import campaign_service_pb2, campaign_service_pb2_grpc
from services.cli.connection import connected
from services.cli.exits import Failure
from services.cli.retry import Patience
from services.cli.upload import LineSplitter, Outcome, read_lines, upload

CAMPAIGN = "01890000-0000-7000-8000-000000000001"
UPLOAD = "01890000-0000-7000-8000-000000000002"
Upload = campaign_service_pb2.Upload


class Lists(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Stores what it is sent, message by message. Each stream is cut as the next of `cuts` says:
    ("before", 2) before the third message is stored, ("after", 2) when it was stored."""

    def __init__(self, cuts: list[tuple[str, int]], stored: list[str] | None = None) -> None:
        self.cuts = cuts
        self.lines = list(stored or [])
        self.finished = False
        self.upload_id = UPLOAD if stored else ""

    def now(self) -> Upload:
        rejected = sum("!" in line for line in self.lines)
        return Upload(
            upload_id=self.upload_id,
            next_offset=len(self.lines),
            accepted_count=len(self.lines) - rejected,
            rejected_count=rejected,
            finished=self.finished,
        )

    def GetUpload(self, request: Any, context: Any) -> campaign_service_pb2.GetUploadResponse:
        known = self.now() if self.upload_id else None
        rejected = [
            campaign_service_pb2.RejectedLine(offset=offset, line=line, reason="no")
            for offset, line in enumerate(self.lines)
            if "!" in line
        ]
        return campaign_service_pb2.GetUploadResponse(upload=known, rejected_lines=rejected)

    def UploadNames(
        self, requests: Iterator[campaign_service_pb2.UploadNamesRequest], context: Any
    ) -> campaign_service_pb2.UploadNamesResponse:
        when, left = self.cuts.pop(0) if self.cuts else ("", -1)
        for number, message in enumerate(requests):
            self.upload_id = message.upload_id or self.upload_id
            if (when, left) == ("before", number):
                context.abort(grpc.StatusCode.UNAVAILABLE, "the door is closing")
            if message.offset != len(self.lines):
                reason = "STORED" if message.offset < len(self.lines) else "GAP"
                context.abort_with_status(rpc_status.to_status(misplaced(reason)))
            self.lines += message.lines
            self.finished = message.finish
            if (when, left) == ("after", number):
                context.abort(grpc.StatusCode.UNAVAILABLE, "the door is closing")
        return campaign_service_pb2.UploadNamesResponse(upload=self.now())


def misplaced(what: str) -> status_pb2.Status:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=f"UPLOAD_OFFSET_{what}", domain="domainflow"))
    code = grpc.StatusCode.ALREADY_EXISTS if what == "STORED" else grpc.StatusCode.OUT_OF_RANGE
    return status_pb2.Status(code=code.value[0], details=[detail])


async def sent(address: str, lines: list[str]) -> Outcome:
    async def groups() -> AsyncIterator[list[str]]:
        for first in range(0, len(lines), 7):
            yield lines[first : first + 7]

    async with connected(address) as channel:
        return await upload(
            campaign_service_pb2_grpc.CampaignServiceStub(channel),
            CAMPAIGN,
            UPLOAD,
            groups(),
            Patience(shortest=0.001, longest=0.01),
            lines_per_message=4,
            messages_per_stream=3,
        )


LINES = [f"name{number}.com" for number in range(50)]


@pytest.mark.parametrize(
    "cuts",
    [
        [],
        [("before", 0), ("before", 2), ("before", 1)],
        [("after", 0), ("after", 2), ("after", 1)],
        [("before", 0)] + [("after", 0)] * 30,
    ],
    ids=["whole", "lost messages", "lost answers", "cut after every message"],
)
async def test_every_line_arrives_once_however_it_is_cut(
    serve: Any, cuts: list[tuple[str, int]]
) -> None:
    lists = Lists(cuts)

    outcome = await sent(serve(campaigns=lists), LINES)

    assert lists.lines == LINES
    assert outcome.upload == lists.now()
    assert outcome.upload.finished


async def test_lost_answer_to_the_last_message_is_not_a_failure(serve: Any) -> None:
    lists = Lists([("after", 1)])

    outcome = await sent(serve(campaigns=lists), LINES[:3])

    assert outcome.upload.finished
    assert lists.lines == LINES[:3]


@pytest.mark.parametrize("known", [1, 12, 29, 50])
async def test_upload_begun_earlier_goes_on_behind_what_is_stored(serve: Any, known: int) -> None:
    lists = Lists([], stored=LINES[:known])

    await sent(serve(campaigns=lists), LINES)

    assert lists.lines == LINES


async def test_lines_stored_by_another_stream_are_not_sent_again(serve: Any) -> None:
    class Overtaken(Lists):
        """Another stream of the same list stores a message between our question and our own."""

        def GetUpload(self, request: Any, context: Any) -> campaign_service_pb2.GetUploadResponse:
            answer = super().GetUpload(request, context)
            if not self.lines:
                self.lines = LINES[:6]
                self.upload_id = UPLOAD
            return answer

    lists = Overtaken([])

    await sent(serve(campaigns=lists), LINES)

    assert lists.lines == LINES


async def test_empty_list_is_finished_too(serve: Any) -> None:
    outcome = await sent(serve(campaigns=Lists([])), [])

    assert outcome.upload.finished


@pytest.mark.parametrize("cuts", [[], [("after", 2), ("after", 2), ("after", 2)]])
async def test_rejected_lines_are_reported_with_their_number(
    serve: Any, cuts: list[tuple[str, int]]
) -> None:
    """Also when no stream was answered that had one of them."""
    lines = [*LINES[:20], "not a name!", *LINES[20:]]

    outcome = await sent(serve(campaigns=Lists(cuts)), lines)

    assert [(r.offset, r.line) for r in outcome.rejected_lines] == [(20, "not a name!")]


async def test_finished_upload_of_another_list_is_a_failure(serve: Any) -> None:
    lists = Lists([], stored=LINES[:10])
    lists.finished = True

    with pytest.raises(Failure, match="not the same list"):
        await sent(serve(campaigns=lists), LINES)


async def test_lines_that_vanished_from_the_service_are_a_failure(serve: Any) -> None:
    class Forgetful(Lists):
        def UploadNames(self, requests: Any, context: Any) -> Any:
            if len(self.lines) >= 24:
                self.lines = []
            return super().UploadNames(requests, context)

    with pytest.raises(Failure, match="had acknowledged"):
        await sent(serve(campaigns=Forgetful([])), LINES)


def test_lines_are_the_same_however_the_bytes_are_cut() -> None:
    data = b"\xef\xbb\xbfone.com\r\n\ntwo.com\n\xff\xfe\n" + "m\u00fcnchen.de".encode()
    expected = ["one.com", "", "two.com", "\ufffd\ufffd", "m\u00fcnchen.de"]

    for size in range(1, len(data) + 1):
        splitter = LineSplitter()
        parts = [data[first : first + size] for first in range(0, len(data), size)]
        lines = [line for part in parts for line in splitter.feed(part)] + splitter.finish()
        assert lines == expected


def test_endless_line_is_cut_and_does_not_grow() -> None:
    splitter = LineSplitter()

    for _ in range(100):
        assert splitter.feed(b"x" * 10_000) == []
    long, short = splitter.feed(b"y\nshort.com\n")

    assert len(long) == 2_000
    assert short == "short.com"


async def test_file_is_read_to_its_last_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\n".join(LINES * 2_000))

    with file.open("rb") as stream:
        groups = [group async for group in read_lines(stream.fileno())]

    assert [line for lines, _ in groups for line in lines] == LINES * 2_000
    assert groups[-1][1] == file.stat().st_size


async def test_pipe_is_read_while_it_is_written() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "w") as stream:
            stream.write("\n".join(LINES * 2_000))

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb"):
        lines = [line async for group, _ in read_lines(reading) for line in group]
    writer.join()

    assert lines == LINES * 2_000
