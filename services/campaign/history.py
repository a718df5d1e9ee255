"""What was recorded: events of campaigns and of the suite, and what progress is measured by.

One public method is one transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.campaign.leases import LONGEST_DELAY
from services.campaign.rows import MAX_OUTCOMES
from services.chassis.postgres import Pool

# Stands for the suite's own history where a campaign's number is asked for; no campaign has it.
SYSTEM = 0


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One row of a campaign's history, or of the suite's own (`campaign_no` is SYSTEM)."""

    campaign_no: int
    revision: int
    create_time: datetime
    body: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a campaign is: enough to begin watching it. `phase` is the current one."""

    no: int
    id: UUID
    revision: int
    forgotten_revision: int
    phase: int
    status: str
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """What the ledger says is done of one phase, at exactly `revision`.

    `outcomes[i]` counts outcome number i + 1; `repeat_count` the attempts at settled chunks beyond
    the first.
    """

    campaign_no: int
    revision: int
    phase: int
    run: int
    status: str
    name_count: int
    # False: no number of names was announced yet, `name_count` are those that are stored.
    is_total_known: bool
    outcomes: Sequence[int]
    settled_count: int
    repeat_count: int
    # Names that were given up and not handed out again.
    dead_letter_count: int
    # domainflow.campaign.v1.CampaignConfiguration, as bytes.
    configuration: bytes


@dataclass(frozen=True, slots=True)
class OpenWork:
    """What is not done of a running phase. Times in seconds, never negative."""

    campaign_no: int
    phase: int
    run: int
    # As in `Settled`.
    name_count: int
    is_total_known: bool
    chunks_in_flight: int
    delayed_chunk_count: int
    # Until the last of the delayed chunks is ready, as the database's clock has it, and at most
    # what they can be delayed.
    longest_delay: float
    # Attempts at open chunks beyond the first.
    repeat_count: int
    # The chunk that has been claimed for longest; none when its first position is null.
    oldest_first_position: int | None
    oldest_attempt: int | None
    oldest_worker: str | None
    oldest_age: float


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker last said of itself. `is_recent`: within a minute by the database's clock."""

    worker_id: str
    pool: str
    report_time: datetime
    is_recent: bool
    # domainflow.validation.v1.WorkerLoad, as bytes.
    load: bytes


@dataclass(frozen=True, slots=True)
class DeletionRow:
    """How far a deletion is."""

    campaign_no: int
    campaign_id: UUID
    row_count: int
    deleted_count: int
    is_finished: bool


