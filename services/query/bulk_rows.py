"""SQL of leads and of events: rows, a batch at a time, nothing held in between."""

from collections.abc import Sequence
from functools import cache

import asyncpg

from services.chassis.postgres import Pool
from services.query.campaigns import Runs
from services.query.columns import ALIVE


async def leads(
    pool: Pool, no: int, runs: Runs, statuses: Sequence[int], first: int, end: int, *, limit: int
) -> list[asyncpg.Record] | None:
    """The first `limit` leads of positions first..end-1 with one of these statuses, in order of
    position. None of a campaign that is being deleted."""
    rows = await pool.fetch(
        _leads(len(statuses)),
        no,
        first,
        end,
        limit,
        runs.leads,
        runs.http,
        runs.analysis,
        *statuses,
    )
    return _of_living(rows)


async def events(
    pool: Pool, no: int, first: int, end: int, *, limit: int
) -> list[asyncpg.Record] | None:
    """The first `limit` events of revisions first..end-1. None of a campaign that is being
    deleted."""
    return _of_living(await pool.fetch(_EVENTS, no, first, end, limit))


def _of_living(rows: list[asyncpg.Record]) -> list[asyncpg.Record] | None:
    """There is always a row, which says whether the campaign is alive."""
    if not rows[0]["alive"]:
        return None
    return rows if rows[0]["found"] is not None else []


@cache
def _leads(statuses: int) -> str:
    """One index scan a status, merged; what belongs to the hits is looked up by their positions.

    FULL JOIN, although every lead has its name: no nested loop can carry it out.
    """
    branches = " UNION ALL ".join(
        f"""(SELECT position FROM leads WHERE campaign_no = $1 AND run = $5
        AND position >= $2 AND position < $3 AND status = ${8 + n} ORDER BY position LIMIT $4)"""
        for n in range(statuses)
    )
    hit = "campaign_no = $1 AND position = ANY((SELECT positions FROM hit)::int[])"
    return f"""
WITH hit AS MATERIALIZED (
    SELECT array_agg(position ORDER BY position) AS positions
    FROM (SELECT position FROM ({branches}) merged ORDER BY position LIMIT $4) m
)
SELECT {ALIVE}, found.* FROM (VALUES (1)) AS always LEFT JOIN (
    SELECT position AS found, name, final_url, score, status, reason, check_time_us, contacts
    FROM (SELECT position, status, reason, check_time_us, contacts FROM leads
        WHERE {hit} AND run = $5) l
    FULL JOIN (SELECT position, name FROM domains WHERE {hit}) d USING (position)
    FULL JOIN (SELECT position, final_url FROM http_results WHERE {hit} AND run = $6) h
        USING (position)
    FULL JOIN (SELECT position, score FROM page_analyses WHERE {hit} AND run = $7) a
        USING (position)
) found ON true
ORDER BY found"""


_EVENTS = f"""
SELECT {ALIVE}, found.* FROM (VALUES (1)) AS always LEFT JOIN (
    SELECT revision AS found, create_time, body FROM events
    WHERE campaign_no = $1 AND revision >= $2 AND revision < $3
    ORDER BY revision LIMIT $4
) found ON true
ORDER BY found"""
