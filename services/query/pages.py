"""SQL of pages: short keyset statements, one snapshot each, nothing held between them.

Positions of a campaign are contiguous from 0, which is how pages cut it into ranges. Results are
those of the run that is shown, looked up inside each statement: a rerun that takes over is seen
whole or not at all.
"""

from dataclasses import dataclass
from functools import cache

import asyncpg

from domainflow.campaign.v1.campaign_pb2 import PHASE_DNS_VALIDATION
from services.chassis.postgres import Pool


@dataclass(frozen=True, slots=True)
class Filter:
    """Which domains: those with one of `verdicts`, or those without any yet, or all."""

    verdicts: tuple[int, ...] = ()
    pending: bool = False


class Pages:
    """Reads over a pool whose connections cannot write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def domains(
        self, no: int, chosen: Filter, first: int, end: int, *, limit: int, forward: bool
    ) -> list[asyncpg.Record]:
        """Up to `limit` domains of positions first..end-1, the lowest, or backward the highest.

        Always in order of position. `verdict` is null while there is no result.
        """
        if first >= end:
            return []
        if chosen.pending:
            rows = await self._pool.fetch(_pending(forward), no, first, end, limit)
        elif chosen.verdicts:
            statement = _with_verdicts(len(chosen.verdicts), forward)
            rows = await self._pool.fetch(statement, no, first, end, limit, *chosen.verdicts)
        elif forward:
            rows = await self._pool.fetch(_RANGE, no, first, min(end, first + limit))
        else:
            rows = await self._pool.fetch(_RANGE, no, max(first, end - limit), end)
        return rows

    async def domain(self, no: int, position: int) -> asyncpg.Record | None:
        """One domain with the stored evidence; `verdict` is null while there is no result."""
        return await self._pool.fetchrow(_ONE, no, position)

    async def any_domain(self, no: int, chosen: Filter, first: int, end: int) -> bool:
        """Whether there is a domain to find at positions first..end-1."""
        if chosen == Filter():
            return first < end
        return bool(await self.domains(no, chosen, first, end, limit=1, forward=True))


_PHASE = int(PHASE_DNS_VALIDATION)
_RUN = f"(SELECT result_run FROM phases WHERE campaign_no = $1 AND phase = {_PHASE})"
_RESULT = """verdict, rcode, attempt_count, tcp, duration_us, check_time_us, ttl, resolver,
    addresses, cname_chain, authority, agreement, registered, delegated"""

# Bounds are repeated on every joined table: they are not carried across a join, and without
# them the planner reads the partition from its beginning (41.8 ms instead of 0.15 ms a page).
#
# FULL JOIN, although every result has its name: no nested loop can carry it out. While a campaign
# is too young for statistics one row is expected of either side, and a loop over both compares
# 5,000 names with 5,000 results one by one (2.9 s a message instead of 10 ms).
_BOUND = "campaign_no = $1 AND position >= $2 AND position < $3"
_RANGE = f"""
SELECT position, name, {_RESULT}
FROM (SELECT position, name FROM domains WHERE {_BOUND}) d
FULL JOIN (SELECT position, {_RESULT} FROM dns_results WHERE {_BOUND} AND run = {_RUN}) r
    USING (position)
ORDER BY position"""

_AT = "campaign_no = $1 AND position = $2"
_ONE = f"""
SELECT position, name, {_RESULT}, evidence
FROM (SELECT position, name FROM domains WHERE {_AT}) d
LEFT JOIN (SELECT position, {_RESULT}, evidence FROM dns_results WHERE {_AT} AND run = {_RUN}) r
    USING (position)"""


def _hits(verdicts: int, order: str) -> str:
    """Results with one of so many verdicts, as many as $4 from one end of the range.

    One index scan a verdict, merged: each reads no further than the merge needs.
    """
    branches = " UNION ALL ".join(
        f"""(SELECT position, {_RESULT} FROM dns_results
        WHERE {_BOUND} AND run = {_RUN} AND verdict = ${5 + n}
        ORDER BY position {order} LIMIT $4)"""
        for n in range(verdicts)
    )
    return f"(SELECT * FROM ({branches}) merged ORDER BY position {order} LIMIT $4)"


@cache
def _with_verdicts(verdicts: int, forward: bool) -> str:
    return f"""
SELECT h.position, d.name, {_RESULT}
FROM {_hits(verdicts, "ASC" if forward else "DESC")} h
JOIN domains d ON d.campaign_no = $1 AND d.position = h.position
ORDER BY h.position"""


@cache
def _pending(forward: bool) -> str:
    """Names in chunks which the ledger has not settled, and names it has no chunk for yet.

    Never an anti-join (780 ms): open chunks come from an index, as many as can matter to the page.
    Chunks are planned in order of position, so what has no chunk lies behind the last one.
    """
    order, near = ("ASC", "first_position > $2") if forward else ("DESC", "first_position < $3")
    of_run = f"campaign_no = $1 AND phase = {_PHASE} AND run = (SELECT run FROM shown)"
    chunk = "SELECT first_position, first_position + name_count AS past, state FROM chunks"
    inside = "first_position + name_count > $2 AND first_position < $3"
    branches = [
        f"""{chunk} WHERE {of_run} AND state = '{state}' AND {near} AND {inside}
        ORDER BY first_position {order} LIMIT $4"""
        for state in ("ready", "queued")
    ]
    if forward:
        # The chunk that the range begins in. Backward, the branches above find it.
        branches.append(
            f"""{chunk} WHERE {of_run} AND first_position <= $2
            ORDER BY first_position DESC LIMIT 1"""
        )
    return f"""
WITH shown AS MATERIALIZED (SELECT coalesce({_RUN}, 0) AS run),
last_chunk AS ({chunk} WHERE {of_run} ORDER BY first_position DESC LIMIT 1),
open AS (
    SELECT first_position, past FROM ({" UNION ALL ".join(f"({b})" for b in branches)}) c
    WHERE state <> 'done'
    UNION ALL
    SELECT coalesce((SELECT past FROM last_chunk), 0), $3
),
clipped AS (
    SELECT greatest(first_position, $2) AS first, least(past, $3) AS past FROM open
    WHERE first_position < $3 AND past > $2
),
-- Ranges behind those that fill the page add nothing to it.
kept AS (
    SELECT first, past FROM (
        SELECT first, past,
            sum(past - first) OVER (ORDER BY first {order}) - (past - first) AS nearer
        FROM clipped
    ) c WHERE nearer < $4
)
SELECT position, name, NULL AS verdict FROM (
    SELECT d.position, d.name FROM kept, LATERAL (
        SELECT position, name FROM domains
        WHERE campaign_no = $1 AND position >= kept.first AND position < kept.past
        ORDER BY position {order} LIMIT $4
    ) d ORDER BY d.position {order} LIMIT $4
) page
ORDER BY position"""
