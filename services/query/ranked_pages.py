"""SQL of copies for pages in order of name and of score: a page is a range of ranks, neighbouring
segments of one index, where the copy in order of position has each domain at a place of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from services.chassis.postgres import Pool
from services.query.campaigns import REVISION
from services.query.conditions import Arguments
from services.query.packed import PACK_SIZE, unpack_ranked
from services.query.page_plan import Key, after_prefix
from services.query.pages import block_of
from services.query.ranks import STEP, ScoreRanks

# Where the directory of a copy by score stands, ahead of its segments. As many names as they have:
# whoever deletes a campaign counts rows by that.
DIRECTORY = -1, PACK_SIZE


@dataclass(frozen=True, slots=True)
class Ranked:
    """Domains from the rank `first` on without a gap, as fields of ListDomainsResponse, and their
    positions. `revision` of the campaign at that moment, None where it is being deleted.

    By name: `rank` is where the page begins, None where that could not be found, and `block` how
    many names a block of the order has.
    """

    first: int
    positions: Sequence[int]
    domains: Sequence[bytes] = field(repr=False)
    revision: int | None
    rank: int | None = None
    block: int = 0

    @property
    def past(self) -> int:
        return self.first + len(self.positions)


class RankedPages:
    """Reads of these copies, and of what they are made."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def by_score(self, no: int, copy_id: int, ranks: range) -> Ranked | None:
        """What the copy has at these ranks; None: nothing, or not without a gap."""
        row = await self._pool.fetchrow(
            f"""SELECT copy.*, {REVISION} AS revision
            FROM ({_SEGMENTS.format("$2", "$3::int", "$4::int")}) copy""",
            no,
            copy_id,
            ranks.start,
            ranks.stop,
        )
        assert row is not None
        return _ranked(row)

    async def by_name(
        self,
        no: int,
        copy_id: int,
        start: Key | int | None,
        *,
        prefix: str,
        limit: int,
        ascending: bool,
        count: int,
    ) -> Ranked | None:
        """What the copy has from a key on, from a rank or from one end, with it and `limit` more;
        None: nothing, or not without a gap. `count`: all names there are.

        Without `start` from about the first name that may begin with `prefix`, or the last one. The
        block that a key names is believed: where the position is not in it there is nothing.
        """
        arguments = Arguments(no)
        if isinstance(start, int):
            rank = f"{arguments.number(start)}::int"
        elif start is not None:
            position = arguments.number(start.position) + "::int"
            block = f"{arguments.number(start.major - 1)}::int"
            if not start.major:
                name = f"SELECT name FROM domains WHERE campaign_no = $1 AND position = {position}"
                block = block_of(f"({name})")
            rank = f"""(SELECT block * size + array_position(positions, {position}) - 1
                FROM name_orders WHERE campaign_no = $1 AND block = {block})"""
        elif ascending:
            rank = "0"
            if prefix:
                rank = f"{block_of(arguments.number(prefix) + '::text')} * size"
        else:
            rank = f"{arguments.number(count - 1)}::int"
            if prefix:
                behind = block_of(arguments.number(after_prefix(prefix)) + "::text")
                rank = f"least(({behind} + 1) * size - 1, {rank})"
        number = arguments.number(limit) + "::int"
        first, past = "(SELECT rank FROM place)", f"(SELECT rank FROM place) + {number} + 1"
        if not ascending:
            first, past = f"(SELECT rank FROM place) - {number}", "(SELECT rank FROM place) + 1"
        # All blocks but the last one are as long as the first one.
        row = await self._pool.fetchrow(
            f"""WITH place AS MATERIALIZED (
                SELECT {rank} AS rank, size FROM (
                    SELECT cardinality(positions) AS size FROM name_orders
                    WHERE campaign_no = $1 AND block = 0
                ) block
            )
            SELECT copy.*, {REVISION} AS revision, place.*
            FROM ({_SEGMENTS.format(arguments.number(copy_id), first, past)}) copy, place""",
            *arguments.values,
        )
        return None if row is None else _ranked(row, row["rank"], row["size"])

    async def directory(self, copy_id: int) -> ScoreRanks | None:
        """Of a copy by score; None where it is being removed."""
        payload = await self._pool.fetchval(
            "SELECT payload FROM segments WHERE derivation_id = $1 AND first_position = $2",
            copy_id,
            DIRECTORY[0],
        )
        return None if payload is None else ScoreRanks.open(payload)

    async def names(self, no: int, first: int, past: int) -> list[int]:
        """Positions of the names at ranks first..past-1."""
        found: list[int] | None = await self._pool.fetchval(_POSITIONS_BY_NAME, no, first, past)
        return found or []

    async def scored(self, no: int, run: int, copy_id: int, first: int, past: int) -> list[int]:
        """Positions of domains with a score at ranks first..past-1, from what the copy that is
        being made ends with, which is ahead of `first`, on."""
        payload = await self._pool.fetchval(_LAST_SEGMENT, copy_id, first) if first else None
        behind = "true"
        arguments = Arguments(no, run, past - first)
        if payload is not None:
            last = arguments.number(unpack_ranked(payload)[0][-1])
            score = f"""(SELECT score FROM page_analyses
                WHERE campaign_no = $1 AND run = $2 AND position = {last}::int)"""
            behind = f"(score, position) > ({score}, {last}::int)"
        rows = await self._pool.fetch(
            f"""SELECT position FROM page_analyses
            WHERE campaign_no = $1 AND run = $2 AND {behind}
            ORDER BY score, position LIMIT $3""",
            *arguments.values,
        )
        return [row["position"] for row in rows]

    async def scored_count(self, no: int, run: int) -> int:
        count: int = await self._pool.fetchval(
            "SELECT count(*) FROM page_analyses WHERE campaign_no = $1 AND run = $2", no, run
        )
        return count

    async def make_directory(self, no: int, run: int) -> ScoreRanks:
        """Of all domains with a score: 0.4 s a million, along the index of scores."""
        row = await self._pool.fetchrow(_DIRECTORY, no, run, STEP)
        assert row is not None
        counts = zip(row["scores"] or (), row["counts"] or (), strict=True)
        return ScoreRanks.made(list(counts), row["marks"] or ())


