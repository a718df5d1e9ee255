"""A bulk read: many campaigns one after the other, whatever is read of each of them."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeAlias
from uuid import UUID

from google.protobuf.message import Message

from domainflow.query.v1 import consistency_pb2, stream_pb2
from services.chassis.seal import Seal, binding
from services.query.ahead import side_by_side
from services.query.bulk_token import BulkPlace
from services.query.campaigns import Campaign, Runs, read_campaigns
from services.query.columns import outcome_counts
from services.query.derived import Copy, true_copies
from services.query.reads import Read, Reads
from services.query.sealed import NAMES, Envelope
from services.query.turns import Turns

# Campaigns that are looked up at once.
LOOKED_UP = 500
# Two statements keep PostgreSQL busy while a message is packed and sent; more only cost memory.
PREFETCHED = 2


@dataclass(slots=True)
class Reach:
    """A campaign that the stream has come to, and how far it gets in it.

    Rows of positions `position` to `end` - 1 are read; `sent` of them were by earlier calls.
    """

    index: int
    campaign: Campaign
    position: int
    end: int
    runs: Runs
    sent: int = 0
    # A sealed copy that says the same as the tables.
    copy: Copy | None = None
    # Where they were asked for: by phase and run, names by outcome.
    outcome_counts: Mapping[tuple[int, int], Sequence[int]] = field(default_factory=dict)
    # It is being deleted: nothing more of it is sent.
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes into one message: `count` rows, and the position to go on at."""

    count: int
    after: int
    payloads: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the tables have of a campaign; None: it is being deleted."""

    reach: Reach
    pieces: Iterable[Piece] | None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of one look into the tables, in the order in which it is sent, and the look that
    depends on it: all looks of the campaign come before those of the next one."""

    fetched: Sequence[Fetched]
    then: "Callable[[], Coroutine[Any, Any, Looked]] | None" = None


Work: TypeAlias = "AsyncGenerator[Coroutine[Any, Any, Looked], None]"


@dataclass(slots=True)
class Costs:
    """In seconds and rows, from the moment it was made."""

    begun: float = field(default_factory=monotonic)
    rows: int = 0
    sealed_rows: int = 0
    database: float = 0.0
    queued: float = 0.0

    def performance(self) -> stream_pb2.ReadPerformance:
        elapsed = monotonic() - self.begun
        made = stream_pb2.ReadPerformance(
            row_count=self.rows,
            rows_per_second=self.rows / elapsed if elapsed else 0.0,
            sealed_row_count=self.sealed_rows,
        )
        made.duration.FromMicroseconds(int(elapsed * 1_000_000))
        made.database_duration.FromMicroseconds(int(self.database * 1_000_000))
        made.queue_duration.FromMicroseconds(int(self.queued * 1_000_000))
        return made


