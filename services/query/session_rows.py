"""SQL of read sessions: columns of a range of positions, each table read alone.

No joins: every table gives its own columns of the range, aggregated, in order of position, next to
its positions, all in one statement and so of one moment. Putting them side by side is work for
Arrow: twice as fast as the joined statement, and no plan that could become a nested loop.
Texts come joined by line ends, numbers as big-endian bytes: no Python object for a value.
"""

import sys
from array import array
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import asyncpg

from domainflow.query.v1.filter_pb2 import DomainFilter
from services.chassis.postgres import Connection, Pool
from services.query.campaigns import Runs
from services.query.conditions import Arguments, conditions_of, matching
from services.query.outcomes import DNS, HTTP, LEADS

Positions: TypeAlias = "array[int] | range"
# Opens a turn with the database.
Turn: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Part:
    """Columns of one table for those of the positions that it has rows of."""

    # None: it has one for every position that was asked for.
    positions: "Positions | None"
    count: int
    # Column -> what was aggregated; None without any rows.
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Names at these positions, and what the tables say of them, by table."""

    positions: Positions
    parts: Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class _Table:
    """A table and what a column of its rows is as an aggregate."""

    # Which of Runs its rows belong to; None: they belong to none.
    run: int | None
    columns: Mapping[str, str]


def _texts(expression: str) -> str:
    return rf"string_agg(coalesce({expression}, ''), E'\n')"


def _letters(expression: str) -> str:
    """One character of 7 bits each, above the control characters."""
    return f"string_agg(chr(32 + {expression}), '')"


def _numbers(kind: str, expression: str) -> str:
    return f"string_agg({kind}send({expression}), ''::bytea)"


_POSITIONS = _numbers("int4", "position")
NAMES = "domains"
RESOLUTIONS = "dns_results"
# What a range has either all rows of or, of a phase that has not come to it yet, none.
_COMPLETE = (NAMES, RESOLUTIONS)
_TABLES = {
    NAMES: _Table(None, {"name": _texts("name")}),
    RESOLUTIONS: _Table(
        0,
        {
            "dns_verdict": _letters("verdict"),
            "dns_rcode": _numbers("int2", "rcode"),
            "addresses": _texts("addresses"),
            "dns_resolver": _texts("resolver"),
            "dns_check_time": _numbers("int8", "check_time_us"),
        },
    ),
    "http_results": _Table(
        1,
        {
            "http_verdict": _letters("verdict"),
            "http_status_code": _numbers("int2", "coalesce(status_code, 0::smallint)"),
            "final_url": _texts("final_url"),
            "title": _texts("title"),
        },
    ),
    "page_analyses": _Table(2, {"score": _numbers("int2", "score")}),
    "leads": _Table(3, {"lead_status": _letters("status"), "lead_reason": _letters("reason")}),
}
_EXISTS = "EXISTS (SELECT FROM campaigns WHERE no = $1 AND delete_time IS NULL)"
_RANGE = "campaign_no = $1 AND position >= $2 AND position < $3"


class CampaignGone(Exception):
    """The campaign does not exist any more, or its deletion has begun."""


class SessionRows:
    """Reads of one campaign, of the runs that its session is pinned to.

    Over a pool whose connections cannot write. Everything raises CampaignGone: a deletion says that
    it has begun before it takes the first row away. `turn` is waited for before every read.
    """

    def __init__(self, pool: Pool, no: int, runs: Runs, turn: Turn) -> None:
        self._pool = pool
        self._no = no
        self._runs = runs
        self._turn = turn

    async def all(self, columns: Collection[str], first: int, end: int) -> Rows:
        """All names at positions first..end-1."""
        async with self._turn():
            return await self._range(self._pool, columns, first, end)

    async def matching(
        self, columns: Collection[str], chosen: DomainFilter, first: int, end: int, *, limit: int
    ) -> tuple[Rows, int]:
        """The first `limit` names of positions first..end-1 that match, and the position up to
        which there are no others."""
        async with self._moment() as connection:
            found = await self._matches(connection, chosen, first, end)
            if len(found) > limit:
                end = found[limit]
                found = found[:limit]
            if not found:
                return Rows(found, {}), end
            span = found[-1] + 1 - found[0]
            if span <= _SPARSE * len(found):
                rows = await self._range(connection, columns, found[0], found[-1] + 1)
                return Rows(found, _placed(rows)), end
            return await self._at(connection, columns, found), end

    async def matches(self, chosen: DomainFilter, first: int, end: int) -> Positions:
        """Positions of all names of first..end-1 that match, in order."""
        async with self._moment() as connection:
            return await self._matches(connection, chosen, first, end)

    @asynccontextmanager
    async def _moment(self) -> AsyncIterator[Connection]:
        """What matches and what is shown of it are of one moment: results may still change."""
        async with self._turn(), self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection

    async def _range(
        self, source: "Pool | Connection", columns: Collection[str], first: int, end: int
    ) -> Rows:
        wanted = frozenset(columns)
        bounds = self._arguments(wanted, first, end)
        found = _read(await source.fetchrow(_columns(wanted, False, False), *bounds), wanted)
        size = end - first
        resolved = found[RESOLUTIONS].count if RESOLUTIONS in found else size
        if found[NAMES].count == size and resolved in (0, size):
            return Rows(range(first, end), found)
        # Some are missing: those there are have to say themselves where they stand.
        found = _read(await source.fetchrow(_columns(wanted, False, True), *bounds), wanted)
        positions = found[NAMES].positions
        assert positions is not None
        return Rows(positions, found)

    async def _at(
        self, connection: Connection, columns: Collection[str], positions: Positions
    ) -> Rows:
        wanted = frozenset(columns)
        bounds = self._arguments(wanted, positions[0], positions[-1] + 1)
        row = await connection.fetchrow(_columns(wanted, True, True), *bounds, positions)
        return Rows(positions, _read(row, wanted))

    def _arguments(self, columns: Collection[str], first: int, end: int) -> list[object]:
        runs = [_TABLES[table].run for table in _tables_of(columns)]
        return [self._no, first, end, *(self._runs[run] for run in runs if run is not None)]

    async def _matches(
        self, connection: Connection, chosen: DomainFilter, first: int, end: int
    ) -> Positions:
        arguments = Arguments(self._no, first, end)
        found = matching(conditions_of(chosen), _RANGE, self._runs, arguments)
        row = await connection.fetchrow(
            f"""SELECT {_EXISTS}, {_POSITIONS} FROM (
                SELECT position FROM ({found}) found ORDER BY position
            ) in_order""",
            *arguments.values,
        )
        assert row is not None
        exists, packed = row.values()
        if not exists:
            raise CampaignGone
        return numbers("i", packed)


async def outcome_counts(pool: Pool, no: int, runs: Runs) -> dict[int, Sequence[int]]:
    """By phase, names by outcome of the run that is shown: entry i counts outcome i + 1."""
    rows = await pool.fetch(
        """SELECT t.phase, t.outcome_counts
        FROM unnest($2::int[], $3::int[]) AS shown (phase, run)
        JOIN ledger_totals t ON (t.campaign_no, t.phase, t.run) = ($1, shown.phase, shown.run)""",
        no,
        [DNS, HTTP, LEADS],
        [runs.dns, runs.http, runs.leads],
    )
    return {row["phase"]: row["outcome_counts"] for row in rows}


# Where one name in so many matches, reading all of a range and looking matches up takes as long.
_SPARSE = 5


def _tables_of(columns: Collection[str]) -> list[str]:
    """Names always: a row is a name."""
    return [
        table for table, spec in _TABLES.items() if table == NAMES or spec.columns.keys() & columns
    ]


@cache
def _columns(wanted: frozenset[str], at: bool, placed: bool) -> str:
    """`at`: of the positions in the last argument, in order; else of the range. `placed`: every
    table says its positions, also those that nearly always have a row for each."""
    parts = []
    tables = _tables_of(wanted)
    argument = 3
    last = 4 + sum(_TABLES[table].run is not None for table in tables)
    for table in tables:
        spec = _TABLES[table]
        where = _RANGE
        if spec.run is not None:
            argument += 1
            where += f" AND run = ${argument}"
        if at:
            where += f" AND position = ANY(${last}::int[])"
        made = ["count(*)"]
        # A third of the cost of reading names.
        made.append(_POSITIONS if placed or table not in _COMPLETE else "NULL::bytea")
        made += [spec.columns[column] for column in sorted(spec.columns.keys() & wanted)]
        parts.append(
            f"""(SELECT {", ".join(made)} FROM (
                SELECT * FROM {table} WHERE {where} ORDER BY position
            ) {table}_in_order) {table}"""
        )
    return f"SELECT {_EXISTS}, * FROM {', '.join(parts)}"


def _read(row: asyncpg.Record | None, wanted: frozenset[str]) -> dict[str, Part]:
    assert row is not None
    values = iter(row.values())
    if not next(values):
        raise CampaignGone
    parts = {}
    for table in _tables_of(wanted):
        count, packed = next(values), next(values)
        positions = None if packed is None and count else numbers("i", packed)
        columns = sorted(_TABLES[table].columns.keys() & wanted)
        parts[table] = Part(positions, count, {column: next(values) for column in columns})
    return parts


def _placed(rows: Rows) -> dict[str, Part]:
    """The parts with their positions said: others than they were read for are to be looked up."""
    return {
        table: part
        if part.positions is not None
        else Part(rows.positions, part.count, part.columns)
        for table, part in rows.parts.items()
    }


def numbers(kind: str, packed: bytes | None) -> "array[int]":
    """Big-endian numbers as the machine has them."""
    made = array(kind, packed or b"")
    if sys.byteorder == "little":
        made.byteswap()
    return made
