"""SQL of changes: which chunks were settled or taken back since a revision, and their outcomes now.

A chunk has the revision of the event by which its outcomes were stored or taken back. Whoever has
read the campaign's revision R finds every chunk of a revision up to R: they were committed before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import compress
from uuid import UUID

import asyncpg

from services.chassis.postgres import Pool
from services.query.outcomes import DNS, GENERATION
from services.query.result_rows import NAMES, outcomes
from services.query.sealed import MESSAGE_LIMIT


@dataclass(frozen=True, slots=True)
class Shown:
    """The run of a phase whose results are shown, since a revision of the campaign."""

    phase: int
    run: int
    revision: int
    # Whether results of it are older than that: those of a rerun, which is shown when it is over.
    has_older: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A campaign at one moment."""

    no: int
    name_count: int
    revision: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk that changed at `revision`, and the positions `first_position` to `end` - 1 it
    spans."""

    revision: int
    first_position: int
    end: int
    # Its outcomes were stored; otherwise they were taken back.
    done: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """Names in order of position with the numbers of their outcomes; 0: none."""

    positions: Sequence[int]
    names: Sequence[str]
    outcomes: bytes

    def with_outcome(self) -> "Rows":
        """Those that have one."""
        if 0 not in self.outcomes:
            return self
        kept = [bool(outcome) for outcome in self.outcomes]
        return Rows(
            list(compress(self.positions, kept)),
            list(compress(self.names, kept)),
            self.outcomes.replace(b"\0", b""),
        )

    def fitting(self) -> Iterator["Rows"]:
        """These rows in pieces that each fit a message."""
        count = len(self.positions)
        # Bytes on the wire at most: 3 of framing a text, 5 a position, 1 an outcome.
        if count <= 1 or sum(map(len, self.names)) + 9 * count <= MESSAGE_LIMIT:
            if count:
                yield self
            return
        for half in (slice(count // 2), slice(count // 2, count)):
            yield from Rows(self.positions[half], self.names[half], self.outcomes[half]).fitting()


class Changes:
    """Reads over a pool whose connections cannot write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def snapshot(self, campaign_id: UUID) -> Snapshot | None:
        """None without such a campaign, or while it is being deleted."""
        rows = await self._pool.fetch(_SNAPSHOT, campaign_id)
        if not rows:
            return None
        head = rows[0]
        shown = (Shown(r["phase"], r["run"], r["shown_revision"], r["has_older"]) for r in rows)
        return Snapshot(
            head["no"], head["name_count"], head["revision"], tuple(s for s in shown if s.run)
        )

    async def chunks(
        self, no: int, phase: int, run: int, begin: tuple[int, int], bound: int, limit: int
    ) -> list[Chunk]:
        """The first `limit` chunks from `begin` on, by revision and first position; none that
        changed after revision `bound`."""
        rows = await self._pool.fetch(_chunks(phase), no, phase, run, *begin, bound, limit)
        return [Chunk(*row) for row in rows]

    async def range(self, no: int, phase: int, run: int, first: int, end: int) -> Rows | None:
        """All names at positions first..end-1; None when the campaign is being deleted."""
        row = await self._pool.fetchrow(_range(phase), no, first, end, run)
        assert row is not None
        if row["gone"]:
            return None
        positions: Sequence[int] = row["positions"] or range(first, first + row["count"])
        if row["outcome_count"] == row["count"]:
            return Rows(positions, _names(row), _numbers(row))
        settled = row["outcome_positions"] or range(first, first + row["outcome_count"])
        by_position = dict(zip(settled, _numbers(row), strict=True))
        return Rows(positions, _names(row), bytes(by_position.get(p, 0) for p in positions))

    async def settled(
        self, no: int, phase: int, run: int, first: int, end: int, limit: int
    ) -> Rows | None:
        """The first `limit` names at positions first..end-1 that the phase has rows of; None as
        above."""
        row = await self._pool.fetchrow(_settled(phase), no, first, end, run, limit)
        assert row is not None
        return None if row["gone"] else Rows(row["positions"] or [], _names(row), _numbers(row))


def is_dense(phase: int) -> bool:
    """Whether the phase settles every name: then a chunk spans as many positions as it has names.
    Otherwise it reaches to its last position or, where the version before took the schema back and
    so forgot it, to the next chunk."""
    return phase in (GENERATION, DNS)


def _names(row: asyncpg.Record) -> list[str]:
    return [] if row["names"] is None else row["names"].split("\n")


def _numbers(row: asyncpg.Record) -> bytes:
    return (row["outcomes"] or "").encode().translate(_FROM_LETTER)


_FROM_LETTER = bytes(max(0, letter - 64) for letter in range(256))

_SNAPSHOT = """
SELECT c.no, c.name_count, c.revision, p.phase, coalesce(p.result_run, 0) AS run,
    p.shown_revision,
    EXISTS (SELECT FROM chunks h WHERE h.campaign_no = c.no AND h.phase = p.phase
        AND h.run = p.result_run AND h.revision <= p.shown_revision) AS has_older
FROM campaigns c LEFT JOIN phases p ON p.campaign_no = c.no
WHERE c.id = $1 AND c.delete_time IS NULL
ORDER BY p.phase"""


@cache
def _chunks(phase: int) -> str:
    of_run = "campaign_no = $1 AND phase = $2 AND run = $3"
    end = f"""coalesce(c.last_position + 1, (SELECT first_position FROM chunks n
        WHERE {of_run} AND n.first_position > c.first_position
        ORDER BY n.first_position LIMIT 1), {2**31 - 1})"""
    if is_dense(phase):
        end = "first_position + name_count"
    return f"""
SELECT revision, first_position, {end}, state = 'done'
FROM chunks c
WHERE {of_run} AND revision IS NOT NULL AND (revision, first_position) >= ($4, $5)
  AND revision <= $6
ORDER BY revision, first_position LIMIT $7"""


# Deletion says so before it takes the first row away: what is read by the same statement is whole.
_GONE = "NOT EXISTS (SELECT FROM campaigns WHERE no = $1 AND delete_time IS NULL)"
# Numbers travel as letters, which become bytes and so numbers without a Python object each.
_LETTERS = "string_agg(chr(64 + outcome), '')"


@cache
def _range(phase: int) -> str:
    """Both tables alone, in one statement and so of one moment, put side by side here: half the
    time of a join. Positions come along only where some are missing."""
    positions = "CASE WHEN count(*) <> $3 - $2 THEN array_agg(position) END AS positions"
    return rf"""
SELECT {_GONE} AS gone, d.names, d.count, d.positions, r.outcomes, r.count AS outcome_count,
    r.positions AS outcome_positions
FROM (SELECT count(*), string_agg(name, E'\n') AS names, {positions}
    FROM ({NAMES} ORDER BY position) n) d,
(SELECT count(*), {_LETTERS} AS outcomes, {positions}
    FROM (SELECT * FROM ({outcomes(phase, "$4::int")}) o ORDER BY position) s) r"""


@cache
def _settled(phase: int) -> str:
    found = f"SELECT * FROM ({outcomes(phase, '$4::int')}) r ORDER BY position LIMIT $5"
    return rf"""
SELECT {_GONE} AS gone, array_agg(position) AS positions, string_agg(name, E'\n') AS names,
    {_LETTERS} AS outcomes
FROM (
    SELECT f.position, d.name, f.outcome FROM ({found}) f
    JOIN domains d ON d.campaign_no = $1 AND d.position >= $2 AND d.position < $3
        AND d.position = f.position
    ORDER BY f.position
) ordered"""
