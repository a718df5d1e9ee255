"""SQL of pages: short keyset statements, one snapshot each, nothing held between them.

Positions of a campaign are contiguous from 0, which is how pages cut it into ranges. A page is made
in steps that know nothing of each other: candidates in order from one index, those of them that the
filter lets through, and what is known of these. Results are those of the runs that are asked for.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import asyncpg

from domainflow.campaign.v1.campaign_pb2 import (
    PHASE_CONTENT_ANALYSIS,
    PHASE_DNS_VALIDATION,
    PHASE_DOMAIN_GENERATION,
    PHASE_HTTP_VALIDATION,
    PHASE_LEAD_EXTRACTION,
)
from services.chassis.postgres import PLANNED_ONCE, Pool
from services.query.campaigns import REVISION, Campaign, Runs
from services.query.conditions import Arguments, Conditions, matching
from services.query.derived import PageCopies, page_copies
from services.query.domain_rows import DomainRows, Known
from services.query.packed import PACK_SIZE, opened
from services.query.page_plan import Key, Kind, Order, Sizes, Source, after_prefix


@dataclass(frozen=True, slots=True)
class Span:
    """Positions first..past-1. Of a chunk: the revision at which it was settled, and its names by
    outcome (entry i counts outcome i + 1)."""

    first: int
    past: int
    revision: int = 0
    outcome_counts: Sequence[int] = ()


class Copied(NamedTuple):
    """Domains as a copy for pages has them on the wire, by position, and the campaign's revision at
    that moment, None where it is being deleted."""

    domains: Mapping[int, bytes]
    revision: int | None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Domains in order. `all_there`: there are no more. `copied`: what the copy that was asked for
    has of them, None unless it has all. `majors` of their keys, where they are not all 0. `known`:
    what the tables have of them, where that was asked for."""

    positions: Sequence[int]
    all_there: bool
    copied: Copied | None = None
    majors: Sequence[int] | None = None
    known: Mapping[int, Known] | None = None

    @property
    def last(self) -> Key | None:
        """How far they reach; None: to the end."""
        if self.all_there:
            return None
        return Key(self.majors[-1] if self.majors else 0, self.positions[-1])


