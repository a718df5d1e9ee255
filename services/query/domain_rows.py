"""SQL of whole domains: what the tables of all phases have of some positions.

Each table is read along its key, and the rows are put together by hashing. There is but one good
plan for that, so it is made once a connection: planning five tables in sixteen parts takes as long
as finding a hundred rows.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from operator import itemgetter
from typing import NamedTuple

import asyncpg

from services.chassis.postgres import PLANNED_ONCE, Pool
from services.query.campaigns import NAME_COUNT, REVISION, Runs
from services.query.conditions import Arguments
from services.query.domain_wire import (
    ANALYSIS_COLUMNS,
    DNS_COLUMNS,
    HTTP_COLUMNS,
    LEAD_COLUMNS,
    NAME_COLUMNS,
)


class Known(NamedTuple):
    """What is known of a domain: columns of its name and DNS, and those of the later phases, which
    may be the same row, and none if there are none."""

    first: asyncpg.Record
    later: asyncpg.Record | None

    @property
    def campaign(self) -> tuple[int | None, int | None]:
        """The campaign's revision and how many names it has, as it was when the domain's name was
        read; None while it is being deleted."""
        return self.first["revision"], self.first["name_count"]


class DomainRows:
    """Reads of domains, without evidence and contacts unless it is said.

    Of a phase that has no run yet all columns are null. Far apart, domains cost a cold lookup a
    table: then two connections share the tables, and each phase is as one statement saw it.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def at(self, no: int, runs: Runs, positions: Sequence[int]) -> dict[int, Known]:
        """The domains at these positions, those of them that there are."""
        if not positions:
            return {}
        later = _later(runs)
        few = len(positions) < _FEW or max(positions) - min(positions) < _NEAR * len(positions)
        if few or not any(later):
            rows = await self._pool.fetch(_domains(*later), no, positions, *runs)
            return _together(rows)
        rows, others = await asyncio.gather(
            self._pool.fetch(_FIRST_PHASES, no, positions, runs.dns),
            self._pool.fetch(_later_phases(*later), no, positions, *runs[1:]),
        )
        return _together(rows, {row["position"]: row for row in others})

    async def found(
        self,
        no: int,
        runs: Runs,
        candidates: str,
        columns: Sequence[str],
        arguments: Arguments,
        *,
        limit: int,
    ) -> tuple[list[asyncpg.Record], dict[int, Known]]:
        """The rows of the statement `candidates`, at most `limit`, in order, and the domains at
        their positions, without a way to the server and back in between. It has a column position
        and these `columns`.

        Two connections find the candidates each for itself. Where they do not find the same, the
        later phases of the rest are read behind.
        """
        later = _later(runs)
        named = tuple(columns)
        if limit < _FEW:
            values = [*arguments.values, *runs]
            rows = await self._pool.fetch(
                _found(candidates, len(arguments.values), named, *later), *values
            )
            return _in_place(rows), _together(rows)
        first = self._pool.fetch(
            _found_first(candidates, len(arguments.values), named), *arguments.values, runs.dns
        )
        if not any(later):
            rows = await first
            return _in_place(rows), _together(rows, {})
        rows, others = await asyncio.gather(
            first,
            self._pool.fetch(
                _found_later(candidates, len(arguments.values), *later),
                *arguments.values,
                *runs[1:],
            ),
        )
        by_position: dict[int, asyncpg.Record] = {row["position"]: row for row in others}
        missing = [row["position"] for row in rows if row["position"] not in by_position]
        if missing:
            others = await self._pool.fetch(_later_phases(*later), no, missing, *runs[1:])
            by_position |= {row["position"]: row for row in others}
        return _in_place(rows), _together(rows, by_position)

    async def one(self, no: int, runs: Runs, position: int) -> asyncpg.Record | None:
        """All that is known of one domain."""
        statement = _domains(*_later(runs), whole=True)
        row = await self._pool.fetchrow(statement, no, [position], *runs)
        return row if row and row["name"] is not None else None


def _together(
    rows: Iterable[asyncpg.Record], others: Mapping[int, asyncpg.Record] | None = None
) -> dict[int, Known]:
    """By position; `others`: the later phases, where they are not in the same rows."""
    return {
        row["position"]: Known(row, row if others is None else others.get(row["position"]))
        for row in rows
        if row["name"] is not None
    }


def _in_place(rows: Iterable[asyncpg.Record]) -> list[asyncpg.Record]:
    return sorted(rows, key=itemgetter("place"))


# Positions a domain up to which domains are near each other.
_NEAR = 100
# Up to so many, a second statement costs more than it spares.
_FEW = 50
_CAMPAIGN = (f"{REVISION} AS revision", f"{NAME_COUNT} AS name_count")
_EVIDENCE = ("dns_evidence", "http_evidence", "contacts", "page_kind", "page_evidence")
_FIRST, _LATER = (
    (*NAME_COLUMNS, *DNS_COLUMNS),
    (*HTTP_COLUMNS, *ANALYSIS_COLUMNS, *LEAD_COLUMNS),
)


def _later(runs: Runs) -> tuple[bool, bool, bool]:
    return runs.http > 0, runs.analysis > 0, runs.leads > 0


