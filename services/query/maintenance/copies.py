"""Copies of campaigns that are over, as streams and pages send them: made piece by piece, and
removed."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from services.query.campaigns import Campaign
from services.query.derived import NAME_ORDER, Copy, source_version, version_sql
from services.query.maintenance.job import CampaignGone, Hands, hold_campaign
from services.query.maintenance.segments import read_campaign, read_segments
from services.query.ranked_pages import DIRECTORY, RankedPages
from services.query.sealed import (
    BY_NAME,
    BY_SCORE,
    ENRICHED,
    NAMES,
    PAGES,
    SEGMENT_SIZE,
    Segment,
)

log = logging.getLogger(__name__)

# In the order in which they are made: the last two are made of the one before.
SEALED = (NAMES, ENRICHED, PAGES, BY_NAME, BY_SCORE)
# Names from which on a campaign is worth a copy: a smaller one is read from the tables in 0.1 s.
LEAST_NAMES = 50_000
# Seconds of reading that are one piece.
PIECE = 0.3
# Segments removed in one transaction, by kind: up to 10 MB.
REMOVED_AT_ONCE = {NAMES: 20, ENRICHED: 20, PAGES: 5_000, BY_NAME: 5_000, BY_SCORE: 5_000}


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy that is being made, of `name_count` domains: positions or ranks below `next` are in
    it."""

    id: int
    kind: str
    version: str
    name_count: int
    next: int