class Pages:
    """Reads over a pool whose connections cannot write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rows = DomainRows(pool)

    @property
    def pool(self) -> Pool:
        return self._pool

    async def sizes(
        self, campaign: Campaign, runs: Runs, tlds: Sequence[str] = ()
    ) -> tuple[Sizes, bool]:
        """What the counters say, and whether the order of the names is made."""
        row = await self._pool.fetchrow(
            _SIZES, campaign.no, str(campaign.name_count), list(tlds), _PHASE_GENERATION
        )
        assert row is not None
        ledger = {(phase, run): more for phase, run, *more in json.loads(row["ledger"])}
        totals = [
            ledger.get((int(phase), run), ((), 0)) for phase, run in zip(_PHASES, runs, strict=True)
        ]
        dns, http, analysis, leads = (counts for counts, _ in totals)
        # Exact when all names were counted, none twice: those that came before they were have none.
        known = row["tld_all"] == campaign.name_count
        sizes = Sizes(
            campaign.name_count,
            dns,
            http,
            analysis,
            leads,
            row["tld_names"] if known else None,
            max(revision for _, revision in totals),
        )
        return sizes, row["ordered"]

    async def from_source(
        self,
        no: int,
        runs: Runs,
        source: Source,
        spans: Sequence[Span],
        *,
        limit: int,
        ascending: bool = True,
        each: int | None = None,
        copy_id: int | None = None,
    ) -> Candidates:
        """What the index of `source` has within the spans, span by span: not more than `limit`, nor
        than `each` of a span.

        Not of NAMES and PENDING, which are no index: their domains are all those of a range.
        """
        arguments = Arguments(no)
        run = arguments.number(runs[_RUN_OF[source.kind]])
        if len(spans) == 1:
            first, past = map(arguments.number, (spans[0].first, spans[0].past))
            size = arguments.number(limit)
            statement = _merged(source, run, first, past, size, ascending, arguments)
        else:
            firsts = arguments.number([span.first for span in spans])
            pasts = arguments.number([span.past for span in spans])
            size, part = arguments.number(limit), arguments.number(each or limit)
            inner = _merged(source, run, "s.first", "s.past", part, ascending, arguments)
            # Spans come one by one: those behind a full page are not read.
            statement = f"""SELECT position
                FROM unnest({firsts}::int[], {pasts}::int[]) WITH ORDINALITY s (first, past, n),
                    LATERAL ({inner}) found
                ORDER BY n, position {_WAY[ascending]} LIMIT {size}"""
        row, copied = await self._page(no, copy_id, statement, "array_agg(position)", arguments)
        found = row[0] or []
        # A domain with two of the keywords comes once.
        return Candidates(list(dict.fromkeys(found)), len(found) < limit, copied)

    async def open_spans(
        self, no: int, run: int, first: int, past: int, *, limit: int, ascending: bool
    ) -> list[Span]:
        """Where names without a DNS verdict are, from one end of first..past-1, until they are
        `limit` names."""
        rows = await self._pool.fetch(_open_spans(ascending), no, first, past, limit, run)
        return [Span(row["first"], row["past"]) for row in rows]

    async def settled_spans(
        self, no: int, run: int, key: Key | None, *, limit: int, ascending: bool
    ) -> list[Span]:
        """Settled chunks in the order of their settlement, from the one that holds `key` on."""
        bound, arguments = "", [no, run, limit]
        if key is not None:
            # The chunk of the key itself may begin before it.
            sign = ">=" if ascending else "<="
            bound = f"""AND revision {sign} $4 AND CASE WHEN revision = $4
                THEN first_position {"+ name_count > " if ascending else "<= "} $5 ELSE true END"""
            arguments += [key.major, key.position]
        way = _WAY[ascending]
        rows = await self._pool.fetch(
            f"""{PLANNED_ONCE}
            SELECT revision, first_position, name_count, outcome_counts FROM chunks
            WHERE campaign_no = $1 AND phase = {_PHASE_DNS} AND run = $2 AND revision IS NOT NULL
                AND outcome_counts IS NOT NULL {bound}
            ORDER BY revision {way}, first_position {way} LIMIT $3""",
            *arguments,
        )
        return [Span(f, f + count, revision, counts) for revision, f, count, counts in rows]

    async def named_spans(
        self, no: int, tlds: Sequence[str], first: int, past: int, *, limit: int, ascending: bool
    ) -> list[tuple[Span, bool]]:
        """Chunks of the names of first..past-1 from one end, and whether there may be names below
        one of these top-level domains."""
        # The chunk that the range begins in begins before it.
        rows = await self._pool.fetch(_named_spans(ascending), no, first, past, limit, list(tlds))
        return [(Span(row["first"], row["past"]), row["possible"]) for row in rows]

    async def by_score(
        self,
        no: int,
        run: int,
        scores: tuple[int, int],
        key: Key | None,
        *,
        limit: int,
        ascending: bool,
        copy_id: int | None = None,
        runs: Runs | None = None,
    ) -> Candidates:
        """Domains with such a score behind `key`, in order of score and position. With `runs` and
        what the tables have of them, by one way to the server."""
        arguments = Arguments(no)
        run_number, lowest, highest = map(arguments.number, (run, *scores))
        bound = ""
        if key is not None:
            major, position = map(arguments.number, key)
            sign = ">" if ascending else "<"
            bound = f"AND (score, position) {sign} ({major}::smallint, {position}::int)"
        statement = f"""SELECT score AS major, position FROM page_analyses
            WHERE campaign_no = $1 AND run = {run_number} AND score >= {lowest}
                AND score <= {highest} {bound}
            ORDER BY score {_WAY[ascending]}, position {_WAY[ascending]}
            LIMIT {arguments.number(limit)}"""
        if runs is not None:
            rows, known = await self._rows.found(
                no, runs, statement, ("major",), arguments, limit=limit
            )
            positions, majors = [row["position"] for row in rows], [row["major"] for row in rows]
            return Candidates(positions, len(positions) < limit, None, majors, known)
        columns = "array_agg(position), array_agg(major)"
        row, copied = await self._page(no, copy_id, statement, columns, arguments)
        positions, majors = row[0] or [], row[1] or []
        return Candidates(positions, len(positions) < limit, copied, majors)

    async def by_name(
        self,
        no: int,
        prefix: str,
        start: Key | None,
        *,
        limit: int,
        blocks: int,
        ascending: bool,
        copy_id: int | None = None,
        runs: Runs | None = None,
    ) -> tuple[Candidates, int]:
        """Domains in order of name, from a key on, with it, or from one end: as many of them as
        these many blocks have. Only blocks that may have names that begin with `prefix`. And how
        many domains a block has, if it was seen.

        With `runs` and what the tables have of them, by one way to the server.

        Majors are 1 + the block that the domain is in. The major of `start` is believed; 0: it is
        found out by the name. Where the position is not in that block, it is not the first one.
        """
        arguments = Arguments(no)
        way, sign = _WAY[ascending], ">=" if ascending else "<="
        bounds, at = [], "NULL::int"
        if start is not None:
            position = arguments.number(start.position) + "::int"
            if start.major:
                block = arguments.number(start.major - 1) + "::int"
            else:
                block = block_of(
                    f"(SELECT name FROM domains WHERE campaign_no = $1 AND position = {position})"
                )
            bounds.append(f"block {sign} {block}")
            # Null: behind that block.
            at = f"array_position(positions, {position})"
        # The block that the prefix begins in begins before it.
        if prefix and (start is None or not ascending):
            bounds.append(f"block >= {block_of(arguments.number(prefix) + '::text')}")
        if prefix and (start is None or ascending):
            bounds.append(f"first_name < {arguments.number(after_prefix(prefix))}")
        where = "".join(f" AND {bound}" for bound in bounds)
        size = arguments.number(limit) + "::int"
        part = f"coalesce(at, 1) : coalesce(at, 1) + {size} - 1"
        if not ascending:
            part = f"greatest(coalesce(at, size) - {size} + 1, 1) : coalesce(at, size)"
        statement = f"""SELECT block, position, size FROM (
                SELECT block, positions, cardinality(positions) AS size, {at} AS at
                FROM name_orders WHERE campaign_no = $1 {where}
                ORDER BY block {way} LIMIT {arguments.number(blocks)}
            ) b, LATERAL unnest(positions[{part}]) WITH ORDINALITY u (position, n)
            ORDER BY block {way}, n {way} LIMIT {size}"""
        copied, known = None, None
        if runs is not None:
            rows, known = await self._rows.found(
                no, runs, statement, ("block", "size"), arguments, limit=limit
            )
            positions, its = [row["position"] for row in rows], [row["block"] for row in rows]
            longest = max((row["size"] for row in rows), default=0)
        else:
            columns = "array_agg(position), array_agg(block), max(size)"
            row, copied = await self._page(no, copy_id, statement, columns, arguments)
            positions, its, longest = row[0] or [], row[1] or [], row[2] or 0
        all_there = len(positions) < limit and len(set(its)) < blocks
        majors = [1 + block for block in its]
        return Candidates(positions, all_there, copied, majors, known), longest

    async def _page(
        self, no: int, copy_id: int | None, statement: str, columns: str, arguments: Arguments
    ) -> tuple[asyncpg.Record, Copied | None]:
        """Aggregates of the rows of a statement in their order, and what a copy for pages has of
        them: a statement of its own for that would take a third of the page's time.

        All in one row: a hundred rows of segments took half a millisecond more to send and to read.
        Never a join: of a copy that is younger than the statistics of other copies one segment is
        expected, and all are read (40 ms of 200,000 domains).
        """
        if copy_id is None:
            row = await self._pool.fetchrow(
                f"SELECT {columns} FROM ({statement}) page", *arguments.values
            )
            assert row is not None
            return row, None
        row = await self._pool.fetchrow(
            f"""WITH page AS MATERIALIZED ({statement})
            SELECT page.*, copy.*, {REVISION} AS revision
            FROM (SELECT {columns} FROM page) page, (
                SELECT array_agg(first_position) AS starts, array_agg(payload) AS payloads
                FROM segments WHERE derivation_id = {arguments.number(copy_id)}
                    AND first_position = ANY(ARRAY(SELECT {_START.format("position")} FROM page))
            ) copy""",
            *arguments.values,
        )
        assert row is not None
        return row, _copied(row[0] or (), row)

    async def matching(
        self, no: int, runs: Runs, conditions: Conditions, positions: Sequence[int]
    ) -> set[int]:
        """Those of the positions whose domains the conditions let through."""
        if not positions:
            return set()
        if not conditions:
            return set(positions)
        arguments = Arguments(no)
        found: list[int] | None = await self._pool.fetchval(
            f"""SELECT array_agg(position)
            FROM ({_matching(conditions, positions, runs, arguments)}) matching""",
            *arguments.values,
        )
        return set(found or ())

    async def matching_copied(
        self,
        no: int,
        runs: Runs,
        conditions: Conditions,
        positions: Sequence[int],
        *,
        limit: int,
        ascending: bool,
        copy_id: int,
    ) -> Candidates:
        """The first ones of the positions, in their order, whose domains the conditions let
        through: not more than `limit`, and what a copy for pages has of them."""
        if not positions:
            return Candidates((), True)
        arguments = Arguments(no)
        # By itself: a plan for a few in order may be one for reading all in another order.
        statement = f"""
            WITH matching AS MATERIALIZED (
                {_matching(conditions, positions, runs, arguments)}
            )
            SELECT position FROM matching
            ORDER BY position {_WAY[ascending]} LIMIT {arguments.number(limit)}"""
        row, copied = await self._page(no, copy_id, statement, "array_agg(position)", arguments)
        found = row[0] or []
        return Candidates(found, len(found) < limit, copied)

    async def majors(
        self, no: int, runs: Runs, order: Order, positions: Sequence[int]
    ) -> dict[int, int]:
        """Score or revision of the chunk, by position; of domains without one nothing."""
        statement, run = _SCORES, runs.analysis
        if order is Order.SETTLE_TIME:
            statement, run = _REVISIONS, runs.dns
        return await self._by_position(statement, positions, no, run)

    async def small_set(
        self, no: int, runs: Runs, source: Source, order: Order, count: int, *, most: int
    ) -> dict[int, Any] | None:
        """Name, or score, of all domains of `source` among `count` positions, if they are not more
        than `most`. Of NAME and SCORE; of domains without a score nothing.

        Each half of the positions is one statement of a connection of its own.
        """
        edges = [0, count // 2, count] if count >= _MANY else [0, count]
        rows = await asyncio.gather(
            *(
                self._small_part(no, runs, source, order, first, past, most)
                for first, past in pairwise(edges)
            )
        )
        if sum(row["size"] for row in rows) > most:
            return None
        found: dict[int, Any] = {}
        for row in rows:
            found.update(zip(row["positions"] or (), row["majors"] or (), strict=True))
        return found

    async def _small_part(
        self, no: int, runs: Runs, source: Source, order: Order, first: int, past: int, most: int
    ) -> asyncpg.Record:
        arguments = Arguments(no)
        run, limit = arguments.number(runs[_RUN_OF[source.kind]]), arguments.number(most + 1)
        bounds = arguments.number(first), arguments.number(past)
        found = _merged(source, run, *bounds, limit, True, arguments)
        size = "(SELECT count(*) FROM found)"
        # Of too many nothing is looked up.
        few = f"""position = ANY(CASE WHEN {size} < {limit}
            THEN ARRAY(SELECT position FROM found) END)"""
        columns = f"{size} AS size, array_agg(position) AS positions, array_agg({{}}) AS majors"
        if order is Order.NAME:
            wanted = f"""SELECT {columns.format("name")} FROM domains
            WHERE campaign_no = $1 AND {few}"""
        else:
            analysed = arguments.number(runs.analysis)
            wanted = f"""SELECT {columns.format("score")} FROM page_analyses
            WHERE campaign_no = $1 AND run = {analysed} AND {few} AND {_NOT_INDEXED}"""
        row = await self._pool.fetchrow(
            f"WITH found AS MATERIALIZED ({found}) {wanted}", *arguments.values
        )
        assert row is not None
        return row

    async def names(self, no: int, positions: Sequence[int]) -> dict[int, str]:
        return await self._by_position(_NAMES, positions, no)

    async def _by_position(
        self, statement: str, positions: Sequence[int], *arguments: object
    ) -> dict[int, Any]:
        """Two columns of a statement whose last argument are positions. Many of them are shared by
        two connections: a thousand at places of their own take 3 to 12 ms."""
        half = len(positions) // 2 if len(positions) >= _MANY else 0
        rows = await asyncio.gather(
            *(
                self._pool.fetchrow(statement, *arguments, part)
                for part in (positions[:half], positions[half:])
                if part
            )
        )
        found: dict[int, Any] = {}
        for row in rows:
            assert row is not None
            found.update(zip(row[0] or (), row[1] or (), strict=True))
        return found

    async def copies(self, no: int) -> PageCopies | None:
        """The copies for pages that are true now."""
        return await page_copies(self._pool, no)

    async def packed(self, no: int, copy_id: int, positions: Sequence[int]) -> Copied | None:
        """What a copy for pages has of the domains at these positions; None unless it has all."""
        starts = {position - position % PACK_SIZE for position in positions}
        row = await self._pool.fetchrow(_PACKS, no, copy_id, list(starts))
        assert row is not None
        return _copied(positions, row)


def _matching(
    conditions: Conditions, positions: Sequence[int], runs: Runs, arguments: Arguments
) -> str:
    """SQL of those of these positions that match."""
    first, past = min(positions), max(positions) + 1
    if len(positions) == past - first:
        first_number, past_number = arguments.number(first), arguments.number(past)
        here = f"position >= {first_number} AND position < {past_number}"
    else:
        here = f"position = ANY({arguments.number(positions)}::int[])"
    return matching(conditions, f"campaign_no = $1 AND {here}", runs, arguments)


def _copied(positions: Sequence[int], row: asyncpg.Record) -> Copied | None:
    """The domains at these positions out of the segments of a row; None unless all are there."""
    payloads = dict(zip(row["starts"] or (), row["payloads"] or (), strict=True))
    segments = {start: opened(payload) for start, payload in payloads.items()}
    found: dict[int, bytes] = {}
    for position in positions:
        place = position % PACK_SIZE
        segment = segments.get(position - place)
        if segment is None:
            return None
        edges, wire = segment
        domain = found[position] = wire[edges[place] : edges[place + 1]]
        if not domain:
            return None
    return Copied(found, row["revision"])


# So many positions are enough to be shared by two connections.
_MANY = 300
_WAY = {True: "ASC", False: "DESC"}
_PHASE_GENERATION, _PHASE_DNS = int(PHASE_DOMAIN_GENERATION), int(PHASE_DNS_VALIDATION)
# In the order of Runs.
_PHASES = (
    PHASE_DNS_VALIDATION,
    PHASE_HTTP_VALIDATION,
    PHASE_CONTENT_ANALYSIS,
    PHASE_LEAD_EXTRACTION,
)

# The order of names is made of all names there are; names alone make its version.
_SIZES = f"""{PLANNED_ONCE}
SELECT coalesce((
        SELECT json_agg(json_build_array(phase, run, outcome_counts, revision)) FROM ledger_totals
        WHERE campaign_no = $1 AND phase > 1
    ), '[]') AS ledger,
    EXISTS (
        SELECT FROM derivations WHERE campaign_no = $1 AND kind = 'name_order'
            AND source_version = $2 AND finish_time IS NOT NULL
    ) AS ordered,
    CASE WHEN cardinality($3::text[]) > 0 THEN (
        SELECT sum(settled_count) FROM tld_totals WHERE campaign_no = $1 AND phase = $4
    ) END::bigint AS tld_all,
    coalesce((
        SELECT sum(settled_count) FROM tld_totals
        WHERE campaign_no = $1 AND phase = $4 AND tld = ANY($3::text[])
    ), 0)::bigint AS tld_names"""

# Which of Runs an index belongs to, and what it is: table and condition.
_RUN_OF = {
    Kind.DNS: 0,
    Kind.HTTP: 1,
    Kind.STATUS: 3,
    Kind.REASON: 3,
    Kind.ANALYSED: 2,
    Kind.WARNED: 2,
    Kind.KEYWORD: 2,
}
_INDEX = {
    Kind.DNS: ("dns_results", "AND verdict = {}::smallint"),
    Kind.HTTP: ("http_results", "AND verdict = {}::smallint"),
    Kind.STATUS: ("leads", "AND status = {}::smallint"),
    Kind.REASON: ("leads", "AND reason = {}::smallint"),
    Kind.ANALYSED: ("page_analyses", ""),
    Kind.WARNED: ("page_analyses", "AND warnings <> 0"),
    Kind.KEYWORD: ("keyword_hits", "AND keyword = {}::text"),
}


def _merged(
    source: Source,
    run: str,
    first: str,
    past: str,
    limit: str,
    ascending: bool,
    arguments: Arguments,
) -> str:
    """One index scan a value, merged: each reads no further than the merge needs."""
    table, condition = _INDEX[source.kind]
    way = _WAY[ascending]
    branches = [
        f"""SELECT position FROM {table} WHERE campaign_no = $1 AND run = {run} {each}
        AND position >= {first} AND position < {past} ORDER BY position {way} LIMIT {limit}"""
        for each in (
            [condition.format(arguments.number(value)) for value in source.values] or [condition]
        )
    ]
    if len(branches) == 1:
        return branches[0]
    together = " UNION ALL ".join(f"({branch})" for branch in branches)
    return f"SELECT position FROM ({together}) merged ORDER BY position {way} LIMIT {limit}"


def block_of(name: str) -> str:
    """The block that this name is in, or would be; the first one for what is ahead of all names.

    A name that is not there any more is in none: nothing is found.
    """
    return f"""(SELECT coalesce((
        SELECT block FROM name_orders WHERE campaign_no = $1 AND first_name <= sought
        ORDER BY first_name DESC, block DESC LIMIT 1
    ), 0) FROM (SELECT {name} AS sought) s WHERE sought IS NOT NULL)"""


@cache
def _open_spans(ascending: bool) -> str:
    """Chunks which the ledger has not settled, and names it has no chunk for yet.

    Never an anti-join (780 ms): open chunks come from an index, as many as can matter to the page.
    Chunks are planned in order of position, so what has no chunk lies behind the last one.
    """
    near = "first_position > $2" if ascending else "first_position < $3"
    order = _WAY[ascending]
    of_run = f"campaign_no = $1 AND phase = {_PHASE_DNS} AND run = $5"
    chunk = "SELECT first_position, first_position + name_count AS past, state FROM chunks"
    inside = "first_position + name_count > $2 AND first_position < $3"
    branches = [
        f"""{chunk} WHERE {of_run} AND state = '{state}' AND {near} AND {inside}
        ORDER BY first_position {order} LIMIT $4"""
        for state in ("ready", "queued")
    ]
    if ascending:
        # The chunk that the range begins in. Descending, the branches above find it.
        branches.append(
            f"""{chunk} WHERE {of_run} AND first_position <= $2
            ORDER BY first_position DESC LIMIT 1"""
        )
    return f"""
