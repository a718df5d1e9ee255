"""All SQL of this service: short keyset statements, one snapshot each, nothing held between them.

Positions of a campaign are contiguous from 0, which is how pages and streams cut it into ranges.
Results are those of the run that is shown, looked up inside each statement: a rerun that takes over
is seen whole or not at all.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from uuid import UUID

import asyncpg

from domainflow.campaign.v1.campaign_pb2 import PHASE_DNS_VALIDATION
from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.validation.v1.dns_pb2 import DnsVerdict
from services.chassis.postgres import Pool

NAME = pb.DOMAIN_COLUMN_NAME
POSITION = pb.DOMAIN_COLUMN_POSITION
VERDICT = pb.DOMAIN_COLUMN_DNS_VERDICT
ADDRESSES = pb.DOMAIN_COLUMN_ADDRESSES

# Below the 1 MiB that proxies buffer; the rest is for the cursor and the id.
MESSAGE_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Campaign:
    """What every read of a campaign needs first."""

    no: int
    name_count: int


@dataclass(frozen=True, slots=True)
class Counters:
    """A campaign and its names by verdict, from the ledger; verdicts without names are left out."""

    campaign: Campaign
    by_verdict: Mapping[int, int]

    @property
    def pending(self) -> int:
        return self.campaign.name_count - sum(self.by_verdict.values())


@dataclass(frozen=True, slots=True)
class Filter:
    """Which domains: those with one of `verdicts`, or those without any yet, or all."""

    verdicts: tuple[int, ...] = ()
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Columns:
    """Domains in order of position, as columns; a column that was not asked for is empty.

    `text_size` is the length of all names and addresses together: adding it up anew costs a fifth
    of everything else that is done to a chunk of names.
    """

    positions: Sequence[int]
    names: Sequence[str]
    verdicts: Sequence[int]
    addresses: Sequence[str]
    text_size: int

    def fitting(self, count: int) -> Iterator["Columns"]:
        """These domains in pieces of at most `count` that each fit a message."""
        for first in range(0, len(self.positions), count):
            yield from self._slice(first, first + count)._halved()

    def _halved(self) -> Iterator["Columns"]:
        count = len(self.positions)
        if count <= 1 or self._size() <= MESSAGE_LIMIT:
            yield self
            return
        for half in (self._slice(0, count // 2), self._slice(count // 2, count)):
            yield from half._halved()

    def _size(self) -> int:
        """Bytes on the wire at most: 3 of framing a text, 5 a position, 1 a verdict."""
        framing = 3 * (len(self.names) + len(self.addresses))
        return self.text_size + framing + 5 * len(self.positions) + len(self.verdicts)

    def _slice(self, first: int, end: int) -> "Columns":
        if first == 0 and end >= len(self.positions):
            return self
        names, addresses = self.names[first:end], self.addresses[first:end]
        return Columns(
            self.positions[first:end],
            names,
            self.verdicts[first:end],
            addresses,
            sum(map(len, names)) + sum(map(len, addresses)),
        )


class Store:
    """Reads over a pool whose connections cannot write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ready(self) -> None:
        await self._pool.fetchval("SELECT 1")

    async def campaign(self, campaign_id: UUID) -> Campaign | None:
        row = await self._pool.fetchrow(
            "SELECT no, name_count FROM campaigns WHERE id = $1 AND delete_time IS NULL",
            campaign_id,
        )
        return Campaign(row[0], row[1]) if row else None

    async def existing(self, campaign_ids: Sequence[UUID]) -> set[UUID]:
        """Which of these campaigns there are. One that is being deleted is not."""
        rows = await self._pool.fetch(
            "SELECT id FROM campaigns WHERE id = ANY($1::uuid[]) AND delete_time IS NULL",
            campaign_ids,
        )
        return {row[0] for row in rows}

    async def counters(self, campaign_id: UUID) -> Counters | None:
        row = await self._pool.fetchrow(_COUNTERS, campaign_id)
        if row is None:
            return None
        by_verdict = {verdict: row[f"v{verdict}"] for verdict in _VERDICTS}
        return Counters(
            Campaign(row["no"], row["name_count"]),
            {verdict: count for verdict, count in by_verdict.items() if count},
        )

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

    async def columns(
        self,
        no: int,
        first: int,
        end: int,
        wanted: Collection[int],
        verdicts: Sequence[int] = (),
    ) -> Columns:
        """All domains of positions first..end-1, or all that have one of these verdicts."""
        if verdicts:
            statement = _columns(frozenset(wanted) | {POSITION}, True)
            row = await self._pool.fetchrow(statement, no, first, end, verdicts)
            assert row is not None
            return _to_columns(row, row["positions"] or [])
        statement = _columns(frozenset(wanted) - {POSITION}, False)
        row = await self._pool.fetchrow(statement, no, first, end)
        assert row is not None
        if row["count"] == end - first:
            return _to_columns(row, range(first, end))
        # Names are being replaced under our feet: what is left has to say itself where it stands.
        statement = _columns(frozenset(wanted) | {POSITION}, False)
        row = await self._pool.fetchrow(statement, no, first, end)
        assert row is not None
        return _to_columns(row, row["positions"] or [])

    async def first_columns(
        self,
        no: int,
        verdicts: Sequence[int],
        first: int,
        end: int,
        wanted: Collection[int],
        *,
        limit: int,
    ) -> Columns:
        """The first `limit` domains of positions first..end-1 that have one of these verdicts.

        Cheaper than `columns` where fewer than a fifth of the domains match: 1.7 us a match against
        0.32 us a position.
        """
        statement = _first_columns(len(verdicts), frozenset(wanted))
        row = await self._pool.fetchrow(statement, no, first, end, limit, *verdicts)
        assert row is not None
        return _to_columns(row, row["positions"] or [])


