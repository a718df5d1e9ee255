"""What analysis and leads read, and how scores were made; one public method is one transaction.

No joins: each table is read by its key, and what belongs together is put side by side here. So the
planner has nothing to get wrong while it knows nothing of a young campaign.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from services.chassis.postgres import Connection, Pool

ANALYSIS, HTTP = 4, 3
_OK = 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a run that is read: positions `first` to `last` of it, `name_count` of them."""

    campaign_no: int
    run: int
    source_run: int
    first: int
    last: int
    name_count: int


@dataclass(frozen=True, slots=True)
class Scoring:
    """How the scores of a run were made."""

    number: int
    # Of HTTP: whose pages were scored.
    source_run: int
    # Unix seconds: the age of pages is reckoned to it.
    score_time: int
    # domainflow.campaign.v1.AnalysisConfiguration, as bytes.
    body: bytes


class StoredPage(NamedTuple):
    """What the analysis needs of a page."""

    position: int
    name: str
    # None where nothing is stored of the page.
    features: bytes | None = None
    # Arrays as the database sends them; None without any.
    keywords: bytes | None = None
    hit_counts: bytes | None = None
    # None where nothing was looked for.
    keyword_match: bool | None = None


class FetchedName(NamedTuple):
    """What a decision needs of a name."""

    position: int
    name: str
    # Number of domainflow.validation.v1.HttpVerdict.
    verdict: int
    content_size: int
    features: bytes | None
    keyword_match: bool | None
    # Thousandths; None where there is none.
    score: int | None
    # The host that its page came from where that is another one, after redirects; else empty.
    led_to: str = ""


@dataclass(frozen=True, slots=True)
class ExplainedPage:
    """What the score of one name's page is explained by; None: there is none."""

    name: str | None
    features: bytes | None = None
    scoring: Scoring | None = None


