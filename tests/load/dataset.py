"""Finished campaigns with results of every phase, made once a run of the query benches.

Everything is made inside the server. Verdicts stand at fixed positions, names and scores are
scattered: an order by either is no order by position.
"""

import asyncio
import atexit
import functools
import json
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from services.schema import migrate
from services.suite.postgres import EmbeddedPostgres

LARGE, SMALL = 2_000_000, 100_000
# Names of the large campaign by tier of `make bench-query`.
TIERS = {"1k": 1_000, "100k": 100_000, "1m": 1_000_000, "2m": LARGE, "10m": 10_000_000}
CHUNK = 5_000
# What stands where repeats after so many positions.
CYCLE = 100
# Position modulo CYCLE -> DNS verdict: 45 % resolved, 3 % timed out, the rest NXDOMAIN.
RESOLVED, NXDOMAIN, RARE_VERDICT = 1, 2, 6
_DNS = [RESOLVED] * 45 + [RARE_VERDICT] * 3 + [NXDOMAIN] * 52
# HTTP is asked about resolved names: 27 % of all are fetched, 18 % are not found.
HTTP_OK, HTTP_NOT_FOUND = 1, 9
_HTTP = [HTTP_OK] * 27 + [HTTP_NOT_FOUND] * 18
TLDS = ("com", "net", "org", "example", "dev", "shop", "rare")
# One name in a hundred is below the last one, 16 or 17 below each of the others.
_TLDS = [TLDS[n % 6] for n in range(CYCLE - 1)] + [TLDS[6]]
KEYWORDS = ("shop", "cart", "rare-word")
# Fetched pages with a score of so many thousandths are leads.
THRESHOLD = 800
_FETCHED = _HTTP.count(HTTP_OK)
_PHASES = range(1, 6)
_RESULTS = "domains, dns_results, http_results, pages, page_analyses, keyword_hits, leads"
# Of the position `g`: injective on 32 bits, and a score from 0 to 1000.
_SCATTERED = "g::bigint * 2654435761 % 4294967296"
_SCORE = "(g::bigint * 7919 % 1001)"

T = TypeVar("T")
Connection = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where the two campaigns are."""

    database_url: str
    large: UUID
    large_no: int
    small: UUID
    large_count: int = LARGE


@functools.cache
def dataset(tier: str = "2m") -> Dataset:
    """Start a server of our own, fill it, and stop it when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="domainflow-load-"))
    server = EmbeddedPostgres(folder)
    loop = _background_loop()
    _on(loop, server.start())

    def remove() -> None:
        _on(loop, server.stop())
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return _on(loop, fill(server.url, TIERS[tier]))


async def fill(database_url: str, large_count: int = LARGE) -> Dataset:
    """Both campaigns, in a database that may be empty."""
    await migrate(database_url)
    connection = await asyncpg.connect(database_url)
    try:
        large, large_no = await campaign(connection, large_count)
        small, _ = await campaign(connection, min(SMALL, large_count))
        await analyse(connection)
    finally:
        await connection.close()
    return Dataset(database_url, large, large_no, small, large_count)


async def analyse(connection: Connection) -> None:
    """Statistics and visibility, as some time after a campaign has finished."""
    await connection.execute(
        f"VACUUM ANALYZE {_RESULTS}, chunks, campaigns, phases, ledger_totals, tld_totals"
    )


async def campaign(connection: Connection, names: int) -> tuple[UUID, int]:
    """A finished campaign of so many names: its id and its number."""
    async with connection.transaction():
        no, campaign_id = await _head(connection, names)
        await _rows(connection, no, names)
        # Nobody has statistics of these rows yet: a loop would compare a chunk with itself.
        await connection.execute("SET LOCAL enable_nestloop = off")
        await _ledger(connection, no, names)
    return campaign_id, no


