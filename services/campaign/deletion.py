"""Campaigns that are to go: asked for in one transaction, done in many small ones behind it.

Nobody writes to a campaign that is being deleted: none of its phases runs and no action is allowed
any more. What is left of it is its row in `deletions`, for a day, and the names it has taken.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

import asyncpg

from services.campaign.campaign import (
    Action,
    Campaign,
    Phase,
    Status,
    require_etag,
    require_idle,
    require_open,
)
from services.campaign.events import deletion_started
from services.campaign.ranges import give_back_names
from services.campaign.rows import act, lock_existing, read_campaigns
from services.chassis import jetstream, postgres
from services.chassis.errors import CampaignNotFound, ServiceError
from services.chassis.postgres import Connection, Pool
from services.chassis.requests import RequestKey, once

log = logging.getLogger(__name__)

# Rows deleted in one transaction: some 50 ms, in which nothing else waits for them.
PORTION = 20_000
# Seconds between looks for deletions that were asked for, here or by another campaign service.
PERIOD = 0.5
# Seconds before a deletion that failed for a reason of its own is tried again.
RETRY = 60.0
# Dead rows of a partition that are worth cleaning up before all deletions are done.
WORTH_VACUUM = 100_000
# How long it is known of a deletion that it is over.
KEEP = timedelta(hours=24)
FORGET_PERIOD = 60.0
# Two that delete many campaigns take turns: each may lock several patterns, in any order.
_MANY_LOCK = 7_305_142_001


@dataclass(frozen=True, slots=True)
class Refused:
    """A campaign that is not deleted, and why."""

    campaign_id: UUID
    why: ServiceError


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one campaign in one table, in order of a column by which an index finds them."""

    table: str
    # The columns of the index before that one, and their values here.
    within: Mapping[str, int]
    column: str
    # How many ordinary rows one of these costs.
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Position:
    """How far a deletion is: the first span that is not empty, and the last value deleted in it.

    Not stored. Whoever starts anew finds the first rows again, past the dead ones: that costs time
    but only once.
    """

    span: int = 0
    value: int | str | None = None


@dataclass(frozen=True, slots=True)
class Portion:
    """What one transaction did, and where the next one goes on."""

    position: Position
    # Rows deleted, by partition or table.
    rows: Mapping[str, int]
    # Whether it was the last one: the campaign is not there any more.
    last: bool = False


Answer: TypeAlias = Callable[[Campaign], bytes]
ManyAnswer: TypeAlias = Callable[[list[Campaign], list[Refused]], bytes]


