"""From a revision on, everything that changed: which rows, in which order, and where to go on."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TypeAlias

from domainflow.query.v1 import stream_pb2 as pb
from services.chassis.errors import CampaignNotFound
from services.query.change_token import ChangePlace
from services.query.changes import Changes, Chunk, Rows, Snapshot, is_dense
from services.query.outcomes import PHASES

DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE = 5_000, 10_000
# Chunks that are looked up at once.
LOOKED_UP = 200

# Waits for a turn with the database, and holds it.
Turn: TypeAlias = "Callable[[], AbstractAsyncContextManager[None]]"


@dataclass(frozen=True, slots=True)
class Found:
    """Changes of one chunk, or of one range of a run that replaced another."""

    revision: int
    rows: Rows
    # Where the stream is, but for the position.
    place: ChangePlace


class ChangeWalk:
    """The changes of a campaign, phase by phase.

    A run that replaced another since `since_revision` is walked through by position: all its
    results are new, and names it has none of have lost theirs. After that, and in all other runs,
    come the chunks that changed, in order of revision.
    """

    def __init__(
        self, request: pb.StreamChangesRequest, changes: Changes, no: int, turn: Turn
    ) -> None:
        self._since = request.since_revision
        self._id = request.campaign_id
        self._phases = [request.phase] if request.phase else list(PHASES)
        self._size = min(request.batch_size or DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE)
        self._changes = changes
        self._no = no
        self._turn = turn

    def begin(self, snapshot: Snapshot) -> ChangePlace:
        """Where a stream begins that has seen this."""
        runs, shown, replaced = [0] * len(PHASES), [0] * len(PHASES), 0
        for each in snapshot.shown:
            runs[each.phase - 1], shown[each.phase - 1] = each.run, each.revision
            # What is shown since a later revision is older itself in a rerun only.
            if each.revision > self._since > 0 and (each.run > 1 or each.has_older):
                replaced |= 1 << (each.phase - 1)
        first = self._phases[0]
        return ChangePlace(
            revision=snapshot.revision,
            name_count=snapshot.name_count,
            runs=runs,
            shown=shown,
            replaced=replaced,
            phase=first,
            walking=True,
            chunk_revision=0,
            first_position=0,
            position=0,
        )

    async def found(self, place: ChangePlace) -> AsyncGenerator[Found, None]:
        for phase in self._phases:
            if phase < place.phase or not place.runs[phase - 1]:
                continue
            if phase > place.phase:
                place = replace(place, phase=phase, walking=True, position=0)
            if place.walking:
                if place.replaced >> (phase - 1) & 1:
                    async for found in self._replaced(place):
                        yield found
                place = replace(place, walking=False, chunk_revision=0, position=0)
            async for found in self._chunks(place):
                yield found

    async def _replaced(self, place: ChangePlace) -> AsyncGenerator[Found, None]:
        run, shown = place.runs[place.phase - 1], place.shown[place.phase - 1]
        for first in range(place.position, place.name_count, self._size):
            rows = await self._range(place, first, min(first + self._size, place.name_count))
            # Before the first run there was nothing to lose.
            yield Found(shown, rows if run > 1 else rows.with_outcome(), place)

    async def _chunks(self, place: ChangePlace) -> AsyncGenerator[Found, None]:
        phase, run = place.phase, place.runs[place.phase - 1]
        shown = place.shown[phase - 1]
        since = max(self._since, shown) if place.replaced >> (phase - 1) & 1 else self._since
        begin = (since + 1, 0)
        position = 0
        if place.chunk_revision:
            begin, position = (place.chunk_revision, place.first_position), place.position
        while True:
            async with self._turn():
                chunks = await self._changes.chunks(
                    self._no, phase, run, begin, place.revision, LOOKED_UP
                )
            for chunk in chunks:
                here = replace(
                    place, chunk_revision=chunk.revision, first_position=chunk.first_position
                )
                # Where the cursor is, unless its chunk has changed again: then that is for later.
                goes_on = (chunk.revision, chunk.first_position) == begin
                first = max(chunk.first_position, position if goes_on else 0)
                async for rows in self._of_chunk(here, chunk, first):
                    # What came before it was shown is a change of the moment it was.
                    yield Found(max(chunk.revision, shown), rows, here)
            if len(chunks) < LOOKED_UP:
                return
            begin, position = (chunks[-1].revision, chunks[-1].first_position + 1), 0

    async def _of_chunk(
        self, place: ChangePlace, chunk: Chunk, first: int
    ) -> AsyncGenerator[Rows, None]:
        end = min(chunk.end, place.name_count)
        if is_dense(place.phase) or not chunk.done:
            for start in range(first, end, self._size):
                yield await self._range(place, start, min(start + self._size, end))
            return
        while first < end:
            async with self._turn():
                found = await self._changes.settled(
                    self._no, place.phase, place.runs[place.phase - 1], first, end, self._size
                )
            rows = self._there(found)
            yield rows
            if len(rows.positions) < self._size:
                return
            first = rows.positions[-1] + 1

    async def _range(self, place: ChangePlace, first: int, end: int) -> Rows:
        run = place.runs[place.phase - 1]
        async with self._turn():
            rows = await self._changes.range(self._no, place.phase, run, first, end)
        return self._there(rows)

    def _there(self, rows: Rows | None) -> Rows:
        if rows is None:
            raise CampaignNotFound(self._id)
        return rows