@dataclass(slots=True)
class Bulk:
    """One call: what it was asked, what it has cost, whom it did not reach."""

    read: Read
    seal: Seal
    turns: Turns
    campaign_ids: Sequence[str]
    priority: int
    envelope: Envelope
    # What its cursors are bound to.
    bound: bytes
    costs: Costs
    # Where it goes on; None: at the beginning.
    place: BulkPlace | None = None
    # Of a campaign: the first position, and the first one behind it.
    span: Callable[[Campaign], tuple[int, int]] = lambda campaign: (0, campaign.name_count)
    # Kind of sealed copy that has what is asked for.
    copies: str | None = None
    # Whether the ledger is asked how many names have which outcome.
    counted: bool = False
    unreachable: list[str] = field(default_factory=list)

    async def reaches(self) -> AsyncIterator[Reach]:
        """The campaigns in the order asked for, from where the stream goes on."""
        first = self.place.index if self.place else 0
        if first:
            await self._look_up(0, first)
        for start in range(first, len(self.campaign_ids), LOOKED_UP):
            found = await self._look_up(start, start + LOOKED_UP)
            nos = [campaign.no for _, campaign in found]
            copies: dict[int, Copy] = {}
            if self.copies:
                async with self.turn():
                    copies = await true_copies(self.read.pool, nos, self.copies)
            counts: dict[int, dict[tuple[int, int], Sequence[int]]] = {}
            if self.counted:
                async with self.turn():
                    counts = await outcome_counts(self.read.pool, nos)
            for index, campaign in found:
                position, end = self.span(campaign)
                reach = Reach(index, campaign, position, end, campaign.runs)
                if self.place and self.place.index == index:
                    reach.position, reach.end = self.place.position, self.place.end
                    reach.runs = Runs(*(self.place.runs or campaign.runs))
                    reach.sent = self.place.sent
                reach.outcome_counts = counts.get(campaign.no, {})
                copy = copies.get(campaign.no)
                # It was looked up later than the runs were.
                if copy and (self.copies == NAMES or copy.runs == reach.runs):
                    reach.copy = copy
                yield reach

    async def _look_up(self, first: int, end: int) -> list[tuple[int, Campaign]]:
        found: list[tuple[int, Campaign]] = []
        for start in range(first, end, LOOKED_UP):
            ids = [UUID(each) for each in self.campaign_ids[start : min(start + LOOKED_UP, end)]]
            async with self.turn():
                existing = await read_campaigns(self.read.pool, ids)
            for index, campaign_id in enumerate(ids, start):
                if campaign_id in existing:
                    found.append((index, existing[campaign_id]))
                else:
                    self.unreachable.append(self.campaign_ids[index])
        return found

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn with the database, and hold it."""
        asked = monotonic()
        async with self.turns.turn(self.priority):
            begun = monotonic()
            self.costs.queued += begun - asked
            try:
                yield
            finally:
                self.costs.database += monotonic() - begun

    async def responses(self, work: Work) -> AsyncGenerator[bytes, None]:
        """The batches of all that is fetched."""
        async with aclosing(side_by_side(work, PREFETCHED)) as all_of_it:
            async for looked in all_of_it:
                for fetched in looked.fetched:
                    for response in self._responses(fetched):
                        yield response

    def _responses(self, fetched: Fetched) -> Iterator[bytes]:
        reach = fetched.reach
        if reach.gone:
            return
        if fetched.pieces is None:
            reach.gone = True
            self.unreachable.append(self.campaign_ids[reach.index])
            return
        for piece in fetched.pieces:
            self.costs.rows += piece.count
            self.costs.sealed_rows += piece.count if fetched.sealed else 0
            reach.sent += piece.count
            yield self._response(reach, piece)

    def _response(self, reach: Reach, piece: Piece) -> bytes:
        resume = BulkPlace(
            reach.index, piece.after, reach.end, reach.runs, reach.sent, reach.campaign.revision
        )
        return self.envelope.response(
            piece.payloads,
            campaign_id=self.campaign_ids[reach.index],
            count=piece.count,
            cursor=resume.seal(self.seal, self.bound),
        )

    def freshness(self) -> consistency_pb2.Freshness:
        """Of the read; a revision belongs to a single campaign."""
        made = consistency_pb2.Freshness()
        made.CopyFrom(self.read.freshness)
        if len(self.campaign_ids) > 1:
            made.revision = 0
        return made

    def summary(self) -> stream_pb2.BulkSummary:
        return stream_pb2.BulkSummary(
            row_count=self.costs.rows,
            unreachable=self.unreachable,
            performance=self.costs.performance(),
            freshness=self.freshness(),
        )


async def begin_bulk(
    method: str, request: Any, reads: Reads, seal: Seal, turns: Turns, envelope: Envelope
) -> Bulk:
    """The read that a request asks for, of any message with the fields that bulk reads share.

    Raises InvalidToken for a cursor that is none of this request's.
    """
    costs = Costs()
    bound = _binding(method, request)
    place = BulkPlace.open(seal, request.cursor, bound) if request.cursor else None
    ids = request.campaign_ids
    about, least = None, 0
    if place and place.index < len(ids):
        about, least = UUID(ids[place.index]), place.revision
    elif len(ids) == 1:
        about = UUID(ids[0])
    read = await reads.begin(request.consistency, about, least=least)
    return Bulk(read, seal, turns, ids, request.priority, envelope, bound, costs, place)


def _binding(method: str, request: Message) -> bytes:
    """All that the request says but where it goes on, how much comes at once and how soon. Lists
    of which the order means nothing are put in order."""
    bound = type(request)()
    bound.CopyFrom(request)
    for free in ("cursor", "batch_size", "priority", "consistency"):
        bound.ClearField(free)
    _sort(bound, keep="campaign_ids")
    return binding(method, bound.SerializeToString(deterministic=True))


def _sort(message: Any, keep: str = "") -> None:
    for field_, value in message.ListFields():
        if field_.is_repeated:
            if field_.name != keep and field_.message_type is None:
                value.sort()
        elif field_.message_type is not None:
            _sort(value)