async def _head(connection: Connection, names: int) -> tuple[int, UUID]:
    row = await connection.fetchrow(
        """INSERT INTO campaigns
            (id, name, mode, initial_phase, final_phase, configuration, name_count, current_phase,
             status)
        VALUES (uuidv7(), 'load', 'STEP_BY_STEP', 1, 5, '', $1, 5, 'COMPLETED')
        RETURNING no, id""",
        names,
    )
    assert row is not None
    no, campaign_id = row
    await connection.execute(
        """INSERT INTO phases (campaign_no, phase, status, run, result_run, name_count, planned)
        SELECT $1, phase, 'COMPLETED', 1, 1, $2, true FROM unnest($3::int[]) phase""",
        no,
        names,
        list(_PHASES),
    )
    return no, UUID(str(campaign_id))


async def _rows(connection: Connection, no: int, names: int) -> None:
    positions = f"generate_series(0, {names - 1}) g"
    dns, http, tlds = _case(_DNS), _case(_HTTP), _case([f"'{tld}'" for tld in _TLDS])
    hits = f"""unnest(ARRAY{list(KEYWORDS)}) WITH ORDINALITY k (keyword, n)
        WHERE CASE n WHEN 1 THEN true WHEN 2 THEN g % 3 = 0 ELSE g % 2000 = 3 END"""
    resolved, fetched = f"g % {CYCLE} < {len(_HTTP)}", f"g % {CYCLE} < {_FETCHED}"
    for statement in (
        f"""INSERT INTO domains (campaign_no, position, name)
        SELECT $1, g, 'name-' || lpad(to_hex({_SCATTERED}), 8, '0') || '.' || {tlds}
        FROM {positions}""",
        f"""INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count, tcp,
            duration_us, check_time_us, ttl, resolver, addresses, authority, registered, delegated)
        SELECT $1, 1, g, v, CASE v WHEN 2 THEN 3 WHEN 6 THEN -1 ELSE 0 END, 1, false, 1500,
            1750000000000000 + g, 300, '192.0.2.53:53',
            CASE v WHEN 1 THEN '198.51.100.7,2001:db8::' || g % 1000 END,
            CASE v WHEN 2 THEN 'example' END, v <> 2, v <> 2
        FROM (SELECT g, {dns}::smallint AS v FROM {positions}) made""",
        f"""INSERT INTO http_results (campaign_no, run, position, verdict, status_code,
            attempt_count, duration_us, check_time_us, final_url, title, language, content_size,
            content_sha256)
        SELECT $1, 1, g, v, CASE v WHEN {HTTP_OK} THEN 200 ELSE 404 END, 1, 90000,
            1750000100000000 + g, 'https://www.name-' || g || '.example/',
            'A title of a page, number ' || g, 'en', 20000, sha256(g::text::bytea)
        FROM (SELECT g, {http}::smallint AS v FROM {positions} WHERE {resolved}) made""",
        f"""INSERT INTO pages (campaign_no, run, position, kind, features)
        SELECT $1, 1, g, 1, '' FROM {positions} WHERE {fetched}""",
        f"""INSERT INTO page_analyses (campaign_no, run, position, score, warnings, check_time_us,
            keywords, hit_counts, with_keyword)
        SELECT $1, 1, g, {_SCORE}, CASE WHEN g % 1000 = 7 THEN 2 ELSE 0 END, 1750000200000000 + g,
            keywords, array_fill(1 + g % 5, ARRAY[cardinality(keywords)]), keywords IS NOT NULL
        FROM {positions}, LATERAL (
            SELECT array_agg(keyword ORDER BY keyword) AS keywords FROM {hits}
        ) found WHERE {fetched}""",
        f"""INSERT INTO keyword_hits (campaign_no, run, keyword, position, hit_count)
        SELECT $1, 1, keyword, g, 1 + g % 5
        FROM {positions}, LATERAL (SELECT keyword FROM {hits}) found WHERE {fetched}""",
        f"""INSERT INTO leads (campaign_no, run, position, status, reason, check_time_us)
        SELECT $1, 1, g, CASE WHEN {_SCORE} >= {THRESHOLD} THEN 1 ELSE 2 END,
            CASE WHEN {_SCORE} >= {THRESHOLD} THEN 1 ELSE 2 END, 1750000300000000 + g
        FROM {positions} WHERE {fetched}""",
    ):
        await connection.execute(statement, no)