class Deletions:
    """The table of deletions, and what they delete. One public method is one transaction."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(
        self,
        campaign_id: UUID,
        *,
        etag: str,
        force: bool,
        reason: str,
        key: RequestKey | None,
        answer: Answer,
        validate_only: bool = False,
    ) -> bytes:
        """Begin to delete a campaign; with `force` also one that runs, which is cancelled first.

        Raises CampaignNotFound, EtagMismatch, CampaignDeleted, CampaignActive;
        then nothing has changed.
        """

        async def write(connection: Connection) -> bytes:
            campaign = await lock_existing(connection, campaign_id)
            require_etag(campaign, etag)
            _require_deletable(campaign, force)
            (begun,) = await _begin(connection, [campaign], reason)
            return answer(begun)

        return await once(self._pool, key, write, validate_only=validate_only)

    async def begin_many(
        self,
        campaign_ids: Sequence[UUID],
        *,
        force: bool,
        reason: str,
        key: RequestKey | None,
        answer: ManyAnswer,
        validate_only: bool = False,
    ) -> bytes:
        """Begin to delete those of the campaigns that can be; the others are refused, one by one.

        Both in the order given.
        """

        async def write(connection: Connection) -> bytes:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MANY_LOCK)
            found = await _lock_many(connection, campaign_ids)
            accepted: list[Campaign] = []
            refused: list[Refused] = []
            for campaign_id in campaign_ids:
                try:
                    campaign = found.get(campaign_id)
                    if campaign is None:
                        raise CampaignNotFound(campaign_id)
                    _require_deletable(campaign, force)
                    accepted.append(campaign)
                except ServiceError as why:
                    refused.append(Refused(campaign_id, why))
            return answer(await _begin(connection, accepted, reason), refused)

        return await once(self._pool, key, write, validate_only=validate_only)

    async def pending(self, limit: int) -> list[int]:
        """Return the campaigns that are being deleted, as numbers, those first that were asked for
        first."""
        rows = await self._pool.fetch(
            """SELECT campaign_no FROM deletions WHERE finish_time IS NULL
               ORDER BY request_time, campaign_no LIMIT $1""",
            limit,
        )
        return [row[0] for row in rows]

    async def delete_portion(self, campaign_no: int, position: Position, limit: int) -> Portion:
        """Delete up to `limit` rows of a campaign that is being deleted, the campaign itself last.

        Somebody else who is at it does no harm, and gets his turn.
        """
        rows: Counter[str] = Counter()
        async with self._pool.acquire() as connection, connection.transaction():
            if not await _hold(connection, campaign_no):
                return Portion(position, rows)
            spans = await _spans(connection, campaign_no)
            left = limit
            while position.span < len(spans) and left > 0:
                span = spans[position.span]
                before = rows.total()
                at_most = max(1, left // span.weight)
                last = await _delete_range(connection, campaign_no, span, position, at_most, rows)
                left -= (rows.total() - before) * span.weight
                if last is None:
                    position = Position(position.span + 1)
                else:
                    position = replace(position, value=last)
            await connection.execute(
                """UPDATE deletions SET deleted_count = deleted_count + $2,
                       row_count = greatest(row_count, deleted_count + $2)
                   WHERE campaign_no = $1""",
                campaign_no,
                rows.total(),
            )
            if position.span < len(spans):
                return Portion(position, rows)
            await _remove(connection, campaign_no)
            return Portion(position, rows, last=True)

    async def vacuum(self, tables: Sequence[str]) -> None:
        """Free the space of deleted rows for new ones. Skips a table that somebody has locked."""
        for table in tables:
            # One connection each: a pool takes one that is out for long for forgotten.
            async with self._pool.acquire() as connection:
                # As long as it takes: nobody waits for it.
                await connection.execute("SET statement_timeout = 0")
                try:
                    await connection.execute(f"VACUUM (SKIP_LOCKED, ANALYZE) {table}")
                finally:
                    if not connection.is_closed():
                        await connection.execute("RESET statement_timeout")

    async def delete_progress(self, limit: int) -> int:
        """Delete what is kept of chunks whose run is over, at most as much as `limit` ordinary rows
        cost: nobody takes it up again. That of campaigns that are being deleted goes with them.
        Returns how many rows that were; 0: no more are there."""
        status: str = await self._pool.execute(
            """DELETE FROM parked_chunks WHERE ctid = ANY(ARRAY(
                   SELECT c.ctid FROM parked_chunks c JOIN phases p USING (campaign_no, phase)
                   JOIN campaigns k ON k.no = campaign_no
                   WHERE (c.run < p.run OR p.status IN ('COMPLETED', 'SKIPPED', 'CANCELLED'))
                       AND k.delete_time IS NULL
                   LIMIT $1 FOR UPDATE OF c SKIP LOCKED))""",
            max(1, limit // _PROGRESS_WEIGHT),
        )
        return int(status.split()[-1])

    async def forget(self, age: timedelta) -> None:
        """Drop what is known of deletions that have been over for `age`."""
        await self._pool.execute(
            "DELETE FROM deletions WHERE finish_time < now() - $1::interval", age
        )


@dataclass(slots=True)
class _Work:
    """Deletions that this process is at."""

    positions: dict[int, Position] = field(default_factory=dict)
    # Campaigns whose deletion failed, and when to try again.
    failed: dict[int, float] = field(default_factory=dict)
    # Rows deleted since the last vacuum, by partition or table.
    dirty: Counter[str] = field(default_factory=Counter)


class Eraser:
    """Does what was asked for, a portion of each campaign in turn. One per campaign service."""

    def __init__(
        self,
        deletions: Deletions,
        *,
        on_finished: Callable[[], None] = lambda: None,
        portion: int = PORTION,
    ) -> None:
        self._deletions = deletions
        self._on_finished = on_finished
        self._portion = portion

    async def erase(self) -> None:
        """Run until cancelled."""
        work = _Work()
        forgot = float("-inf")
        while True:
            jetstream.raise_if_cancelled()
            try:
                if time.monotonic() - forgot > FORGET_PERIOD:
                    await self._deletions.forget(KEEP)
                    await self._delete_progress(work)
                    forgot = time.monotonic()
                while await self._round(work):
                    pass
                await self._vacuum(work, at_least=1)
            except postgres.AWAY as error:
                log.warning("deleting waits: %s: %s", type(error).__name__, error)
            await asyncio.sleep(PERIOD)

    async def _round(self, work: _Work) -> bool:
        """A portion of every campaign; False when nothing was to be done."""
        now = time.monotonic()
        work.failed = {no: due for no, due in work.failed.items() if due > now}
        pending = [no for no in await self._deletions.pending(100) if no not in work.failed]
        work.positions = {no: work.positions.get(no, Position()) for no in pending}
        moved = False
        for no in pending:
            # The driver loses a cancellation that comes together with an answer.
            jetstream.raise_if_cancelled()
            began = time.monotonic()
            try:
                portion = await self._deletions.delete_portion(
                    no, work.positions[no], self._portion
                )
            except asyncpg.QueryCanceledError:
                log.warning("deleting the campaign with the number %d takes too long", no)
                work.failed[no] = time.monotonic() + RETRY
                continue
            except postgres.AWAY:
                raise
            except Exception:
                # Of this campaign alone: the others go on.
                log.exception("deleting the campaign with the number %d", no)
                work.failed[no] = time.monotonic() + RETRY
                continue
            took = time.monotonic() - began
            moved = moved or portion.last or bool(portion.rows)
            work.positions[no] = portion.position
            work.dirty.update(portion.rows)
            if portion.last:
                self._on_finished()
                await self._vacuum(work, at_least=WORTH_VACUUM)
            # Half of the time belongs to everybody else.
            await asyncio.sleep(took)
        return moved

    async def _delete_progress(self, work: _Work) -> None:
        """What is kept of chunks whose run is over, a portion at a time."""
        while True:
            jetstream.raise_if_cancelled()
            began = time.monotonic()
            deleted = await self._deletions.delete_progress(self._portion)
            if not deleted:
                return
            work.dirty["parked_chunks"] += deleted
            # Half of the time belongs to everybody else.
            await asyncio.sleep(time.monotonic() - began)

    async def _vacuum(self, work: _Work, *, at_least: int) -> None:
        tables = [table for table, rows in work.dirty.items() if rows >= at_least]
        if not tables:
            return
        try:
            await self._deletions.vacuum(tables)
        except postgres.AWAY:
            raise
        except Exception:
            # The server's own daemon comes to it in time.
            log.exception("vacuum after a deletion")
        for table in tables:
            del work.dirty[table]


def _require_deletable(campaign: Campaign, force: bool) -> None:
    # From the archive too: put away first, deleted later is the usual way.
    require_open(replace(campaign, archive_time=None))
    if not force:
        require_idle(campaign)


async def _lock_many(connection: Connection, campaign_ids: Sequence[UUID]) -> dict[UUID, Campaign]:
    """Lock the phases of those campaigns that exist, in one order for everybody, and read them."""
    await connection.execute(
        """SELECT take_turn(no) FROM (
               SELECT no FROM campaigns WHERE id = ANY($1) ORDER BY no) AS wanted""",
        campaign_ids,
    )
    rows = await connection.fetch(
        """SELECT p.campaign_no FROM phases p JOIN campaigns k ON k.no = p.campaign_no
           WHERE k.id = ANY($1) ORDER BY p.campaign_no, p.phase FOR UPDATE OF p""",
        campaign_ids,
    )
    numbers = list({row[0] for row in rows})
    return {each.id: each for each in await read_campaigns(connection, "no = ANY($1)", numbers)}


async def _begin(
    connection: Connection, campaigns: Sequence[Campaign], reason: str
) -> list[Campaign]:
    """Begin to delete locked campaigns. Returns them as they then are, in the same order."""
    for campaign in campaigns:
        if campaign.active is not None:
            await act(connection, campaign, Action.CANCEL, actor="caller", reason=reason)
        elif campaign.current.status is Status.FAILED:
            # What a failed generation has not made, it will not make any more.
            await give_back_names(connection, campaign.id, campaign.name_count)
    numbers = [campaign.no for campaign in campaigns]
    await connection.execute(
        """UPDATE campaigns SET delete_time = now(), update_time = now(), version = version + 1
           WHERE no = ANY($1)""",
        numbers,
    )
    # Rows are not counted, but the ledger knows how many there should be: a page for each result of
    # HTTP that is OK; not of keywords. Segments of a copy are of one size: a copy for pages has one
    # for every eight names.
    await connection.execute(
        """INSERT INTO deletions (campaign_no, campaign_id, row_count)
           SELECT k.no, k.id, k.name_count + k.revision + coalesce(c.chunks, 0)
               + coalesce(c.results, 0)
               + (SELECT count(*) FROM tld_totals WHERE campaign_no = k.no)
               + (SELECT count(*) FROM name_orders WHERE campaign_no = k.no)
               + (SELECT coalesce(sum(last.first_position / first.name_count + 1), 0)
                  FROM derivations d,
                      LATERAL (SELECT name_count FROM segments WHERE derivation_id = d.id
                          ORDER BY first_position LIMIT 1) first,
                      LATERAL (SELECT first_position FROM segments WHERE derivation_id = d.id
                          ORDER BY first_position DESC LIMIT 1) last
                  WHERE d.campaign_no = k.no)
               + CASE WHEN u.finished IS FALSE THEN u.accepted_count ELSE 0 END
           FROM campaigns k
           LEFT JOIN (
               SELECT campaign_no, count(*) AS chunks,
                   sum(name_count) FILTER (WHERE state = 'done' AND phase >= $2)
                       + coalesce(sum(outcome_counts[1]) FILTER (WHERE phase = $3), 0) AS results
               FROM chunks WHERE campaign_no = ANY($1) GROUP BY campaign_no) c
               ON c.campaign_no = k.no
           LEFT JOIN uploads u ON u.campaign_no = k.no
           WHERE k.no = ANY($1)""",
        numbers,
        Phase.DNS_VALIDATION,
        Phase.HTTP_VALIDATION,
    )
    await connection.execute(
        "SELECT append_event(no, $2) FROM unnest($1::int[]) AS no",
        numbers,
        deletion_started("caller", reason).SerializeToString(),
    )
    begun = await read_campaigns(connection, "no = ANY($1)", numbers)
    by_number = {campaign.no: campaign for campaign in begun}
    return [by_number[no] for no in numbers]


async def _hold(connection: Connection, campaign_no: int) -> bool:
    """Whether the deletion is to be done, and by us until the transaction ends."""
    found = await connection.fetchval(
        """SELECT 1 FROM deletions WHERE campaign_no = $1 AND finish_time IS NULL
           FOR UPDATE SKIP LOCKED""",
        campaign_no,
    )
    return found is not None


async def _spans(connection: Connection, campaign_no: int) -> list[Span]:
    """Where rows of the campaign may stand. Its history goes last: watchers may still read it."""
    runs = await connection.fetch(
        "SELECT phase, generate_series(1, run) FROM phases WHERE campaign_no = $1 ORDER BY 1, 2",
        campaign_no,
    )
    campaign = {"campaign_no": campaign_no}
    spans = [
        Span(table, {**campaign, "run": run}, "position")
        for phase, run in runs
        for table in _RESULTS.get(phase, ())
    ]
    spans.append(Span("domains", campaign, "position"))
    for phase, run in runs:
        of_run = {**campaign, "phase": phase, "run": run}
        spans.append(Span("chunks", of_run, "first_position"))
        spans.append(Span("parked_chunks", of_run, "first_position", weight=_PROGRESS_WEIGHT))
        spans.append(Span("dead_letters", of_run, "position"))
        spans.append(Span("tld_totals", of_run, "tld"))
    spans += [Span("upload_names", campaign, "name"), Span("name_orders", campaign, "block")]
    # The query service's maintainer may remove one of these, or add one, between two portions: what
    # is then missed goes at the end.
    spans += [
        Span("segments", {"derivation_id": row[0]}, "first_position", weight=_weight(row[1]))
        for row in await connection.fetch(
            "SELECT id, kind FROM derivations WHERE campaign_no = $1 ORDER BY id", campaign_no
        )
    ]
    return [*spans, Span("events", campaign, "revision")]


# Tables of results by phase; each has an index by campaign, run and position.
_RESULTS: Mapping[int, Sequence[str]] = {
    Phase.DNS_VALIDATION: ("dns_results",),
    Phase.HTTP_VALIDATION: ("http_results", "pages"),
    Phase.CONTENT_ANALYSIS: ("page_analyses", "keyword_hits"),
    Phase.LEAD_EXTRACTION: ("leads",),
}


# Of what is kept of a chunk: up to megabytes, stored in pieces of 2 KB.
_PROGRESS_WEIGHT = 200


def _weight(kind: str) -> int:
    """Of a segment. For streams it is up to 1 MB, stored in pieces of 2 KB; for pages a row."""
    return 1 if kind.startswith("pages") else 200


async def _delete_range(
    connection: Connection,
    campaign_no: int,
    span: Span,
    position: Position,
    limit: int,
    rows: Counter[str],
) -> int | str | None:
    """Delete the next `limit` rows of the span, and count them; more, where several have the last
    value. Returns that value; none when no more are there."""
    arguments: list[object] = list(span.within.values())
    where = " AND ".join(f"{column} = ${n}" for n, column in enumerate(span.within, 1))
    if position.value is not None:
        arguments.append(position.value)
        where += f" AND {span.column} > ${len(arguments)}"
    last: int | str | None = await connection.fetchval(
        f"""SELECT {span.column} FROM {span.table} WHERE {where}
            ORDER BY {span.column} OFFSET ${len(arguments) + 1} LIMIT 1""",
        *arguments,
        limit - 1,
    )
    if last is not None:
        arguments.append(last)
        where += f" AND {span.column} <= ${len(arguments)}"
    deleted = await connection.fetchrow(
        f"""WITH gone AS (DELETE FROM {span.table} WHERE {where} RETURNING tableoid)
            SELECT count(*), min(tableoid)::regclass::text FROM gone""",
        *arguments,
    )
    assert deleted is not None
    if deleted[0]:
        rows[deleted[1]] += deleted[0]
    if span.table == "events" and isinstance(last, int):
        # Readers of the history learn that its begin is missing, instead of missing it.
        await connection.execute(
            "UPDATE campaigns SET forgotten_revision = $2 WHERE no = $1", campaign_no, last
        )
    return last


# Small tables in which a row could have come late.
_LATE = ("chunks", "parked_chunks", "dead_letters", "upload_names")
# Tables that are derived from others, by triggers or by the query service's maintainer; and what
# workers note of how they score, while they hold the campaign's row.
_DERIVED = (
    *("ledger_totals", "tld_totals", "name_orders", "derivations", "counter_checks"),
    "scorings",
)


async def _remove(connection: Connection, campaign_no: int) -> None:
    """Remove the campaign itself, and say that its deletion is over."""
    # In the order in which everybody takes locks, so not by the campaign's cascade.
    for table in ("phases", "uploads", "upload_rejections", *_LATE):
        await connection.execute(f"DELETE FROM {table} WHERE campaign_no = $1", campaign_no)
    # The query service's maintainer holds this row until what it has added is committed. Whoever
    # waits for us finds no campaign, and adds nothing.
    await connection.execute("SELECT FROM campaigns WHERE no = $1 FOR UPDATE", campaign_no)
    # One by one: joined, where there are few copies, the segments of all campaigns would be read.
    for copy in await connection.fetch(
        "SELECT id FROM derivations WHERE campaign_no = $1", campaign_no
    ):
        await connection.execute("DELETE FROM segments WHERE derivation_id = $1", copy[0])
    for table in _DERIVED:
        await connection.execute(f"DELETE FROM {table} WHERE campaign_no = $1", campaign_no)
    await connection.execute("DELETE FROM campaigns WHERE no = $1", campaign_no)
    # Nobody can append one any more.
    await connection.execute("DELETE FROM events WHERE campaign_no = $1", campaign_no)
    await connection.execute(
        """UPDATE deletions SET finish_time = now(), row_count = deleted_count
           WHERE campaign_no = $1""",
        campaign_no,
    )