WITH last_chunk AS ({chunk} WHERE {of_run} ORDER BY first_position DESC LIMIT 1),
open AS (
    SELECT first_position, past FROM ({" UNION ALL ".join(f"({b})" for b in branches)}) c
    WHERE state <> 'done'
    UNION ALL
    SELECT coalesce((SELECT past FROM last_chunk), 0), $3
),
clipped AS (
    SELECT greatest(first_position, $2) AS first, least(past, $3) AS past FROM open
    WHERE first_position < $3 AND past > $2
)
-- Those behind the ones that fill the page add nothing to it.
SELECT first, past FROM (
    SELECT first, past,
        sum(past - first) OVER (ORDER BY first {order}) - (past - first) AS nearer
    FROM clipped
) c WHERE nearer < $4 ORDER BY first {order}"""


@cache
def _named_spans(ascending: bool) -> str:
    order = _WAY[ascending]
    of_campaign = f"""campaign_no = $1 AND phase = {_PHASE_GENERATION} AND run = (
        SELECT run FROM phases WHERE campaign_no = $1 AND phase = {_PHASE_GENERATION})"""
    chunk = """SELECT first_position AS first, first_position + name_count AS past,
        coalesce(tld_counts ?| $5::text[], true) AS possible FROM chunks"""
    return f"""
