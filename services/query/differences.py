"""SQL of differences: two runs of a phase side by side, a range of positions at a time.

They are compared inside the server; only what differs travels. Rows of an old run stay as they are,
so statements one after the other read the same; of one that is being made, results may be taken
back in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import asyncpg

from services.chassis.postgres import Pool
from services.query.domain_rows import selected
from services.query.domain_wire import DNS_COLUMNS, HTTP_COLUMNS
from services.query.outcomes import DNS, HTTP
from services.query.result_rows import BOUND

# Fields of a result that are compared, in this order. Not those that differ by chance: which
# resolver was asked, what of the TTL was left, how often and how long it took.
_DNS_FIELDS = (
    "verdict",
    "rcode",
    "addresses",
    "cname_chain",
    "authority",
    "agreement",
    "registered",
    "delegated",
)
_HTTP_FIELDS = ("verdict", "status_code", "final_url", "title", "content_sha256")
FIELDS: Mapping[int, Sequence[str]] = {DNS: _DNS_FIELDS, HTTP: _HTTP_FIELDS}
_TABLES = {DNS: "dns_results", HTTP: "http_results"}
# Answers come in any order: texts that differ are compared as sets.
_SETS = {"addresses"}
_COLUMNS = {DNS: selected(DNS_COLUMNS, "dns_"), HTTP: selected(HTTP_COLUMNS, "http_")}
# The bit of a mask that is set when the verdicts differ: that of the first field.
VERDICT_BIT = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Domains that differ alike. Verdict 0: none."""

    base_verdict: int
    verdict: int
    # Bit n: field n of FIELDS differs.
    mask: int
    count: int
    # Where they are, when these were asked for.
    positions: Sequence[int]


@dataclass(frozen=True, slots=True)
class Pair:
    """What two runs have of one domain."""

    name: str
    base: asyncpg.Record | None
    later: asyncpg.Record | None


class Differences:
    """Reads over a pool whose connections cannot write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def runs(self, no: int, phase: int) -> list[int]:
        """Runs of the phase that have results, in order."""
        rows = await self._pool.fetch(_RUNS, no, phase)
        return [row["run"] for row in rows]

    async def compare(
        self, no: int, phase: int, base_run: int, run: int, first: int, end: int, wanted: int
    ) -> list[Group] | None:
        """What is at positions first..end-1, with the positions where a field of the mask `wanted`
        differs; None when the campaign is being deleted."""
        statement = _compare(phase)
        rows = await self._pool.fetch(statement, no, first, end, base_run, run, wanted)
        if not rows[0]["there"]:
            return None
        return [
            Group(
                row["base_verdict"], row["verdict"], row["mask"], row["n"], row["positions"] or ()
            )
            for row in rows
            if row["n"]
        ]

    async def pairs(
        self, no: int, phase: int, base_run: int, run: int, positions: Sequence[int]
    ) -> dict[int, Pair]:
        """Both results of each of these domains, by position."""
        rows = await self._pool.fetch(_results(phase), no, [base_run, run], positions)
        results = {(row["position"], row["run"]): row for row in rows}
        names = await self._pool.fetch(_NAMES, no, positions)
        return {
            position: Pair(name, results.get((position, base_run)), results.get((position, run)))
            for position, name in names
        }


_RUNS = """
SELECT run FROM ledger_totals
WHERE campaign_no = $1 AND phase = $2 AND settled_count > 0 ORDER BY run"""
_NAMES = """
SELECT position, name FROM domains WHERE campaign_no = $1 AND position = ANY($2::int[])"""


@cache
def _results(phase: int) -> str:
    return f"""
SELECT position, run, {_COLUMNS[phase]} FROM {_TABLES[phase]}
WHERE campaign_no = $1 AND run = ANY($2::int[]) AND position = ANY($3::int[])"""


def _differs(field: str) -> str:
    differs = f"b.{field} IS DISTINCT FROM l.{field}"
    if field in _SETS:
        differs += f" AND {_sorted(f'b.{field}')} IS DISTINCT FROM {_sorted(f'l.{field}')}"
    return differs


def _sorted(text: str) -> str:
    return f"ARRAY(SELECT unnest(string_to_array({text}, ',')) ORDER BY 1)"


@cache
def _compare(phase: int) -> str:
    fields = FIELDS[phase]
    bits = " + ".join(
        f"CASE WHEN {_differs(field)} THEN {1 << bit} ELSE 0 END"
        for bit, field in enumerate(fields)
    )

    def side(run: str) -> str:
        return f"""(SELECT position, {", ".join(fields)} FROM {_TABLES[phase]}
            WHERE {BOUND} AND run = {run})"""

    # FULL JOIN: no loop can carry it out (pages.py), and what either run lacks is seen. Where a run
    # has nothing, all there is to say is that.
    return f"""
WITH compared AS (
    SELECT coalesce(b.verdict, 0) AS base_verdict, coalesce(l.verdict, 0) AS verdict, position,
        CASE WHEN b.verdict IS NULL OR l.verdict IS NULL THEN {VERDICT_BIT} ELSE {bits} END AS mask
    FROM {side("$4")} b FULL JOIN {side("$5")} l USING (position)
),
grouped AS (
    SELECT base_verdict, verdict, mask, count(*) AS n,
        array_agg(position) FILTER (WHERE mask & $6::int <> 0) AS positions
    FROM compared GROUP BY base_verdict, verdict, mask
)
SELECT EXISTS (SELECT FROM campaigns WHERE no = $1 AND delete_time IS NULL) AS there, g.*
FROM (SELECT) one LEFT JOIN grouped g ON true"""