def _to_columns(row: asyncpg.Record, positions: Sequence[int]) -> Columns:
    names, addresses = row.get("names"), row.get("addresses")
    return Columns(
        positions,
        () if names is None else names.split("\n"),
        (row.get("verdicts") or "").encode().translate(_FROM_LETTER),
        () if addresses is None else addresses.split("\n"),
        len(names or "") + len(addresses or ""),
    )


_VERDICTS = [number for number in DnsVerdict.values() if number]
_PHASE = int(PHASE_DNS_VALIDATION)
_RUN = f"(SELECT result_run FROM phases WHERE campaign_no = $1 AND phase = {_PHASE})"
_RESULT = """verdict, rcode, attempt_count, tcp, duration_us, check_time_us, ttl, resolver,
    addresses, cname_chain, authority, agreement, registered, delegated"""

# SUM over the ledger, never COUNT(*): 0.5 ms for 2M names, exact, and no hot row.
_COUNTERS = f"""
SELECT c.no, c.name_count, s.*
FROM campaigns c, LATERAL (
    SELECT {", ".join(f"coalesce(sum(outcome_counts[{v}]), 0) AS v{v}" for v in _VERDICTS)}
    FROM chunks
    WHERE campaign_no = c.no AND phase = {_PHASE} AND state = 'done'
      AND run = (SELECT result_run FROM phases WHERE campaign_no = c.no AND phase = {_PHASE})
) s
WHERE c.id = $1 AND c.delete_time IS NULL"""

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


# One aggregated row a chunk and a split in Python: 2.4 times as fast as a row a name. Verdicts
# travel as letters, which become bytes and so numbers without a Python object each.
_AGGREGATES: dict[int, str] = {
    NAME: r"string_agg(name, E'\n') AS names",
    POSITION: "array_agg(position) AS positions",
    VERDICT: "string_agg(chr(64 + coalesce(verdict, 0)), '') AS verdicts",
    ADDRESSES: r"string_agg(coalesce(addresses, ''), E'\n') AS addresses",
}
_FROM_LETTER = bytes(max(0, letter - 64) for letter in range(256))


@cache
def _columns(wanted: frozenset[int], with_verdicts: bool) -> str:
    names = f"(SELECT position, name FROM domains WHERE {_BOUND}) d"
    results = (
        f"(SELECT position, verdict, addresses FROM dns_results WHERE {_BOUND} AND run = {_RUN}) r"
    )
    if with_verdicts:
        # OFFSET 0 keeps the condition out of the join, which it would turn into a loop again.
        rows = f"""SELECT * FROM (
            SELECT * FROM {names} FULL JOIN {results} USING (position) OFFSET 0
        ) both_sides WHERE verdict = ANY($4::smallint[])"""
    elif wanted & {VERDICT, ADDRESSES}:
        rows = f"SELECT * FROM {names} FULL JOIN {results} USING (position)"
    else:
        rows = f"SELECT * FROM {names}"
    return _aggregated(wanted, f"{rows} ORDER BY position")


@cache
def _first_columns(verdicts: int, wanted: frozenset[int]) -> str:
    names = "JOIN domains d ON d.campaign_no = $1 AND d.position = h.position"
    return _aggregated(
        wanted | {POSITION},
        f"""SELECT h.position, h.verdict, h.addresses{", d.name" if NAME in wanted else ""}
        FROM {_hits(verdicts, "ASC")} h {names if NAME in wanted else ""} ORDER BY h.position""",
    )


def _aggregated(wanted: frozenset[int], rows: str) -> str:
    aggregates = "".join(f", {_AGGREGATES[column]}" for column in sorted(wanted))
    return f"SELECT count(*) AS count{aggregates} FROM ({rows}) ordered"
