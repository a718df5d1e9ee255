"""Bulk streams of many campaigns: StreamEnriched, StreamLeads, StreamLogs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import asyncpg

from domainflow.campaign.v1.event_pb2 import Event
from domainflow.query.v1 import stream_pb2 as pb
from domainflow.validation.v1.lead_pb2 import LEAD_STATUS_QUALIFIED, Lead
from services.chassis.errors import FieldViolation
from services.query.batches import ALL, ENRICHED_TAG, enriched_payload
from services.query.bulk import Bulk, Fetched, Looked, Piece, Reach, Work, begin_bulk
from services.query.bulk_rows import events, leads
from services.query.campaigns import Campaign
from services.query.columns import COLUMNS, ColumnStore
from services.query.conditions import check_filter, conditions_of
from services.query.domain_source import DomainSource
from services.query.part import Context, Part, coerced
from services.query.reads import check_consistency
from services.query.sealed import (
    ENRICHED,
    ENRICHED_BATCH,
    LEAD_BATCH,
    LOG_BATCH,
    MESSAGE_LIMIT,
    SEGMENT_SIZE,
    delimited,
)

DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE = 5_000, 10_000
DEFAULT_ROWS, MAX_ROWS = 1_000, 5_000

_LEAD_FIELDS = frozenset(pb.LeadRow.DESCRIPTOR.fields_by_name)
_EVENT_KINDS = frozenset(f.name for f in Event.DESCRIPTOR.oneofs_by_name["kind"].fields)
# Number of the rows in LeadBatch and LogBatch.
_ROWS = 2
_LEAD = pb.LeadRow.LEAD_FIELD_NUMBER


class BulkService(Part):
    """StreamEnriched, StreamLeads, StreamLogs."""

    async def StreamEnriched(  # type: ignore[override]  # bytes pass (passing.py)
        self, request: pb.StreamEnrichedRequest, context: Context
    ) -> AsyncIterator[pb.StreamEnrichedResponse | bytes]:
        columns = frozenset(request.read_mask.paths) or ALL
        conditions = conditions_of(request.filter)
        size = coerced(request.batch_size, DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE)
        bulk = await begin_bulk(
            "StreamEnriched", request, self._reads, self._seal, self._turns, ENRICHED_BATCH
        )
        if columns == ALL and not conditions and size >= SEGMENT_SIZE:
            bulk.copies = ENRICHED
        bulk.counted = bool(conditions)
        source = DomainSource(
            bulk,
            ColumnStore(bulk.read.pool),
            columns,
            conditions,
            enriched_payload,
            size,
            tag=ENRICHED_TAG,
            limit=request.campaign_limit,
        )
        async with aclosing(bulk.responses(source.work())) as responses:
            async for response in responses:
                yield response
        yield pb.StreamEnrichedResponse(summary=bulk.summary())

    async def StreamLeads(  # type: ignore[override]
        self, request: pb.StreamLeadsRequest, context: Context
    ) -> AsyncIterator[pb.StreamLeadsResponse | bytes]:
        statuses = sorted(request.statuses) or [LEAD_STATUS_QUALIFIED]
        fields = frozenset(request.read_mask.paths) or _LEAD_FIELDS
        size = coerced(request.batch_size, DEFAULT_ROWS, MAX_ROWS)
        bulk = await begin_bulk(
            "StreamLeads", request, self._reads, self._seal, self._turns, LEAD_BATCH
        )

        async def read(reach: Reach, first: int, limit: int) -> list[asyncpg.Record] | None:
            no, runs, end = reach.campaign.no, reach.runs, reach.end
            return await leads(bulk.read.pool, no, runs, statuses, first, end, limit=limit)

        def row(reach: Reach, record: asyncpg.Record) -> bytes:
            return _lead(record, fields)

        source = _RowSource(bulk, read, row, size, request.campaign_limit)
        async with aclosing(bulk.responses(source.work())) as responses:
            async for response in responses:
                yield response
        yield pb.StreamLeadsResponse(summary=bulk.summary())

    async def StreamLogs(  # type: ignore[override]
        self, request: pb.StreamLogsRequest, context: Context
    ) -> AsyncIterator[pb.StreamLogsResponse | bytes]:
        kinds = frozenset(request.kinds)
        size = coerced(request.batch_size, DEFAULT_ROWS, MAX_ROWS)
        bulk = await begin_bulk(
            "StreamLogs", request, self._reads, self._seal, self._turns, LOG_BATCH
        )
        bulk.span = partial(_revisions, request.after_revision)

        async def read(reach: Reach, first: int, limit: int) -> list[asyncpg.Record] | None:
            # Which events are left out shows in them only: as many are read as a batch may have.
            limit = size if kinds else limit
            return await events(bulk.read.pool, reach.campaign.no, first, reach.end, limit=limit)

        def row(reach: Reach, record: asyncpg.Record) -> bytes | None:
            return _event(request.campaign_ids[reach.index], record, kinds)

        source = _RowSource(bulk, read, row, size, request.campaign_limit)
        async with aclosing(bulk.responses(source.work())) as responses:
            async for response in responses:
                yield response
        yield pb.StreamLogsResponse(summary=bulk.summary())


Read = Callable[[Reach, int, int], Awaitable[list[asyncpg.Record] | None]]
# The bytes of a row; None: it is left out.
Row = Callable[[Reach, asyncpg.Record], bytes | None]


@dataclass(frozen=True, slots=True)
class _RowSource:
    """Rows of every campaign in batches of at most `size`, `most` of each campaign; 0: all."""

    bulk: Bulk
    read: Read
    row: Row
    size: int
    most: int

    async def work(self) -> Work:
        async for reach in self.bulk.reaches():
            left = self.most - reach.sent if self.most else self.size
            if reach.position < reach.end and left > 0:
                yield self._look(reach, reach.position, left)

    async def _look(self, reach: Reach, position: int, left: int) -> Looked:
        limit = min(self.size, left)
        async with self.bulk.turn():
            records = await self.read(reach, position, limit)
        if records is None:
            return Looked([Fetched(reach, None)])
        found = [(record["found"], self.row(reach, record)) for record in records]
        kept = [(at, made) for at, made in found if made is not None][:left]
        fetched = [Fetched(reach, _pieces(kept))] if kept else []
        if self.most:
            left -= len(kept)
        if len(records) < limit or left <= 0 or (past := records[-1]["found"] + 1) >= reach.end:
            return Looked(fetched)
        return Looked(fetched, partial(self._look, reach, past, left))


def _pieces(rows: Sequence[tuple[int, bytes]]) -> list[Piece]:
    """Rows, each with its position, as messages that are small enough."""
    pieces, payloads, length = [], [], 0
    for n, (position, row) in enumerate(rows):
        payloads.append(delimited(_ROWS, row))
        length += len(payloads[-1])
        following = len(rows[n + 1][1]) if n + 1 < len(rows) else MESSAGE_LIMIT
        if length + following >= MESSAGE_LIMIT:
            pieces.append(Piece(len(payloads), position + 1, payloads))
            payloads, length = [], 0
    return pieces


def _lead(record: asyncpg.Record, fields: frozenset[str]) -> bytes:
    made = pb.LeadRow()
    if "position" in fields:
        made.position = record["found"]
    if "name" in fields:
        made.name = record["name"] or ""
    if "final_url" in fields:
        made.final_url = record["final_url"] or ""
    if "score" in fields and record["score"] is not None:
        made.score = record["score"] / 1000
    if "lead" not in fields:
        return made.SerializeToString()
    lead = Lead(status=record["status"], reason=record["reason"])
    lead.check_time.FromMicroseconds(record["check_time_us"])
    # Fields one behind the other are one message. Not two messages one behind the other: clients
    # of gRPC merge them, but the door has no JSON for a field that comes twice.
    whole = lead.SerializeToString() + (record["contacts"] or b"")
    return made.SerializeToString() + delimited(_LEAD, whole)


def _revisions(after: int, campaign: Campaign) -> tuple[int, int]:
    return after + 1, campaign.revision + 1


def _event(campaign_id: str, record: asyncpg.Record, kinds: frozenset[str]) -> bytes | None:
    body: bytes = record["body"]
    if kinds and Event.FromString(body).WhichOneof("kind") not in kinds:
        return None
    head = Event(campaign_id=campaign_id, revision=record["found"])
    head.create_time.FromDatetime(record["create_time"])
    return head.SerializeToString() + body


def check_enriched(request: pb.StreamEnrichedRequest) -> list[FieldViolation]:
    return [
        *_check_mask(request.read_mask.paths, COLUMNS, "EnrichedBatch"),
        *check_filter(request.filter),
        *check_consistency(request.consistency, len(request.campaign_ids)),
    ]


def check_leads(request: pb.StreamLeadsRequest) -> list[FieldViolation]:
    return [
        *_check_mask(request.read_mask.paths, _LEAD_FIELDS, "LeadRow"),
        *check_consistency(request.consistency, len(request.campaign_ids)),
    ]


def check_logs(request: pb.StreamLogsRequest) -> list[FieldViolation]:
    return [
        *(
            FieldViolation(f"kinds[{n}]", f"{kind!r} is no kind of event")
            for n, kind in enumerate(request.kinds)
            if kind not in _EVENT_KINDS
        ),
        *check_consistency(request.consistency, len(request.campaign_ids)),
    ]


def _check_mask(paths: Sequence[str], known: Collection[str], what: str) -> list[FieldViolation]:
    unknown = [path for path in paths if path not in known]
    if not unknown:
        return []
    quoted = ", ".join(map(repr, unknown))
    return [
        FieldViolation("read_mask", f"{what} has no column {quoted}; it has {', '.join(known)}")
    ]
