"""Sends a list of names, and goes on where it was cut, with no more than a window in memory.

The service answers a stream only at its end, so the list is sent as many streams of a few messages:
what is not acknowledged yet is kept, and nothing has to be read twice. Pipes work like files.
"""

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from domainflow.campaign.v1 import campaign_service_pb2
from services.cli import refusal, retry
from services.cli.exits import Failure

if TYPE_CHECKING:
    from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceAsyncStub

LINES_PER_MESSAGE = 5_000
MESSAGES_PER_STREAM = 20
# No DNS name is longer than 253 octets, and Unicode takes at most four times that. What is cut
# is rejected by the service, as it would be whole.
_LINE_LIMIT = 2_000
_READ_SIZE = 1 << 18


@dataclass(slots=True)
class Outcome:
    """How far the list is; the counts are the service's."""

    upload: campaign_service_pb2.Upload
    rejected_lines: list[campaign_service_pb2.RejectedLine] = field(default_factory=list)


class LineSplitter:
    """Bytes in, lines out, one by one as they become complete. Endless lines are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._at_start = True

    def feed(self, data: bytes) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:_LINE_LIMIT]
        return [self._text(line) for line in whole]

    def finish(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return [self._text(rest)] if rest else []

    def _text(self, line: bytes) -> str:
        if self._at_start:
            line, self._at_start = line.removeprefix(b"\xef\xbb\xbf"), False
        return line[:_LINE_LIMIT].decode(errors="replace").rstrip("\r")


def opened(file: str) -> int:
    """A descriptor that stays open until the process ends; "-" is standard input."""
    return sys.stdin.fileno() if file == "-" else os.open(file, os.O_RDONLY)


async def read_lines(descriptor: int) -> AsyncIterator[tuple[list[str], int]]:
    """Lines of a file, pipe or terminal in groups, with the number of bytes read so far."""
    splitter = LineSplitter()
    total = 0
    while data := await _read(descriptor):
        total += len(data)
        yield splitter.feed(data), total
    yield splitter.finish(), total


async def _read(descriptor: int) -> bytes:
    # A pipe is awaited on the loop, not in a thread: a thread that waits for a silent pipe could
    # not be interrupted. Regular files cannot be awaited (EPERM) and need not be.
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:
        return await asyncio.to_thread(os.read, descriptor, _READ_SIZE)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, _READ_SIZE)


class Window:
    """The lines that were read and are not acknowledged, with the offset of the first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lines: deque[str] = deque()
        self.offset = 0
        self.complete = False

    @property
    def end(self) -> int:
        return self.offset + len(self._lines)

    @property
    def is_full(self) -> bool:
        return len(self._lines) >= self._capacity

    def add(self, lines: Iterable[str]) -> None:
        self._lines.extend(lines)

    def acknowledge(self, next_offset: int) -> None:
        """Forget what the service has; it may have more than was read yet."""
        if next_offset < self.offset:
            raise Failure(
                f"the service asks for line {next_offset:,} again, but it had acknowledged all"
                f" before {self.offset:,}: cancel the campaign and upload the list to a new one"
            )
        for _ in range(min(next_offset, self.end) - self.offset):
            self._lines.popleft()
            self.offset += 1

    def messages(self, size: int) -> Iterator[tuple[int, list[str]]]:
        lines = list(self._lines)
        for first in range(0, len(lines), size):
            yield self.offset + first, lines[first : first + size]