def selected(names: Sequence[str], prefix: str) -> str:
    """Names in the answer as columns of a table, which have no prefix there."""
    return ", ".join(
        f"{name.removeprefix(prefix)} AS {name}" if name.startswith(prefix) else name
        for name in names
    )


def _part(
    table: str, positions: str, run: str, columns: Sequence[str], prefix: str, *, there: bool
) -> str:
    bound = f"campaign_no = $1 AND position = ANY({positions})"
    if run:
        # Mentioned in any case: an argument has to have a type.
        bound += f" AND run = {run}::int"
    if not there:
        bound += " AND false"
    return f"(SELECT position, {selected(columns, prefix)} FROM {table} WHERE {bound}) {table}_"


def _joined(columns: Sequence[str], parts: Sequence[str]) -> str:
    """Each table once, along its key, and the rows put together by hashing.

    FULL JOIN, although every result has its name: no nested loop can carry it out. While a campaign
    is too young for statistics one row is expected of either side, and a loop over both compares
    1,000 names with 1,000 results one by one.
    """
    first, *others = parts
    joined = "".join(f" FULL JOIN {each} USING (position)" for each in others)
    return f"SELECT {', '.join(columns)} FROM {first}{joined}"


def _first_parts(positions: str, run: str, *evidence: str) -> list[str]:
    return [
        _part("domains", positions, "", NAME_COLUMNS[1:], "", there=True),
        _part("dns_results", positions, run, (*DNS_COLUMNS, *evidence), "dns_", there=True),
    ]


def _later_parts(
    positions: str,
    runs: Sequence[str],
    http: bool,
    analysis: bool,
    leads: bool,
    *,
    evidence: Sequence[str] = (),
    contacts: Sequence[str] = (),
) -> list[str]:
    columns = (*HTTP_COLUMNS, *evidence), ANALYSIS_COLUMNS, (*LEAD_COLUMNS, *contacts)
    return [
        _part("http_results", positions, runs[0], columns[0], "http_", there=http),
        _part("page_analyses", positions, runs[1], columns[1], "analysis_", there=analysis),
        _part("leads", positions, runs[2], columns[2], "lead_", there=leads),
    ]


_GIVEN = "$2::int[]"
_FIRST_PHASES = PLANNED_ONCE + _joined((*_FIRST, *_CAMPAIGN), _first_parts(_GIVEN, "$3"))


@cache
def _later_phases(http: bool, analysis: bool, leads: bool) -> str:
    parts = _later_parts(_GIVEN, ("$3", "$4", "$5"), http, analysis, leads)
    return PLANNED_ONCE + _joined(("position", *_LATER), parts)


@cache
def _domains(http: bool, analysis: bool, leads: bool, *, whole: bool = False) -> str:
    later, runs = (http, analysis, leads), ("$4", "$5", "$6")
    if not whole:
        parts = [*_first_parts(_GIVEN, "$3"), *_later_parts(_GIVEN, runs, *later)]
        return PLANNED_ONCE + _joined((*_FIRST, *_LATER, *_CAMPAIGN), parts)
    parts = [
        *_first_parts(_GIVEN, "$3", "dns_evidence"),
        *_later_parts(_GIVEN, runs, *later, evidence=["http_evidence"], contacts=["contacts"]),
        _part("pages", _GIVEN, runs[0], ("page_kind", "page_evidence"), "page_", there=http),
    ]
    return PLANNED_ONCE + _joined((*_FIRST, *_LATER, *_EVIDENCE), parts)


# Each connection finds the candidates for itself.
_OF_PAGE = "ARRAY(SELECT position FROM page)"


def _with_page(candidates: str, joined: str) -> str:
    return f"""{PLANNED_ONCE}WITH page AS MATERIALIZED (
        SELECT row_number() OVER () AS place, found.* FROM ({candidates}) found
    ) {joined}"""


@lru_cache(256)
def _found(
    candidates: str, taken: int, columns: tuple[str, ...], http: bool, analysis: bool, leads: bool
) -> str:
    """`taken`: arguments that the candidates have."""
    runs = [f"${taken + n}" for n in range(1, 5)]
    parts = [
        "page",
        *_first_parts(_OF_PAGE, runs[0]),
        *_later_parts(_OF_PAGE, runs[1:], http, analysis, leads),
    ]
    return _with_page(candidates, _joined((*_FIRST, *_LATER, *_CAMPAIGN, "place", *columns), parts))


@lru_cache(256)
def _found_first(candidates: str, taken: int, columns: tuple[str, ...]) -> str:
    parts = ["page", *_first_parts(_OF_PAGE, f"${taken + 1}")]
    return _with_page(candidates, _joined((*_FIRST, *_CAMPAIGN, "place", *columns), parts))


@lru_cache(256)
def _found_later(candidates: str, taken: int, http: bool, analysis: bool, leads: bool) -> str:
    runs = [f"${taken + n}" for n in range(1, 4)]
    parts = [
        "(SELECT position FROM page) page_",
        *_later_parts(_OF_PAGE, runs, http, analysis, leads),
    ]
    return _with_page(candidates, _joined(("position", *_LATER), parts))