async def _ledger(connection: Connection, no: int, names: int) -> None:
    """Chunks, each with a revision of its own, and the totals that the triggers would have kept."""
    # The triggers would give all of them the revision of this one transaction.
    await connection.execute("ALTER TABLE chunks DISABLE TRIGGER USER")
    chunks = []
    revision = 0
    for phase in _PHASES:
        for first in range(0, names, CHUNK):
            size = min(CHUNK, names - first)
            revision += 1
            by_tld = await _outcomes(connection, no, phase, first, size)
            outcomes = sum(by_tld.values(), Counter())
            counts = [outcomes[n] for n in range(1, max(outcomes, default=1) + 1)]
            tlds = {tld: {str(n): c for n, c in some.items()} for tld, some in by_tld.items()}
            settled = sum(counts)
            if settled:
                chunks.append(
                    (no, phase, 1, first, settled, "done", 1, counts, revision, json.dumps(tlds))
                )
    await connection.execute("UPDATE campaigns SET revision = $2 WHERE no = $1", no, revision)
    await connection.executemany(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state, attempt,
            outcome_counts, revision, tld_counts, done_time)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, now())""",
        chunks,
    )
    await connection.execute(
        """INSERT INTO ledger_totals
        SELECT campaign_no, phase, run, sum(total), array_agg(total ORDER BY i), max(revision)
        FROM (SELECT campaign_no, phase, run, i, sum(n)::bigint AS total, max(revision) AS revision
            FROM chunks, unnest(outcome_counts) WITH ORDINALITY AS u (n, i)
            WHERE campaign_no = $1 GROUP BY campaign_no, phase, run, i) s
        GROUP BY campaign_no, phase, run""",
        no,
    )
    await connection.execute(
        """INSERT INTO tld_totals
        SELECT campaign_no, phase, run, tld, sum(total), array_agg(total ORDER BY i)
        FROM (SELECT campaign_no, phase, run, tld, i, sum(n)::bigint AS total
            FROM chunks, jsonb_each(tld_counts) AS t (tld, counts),
                unnest(outcome_array(counts)) WITH ORDINALITY AS u (n, i)
            WHERE campaign_no = $1 GROUP BY campaign_no, phase, run, tld, i) s
        GROUP BY campaign_no, phase, run, tld""",
        no,
    )
    await connection.execute("ALTER TABLE chunks ENABLE TRIGGER USER")


# Phase -> the rows that it settles, as tld, outcome and number of names.
_SETTLED = {
    1: "SELECT substring(name FROM '[^.]+$') AS tld, 1 AS outcome FROM domains d WHERE {d}",
    2: """SELECT substring(name FROM '[^.]+$'), verdict FROM domains d
        JOIN dns_results r USING (campaign_no, position) WHERE {d} AND {r}""",
    3: """SELECT substring(name FROM '[^.]+$'), verdict FROM domains d
        JOIN http_results r USING (campaign_no, position) WHERE {d} AND {r}""",
    4: """SELECT substring(name FROM '[^.]+$'), 1 FROM domains d
        JOIN page_analyses r USING (campaign_no, position) WHERE {d} AND {r}""",
    5: """SELECT substring(name FROM '[^.]+$'), reason FROM domains d
        JOIN leads r USING (campaign_no, position) WHERE {d} AND {r}""",
}


async def _outcomes(
    connection: Connection, no: int, phase: int, first: int, size: int
) -> dict[str, "Counter[int]"]:
    bounds = "{0}.campaign_no = $1 AND {0}.position >= $2 AND {0}.position < $3"
    settled = _SETTLED[phase].format(d=bounds.format("d"), r=bounds.format("r"))
    rows = await connection.fetch(
        f"SELECT tld, outcome, count(*) FROM ({settled}) AS s (tld, outcome) GROUP BY 1, 2",
        no,
        first,
        first + size,
    )
    made: dict[str, Counter[int]] = {}
    for tld, outcome, count in rows:
        made.setdefault(tld, Counter())[outcome] = count
    return made


def _case(values: Sequence[object]) -> str:
    """The value at the position `g` modulo CYCLE, as an expression."""
    return f"(ARRAY[{','.join(map(str, values))}])[g % {CYCLE} + 1]"


def _background_loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread that lives as long as this process: the server's supervisor needs one."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="dataset", daemon=True).start()
    return loop


def _on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result()