class Sealing:
    """Copies names, all columns, then whole domains for pages in three orders, of campaigns of
    which no phase is to come or to go on; by name once names are in order.

    A copy belongs to one version of the tables. When it has changed meanwhile, the copy is left to
    `UntrueCopies` and another one is begun.
    """

    name = "copies of what is over"
    period = 5.0

    def __init__(self, *, least_names: int = LEAST_NAMES, piece: float = PIECE) -> None:
        self._least_names = least_names
        self._piece = piece

    async def find(self, hands: Hands, aside: Sequence[int]) -> int | None:
        no: int | None = await hands.reads.fetchval(_UNSEALED, self._least_names, SEALED, aside)
        return no

    async def work(self, hands: Hands, campaign_no: int) -> None:
        copy = await self._copy(hands, campaign_no)
        if copy is None:
            return
        campaign = await read_campaign(hands.reads, campaign_no)
        if copy.kind != NAMES and Copy(copy.id, copy.version).runs != campaign.runs:
            # A rerun took over since the version was asked for: it is another one now.
            return
        began = time.monotonic()
        position = copy.next
        while position < copy.name_count:
            end = min((position // SEGMENT_SIZE + 1) * SEGMENT_SIZE, copy.name_count)
            segments = await read_segments(
                hands.reads, campaign, copy.kind, position, end, copy_id=copy.id
            )
            if segments is None:
                return
            await _store(hands, campaign_no, copy, segments)
            position = end
            if time.monotonic() - began > self._piece:
                break
        if position == copy.name_count:
            await _finish(hands, campaign, copy)

    async def leave_off(self) -> None:
        pass

    async def _copy(self, hands: Hands, no: int) -> _Copy | None:
        """The copy to go on with, a new one where there is none; None: they are all finished."""
        for kind in SEALED:
            version = await source_version(hands.reads, no, kind)
            if version is None:
                raise CampaignGone(no)
            found = await hands.reads.fetchrow(_COPY, no, kind, version)
            if found is None and kind == BY_NAME and not await hands.reads.fetchval(_ORDERED, no):
                continue
            if found is None:
                found = await _begin(hands, no, kind, version)
            elif found["finished"]:
                continue
            return _Copy(found["id"], kind, version, found["name_count"], found["next"])
        return None


class UntrueCopies:
    """Removes copies whose version is not that of the tables any more.

    Streams that still read one go on in the tables.
    """

    name = "untrue copies"
    period = 5.0

    def __init__(self, *, sealing: bool) -> None:
        self._sealing = sealing

    async def find(self, hands: Hands, aside: Sequence[int]) -> int | None:
        no: int | None = await hands.reads.fetchval(
            f"SELECT campaign_no FROM ({_UNTRUE}) u WHERE campaign_no <> ALL($3::int[]) LIMIT 1",
            SEALED,
            self._sealing,
            aside,
        )
        return no

    async def work(self, hands: Hands, campaign_no: int) -> None:
        connection = hands.connection
        found = await connection.fetchrow(
            f"SELECT id, kind FROM ({_UNTRUE}) u WHERE campaign_no = $3 LIMIT 1",
            SEALED,
            self._sealing,
            campaign_no,
        )
        if found is None:
            return
        # Nobody is to begin with it while it becomes less.
        copy_id, kind = found
        await connection.execute(_UNFINISH, copy_id)
        removed = await connection.fetchval(_REMOVE_SEGMENTS, copy_id, REMOVED_AT_ONCE[kind])
        if not removed:
            await connection.execute("DELETE FROM derivations WHERE id = $1", copy_id)
            log.info("removed a copy of the campaign with the number %d", campaign_no)

    async def leave_off(self) -> None:
        pass


async def _begin(hands: Hands, no: int, kind: str, version: str) -> asyncpg.Record:
    count = None
    if kind == BY_SCORE:
        campaign = await read_campaign(hands.reads, no)
        count = await RankedPages(hands.reads).scored_count(no, campaign.runs.analysis)
    async with hands.connection.transaction():
        await hold_campaign(hands.connection, no)
        begun = await hands.connection.fetchrow(_BEGIN, no, kind, version, count)
    assert begun is not None
    return begun


async def _store(hands: Hands, no: int, copy: _Copy, segments: Sequence[Segment]) -> None:
    async with hands.connection.transaction():
        await hold_campaign(hands.connection, no)
        await _insert(hands, copy, segments)


async def _insert(hands: Hands, copy: _Copy, segments: Sequence[Segment]) -> None:
    await hands.connection.copy_records_to_table(
        "segments",
        columns=("derivation_id", "first_position", "name_count", "payload"),
        records=[(copy.id, s.first_position, s.name_count, s.payload) for s in segments],
    )


async def _finish(hands: Hands, campaign: Campaign, copy: _Copy) -> None:
    """Behind the last row: when the version is still the same, every row was of that version."""
    directory = []
    if copy.kind == BY_SCORE:
        ranks = await RankedPages(hands.reads).make_directory(campaign.no, campaign.runs.analysis)
        directory = [Segment(*DIRECTORY, ranks.pack())]
    async with hands.connection.transaction():
        await hold_campaign(hands.connection, campaign.no)
        finished = await hands.connection.execute(_FINISH, copy.id)
        if finished == "UPDATE 1":
            # What was begun to be removed and is gone on with may still have one.
            await hands.connection.execute(_REMOVE_DIRECTORY, copy.id, DIRECTORY[0])
            await _insert(hands, copy, directory)
    if finished == "UPDATE 1":
        log.info("copied %s of the campaign with the number %d", copy.kind, campaign.no)


_ORDERED_SQL = f"""EXISTS (
          SELECT FROM derivations o
          WHERE o.campaign_no = {{}} AND o.kind = '{NAME_ORDER}' AND o.finish_time IS NOT NULL)"""
_ORDERED = f"SELECT {_ORDERED_SQL.format('$1::int')}"
_OVER = "('COMPLETED', 'SKIPPED', 'FAILED', 'CANCELLED')"
_UNSEALED = f"""
SELECT c.no FROM campaigns c
WHERE c.status IN {_OVER} AND c.delete_time IS NULL AND c.name_count >= $1
  AND EXISTS (
      SELECT FROM phases p
      WHERE p.campaign_no = c.no AND p.phase = 1 AND p.status IN ('COMPLETED', 'SKIPPED'))
  AND EXISTS (
      SELECT FROM unnest($2::text[]) AS wanted (kind) WHERE NOT EXISTS (
          SELECT FROM derivations d
          WHERE d.campaign_no = c.no AND d.kind = wanted.kind AND d.finish_time IS NOT NULL
            AND d.source_version = {version_sql("d.kind")})
      AND (wanted.kind <> '{BY_NAME}' OR {_ORDERED_SQL.format("c.no")}))
  AND c.no <> ALL($3::int[])
ORDER BY c.name_count, c.no LIMIT 1"""

_COPY = """
SELECT id, finish_time IS NOT NULL AS finished, name_count, coalesce((
    SELECT s.first_position + s.name_count FROM segments s
    WHERE s.derivation_id = d.id AND s.first_position >= 0
    ORDER BY s.first_position DESC LIMIT 1), 0) AS next
FROM derivations d WHERE campaign_no = $1 AND kind = $2 AND source_version = $3
ORDER BY finished DESC, id DESC LIMIT 1"""
_BEGIN = """
INSERT INTO derivations (campaign_no, kind, source_version, name_count)
SELECT no, $2, $3, coalesce($4::bigint, name_count) FROM campaigns WHERE no = $1
RETURNING id, name_count, 0 AS next"""
_FINISH = f"""
UPDATE derivations d SET finish_time = clock_timestamp() FROM campaigns c
WHERE d.id = $1 AND c.no = d.campaign_no AND d.source_version = {version_sql("d.kind")}"""
_REMOVE_DIRECTORY = "DELETE FROM segments WHERE derivation_id = $1 AND first_position = $2"
_UNFINISH = """
UPDATE derivations SET finish_time = NULL WHERE id = $1 AND finish_time IS NOT NULL"""

_UNTRUE = f"""
SELECT d.id, d.kind, d.campaign_no FROM derivations d JOIN campaigns c ON c.no = d.campaign_no
WHERE d.kind = ANY($1::text[]) AND c.delete_time IS NULL
  AND (NOT $2::boolean OR d.source_version <> {version_sql("d.kind")})"""
# From the end: what is left can still be gone on with.
_REMOVE_SEGMENTS = """
WITH gone AS (
    DELETE FROM segments WHERE derivation_id = $1 AND first_position = ANY(ARRAY(
        SELECT first_position FROM segments WHERE derivation_id = $1
        ORDER BY first_position DESC LIMIT $2))
    RETURNING 1)
SELECT count(*) FROM gone"""