def _ranked(row: asyncpg.Record, rank: int | None = None, block: int = 0) -> Ranked | None:
    payloads = sorted(zip(row["starts"] or (), row["payloads"] or (), strict=True))
    if not payloads:
        return None
    positions, domains = list[int](), list[bytes]()
    first: int = payloads[0][0]
    for start, payload in payloads:
        if start != first + len(positions):
            return None
        its_positions, its_domains = unpack_ranked(payload)
        positions += its_positions
        domains += its_domains
    return Ranked(first, positions, domains, row["revision"], rank, block)


# Those of a copy that have ranks from the second one on and before the third.
_SEGMENTS = f"""SELECT array_agg(first_position) AS starts, array_agg(payload) AS payloads
    FROM segments WHERE derivation_id = {{0}} AND first_position > {{1}} - {PACK_SIZE}
        AND first_position >= 0 AND first_position < {{2}}"""
_LAST_SEGMENT = """
SELECT payload FROM segments
WHERE derivation_id = $1 AND first_position < $2 ORDER BY first_position DESC LIMIT 1"""
_POSITIONS_BY_NAME = """
SELECT array_agg(position ORDER BY rank) FROM (
    SELECT block * size + n - 1 AS rank, position
    FROM (
        SELECT cardinality(positions) AS size FROM name_orders WHERE campaign_no = $1 AND block = 0
    ) first, name_orders, LATERAL unnest(positions) WITH ORDINALITY u (position, n)
    WHERE campaign_no = $1 AND block >= $2::int / size AND block <= $3::int / size
) ranked WHERE rank >= $2::int AND rank < $3::int"""
_DIRECTORY = """
WITH ranked AS MATERIALIZED (
    SELECT score, position, row_number() OVER (ORDER BY score, position) - 1 AS rank
    FROM page_analyses WHERE campaign_no = $1 AND run = $2
), counted AS (SELECT score, count(*) AS count FROM ranked GROUP BY score)
SELECT (SELECT array_agg(score ORDER BY score) FROM counted) AS scores,
    (SELECT array_agg(count ORDER BY score) FROM counted) AS counts,
    (SELECT array_agg(position ORDER BY rank) FROM ranked WHERE rank % $3::int = 0) AS marks"""
