"""Parallel export: read sessions."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

from domainflow.query.v1 import consistency_pb2
from domainflow.query.v1 import read_session_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.chassis.errors import FieldViolation, OffsetOutOfRange, ReadSessionExpired
from services.query.ahead import ahead
from services.query.campaigns import Campaign, Runs
from services.query.conditions import check_filter
from services.query.outcomes import DNS, HTTP, LEAD_STATUSES, LEADS
from services.query.part import Context, Part, the_campaign
from services.query.read_sessions import (
    COLUMNS,
    LIFETIME,
    MAX_FILTER_SIZE,
    ReadStream,
    divided,
    unknown_columns,
)
from services.query.reads import Read
from services.query.sealed import varint
from services.query.session_rows import CampaignGone, Rows, SessionRows, outcome_counts

if TYPE_CHECKING:
    from services.query.arrow import Packer

# Rows that are read at a time: one or two messages.
ROWS = 10_000
# Positions that one statement looks through for them at most: 20 ms.
MOST_POSITIONS = 100_000
# Reads that are packed already while others are sent; more only costs memory.
PREFETCHED = 2
# What comes before the length of `arrow_record_batch`: field 1, length-delimited.
_BATCH = b"\x0a"


class Message(NamedTuple):
    """A record batch, its rows, and the position from which on the stream goes on after it."""

    # Anything with a buffer of bytes.
    batch: Any
    rows: int
    next_position: int


class ReadSessionService(Part):
    """Parallel export: read sessions."""

    async def CreateReadSession(
        self, request: pb.CreateReadSessionRequest, context: Context
    ) -> pb.CreateReadSessionResponse:
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id))
        campaign = await the_campaign(read, request.campaign_id)
        columns = tuple(request.columns) or COLUMNS
        matching = campaign.name_count
        chosen = request.filter.SerializeToString(deterministic=True)
        if chosen:
            matching = await _estimate(read, campaign, request.filter)
        whole = ReadStream(
            session_id=uuid4(),
            campaign_id=campaign.id,
            campaign_no=campaign.no,
            revision=campaign.revision,
            expire_time=int(time.time()) + LIFETIME,
            first=0,
            end=campaign.name_count,
            runs=campaign.runs,
            columns=columns,
            filter=chosen,
        )
        session = pb.ReadSession(
            name=str(whole.session_id),
            streams=[
                self._stream(whole.range(first, end), matching, campaign.name_count)
                for first, end in divided(campaign.name_count, request.max_streams)
            ],
            arrow_schema=(await _packer(columns)).schema,
            estimated_row_count=matching,
            row_count_estimated=bool(chosen),
            freshness=read.freshness,
        )
        session.expire_time.seconds = whole.expire_time
        return pb.CreateReadSessionResponse(session=session)

    async def SplitReadStream(
        self, request: pb.SplitReadStreamRequest, context: Context
    ) -> pb.SplitReadStreamResponse:
        stream = self._opened(request.read_stream)
        read = await self._begin(stream)
        halves = stream.split(request.fraction)
        if halves is None:
            return pb.SplitReadStreamResponse()
        matching = count = stream.size
        if stream.filter:
            campaign = await the_campaign(read, str(stream.campaign_id))
            matching = await _estimate(read, campaign, DomainFilter.FromString(stream.filter))
            count = campaign.name_count
        primary, remainder = (self._stream(half, matching, count) for half in halves)
        return pb.SplitReadStreamResponse(primary_stream=primary, remainder_stream=remainder)

    async def ReadRows(  # type: ignore[override]
        self, request: pb.ReadRowsRequest, context: Context
    ) -> AsyncIterator[pb.ReadRowsResponse | bytes]:
        """Yields ReadRowsResponses as bytes: a message would copy each batch twice more."""
        stream = self._opened(request.read_stream)
        read = await self._begin(stream)
        packer = await _packer(stream.columns)
        offset, schema = request.offset, packer.schema
        messages = self._messages(packer, read, stream, request)
        async with aclosing(ahead(messages, PREFETCHED)) as prefetched:
            async for group in prefetched:
                for message in group:
                    offset += message.rows
                    done = message.next_position - stream.first
                    rest = pb.ReadRowsResponse(
                        row_count=message.rows,
                        next_offset=offset,
                        progress=done / stream.size,
                        arrow_schema=schema,
                        rest_stream=stream.rest(message.next_position).seal(self._seal),
                    )
                    schema = b""
                    size = varint(len(message.batch))
                    yield b"".join((_BATCH, size, message.batch, rest.SerializeToString()))

    async def _messages(
        self, packer: "Packer", read: Read, stream: ReadStream, request: pb.ReadRowsRequest
    ) -> AsyncGenerator[list[Message], None]:
        """The rows that are asked for, some at a time."""
        turn = partial(self._turns.turn, request.priority)
        store = SessionRows(read.pool, stream.campaign_no, Runs(*stream.runs), turn)
        try:
            if stream.filter:
                source = self._matching(packer, store, stream, request.offset)
            else:
                source = self._all(packer, store, stream, request.offset)
            async with aclosing(source) as groups:
                async for group in groups:
                    yield group
        except CampaignGone:
            raise _expired(stream, "its campaign is deleted") from None

    async def _all(
        self, packer: "Packer", store: SessionRows, stream: ReadStream, offset: int
    ) -> AsyncGenerator[list[Message], None]:
        if offset > stream.size:
            raise _beyond(offset, stream.size)
        position = stream.first + offset
        while position < stream.end:
            end = min(position + ROWS, stream.end)
            rows = await store.all(stream.columns, position, end)
            yield await _packed(packer, rows, end)
            position = end

    async def _matching(
        self, packer: "Packer", store: SessionRows, stream: ReadStream, offset: int
    ) -> AsyncGenerator[list[Message], None]:
        chosen = DomainFilter.FromString(stream.filter)
        position, left, step = stream.first, offset, ROWS
        while left and position < stream.end:
            end = min(position + MOST_POSITIONS, stream.end)
            found = await store.matches(chosen, position, end)
            if left < len(found):
                end = found[left]
            left -= min(left, len(found))
            position = end
        if left:
            raise _beyond(offset, offset - left)
        silent = 0
        while position < stream.end:
            end = min(position + step, stream.end)
            rows, past = await store.matching(stream.columns, chosen, position, end, limit=ROWS)
            # As many positions as are expected to have the rows wanted.
            seen, count = past - position, len(rows.positions)
            step = max(ROWS, min(MOST_POSITIONS, seen * ROWS // max(count, 1)))
            position, silent = past, 0 if count else silent + seen
            if count:
                yield await _packed(packer, rows, past)
            elif silent >= 10 * MOST_POSITIONS:
                # Whoever waits sees that it goes on, and need not look through it again.
                silent = 0
                yield [Message(packer.no_rows, 0, past)]

    def _opened(self, name: str) -> ReadStream:
        """Raises InvalidToken and ReadSessionExpired."""
        stream = ReadStream.open(self._seal, name)
        if time.time() >= stream.expire_time:
            raise _expired(stream, "its time is over")
        return stream

    async def _begin(self, stream: ReadStream) -> Read:
        """Raises ReadSessionExpired."""
        any_server = consistency_pb2.Consistency(minimize_latency=True)
        read = await self._reads.begin(any_server, stream.campaign_id, least=stream.revision)
        if read.campaign is None:
            raise _expired(stream, "its campaign is deleted")
        return read

    def _stream(self, stream: ReadStream, matching: int, count: int) -> pb.ReadStream:
        """`matching` of the campaign's `count` names are expected, anywhere alike."""
        rows = matching * stream.size // count if stream.filter and count else stream.size
        return pb.ReadStream(name=stream.seal(self._seal), estimated_row_count=rows)


