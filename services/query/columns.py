"""SQL of streams: domains as columns, a range of positions at a time, nothing held in between.

No joins. One statement reads every table alone, as one aggregated row of its rows in the range, and
so all of one moment; what belongs together is put side by side here, by position. That takes the
server half the time of the joined statement, and leaves the planner nothing to get wrong while it
knows nothing of a young campaign.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeAlias, cast

import asyncpg

from services.chassis.postgres import Pool
from services.query.campaigns import Runs
from services.query.conditions import (
    ANALYSES,
    DNS,
    DOMAINS,
    HTTP,
    LEADS,
    RUN_OF,
    Arguments,
    Condition,
    Conditions,
    driven,
    matching,
)
from services.query.sealed import MESSAGE_LIMIT

POSITIONS, NAMES = "positions", "names"


class Kind(Enum):
    """How values travel: the rest is a matter of who reads them."""

    # Joined by line ends, split when they are needed.
    TEXT = "text"
    # A letter each, which becomes a byte and so a number without a Python object for it.
    SMALL = "small"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of EnrichedBatch."""

    table: str
    kind: Kind
    # Of a row of the table.
    sql: str
    # What it is where the table has no row.
    missing: int = 0
    # Bytes on the wire at most, but for the text itself.
    width: int = 3


# By path in EnrichedBatch, in its order.
COLUMNS = {
    POSITIONS: Column(DOMAINS, Kind.NUMBER, "position", width=5),
    NAMES: Column(DOMAINS, Kind.TEXT, "name"),
    "dns_verdicts": Column(DNS, Kind.SMALL, "verdict", width=1),
    "addresses": Column(DNS, Kind.TEXT, "coalesce(addresses, '')"),
    "dns_check_times_us": Column(DNS, Kind.NUMBER, "check_time_us", width=8),
    "http_verdicts": Column(HTTP, Kind.SMALL, "verdict", width=1),
    "http_status_codes": Column(HTTP, Kind.NUMBER, "coalesce(status_code, 0::smallint)", width=2),
    "final_urls": Column(HTTP, Kind.TEXT, "coalesce(final_url, '')"),
    "titles": Column(HTTP, Kind.TEXT, "coalesce(title, '')"),
    "scores_permille": Column(ANALYSES, Kind.NUMBER, "score", missing=-1, width=2),
    "lead_statuses": Column(LEADS, Kind.SMALL, "status", width=1),
    "lead_reasons": Column(LEADS, Kind.SMALL, "reason", width=1),
}


@dataclass(frozen=True, slots=True)
class Prefixed:
    """Names as the wire has them, as far as text can hold it: each but the first one has the tag of
    its field and its length in front of it, each as one character; the tag is in no name.

    The server does that for 40 ns a name; to split them and pack them here takes 140.
    """

    raw: str
    tag: int

    def __len__(self) -> int:
        return len(self.raw)

    def wire(self) -> bytes | None:
        """The names as bytes of the wire; None where one of them is too long for that."""
        # No name has the tag's character in it, so the first one ends where the first tag is.
        first = self.raw.find(chr(self.tag))
        length = len(self.raw) if first < 0 else first
        # Lengths above 127 take two bytes; as one character they are not ASCII.
        if length > 127 or not self.raw.isascii():
            return None
        return bytes((self.tag, length)) + self.raw.encode()

    def split(self) -> list[str]:
        tag = chr(self.tag)
        found = self.raw.find(tag)
        place = len(self.raw) if found < 0 else found
        texts = [self.raw[:place]]
        while place < len(self.raw):
            end = place + 2 + ord(self.raw[place + 1])
            texts.append(self.raw[place + 2 : end])
            place = end
        return texts


# As they come, or one by one where not every domain has one.
Values: TypeAlias = "str | Prefixed | bytes | Sequence[int] | Sequence[str]"