class History:
    """Events and measurements, for those who watch."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def events(self, campaign_no: int, after: int, limit: int) -> list[StoredEvent]:
        """Return events in order of revision, from the first that is kept above `after`."""
        if campaign_no == SYSTEM:
            rows = await self._pool.fetch(
                """SELECT 0, revision, create_time, body FROM system_events
                   WHERE revision > $1 ORDER BY revision LIMIT $2""",
                after,
                limit,
            )
        else:
            rows = await self._pool.fetch(
                """SELECT campaign_no, revision, create_time, body FROM events
                   WHERE campaign_no = $1 AND revision > $2 ORDER BY revision LIMIT $3""",
                campaign_no,
                after,
                limit,
            )
        return [StoredEvent(*row) for row in rows]

    async def news(self, positions: Mapping[int, int], limit: int) -> list[StoredEvent]:
        """Return the events of many campaigns after a revision of each, up to `limit` of each, in
        order; all of one moment."""
        rows = await self._pool.fetch(
            # Lateral: a probe of the primary key per campaign, whatever the planner knows.
            """SELECT e.campaign_no, e.revision, e.create_time, e.body
               FROM unnest($1::int[], $2::bigint[]) AS w (campaign_no, after)
               CROSS JOIN LATERAL (
                   SELECT campaign_no, revision, create_time, body FROM events e
                   WHERE e.campaign_no = w.campaign_no AND e.revision > w.after
                   ORDER BY e.revision LIMIT $3) e
               ORDER BY e.campaign_no, e.revision""",
            list(positions),
            list(positions.values()),
            limit,
        )
        return [StoredEvent(*row) for row in rows]

    async def revisions(
        self, numbers: Sequence[int] | None, above: int | None = None
    ) -> dict[int, int]:
        """Return the newest revision of these campaigns, or of all; also of those whose number is
        greater than `above`."""
        if numbers is None:
            rows = await self._pool.fetch("SELECT no, revision FROM campaigns")
        else:
            rows = await self._pool.fetch(
                "SELECT no, revision FROM campaigns WHERE no = ANY($1) OR no > $2", numbers, above
            )
        return {row[0]: row[1] for row in rows}

    async def standings(self, campaign_ids: Sequence[UUID] | None) -> list[Standing]:
        """Return those of these campaigns that exist, or all, oldest first."""
        if campaign_ids is None:
            rows = await self._pool.fetch(f"{_STANDINGS} ORDER BY no")
        else:
            rows = await self._pool.fetch(
                f"{_STANDINGS} WHERE id = ANY($1) ORDER BY no", campaign_ids
            )
        return [Standing(*row) for row in rows]

    async def standings_by_number(self, numbers: Sequence[int]) -> list[Standing]:
        """Return those of these campaigns that exist."""
        rows = await self._pool.fetch(f"{_STANDINGS} WHERE no = ANY($1)", numbers)
        return [Standing(*row) for row in rows]

    async def system_position(self) -> tuple[int, int]:
        """Return the newest revision of the suite's own history, and the newest one not kept."""
        row = await self._pool.fetchrow("SELECT revision, forgotten_revision FROM system_revision")
        assert row is not None
        return row[0], row[1]

    async def settled(self, phases: Sequence[tuple[int, int]]) -> list[Settled]:
        """Sum what is done of these phases, each given as campaign number and phase.

        One statement, so one moment: the sums contain exactly the events up to `revision`.
        """
        sums = ", ".join(f"sum(outcome_counts[{i}]) AS n{i}" for i in range(1, MAX_OUTCOMES + 1))
        counts = ", ".join(f"coalesce(n{i}, 0)::bigint" for i in range(1, MAX_OUTCOMES + 1))
        rows = await self._pool.fetch(
            f"""SELECT k.no, k.revision, p.phase, p.run, p.status, {_NAME_COUNT},
                   p.name_count > 0, ARRAY[{counts}], coalesce(settled, 0)::bigint,
                   coalesce(repeated, 0)::bigint,
                   (SELECT count(*) FROM dead_letters d
                    WHERE d.campaign_no = p.campaign_no AND d.phase = p.phase AND d.run = p.run
                      AND d.state <> 'REDRIVEN'),
                   k.configuration
               FROM unnest($1::int[], $2::smallint[]) AS g (campaign_no, phase)
               JOIN campaigns k ON k.no = g.campaign_no
               JOIN phases p ON p.campaign_no = g.campaign_no AND p.phase = g.phase
               CROSS JOIN LATERAL (
                   SELECT {sums}, sum(c.name_count) AS settled,
                       sum(greatest(c.attempt - 1 - c.park_count, 0)) AS repeated
                   FROM chunks c
                   WHERE c.campaign_no = p.campaign_no AND c.phase = p.phase AND c.run = p.run
                     AND c.state = 'done') t""",
            [campaign_no for campaign_no, _ in phases],
            [phase for _, phase in phases],
        )
        return [Settled(*row) for row in rows]

    async def open_work(self, runs: Sequence[tuple[int, int, int]]) -> list[OpenWork]:
        """Look at what is open of these runs, each given as campaign number, phase and run."""
        rows = await self._pool.fetch(
            f"""SELECT p.campaign_no, p.phase, p.run, {_NAME_COUNT}, p.name_count > 0, queued,
                   delayed,
                   greatest(delay_left, 0),
                   coalesce(repeated, 0)::bigint, o.first_position, o.attempt, o.worker,
                   greatest(coalesce(extract(epoch FROM clock_timestamp() - claimed_first), 0), 0)
                       ::float
               FROM unnest($1::int[], $2::smallint[], $3::int[]) AS g (campaign_no, phase, run)
               JOIN campaigns k ON k.no = g.campaign_no
               JOIN phases p ON p.campaign_no = g.campaign_no AND p.phase = g.phase
                   AND p.run = g.run
               CROSS JOIN LATERAL (
                   SELECT count(*) FILTER (WHERE state = 'queued') AS queued,
                       count(*) FILTER (WHERE state = 'ready' AND ready_time IS NOT NULL)
                           AS delayed,
                       max(least(extract(epoch FROM ready_time - clock_timestamp())::float8,
                           greatest(extract(epoch FROM put_off)::float8, $4)))
                           FILTER (WHERE state = 'ready' AND ready_time IS NOT NULL)
                           AS delay_left,
                       sum(greatest(attempt - 1 - park_count, 0)) AS repeated,
                       min(claim_time) AS claimed_first,
                       (array_agg(worker {_BY_CLAIM})[1] AS worker,
                       (array_agg(first_position {_BY_CLAIM})[1] AS first_position,
                       (array_agg(attempt {_BY_CLAIM})[1] AS attempt
                   FROM chunks c
                   WHERE c.campaign_no = g.campaign_no AND c.phase = g.phase AND c.run = g.run
                     AND c.state <> 'done') o""",
            *zip(*runs, strict=True),
            LONGEST_DELAY,
        )
        return [OpenWork(*row) for row in rows]

    async def worker_reports(self) -> list[WorkerReport]:
        """Return what the workers said last, also those that have said nothing for long."""
        rows = await self._pool.fetch(
            """SELECT worker_id, pool, report_time,
                   report_time > clock_timestamp() - interval '1 minute', load
               FROM workers"""
        )
        return [WorkerReport(*row) for row in rows]

    async def deletions(self, numbers: Iterable[int]) -> list[DeletionRow]:
        """Return how far the deletions of these campaigns are."""
        rows = await self._pool.fetch(f"{_DELETIONS} WHERE campaign_no = ANY($1)", list(numbers))
        return [DeletionRow(*row) for row in rows]

    async def deletions_of(self, campaign_ids: Iterable[UUID]) -> list[DeletionRow]:
        """As `deletions`, by the ids that the campaigns had."""
        rows = await self._pool.fetch(
            f"{_DELETIONS} WHERE campaign_id = ANY($1)", list(campaign_ids)
        )
        return [DeletionRow(*row) for row in rows]

    async def forget_events(self, age: timedelta, limit: int) -> int:
        """Drop up to `limit` of the oldest events of one campaign that is over and to which
        nothing has happened for `age`; returns how many.

        Always the whole beginning of its history, never a part from its middle.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                # The newest event is looked up for campaigns that are over and not yet forgotten.
                """SELECT k.no, least(k.revision, k.forgotten_revision + $2::int)
                   FROM campaigns k
                   WHERE k.status IN ('COMPLETED', 'SKIPPED', 'FAILED', 'CANCELLED')
                     AND k.forgotten_revision < k.revision
                     AND (SELECT create_time FROM events e WHERE e.campaign_no = k.no
                          ORDER BY revision DESC LIMIT 1) < now() - $1::interval
                   ORDER BY k.no LIMIT 1 FOR UPDATE OF k SKIP LOCKED""",
                age,
                limit,
            )
            if row is None:
                return 0
            no, forgotten = row
            await connection.execute(
                "UPDATE campaigns SET forgotten_revision = $2 WHERE no = $1", no, forgotten
            )
            status = await connection.execute(
                "DELETE FROM events WHERE campaign_no = $1 AND revision <= $2", no, forgotten
            )
            return _count(status)

    async def forget_system_events(self, age: timedelta, limit: int) -> int:
        """Drop up to `limit` of the suite's oldest events, as far as all are older than `age`;
        returns how many."""
        async with self._pool.acquire() as connection, connection.transaction():
            forgotten = await connection.fetchval(
                """UPDATE system_revision s SET forgotten_revision = old.revision
                   FROM (SELECT max(e.revision) AS revision FROM (
                             SELECT revision, create_time, max(create_time)
                                 OVER (ORDER BY revision) AS newest
                             FROM system_events ORDER BY revision LIMIT $2) e
                         WHERE newest < now() - $1::interval) old
                   WHERE old.revision > s.forgotten_revision RETURNING s.forgotten_revision""",
                age,
                limit,
            )
            if forgotten is None:
                return 0
            status = await connection.execute(
                "DELETE FROM system_events WHERE revision <= $1", forgotten
            )
            return _count(status)


_STANDINGS = """SELECT no, id, revision, forgotten_revision, current_phase, status,
        delete_time IS NOT NULL FROM campaigns"""

_DELETIONS = """SELECT campaign_no, campaign_id, row_count, deleted_count,
        finish_time IS NOT NULL FROM deletions"""

# How many names an open upload will have is not known: at least those that are stored.
_NAME_COUNT = """greatest(p.name_count, CASE WHEN p.phase = 1 THEN k.name_count ELSE 0 END)"""

_BY_CLAIM = "ORDER BY claim_time, first_position) FILTER (WHERE claim_time IS NOT NULL)"


def _count(status: str) -> int:
    return int(status.split()[-1])