def check_session(request: pb.CreateReadSessionRequest) -> list[FieldViolation]:
    """What the contract's own rules cannot say."""
    violations = unknown_columns(request.columns)
    chosen = request.filter
    if chosen.ByteSize() > MAX_FILTER_SIZE:
        size = f"at most {MAX_FILTER_SIZE:,} bytes, not {chosen.ByteSize():,}"
        violations.append(FieldViolation("filter", f"{size}: it is part of every stream's name"))
    return violations + check_filter(chosen)


async def _packer(columns: Sequence[str]) -> "Packer":
    """Imports Arrow at the first need, without standing in anybody's way meanwhile."""
    global _make_packer
    if _make_packer is None:
        _make_packer = await asyncio.to_thread(_import)
    return _make_packer(columns)


_make_packer: "type[Packer] | None" = None


def _import() -> "type[Packer]":
    from services.query.arrow import Packer

    return Packer


async def _packed(packer: "Packer", rows: Rows, end: int) -> list[Message]:
    # In a thread: Arrow works without the interpreter's lock, and pages do not wait for it.
    pieces = await asyncio.to_thread(packer.messages, rows)
    made = [Message(batch, count, last + 1) for batch, count, last in pieces]
    # Behind the last one nothing else matches up to `end`.
    return [*made[:-1], made[-1]._replace(next_position=end)] if made else []


async def _estimate(read: Read, campaign: Campaign, chosen: DomainFilter) -> int:
    """Rows that match at most, by the counters that know of the filter."""
    counts = await outcome_counts(read.pool, campaign.no, campaign.runs)
    most = [campaign.name_count]
    if chosen.dns_pending:
        most.append(campaign.name_count - sum(counts.get(DNS, ())))
    reasons = {reason for reason, status in LEAD_STATUSES.items() if status in chosen.lead_statuses}
    for phase, wanted in (
        (DNS, set(chosen.dns_verdicts)),
        (HTTP, set(chosen.http_verdicts)),
        (LEADS, reasons),
        (LEADS, set(chosen.lead_reasons)),
    ):
        if wanted:
            by_outcome = enumerate(counts.get(phase, ()), start=1)
            most.append(sum(count for outcome, count in by_outcome if outcome in wanted))
    return max(0, min(most))


def _expired(stream: ReadStream, why: str) -> ReadSessionExpired:
    return ReadSessionExpired(
        f"the read session cannot be read any more: {why}", campaign_id=stream.campaign_id
    )


def _beyond(offset: int, row_count: int) -> OffsetOutOfRange:
    return OffsetOutOfRange(
        f"the stream has {row_count:,} rows, fewer than {offset:,}",
        offset=offset,
        row_count=row_count,
    )