SELECT greatest(first, $2) AS first, least(past, $3) AS past, possible FROM (
    ({chunk} WHERE {of_campaign} AND first_position <= $2 ORDER BY first_position DESC LIMIT 1)
    UNION ALL
    ({chunk} WHERE {of_campaign} AND first_position > $2 AND first_position < $3
        ORDER BY first_position {order} LIMIT $4)
) c WHERE past > $2 ORDER BY first {order} LIMIT $4"""


# What is always true is in no index: for a thousand positions the planner would rather read the
# whole index of scores, which has all else that is asked for (106 instead of 10 ms).
_NOT_INDEXED = "check_time_us >= 0"
_SCORES = f"""
SELECT array_agg(position), array_agg(score) FROM page_analyses
WHERE campaign_no = $1 AND run = $2 AND position = ANY($3::int[]) AND {_NOT_INDEXED}"""


_REVISIONS = f"""
SELECT array_agg(position), array_agg((
    SELECT revision FROM chunks
    WHERE campaign_no = $1 AND phase = {_PHASE_DNS} AND run = $2 AND first_position <= position
    ORDER BY first_position DESC LIMIT 1
)) FROM dns_results
WHERE campaign_no = $1 AND run = $2 AND position = ANY($3::int[])"""
# Where the segment begins that has a position.
_START = f"{{0}} - {{0}} % {PACK_SIZE}"
_PACKS = f"""
SELECT array_agg(first_position) AS starts, array_agg(payload) AS payloads,
    {REVISION} AS revision
FROM segments WHERE derivation_id = $2 AND first_position = ANY($3::int[])"""
_NAMES = """
SELECT array_agg(position), array_agg(name) FROM domains
WHERE campaign_no = $1 AND position = ANY($2::int[])"""