class Analyses:
    """The tables of analysis and leads."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def scoring(self, chunk: Chunk, body: bytes, now: int) -> Scoring:
        """How the run is scored by the configuration `body`: as of `now`, Unix seconds, when this
        is the first chunk to be; as of then when it is not. Number 0, and not stored, for a
        campaign that is gone: so are its pages."""
        arguments = (chunk.campaign_no, chunk.run, chunk.source_run, body)
        while True:
            row = await self._pool.fetchrow(
                """SELECT scoring, source_run, score_time, body FROM scorings
                   WHERE campaign_no = $1 AND run = $2 AND source_run = $3 AND body = $4""",
                *arguments,
            )
            if row is not None:
                return Scoring(*row)
            # Of those who do this at once one comes first; the others then find it: whoever does
            # not see its row takes the same number, and waits. A deletion waits for us, or we find
            # no campaign.
            there = await self._pool.fetchval(
                """WITH there AS MATERIALIZED (
                       SELECT FROM campaigns WHERE no = $1 FOR KEY SHARE),
                   made AS (
                       INSERT INTO scorings
                           (campaign_no, run, scoring, source_run, score_time, body)
                       SELECT $1, $2, coalesce(max(scoring), 0) + 1, $3, $5, $4 FROM scorings
                       WHERE campaign_no = $1 AND run = $2
                       HAVING NOT coalesce(bool_or(source_run = $3 AND body = $4), false)
                           AND EXISTS (SELECT FROM there)
                       ON CONFLICT DO NOTHING)
                   SELECT EXISTS (SELECT FROM there)""",
                *arguments,
                now,
            )
            if not there:
                return Scoring(0, chunk.source_run, now, body)

    async def pages(self, chunk: Chunk) -> list[StoredPage]:
        """The pages that are to be scored, in order."""
        async with self._pool.acquire() as connection, _one_moment(connection):
            positions = await connection.fetchval(
                """SELECT array_agg(position ORDER BY position) FROM http_results
                   WHERE campaign_no = $1 AND run = $2 AND verdict = $3
                     AND position BETWEEN $4 AND $5""",
                chunk.campaign_no,
                chunk.source_run,
                _OK,
                chunk.first,
                chunk.last,
            )
            names = await _names(connection, chunk.campaign_no, positions or [])
            rows = await connection.fetch(
                """SELECT position, features, array_send(keywords), array_send(hit_counts),
                       keyword_match
                   FROM pages
                   WHERE campaign_no = $1 AND run = $2 AND position BETWEEN $3 AND $4""",
                chunk.campaign_no,
                chunk.source_run,
                chunk.first,
                chunk.last,
            )
        found = {row[0]: row for row in rows}
        pages = []
        for position, name in names.items():
            row = found.get(position)
            pages.append(
                StoredPage(position, name)
                if row is None
                else StoredPage(position, name, row[1], row[2], row[3], row[4])
            )
        return pages

    async def fetched(self, chunk: Chunk) -> tuple[list[FetchedName], bool]:
        """The names that are to be decided on, in order, and whether all their pages should have a
        score."""
        arguments = (chunk.campaign_no, chunk.source_run, chunk.first, chunk.last)
        async with self._pool.acquire() as connection, _one_moment(connection):
            results = await connection.fetch(
                """SELECT position, verdict, coalesce(content_size, 0), final_url FROM http_results
                   WHERE campaign_no = $1 AND run = $2 AND position BETWEEN $3 AND $4
                   ORDER BY position""",
                *arguments,
            )
            names = await _names(connection, chunk.campaign_no, [row[0] for row in results])
            pages = await connection.fetch(
                """SELECT position, features, keyword_match FROM pages
                   WHERE campaign_no = $1 AND run = $2 AND position BETWEEN $3 AND $4""",
                *arguments,
            )
            # The run whose results are shown, if it scored the pages of the run in question. One
            # that ended early and was then left out scored some of them, and owes none.
            analysis = await connection.fetchrow(
                """SELECT result_run, status = 'COMPLETED' AS is_complete FROM phases p
                   WHERE campaign_no = $1 AND phase = $2 AND EXISTS (
                       SELECT FROM scorings s WHERE s.campaign_no = p.campaign_no
                         AND s.run = p.result_run AND s.source_run = $3)""",
                chunk.campaign_no,
                ANALYSIS,
                chunk.source_run,
            )
            scores = await connection.fetch(
                """SELECT position, score FROM page_analyses
                   WHERE campaign_no = $1 AND run = $2 AND position BETWEEN $3 AND $4""",
                chunk.campaign_no,
                analysis["result_run"] if analysis else 0,
                chunk.first,
                chunk.last,
            )
        page_of = {row[0]: row for row in pages}
        score_of = dict(map(tuple, scores))
        none = (0, None, None)
        found = []
        for position, verdict, size, url in results:
            if (name := names.get(position)) is None:
                continue
            _, features, is_match = page_of.get(position, none)
            score = score_of.get(position)
            led_to = _other_host(url, name)
            found.append(
                FetchedName(position, name, verdict, size, features, is_match, score, led_to)
            )
        return found, analysis is not None and analysis["is_complete"]

    async def evidence(self, chunk: Chunk, positions: Sequence[int]) -> Mapping[int, bytes]:
        """domainflow.validation.v1.PageEvidence of the pages at these positions."""
        if not positions:
            return {}
        rows = await self._pool.fetch(
            """SELECT position, evidence FROM pages
               WHERE campaign_no = $1 AND run = $2 AND position = ANY($3::int[])
                 AND evidence IS NOT NULL""",
            chunk.campaign_no,
            chunk.source_run,
            positions,
        )
        return dict(map(tuple, rows))

    async def scored(self, campaign_id: UUID, position: int) -> ExplainedPage | None:
        """What the shown score of a name was made from; None: there is no such campaign."""
        row = await self._pool.fetchrow(
            """SELECT k.no, d.name, s.scoring, s.source_run, s.score_time, s.body, g.features
               FROM campaigns k
               LEFT JOIN domains d ON d.campaign_no = k.no AND d.position = $2
               LEFT JOIN phases p ON p.campaign_no = k.no AND p.phase = $3
               LEFT JOIN page_analyses a ON a.campaign_no = k.no AND a.run = p.result_run
                   AND a.position = $2
               LEFT JOIN scorings s ON s.campaign_no = k.no AND s.run = a.run
                   AND s.scoring = a.scoring
               LEFT JOIN pages g ON g.campaign_no = k.no AND g.run = s.source_run
                   AND g.position = $2
               WHERE k.id = $1""",
            campaign_id,
            position,
            ANALYSIS,
        )
        if row is None:
            return None
        scoring = None if row["body"] is None else Scoring(*row[2:6])
        return ExplainedPage(row["name"], row["features"], scoring)

    async def page(self, campaign_id: UUID, position: int) -> ExplainedPage | None:
        """The page of a name that is shown; None: there is no such campaign."""
        row = await self._pool.fetchrow(
            """SELECT d.name, g.features
               FROM campaigns k
               LEFT JOIN domains d ON d.campaign_no = k.no AND d.position = $2
               LEFT JOIN phases p ON p.campaign_no = k.no AND p.phase = $3
               LEFT JOIN pages g ON g.campaign_no = k.no AND g.run = p.result_run
                   AND g.position = $2
               WHERE k.id = $1""",
            campaign_id,
            position,
            HTTP,
        )
        return None if row is None else ExplainedPage(row["name"], row["features"])


def _one_moment(connection: Connection) -> asyncpg.transaction.Transaction:
    """Statements that see the same."""
    return connection.transaction(isolation="repeatable_read", readonly=True)


async def _names(
    connection: Connection, campaign_no: int, positions: Sequence[int]
) -> dict[int, str]:
    """Names by position, in order."""
    if not positions:
        return {}
    rows = await connection.fetch(
        """SELECT position, name FROM domains
           WHERE campaign_no = $1 AND position = ANY($2::int[]) ORDER BY position""",
        campaign_no,
        positions,
    )
    return dict(map(tuple, rows))


def _other_host(url: str | None, name: str) -> str:
    host = urlsplit(url).hostname if url else None
    return host if host and host != name else ""