async def upload(
    stub: "CampaignServiceAsyncStub",
    campaign_id: str,
    upload_id: str,
    groups: AsyncIterator[list[str]],
    patience: retry.Patience,
    *,
    on_progress: Callable[[Outcome], None] | None = None,
    lines_per_message: int = LINES_PER_MESSAGE,
    messages_per_stream: int = MESSAGES_PER_STREAM,
) -> Outcome:
    """Send the whole list and finish it. Lines the service has already are read but not sent."""
    outcome = Outcome(await _progress(stub, campaign_id, upload_id))
    window = Window(lines_per_message * messages_per_stream)
    async for lines in groups:
        window.add(lines)
        window.acknowledge(max(outcome.upload.next_offset, window.offset))
        while window.is_full and not outcome.upload.finished:
            await _send(stub, campaign_id, upload_id, window, outcome, patience, lines_per_message)
            if on_progress:
                on_progress(outcome)
        if outcome.upload.finished and window.end > outcome.upload.next_offset:
            break
    window.complete = True
    while not outcome.upload.finished:
        await _send(stub, campaign_id, upload_id, window, outcome, patience, lines_per_message)
    if outcome.upload.rejected_count:
        # Not what the streams answered: a cut one answers nothing.
        outcome.rejected_lines = await _rejected_lines(stub, campaign_id, patience)
    if outcome.upload.next_offset != window.end:
        raise Failure(
            f"the upload was finished with {outcome.upload.next_offset:,} lines and the list has"
            f" {'more' if window.end > outcome.upload.next_offset else 'fewer'}: it is not the"
            " same list"
        )
    if on_progress:
        on_progress(outcome)
    return outcome


async def _progress(
    stub: "CampaignServiceAsyncStub", campaign_id: str, upload_id: str
) -> campaign_service_pb2.Upload:
    answer = await stub.GetUpload(
        campaign_service_pb2.GetUploadRequest(campaign_id=campaign_id), timeout=30
    )
    if answer.HasField("upload") and answer.upload.upload_id != upload_id:
        raise Failure(
            f"campaign {campaign_id} has another upload already ({answer.upload.upload_id})"
        )
    return answer.upload


async def _rejected_lines(
    stub: "CampaignServiceAsyncStub", campaign_id: str, patience: retry.Patience
) -> list[campaign_service_pb2.RejectedLine]:
    """The first ones of the whole list."""
    request = campaign_service_pb2.GetUploadRequest(campaign_id=campaign_id)
    while True:
        try:
            return list((await stub.GetUpload(request, timeout=30)).rejected_lines)
        except grpc.aio.AioRpcError as error:
            await patience.wait(error)


async def _send(
    stub: "CampaignServiceAsyncStub",
    campaign_id: str,
    upload_id: str,
    window: Window,
    outcome: Outcome,
    patience: retry.Patience,
    lines_per_message: int,
) -> None:
    """One stream with all of the window. Returns when the service has some or all of it."""

    async def messages() -> AsyncIterator[campaign_service_pb2.UploadNamesRequest]:
        for offset, lines in window.messages(lines_per_message):
            yield campaign_service_pb2.UploadNamesRequest(
                campaign_id=campaign_id, upload_id=upload_id, offset=offset, lines=lines
            )
        if window.complete:
            yield campaign_service_pb2.UploadNamesRequest(
                campaign_id=campaign_id, upload_id=upload_id, offset=window.end, finish=True
            )

    try:
        answer = await stub.UploadNames(messages())
    except grpc.aio.AioRpcError as error:
        before = outcome.upload.next_offset
        outcome.upload.CopyFrom(await _after_cut(stub, campaign_id, upload_id, error, patience))
        if outcome.upload.next_offset > before or outcome.upload.finished:
            patience.progressed()
        elif outcome.upload.next_offset == before and not refusal.read(error).is_passing:
            raise
    else:
        patience.progressed()
        outcome.upload.CopyFrom(answer.upload)
    window.acknowledge(outcome.upload.next_offset)


async def _after_cut(
    stub: "CampaignServiceAsyncStub",
    campaign_id: str,
    upload_id: str,
    error: grpc.aio.AioRpcError,
    patience: retry.Patience,
) -> campaign_service_pb2.Upload:
    """How far the service is after a broken stream; raises what cannot be mended."""
    misplaced = {"UPLOAD_OFFSET_STORED", "UPLOAD_OFFSET_GAP", "UPLOAD_CLOSED"}
    if refusal.read(error).reason in misplaced:
        return await _progress(stub, campaign_id, upload_id)
    while True:
        await patience.wait(error)
        try:
            return await _progress(stub, campaign_id, upload_id)
        except grpc.aio.AioRpcError as again:
            error = again
