"""Streams for machines."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from services.chassis.errors import CampaignNotFound
from services.chassis.seal import binding
from services.query.ahead import ahead
from services.query.columns import NAME, POSITION, Columns, ColumnStore
from services.query.page_token import StreamPlace
from services.query.pages import Filter
from services.query.part import Context, Part, campaigns_of, coerced, total_of
from services.query.reads import Read
from services.query.totals import Totals

DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE = 5_000, 10_000
# Two chunks keep PostgreSQL busy while a message is packed and sent; more only costs memory.
PREFETCHED_CHUNKS = 2
# Where one domain in so many matches, both ways of a filtered stream take as long.
SPARSE = 5


class StreamService(Part):
    """StreamDomains."""

    column_store = ColumnStore

    async def StreamDomains(
        self, request: pb.StreamDomainsRequest, context: Context
    ) -> AsyncIterator[pb.StreamDomainsResponse]:
        bound = _stream_binding(request)
        place = None
        if request.cursor:
            place = StreamPlace.open(self._seal, request.cursor, bound)
        read = await self._reads.begin(request.consistency)
        columns = frozenset(request.columns or [NAME])
        batch_size = coerced(request.batch_size, DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE)
        unreachable = await self._unreachable(
            read, request.campaign_ids[: place.index if place else 0]
        )
        sent = 0
        source = self._chunks(read, request, place, columns, batch_size, unreachable)
        async with aclosing(ahead(source, PREFETCHED_CHUNKS)) as chunks:
            async for index, end, chunk in chunks:
                for piece in chunk.fitting(batch_size):
                    sent += len(piece.positions)
                    resume = StreamPlace(index, piece.positions[-1] + 1, end)
                    yield _batch(
                        request.campaign_ids[index],
                        piece,
                        positions=POSITION in columns,
                        cursor=resume.seal(self._seal, bound),
                    )
        yield pb.StreamDomainsResponse(
            summary=pb.StreamSummary(domain_count=sent, unreachable=unreachable)
        )

    async def _unreachable(self, read: Read, campaign_ids: Sequence[str]) -> list[str]:
        """Those of the campaigns that do not exist, or are being deleted."""
        existing = await campaigns_of(read, campaign_ids)
        return [each for each in campaign_ids if UUID(each) not in existing]

    async def _chunks(
        self,
        read: Read,
        request: pb.StreamDomainsRequest,
        place: StreamPlace | None,
        columns: frozenset[int],
        size: int,
        unreachable: list[str],
    ) -> AsyncGenerator[tuple[int, int, Columns], None]:
        """Chunks with the index of their campaign and the number of names it had when reached."""
        verdicts = request.dns_verdicts
        store, totals = self.column_store(read.pool), Totals(read.pool)
        for index in range(place.index if place else 0, len(request.campaign_ids)):
            try:
                no, end, matching = await total_of(
                    totals, request.campaign_ids[index], Filter(tuple(verdicts))
                )
            except CampaignNotFound:
                unreachable.append(request.campaign_ids[index])
                continue
            # As many positions as hold about `size` matching domains; few matches are looked up
            # one by one instead.
            step = size
            if verdicts:
                step = size * end // matching if matching else 0
            position = 0
            if place and place.index == index:
                position, end = place.position, place.end
            while position < end:
                if 0 < step <= size * SPARSE:
                    past = min(position + step, end)
                    chunk = await store.columns(no, position, past, columns, verdicts)
                    position = past
                else:
                    chunk = await store.first_columns(
                        no, verdicts, position, end, columns, limit=size
                    )
                    full = len(chunk.positions) == size
                    position = chunk.positions[-1] + 1 if full else end
                # Asked afterwards: a deletion says so before it takes the first row away.
                if gone := await self._unreachable(read, [request.campaign_ids[index]]):
                    unreachable += gone
                    break
                if chunk.positions:
                    yield index, end, chunk


def _stream_binding(request: pb.StreamDomainsRequest) -> bytes:
    bound = pb.StreamDomainsRequest()
    bound.CopyFrom(request)
    for free in ("cursor", "batch_size"):
        bound.ClearField(free)
    bound.dns_verdicts.sort()
    bound.columns.sort()
    return binding("StreamDomains", bound.SerializeToString(deterministic=True))


def _batch(
    campaign_id: str, piece: Columns, *, positions: bool, cursor: str
) -> pb.StreamDomainsResponse:
    # Filled in place: a batch made apart would be copied into the response.
    response = pb.StreamDomainsResponse()
    batch = response.batch
    batch.campaign_id = campaign_id
    batch.domain_count = len(piece.positions)
    batch.names.extend(piece.names)
    if positions:
        batch.positions.extend(piece.positions)
    batch.dns_verdicts.extend(piece.verdicts)  # type: ignore[arg-type]  # plain numbers
    batch.addresses.extend(piece.addresses)
    batch.cursor = cursor
    return response