@dataclass(frozen=True, slots=True)
class Columns:
    """Domains in order of position, as columns by their path.

    `text_size` is how many bytes the texts have together, at least.
    """

    positions: Sequence[int]
    values: Mapping[str, Values]
    text_size: int

    def texts(self, path: str) -> Sequence[str]:
        values = self.values[path]
        if isinstance(values, str):
            return values.split("\n")
        if isinstance(values, Prefixed):
            return values.split()
        return cast(Sequence[str], values)

    def fitting(self, count: int) -> Iterator["Columns"]:
        """These domains in pieces of at most `count` that each fit a message."""
        if len(self.positions) <= count and self.size() <= MESSAGE_LIMIT:
            if self.positions:
                yield self
            return
        split = self._split()
        for first in range(0, len(self.positions), count):
            yield from split._slice(first, first + count)._halved()

    def size(self) -> int:
        """Bytes on the wire at most."""
        widths = sum(COLUMNS[path].width for path in self.values)
        return self.text_size + widths * len(self.positions)

    def first(self, count: int) -> "Columns":
        """The first so many of these domains."""
        if len(self.positions) <= count:
            return self
        return self._split()._slice(0, count)

    def _split(self) -> "Columns":
        return Columns(
            self.positions,
            {
                path: self.texts(path) if COLUMNS[path].kind is Kind.TEXT else values
                for path, values in self.values.items()
            },
            self.text_size,
        )

    def _halved(self) -> Iterator["Columns"]:
        count = len(self.positions)
        if count <= 1 or self.size() <= MESSAGE_LIMIT:
            yield self
            return
        for half in (self._slice(0, count // 2), self._slice(count // 2, count)):
            yield from half._halved()

    def _slice(self, first: int, end: int) -> "Columns":
        if first == 0 and end >= len(self.positions):
            return self
        # Texts were split before.
        values = {
            path: cast(Sequence[Any], whole)[first:end] for path, whole in self.values.items()
        }
        texts = [whole for path, whole in values.items() if COLUMNS[path].kind is Kind.TEXT]
        size = sum(sum(map(_size, whole)) for whole in texts)
        return Columns(self.positions[first:end], cast(dict[str, Values], values), size)


@dataclass(frozen=True, slots=True)
class Span:
    """Positions first..end-1 of a campaign, which are some, and the runs shown of them."""

    no: int
    runs: Runs
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """The domains that match, up to `examined`: the position behind the last one looked at."""

    columns: Columns
    examined: int
    # Candidates that were looked at, or None where they were not counted.
    candidates: int | None = None


class ColumnStore:
    """Reads over a pool whose connections cannot write. Of campaigns that are being deleted None
    comes back: a deletion says so before it takes the first row away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def columns(
        self, no: int, runs: Runs, first: int, end: int, wanted: Collection[str]
    ) -> Columns | None:
        """All domains of positions first..end-1."""
        made = await self.batches(no, runs, first, end, end - first, wanted)
        return None if made is None else made[0]

    async def batches(
        self,
        no: int,
        runs: Runs,
        first: int,
        end: int,
        size: int,
        wanted: Collection[str],
        *,
        tag: int | None = None,
    ) -> list[Columns] | None:
        """All domains of positions first..end-1, which are some, `size` positions after the other.

        Names are Prefixed with `tag`, if there is one.
        """
        paths = frozenset(wanted)
        rows = await self._series(no, runs, first, end, size, paths, frozenset(), tag)
        made = []
        for row in rows:
            begin = row["first"]
            span = Span(no, runs, begin, min(begin + size, end))
            columns = await self._of_span(row, span, paths, tag)
            if columns is None:
                return None
            made.append(columns)
        return made

    async def spans(
        self, spans: Sequence[Span], wanted: Collection[str], *, tag: int | None = None
    ) -> list[Columns | None]:
        """All domains of each of the spans, which may be of many campaigns: one statement."""
        paths = frozenset(wanted)
        rows = await self._pool.fetch(
            _columns(paths, frozenset(), _OF_SPAN, 0, "", tag, _SPANS),
            [span.no for span in spans],
            [span.first for span in spans],
            [span.end for span in spans],
            *([span.runs[run] for span in spans] for run in range(len(Runs._fields))),
        )
        rows = sorted(rows, key=lambda row: row["ordinality"])
        return [
            await self._of_span(row, span, paths, tag)
            for row, span in zip(rows, spans, strict=True)
        ]

    async def _of_span(
        self, row: asyncpg.Record, span: Span, paths: frozenset[str], tag: int | None
    ) -> Columns | None:
        explicit: frozenset[str] = frozenset()
        count = span.end - span.first
        if row[f"{DOMAINS}_count"] != count:
            # Names are being replaced under our feet: what is left says itself where it stands.
            explicit = frozenset({DOMAINS, DNS})
        elif DNS in _tables(paths) and row[f"{DNS}_count"] and not _is_gapless(row):
            explicit = frozenset({DNS})
        if explicit:
            [row] = await self._series(
                span.no, span.runs, span.first, span.end, count, paths, explicit, tag
            )
        if not row["alive"]:
            return None
        return _to_columns(row, paths, explicit, range(span.first, span.end), tag)

    async def _series(
        self,
        no: int,
        runs: Runs,
        first: int,
        end: int,
        size: int,
        paths: frozenset[str],
        explicit: frozenset[str],
        tag: int | None,
    ) -> list[asyncpg.Record]:
        """A row for each `size` positions: what a statement costs by itself, it costs once."""
        arguments = Arguments(no, first, end, size, *(runs[run] for run in _runs(paths)))
        statement = _columns(paths, explicit, _EACH, 5, "", tag, _SERIES)
        rows = await self._pool.fetch(statement, *arguments.values)
        return sorted(rows, key=lambda row: row["first"])

    async def matching(
        self,
        no: int,
        runs: Runs,
        conditions: Conditions,
        first: int,
        end: int,
        wanted: Collection[str],
        *,
        limit: int,
    ) -> Found | None:
        """The first `limit` domains of positions first..end-1 that match, by looking at all."""
        arguments = Arguments(no, first, end)
        matched = matching(conditions, _RANGE, runs, arguments)
        before = f"""WITH hit AS MATERIALIZED (
            SELECT array_agg(position ORDER BY position) AS positions
            FROM (SELECT position FROM ({matched}) all_of_them
                ORDER BY position LIMIT {arguments.number(limit)}) m
        )"""
        columns = await self._hits(before, runs, frozenset(wanted), arguments)
        if columns is None:
            return None
        full = len(columns.positions) == limit
        return Found(columns, columns.positions[-1] + 1 if full else end)

    async def driven(
        self,
        no: int,
        runs: Runs,
        conditions: Conditions,
        driver: tuple[str, Condition],
        first: int,
        end: int,
        wanted: Collection[str],
        *,
        limit: int,
    ) -> Found | None:
        """Those of positions first..end-1 that match, by looking at the first `limit` that meet one
        condition, along its index: for conditions that few meet."""
        arguments = Arguments(no, first, end)
        candidates = driven(*driver, _RANGE, runs, arguments.number(limit), arguments)
        within = "campaign_no = $1 AND position = ANY((SELECT positions FROM candidates)::int[])"
        matched = matching(conditions, within, runs, arguments)
        before = f"""WITH candidates AS MATERIALIZED (
            SELECT array_agg(position ORDER BY position) AS positions FROM ({candidates}) c
        ), hit AS MATERIALIZED (
            SELECT array_agg(position ORDER BY position) AS positions FROM ({matched}) m
        )"""
        row = await self._row(
            before,
            _HIT,
            runs,
            frozenset(wanted),
            frozenset({DOMAINS, DNS}),
            arguments,
            """, (SELECT cardinality(positions) FROM candidates) AS candidate_count,
            (SELECT positions[cardinality(positions)] FROM candidates) AS last_candidate""",
        )
        if row is None:
            return None
        count = row["candidate_count"] or 0
        return Found(
            _to_columns(row, frozenset(wanted), frozenset({DOMAINS, DNS}), ()),
            row["last_candidate"] + 1 if count == limit else end,
            count,
        )

    async def _hits(
        self, before: str, runs: Runs, paths: frozenset[str], arguments: Arguments
    ) -> Columns | None:
        explicit = frozenset({DOMAINS, DNS})
        row = await self._row(before, _HIT, runs, paths, explicit, arguments)
        return None if row is None else _to_columns(row, paths, explicit, ())

    async def _row(
        self,
        before: str,
        bound: str,
        runs: Runs,
        paths: frozenset[str],
        explicit: frozenset[str],
        arguments: Arguments,
        more: str = "",
    ) -> asyncpg.Record | None:
        for run in _runs(paths):
            arguments.number(runs[run])
        first = len(arguments.values) - len(_runs(paths)) + 1
        statement = f"{before} {_columns(paths, explicit, bound, first, more)}"
        row = await self._pool.fetchrow(statement, *arguments.values)
        assert row is not None
        return row if row["alive"] else None


async def outcome_counts(
    pool: Pool, nos: Sequence[int]
) -> dict[int, dict[tuple[int, int], Sequence[int]]]:
    """Number of campaign -> phase and run -> names by outcome: entry i counts outcome i + 1."""
    rows = await pool.fetch(
        """SELECT campaign_no, phase, run, outcome_counts FROM ledger_totals
        WHERE campaign_no = ANY($1::integer[])""",
        nos,
    )
    made: dict[int, dict[tuple[int, int], Sequence[int]]] = {}
    for no, phase, run, counts in rows:
        made.setdefault(no, {})[phase, run] = counts
    return made


_RANGE = "campaign_no = $1 AND position >= $2 AND position < $3"
_SERIES = "generate_series($2::integer, $3::integer - 1, $4::integer) AS first, "
_EACH = "campaign_no = $1 AND position >= first AND position < least(first + $4, $3)"
_HIT = "campaign_no = $1 AND position = ANY((SELECT positions FROM hit)::int[])"
ALIVE = "EXISTS (SELECT FROM campaigns WHERE no = $1 AND delete_time IS NULL) AS alive"
# Spans of many campaigns. Its plan has every partition in it, of which a span needs one: twice as
# long to make as that of one campaign, for as many campaigns as there are spans.
_SPANS = """unnest(
    $1::integer[], $2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::integer[],
    $7::integer[]
) WITH ORDINALITY AS span (no, first, past, run_0, run_1, run_2, run_3, ordinality), """
_OF_SPAN = "campaign_no = span.no AND position >= span.first AND position < span.past"

# One aggregated row a table and a split in Python: 2.4 times as fast as a row a name.
_AGGREGATES = {
    Kind.TEXT: r"string_agg({}, E'\n')",
    Kind.SMALL: "string_agg(chr(64 + {}), '')",
    Kind.NUMBER: "array_agg({})",
}
_FROM_LETTER = bytes(max(0, letter - 64) for letter in range(256))


def _tables(paths: Collection[str]) -> list[str]:
    """Those that are read. Names always: they say which positions there are."""
    used = {COLUMNS[path].table for path in paths} | {DOMAINS}
    return [table for table in (DOMAINS, DNS, HTTP, ANALYSES, LEADS) if table in used]


def _runs(paths: Collection[str]) -> list[int]:
    return [RUN_OF[table] for table in _tables(paths) if table in RUN_OF]


@cache
def _columns(
    paths: frozenset[str],
    explicit: frozenset[str],
    bound: str,
    first_run: int,
    more: str = "",
    tag: int | None = None,
    series: str = "",
) -> str:
    """`explicit`: tables that say the position of each row, beside those that always do. Runs are
    parameters from number `first_run` on, or those of the spans."""
    made, run = [], first_run
    for table in _tables(paths):
        where = bound
        if table in RUN_OF and series == _SPANS:
            where += f" AND run = span.run_{RUN_OF[table]}"
        elif table in RUN_OF:
            where += f" AND run = ${run}"
            run += 1
        selected = [f"count(*) AS {table}_count"]
        if table in explicit or table in (HTTP, ANALYSES, LEADS):
            selected.append(f"array_agg(position) AS {table}_at")
        elif table == DNS:
            selected.append("min(position) AS first_at, max(position) AS last_at")
        for path in COLUMNS:
            column = COLUMNS[path]
            if path in paths and path != POSITIONS and column.table == table:
                aggregate = _AGGREGATES[column.kind]
                if path == NAMES and tag is not None:
                    aggregate = f"string_agg({{}}, chr({tag}) || chr(octet_length(name)))"
                selected.append(f"{aggregate.format(column.sql)} AS {path}")
        made.append(
            f"""LATERAL (SELECT {", ".join(selected)}
            FROM (SELECT * FROM {table} WHERE {where} ORDER BY position) {table}) {table}"""
        )
    alive = ALIVE.replace("$1", "span.no") if series == _SPANS else ALIVE
    return f"SELECT {alive}, *{more} FROM {series}{', '.join(made)}"


def _is_gapless(row: asyncpg.Record) -> bool:
    return bool(row["last_at"] - row["first_at"] + 1 == row[f"{DNS}_count"])


def _to_columns(
    row: asyncpg.Record,
    paths: frozenset[str],
    explicit: frozenset[str],
    asked: Sequence[int],
    tag: int | None = None,
) -> Columns:
    positions = (row[f"{DOMAINS}_at"] or []) if DOMAINS in explicit else asked
    count = len(positions)
    values: dict[str, Values] = {}
    size = 0
    places: dict[str, Sequence[int]] = {}
    for path in COLUMNS:
        if path not in paths:
            continue
        column = COLUMNS[path]
        if path == POSITIONS:
            values[path] = positions
            continue
        raw = row[path]
        if column.table not in places:
            places[column.table] = _places(row, column.table, explicit, positions)
        if column.kind is Kind.TEXT:
            size += _size(raw) if raw else 0
        if path == NAMES and tag is not None and raw is not None:
            values[path] = Prefixed(raw, tag)
        else:
            values[path] = _placed(column, raw, places[column.table], count)
    return Columns(positions, values, size)


def _places(
    row: asyncpg.Record, table: str, explicit: frozenset[str], positions: Sequence[int]
) -> Sequence[int]:
    """Where the rows of a table stand among the domains; -1: nowhere."""
    if table == DOMAINS:
        return range(len(positions))
    if table == DNS and DNS not in explicit:
        if not row[f"{DNS}_count"]:
            return range(0)
        return range(row["first_at"] - positions[0], row["last_at"] + 1 - positions[0])
    at = row[f"{table}_at"] or []
    if isinstance(positions, range):
        first = positions[0] if positions else 0
        return [position - first for position in at]
    place = {position: n for n, position in enumerate(positions)}
    return [place.get(position, -1) for position in at]


def _placed(column: Column, raw: Any, places: Sequence[int], count: int) -> Values:
    """One value for each of `count` domains, of what the table has for those at `places`."""
    whole = isinstance(places, range) and len(places) == count
    if column.kind is Kind.TEXT:
        if whole and raw is not None:
            return cast(str, raw)
        texts: Sequence[str] = raw.split("\n") if raw is not None else []
        return cast(Sequence[str], _spread([""] * count, texts, places))
    if column.kind is Kind.SMALL:
        letters = (raw or "").encode().translate(_FROM_LETTER)
        return letters if whole else bytes(_spread(bytearray(count), letters, places))
    if whole and raw is not None:
        return cast(Sequence[int], raw)
    return cast(Sequence[int], _spread([column.missing] * count, raw or [], places))


def _spread(into: Any, values: Sequence[Any], places: Sequence[int]) -> Any:
    if isinstance(places, range):
        into[places.start : places.stop] = values
        return into
    for place, value in zip(places, values, strict=True):
        if place >= 0:
            into[place] = value
    return into


def _size(text: str) -> int:
    """Bytes of a text, at least; those of titles only are not ASCII."""
    return len(text) if text.isascii() else len(text.encode())
