"""Where the rows of StreamDomains and StreamEnriched come from: a sealed copy, whole ranges of the
tables, or what matches in them."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from services.query.bulk import Bulk, Fetched, Looked, Piece, Reach, Work
from services.query.columns import Columns, ColumnStore, Span
from services.query.conditions import Condition, Conditions
from services.query.derived import segments_of
from services.query.pace import Pace
from services.query.sealed import SEGMENT_SIZE, grouped, tiles

# Positions that one look into a sealed copy is for; a multiple of the size of its segments.
SEALED_AT_ONCE = 4 * SEGMENT_SIZE
# Batches that one statement reads: by itself it costs as much as 1,500 names or 400 whole rows.
# More would only cost memory while a reader stands still.
BATCHES_OF_NAMES, BATCHES = 4, 2
# Campaigns that fit are read by one statement, so many spans of a batch at most.
SPANS = 64


@dataclass(frozen=True, slots=True)
class _Part:
    """Positions first..end-1 of a campaign."""

    reach: Reach
    first: int
    end: int


@dataclass(slots=True)
class _Search:
    """How far the search for what matches has come in a campaign, of which `left` domains may still
    be sent."""

    reach: Reach
    driver: tuple[str, Condition] | None
    pace: Pace
    position: int
    left: int


@dataclass(frozen=True, slots=True)
class DomainSource:
    """What one call reads of every campaign."""

    bulk: Bulk
    store: ColumnStore
    columns: Collection[str]
    conditions: Conditions
    # Columns as a part of the batch.
    payload: Callable[[Columns], bytes]
    # Most domains in a message.
    size: int
    # What stands before each name in the payload.
    tag: int | None = None
    # Most domains of a campaign; 0: all.
    limit: int = 0

    def work(self) -> Work:
        """Looks into the tables, in the order in which their rows are sent."""
        return self._searches() if self.conditions else self._all()

    async def _all(self) -> Work:
        most = self.size * (BATCHES_OF_NAMES if len(self.columns) == 1 else BATCHES)
        # Ends of campaigns, to be read together.
        waiting: list[_Part] = []
        spans = length = 0
        async for reach in self.bulk.reaches():
            position = reach.position
            # Positions have no gaps: they count the domains.
            end = min(reach.end, self.limit or reach.end)
            rest = end - position
            own = -(-rest // self.size)
            if waiting and (reach.copy or length + rest > most or spans + own > SPANS):
                yield self._together(waiting)
                waiting, spans, length = [], 0, 0
            while position < end and not reach.gone:
                if reach.copy is not None:
                    past = min((position // SEALED_AT_ONCE + 1) * SEALED_AT_ONCE, end)
                    yield self._sealed(reach, position, past)
                elif end - position >= most:
                    past = position + most
                    yield self._range(reach, position, past)
                else:
                    past = end
                    waiting.append(_Part(reach, position, end))
                    spans += -(-(end - position) // self.size)
                    length += end - position
                position = past
        if waiting:
            yield self._together(waiting)

    async def _range(self, reach: Reach, first: int, end: int) -> Looked:
        async with self.bulk.turn():
            batches = await self.store.batches(
                reach.campaign.no, reach.runs, first, end, self.size, self.columns, tag=self.tag
            )
        return Looked([await self._packed(reach, [None] if batches is None else batches)])

    async def _together(self, parts: Sequence[_Part]) -> Looked:
        if len(parts) == 1:
            # The plan of one campaign is made sooner.
            return await self._range(parts[0].reach, parts[0].first, parts[0].end)
        spans = [
            Span(part.reach.campaign.no, part.reach.runs, first, min(first + self.size, part.end))
            for part in parts
            for first in range(part.first, part.end, self.size)
        ]
        async with self.bulk.turn():
            read = iter(await self.store.spans(spans, self.columns, tag=self.tag))
        fetched = []
        for part in parts:
            batches = [next(read) for _ in range(part.first, part.end, self.size)]
            fetched.append(await self._packed(part.reach, batches))
        return Looked(fetched)

    async def _packed(self, reach: Reach, batches: Sequence[Columns | None]) -> Fetched:
        pieces: list[Piece] = []
        # Packed at once: as bytes they are a third of what they are as objects, and a reader who
        # stands still lets them lie. Pages get their chance in between.
        for columns in batches:
            if columns is None:
                return Fetched(reach, None)
            pieces += self._pieces(columns)
            await asyncio.sleep(0)
        return Fetched(reach, pieces)

    async def _sealed(self, reach: Reach, first: int, end: int) -> Looked:
        assert reach.copy is not None
        async with self.bulk.turn():
            segments = await segments_of(
                self.bulk.read.pool, reach.campaign.no, reach.copy.id, first, end
            )
        if tiles(segments, first, end):
            pieces = [
                Piece(
                    sum(segment.name_count for segment in group),
                    group[-1].first_position + group[-1].name_count,
                    [segment.payload for segment in group],
                )
                for group in grouped(segments, self.size)
            ]
            return Looked([Fetched(reach, pieces, sealed=True)])
        # It is being removed, or the range is not made of whole segments.
        return await self._range(reach, first, end)

    async def _searches(self) -> Work:
        async for reach in self.bulk.reaches():
            driver = self.conditions.driver(reach.runs, reach.outcome_counts)
            pace = Pace(self.size, indexed=driver is not None)
            left = self.limit - reach.sent if self.limit else reach.end
            if reach.position < reach.end and left > 0:
                yield self._look(_Search(reach, driver, pace, reach.position, left))

    async def _look(self, search: _Search) -> Looked:
        """How far the next look goes depends on what this one finds."""
        reach, pace, position = search.reach, search.pace, search.position
        no, runs = reach.campaign.no, reach.runs
        limit = min(self.size, search.left)
        async with self.bulk.turn():
            if pace.driven and search.driver is not None:
                found = await self.store.driven(
                    no,
                    runs,
                    self.conditions,
                    search.driver,
                    position,
                    reach.end,
                    self.columns,
                    limit=self.size,
                )
            else:
                past = min(position + pace.step, reach.end)
                found = await self.store.matching(
                    no, runs, self.conditions, position, past, self.columns, limit=limit
                )
        if found is None:
            return Looked([Fetched(reach, None)])
        count = len(found.columns.positions)
        if found.candidates is None:
            pace.found_in_range(count, found.examined - position)
        else:
            pace.found_along_the_index(found.candidates, found.examined - position)
        search.position = found.examined
        fetched = []
        if count:
            columns = found.columns.first(search.left)
            search.left -= len(columns.positions)
            fetched.append(Fetched(reach, self._pieces(columns)))
        if search.position < reach.end and search.left > 0:
            return Looked(fetched, partial(self._look, search))
        return Looked(fetched)

    def _pieces(self, columns: Columns) -> Iterator[Piece]:
        for piece in columns.fitting(self.size):
            yield Piece(len(piece.positions), piece.positions[-1] + 1, [self.payload(piece)])
