"""Where the rows of StreamDomains and StreamEnriched come from: a sealed copy, whole ranges of the
tables, or what matches in them."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from services.query.bulk import Bulk, Fetched, Piece, Reach, Work
from services.query.columns import Columns, ColumnStore
from services.query.conditions import Conditions
from services.query.derived import segments_of
from services.query.pace import Pace
from services.query.sealed import SEGMENT_SIZE, grouped, tiles

# Positions that one look into a sealed copy is for; a multiple of the size of its segments.
SEALED_AT_ONCE = 4 * SEGMENT_SIZE
# Batches that one statement reads: by itself it costs as much as 1,500 names or 400 whole rows.
# More would only cost memory while a reader stands still.
BATCHES_OF_NAMES, BATCHES = 4, 2


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

    async def work(self) -> Work:
        """Looks into the tables, in the order in which their rows are sent."""
        async for reach in self.bulk.reaches():
            looks = self._matching(reach) if self.conditions else self._all(reach)
            async for look in looks:
                yield look

    async def _all(self, reach: Reach) -> Work:
        position = reach.position
        # Positions have no gaps: they count the domains.
        end = min(reach.end, self.limit or reach.end)
        at_once = BATCHES_OF_NAMES if len(self.columns) == 1 else BATCHES
        while position < end and not reach.gone:
            if reach.copy is not None:
                past = min((position // SEALED_AT_ONCE + 1) * SEALED_AT_ONCE, end)
                yield self._sealed(reach, position, past)
            else:
                past = min(position + self.size * at_once, end)
                yield self._range(reach, position, past)
            position = past

    async def _range(self, reach: Reach, first: int, end: int) -> Fetched:
        async with self.bulk.turn():
            batches = await self.store.batches(
                reach.campaign.no, reach.runs, first, end, self.size, self.columns, tag=self.tag
            )
        if batches is None:
            return Fetched(reach, None)
        pieces: list[Piece] = []
        # Packed at once: as bytes they are a third of what they are as objects, and a reader who
        # stands still lets them lie. Pages get their chance in between.
        for columns in batches:
            pieces += self._pieces(columns)
            await asyncio.sleep(0)
        return Fetched(reach, pieces)

    async def _sealed(self, reach: Reach, first: int, end: int) -> Fetched:
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
            return Fetched(reach, pieces, sealed=True)
        # It is being removed, or the range is not made of whole segments.
        return await self._range(reach, first, end)

    async def _matching(self, reach: Reach) -> Work:
        """One look after the other: how far the next one goes depends on what was found."""
        no, runs = reach.campaign.no, reach.runs
        driver = self.conditions.driver(runs, reach.outcome_counts)
        pace = Pace(self.size, indexed=driver is not None)
        position = reach.position
        left = self.limit - reach.sent if self.limit else reach.end
        while position < reach.end and left > 0 and not reach.gone:
            limit = min(self.size, left)
            async with self.bulk.turn():
                if pace.driven and driver is not None:
                    past = reach.end
                    found = await self.store.driven(
                        no,
                        runs,
                        self.conditions,
                        driver,
                        position,
                        past,
                        self.columns,
                        limit=self.size,
                    )
                else:
                    past = min(position + pace.step, reach.end)
                    found = await self.store.matching(
                        no, runs, self.conditions, position, past, self.columns, limit=limit
                    )
            if found is None:
                yield _done(Fetched(reach, None))
                return
            count = len(found.columns.positions)
            if found.candidates is None:
                pace.found_in_range(count, found.examined - position)
            else:
                pace.found_along_the_index(found.candidates, found.examined - position)
            position = found.examined
            if count:
                columns = found.columns.first(left)
                left -= len(columns.positions)
                yield _done(Fetched(reach, self._pieces(columns)))

    def _pieces(self, columns: Columns) -> Iterator[Piece]:
        for piece in columns.fitting(self.size):
            yield Piece(len(piece.positions), piece.positions[-1] + 1, [self.payload(piece)])


async def _done(fetched: Fetched) -> Fetched:
    return fetched
