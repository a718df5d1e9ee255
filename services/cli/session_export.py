"""Exports to a file: streams of read sessions side by side, and one file of them in the end.

What has come is kept on disk (kept.py), so the same command goes on where an earlier one stopped,
whatever stopped it. The file is written (assembly.py) while its rows still come.
"""

import asyncio
import base64
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from domainflow.query.v1 import read_session_pb2
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.cli import refusal, retry
from services.cli.connection import DEADLINE
from services.cli.exits import Failure
from services.cli.kept import Kept, Part, Plan, Source, no_plan, other_plan
from services.cli.rows_bar import RowsBar

if TYPE_CHECKING:
    from domainflow.query.v1.query_service_pb2_grpc import QueryServiceAsyncStub

CAMPAIGN_ID = "campaign_id"
# What there is to know of a row (read_session.proto).
COLUMNS = (
    "position",
    "name",
    "dns_verdict",
    "dns_rcode",
    "addresses",
    "dns_resolver",
    "dns_check_time",
    "http_verdict",
    "http_status_code",
    "final_url",
    "title",
    "score",
    "lead_status",
    "lead_reason",
)
# Streams for each reader: one that is done early takes the next.
RANGES = 4
MAX_STREAMS = 64
# Seconds between two times that what has come is made sure of.
KEPT_EVERY = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What to export. `columns` in order; campaign_id may be among them."""

    campaign_ids: Sequence[str]
    columns: Sequence[str]
    filter: DomainFilter
    form: str
    # Streams that are read at the same time.
    streams: int

    def identity(self) -> dict[str, object]:
        """What has to be the same to go on. Form and readers do not matter to what is kept."""
        return {
            "campaign_ids": list(self.campaign_ids),
            "columns": list(self.columns),
            "filter": base64.b64encode(self.filter.SerializeToString(deterministic=True)).decode(),
        }


async def export(
    stub: "QueryServiceAsyncStub",
    asked: Asked,
    kept: Kept,
    *,
    resume: bool,
    restart: bool,
    bar: Callable[[int, bool], RowsBar],
    patience: Callable[[RowsBar], retry.Patience],
) -> int:
    """Write the file and answer its number of rows.

    `resume`: only when there is something to go on with; `restart`: whatever was kept. `bar` is
    made of the rows to come, and whether their number is an estimate.
    """
    plan = None if restart else kept.plan()
    reached = plan is None
    if plan is None:
        if resume:
            raise no_plan(kept)
        plan = await _planned(stub, asked)
        kept.begin(plan)
    elif plan.asked != asked.identity():
        raise other_plan(kept)
    parts = kept.parts(plan)
    with bar(plan.row_count, plan.estimated) as shown:
        shown.begin(sum(part.rows for part in parts))
        # Of all readers: one that gets nothing yet waits as long as the others.
        waiting = patience(shown)
        if reached:
            waiting.progressed()
        with kept.appearing() as path:
            writing = asyncio.create_task(
                asyncio.to_thread(_write, parts, plan.sources[0].schema, asked, path)
            )
            reading = asyncio.create_task(_read_all(stub, parts, asked.streams, shown, waiting))
            enough = asyncio.Event()
            keeping = asyncio.create_task(_keep(parts, enough))
            try:
                done, _ = await asyncio.wait(
                    [writing, reading, keeping], return_when=asyncio.FIRST_COMPLETED
                )
                if keeping in done:
                    # It ends by itself only when the disk does not take anything more.
                    await keeping
                if reading in done:
                    await reading
                    shown.finishing()
                count = await writing
                await reading
            except BaseException:
                # Whichever failed ends the others, and what has come is kept: also by whoever
                # presses Ctrl-C once more.
                for part in parts:
                    part.drop()
                reading.cancel()
                await _ended(reading)
                for part in parts:
                    part.keep()
                raise
            finally:
                enough.set()
                await _ended(writing)
                await _ended(keeping)
    kept.forget()
    return count


def _write(parts: Sequence[Part], schema: bytes, asked: Asked, path: Path) -> int:
    # Imported here: the first rows come meanwhile, and standard output does without.
    from services.cli.assembly import assemble

    return assemble(parts, schema, asked.columns, asked.form, path)


async def _ended(task: "asyncio.Task[Any]") -> None:
    """Wait for what is about to notice that nobody wants it, such as a thread, which cannot be
    cancelled. A cancellation meanwhile changes nothing: one has brought us here."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        # Seen: if it says anything but that it was dropped, it has been raised already.
        task.exception()


async def _keep(parts: Sequence[Part], enough: asyncio.Event) -> None:
    """Make sure of what has come now and then, beside the reading: a disk that is slow to sync
    holds up no stream."""
    while not enough.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), KEPT_EVERY)
        for part in parts:
            if enough.is_set():
                return
            await asyncio.to_thread(part.keep)


async def _planned(stub: "QueryServiceAsyncStub", asked: Asked) -> Plan:
    """Begin the sessions."""
    sources, count, estimated = [], 0, False
    columns = [column for column in asked.columns if column != CAMPAIGN_ID]
    for campaign_id in asked.campaign_ids:
        request = read_session_pb2.CreateReadSessionRequest(
            campaign_id=campaign_id,
            filter=asked.filter,
            # Without any the service would send all, so ask for the smallest.
            columns=columns or ["position"],
            max_streams=min(asked.streams * RANGES, MAX_STREAMS),
        )
        session = (await stub.CreateReadSession(request, timeout=DEADLINE)).session
        streams = [stream.name for stream in session.streams]
        sources.append(Source(campaign_id, session.arrow_schema, streams))
        count += session.estimated_row_count
        estimated |= session.row_count_estimated
    return Plan(asked.identity(), sources, count, estimated)


async def _read_all(
    stub: "QueryServiceAsyncStub",
    parts: Sequence[Part],
    readers: int,
    shown: RowsBar,
    patience: retry.Patience,
) -> None:
    """Read all parts to their ends, the first ones first, so many at a time."""
    waiting = deque(part for part in parts if not part.done)

    async def reader() -> None:
        while waiting:
            await _read(stub, waiting.popleft(), shown, patience)

    tasks = [asyncio.create_task(reader()) for _ in range(min(readers, len(waiting)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _read(
    stub: "QueryServiceAsyncStub", part: Part, shown: RowsBar, patience: retry.Patience
) -> None:
    """Read a part to its end. It is kept then; of one that is stopped its end is kept later."""
    try:
        while not part.done:
            call = stub.ReadRows(read_session_pb2.ReadRowsRequest(read_stream=part.rest))
            try:
                while (message := await call.read()) is not grpc.aio.EOF:
                    patience.progressed()
                    assert isinstance(message, read_session_pb2.ReadRowsResponse)
                    part.add(message.arrow_record_batch, message.row_count, message.rest_stream)
                    shown.add(message.row_count)
                part.finish()
            except grpc.aio.AioRpcError as error:
                if refusal.read(error).reason == "READ_SESSION_EXPIRED":
                    raise _expired(error) from None
                await patience.wait(error)
            finally:
                call.cancel()
        await asyncio.to_thread(part.keep)
    finally:
        part.close()


def _expired(error: grpc.aio.AioRpcError) -> Failure:
    return Failure(
        f"{refusal.read(error).message}; what was kept cannot be gone on with: --restart begins"
        " the export anew"
    )
