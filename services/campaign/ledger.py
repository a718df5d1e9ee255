"""The ledger as the dispatcher sees it: planning, handing out, taking back, completing.

One public method is one transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from domainflow.campaign.v1 import event_pb2
from services.campaign.campaign import Action, Phase, Status
from services.campaign.candidates import MOST_CANDIDATES, SOURCES, Cut, cut, read_source
from services.campaign.events import chunk_retried
from services.campaign.leases import LONGEST_DELAY, Sighting
from services.campaign.rows import (
    RUNNING_PHASES,
    RunningPhase,
    act,
    append_event,
    lock_campaign,
    share_phase,
    take_phase,
    to_running_phase,
)
from services.campaign.share import is_small
from services.chassis.jetstream import task_subject
from services.chassis.postgres import Connection, Pool

# Chunks planned in one transaction, at most.
PLAN_SLICE = 50_000
# Nobody may wait longer than this for the locks of a plan, ms: the next round comes to it again.
PLAN_LOCK_TIMEOUT = 500
# Phases whose chunks go to a pool of workers.
POOLS = {
    Phase.DNS_VALIDATION: "dns",
    Phase.HTTP_VALIDATION: "http",
    Phase.CONTENT_ANALYSIS: "analysis",
    Phase.LEAD_EXTRACTION: "analysis",
}


@dataclass(frozen=True, slots=True)
class ChunkKey:
    """Identifies a chunk of the ledger."""

    campaign_no: int
    phase: int
    run: int
    first_position: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A chunk that could be handed out now, and the names that are to be asked about."""

    key: ChunkKey
    name_count: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is left to be planned of a running phase."""

    # The position from which on nothing is planned.
    position: int
    # Names of the last chunk; 0 before the first.
    chunk_size: int
    # Names the run has to settle, and how many of them are in no chunk yet.
    name_count: int
    names_left: int


@dataclass(frozen=True, slots=True)
class Work:
    """What one round has to know of a running phase. Names are counted; of a chunk that was set
    aside those that were not finished."""

    running: RunningPhase
    # HIGH, NORMAL or LOW.
    priority: str
    # Names per second; 0: no limit.
    name_rate_limit: int
    # Of its chunks: handed out, and of these not claimed.
    in_flight: int
    unclaimed: int
    # Whether a chunk could be handed out now, and whether any is not settled.
    has_offer: bool
    has_open: bool
    # With a rate limit: names that have left the ready part of the ledger so far. They are settled,
    # handed out, or finished in a chunk that was set aside.
    out: int


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker process last said. `mark` changes with every report."""

    worker_id: str
    pool: str
    mark: object
    # domainflow.validation.v1.WorkerLoad, as bytes.
    load: bytes


class Ledger:
    """Running phases and their chunks."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def running_phases(self) -> list[RunningPhase]:
        """Return every phase that runs, oldest campaign first."""
        rows = await self._pool.fetch(
            f"{RUNNING_PHASES} WHERE p.status = 'RUNNING' ORDER BY p.campaign_no"
        )
        return [to_running_phase(row) for row in rows]

    async def survey(self) -> list[Work]:
        """Return every phase that runs and how it stands, oldest campaign first.

        One statement however many there are; of the chunks it reads those that are handed out.
        """
        rows = await self._pool.fetch(
            f"""WITH queued AS MATERIALIZED (
                    SELECT campaign_no, phase, run, sum(name_count) AS all_names,
                        sum({_OPEN_NAMES}) AS names,
                        coalesce(sum({_OPEN_NAMES}) FILTER (WHERE claim_time IS NULL), 0)
                            AS unclaimed
                    FROM chunks WHERE state = 'queued' GROUP BY campaign_no, phase, run)
                SELECT r.*, p.priority, p.name_rate_limit,
                    coalesce(q.names, 0) AS in_flight, coalesce(q.unclaimed, 0) AS unclaimed,
                    EXISTS (SELECT FROM chunks c WHERE c.campaign_no = r.no AND c.phase = r.phase
                        AND c.run = r.run AND c.state = 'ready' AND c.ready_time IS NULL)
                        AS has_offer,
                    q.names IS NOT NULL
                        OR EXISTS (SELECT FROM chunks c WHERE c.campaign_no = r.no
                            AND c.phase = r.phase AND c.run = r.run AND c.state = 'ready')
                        AS has_open,
                    coalesce(t.settled_count, 0) + coalesce(q.all_names, 0)
                        + CASE WHEN p.name_rate_limit > 0 THEN (
                            SELECT coalesce(sum(name_count - {_OPEN_NAMES}), 0) FROM chunks c
                            WHERE c.campaign_no = r.no AND c.phase = r.phase AND c.run = r.run
                              AND c.state = 'ready') ELSE 0 END AS out
                FROM ({RUNNING_PHASES} WHERE p.status = 'RUNNING') r
                JOIN campaigns p ON p.no = r.no
                LEFT JOIN queued q
                    ON q.campaign_no = r.no AND q.phase = r.phase AND q.run = r.run
                LEFT JOIN ledger_totals t
                    ON t.campaign_no = r.no AND t.phase = r.phase AND t.run = r.run
                ORDER BY r.no"""
        )
        return [
            Work(
                running=to_running_phase(row),
                priority=row["priority"],
                name_rate_limit=row["name_rate_limit"],
                in_flight=int(row["in_flight"]),
                unclaimed=int(row["unclaimed"]),
                has_offer=row["has_offer"],
                has_open=row["has_open"],
                out=int(row["out"]),
            )
            for row in rows
        ]

    async def plan(
        self,
        running: RunningPhase,
        name_count: int,
        chunk_size: int,
        chunk_count: int = PLAN_SLICE,
        decided: event_pb2.Event | None = None,
    ) -> list[Offer]:
        """Write the next chunks of a run over positions 0 to name_count - 1, and return them.

        They begin where the ledger ends. With the last one the phase is planned. `decided` is told
        with them. None are written, and nothing is told, when the phase is planned or does not run,
        or when somebody else is at it.
        """
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {PLAN_LOCK_TIMEOUT}")
                first, _ = await _last_chunk(connection, running)
                past = min(first + chunk_size * min(chunk_count, PLAN_SLICE), name_count)
                # Settlements share the phase; only who goes on to change it keeps them waiting.
                changes = first == 0 or past == name_count
                lock = take_phase if changes else share_phase
                if not await lock(connection, running):
                    return []
                offers = await _insert_chunks(connection, running, first, past, chunk_size)
                if changes:
                    await connection.execute(
                        """UPDATE phases SET planned = $4, name_count = $5
                           WHERE campaign_no = $1 AND phase = $2 AND run = $3""",
                        *_run(running),
                        past == name_count,
                        name_count,
                    )
                if offers and decided is not None:
                    await append_event(connection, running.campaign_no, decided)
                return offers
        except (asyncpg.UniqueViolationError, asyncpg.LockNotAvailableError):
            return []

    async def plan_candidates(
        self,
        running: RunningPhase,
        chunk_size: int,
        chunk_count: int,
        decided: event_pb2.Event | None = None,
    ) -> list[Offer]:
        """As `plan`, for a phase that works on what an earlier one found.

        Its names are known from the first plan on, and so is the run they come from. Without a
        single one it is planned at once.
        """
        chunk_count = min(chunk_count, max(MOST_CANDIDATES // chunk_size, 1))
        try:
            async with self._pool.acquire() as connection:
                # Looked for before anything is locked: what the phase rests on stands still.
                first, _ = await _last_chunk(connection, running)
                source = await read_source(connection, running)
                cuts, last = await cut(
                    connection, running, source.run, first, chunk_size, chunk_count
                )
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL lock_timeout = {PLAN_LOCK_TIMEOUT}")
                    changes = first == 0 or last
                    if not await (take_phase if changes else share_phase)(connection, running):
                        return []
                    offers = await _insert_cuts(connection, running, cuts)
                    if changes:
                        await connection.execute(
                            """UPDATE phases p SET planned = $4, source_run = $5,
                                   name_count = CASE WHEN $4 THEN (
                                       SELECT coalesce(sum(c.name_count), 0) FROM chunks c
                                       WHERE c.campaign_no = $1 AND c.phase = $2 AND c.run = $3)
                                   ELSE $6 END
                               WHERE campaign_no = $1 AND phase = $2 AND run = $3""",
                            *_run(running),
                            last,
                            source.run,
                            source.name_count,
                        )
                    if offers and decided is not None:
                        await append_event(connection, running.campaign_no, decided)
                    return offers
        except (asyncpg.UniqueViolationError, asyncpg.LockNotAvailableError):
            return []

    async def outlook(self, running: RunningPhase) -> Outlook:
        """Return how far a run is planned."""
        async with self._pool.acquire() as connection:
            position, size = await _last_chunk(connection, running)
            if running.phase not in SOURCES:
                count = running.campaign_name_count
                return Outlook(position, size, count, count - position)
            source = await read_source(connection, running)
            planned = await connection.fetchval(
                """SELECT coalesce(sum(name_count), 0) FROM chunks
                   WHERE campaign_no = $1 AND phase = $2 AND run = $3""",
                *_run(running),
            )
            return Outlook(position, size, source.name_count, source.name_count - planned)

    async def offers(self, phases: Sequence[RunningPhase], limit: int) -> list[list[Offer]]:
        """Return the first `limit` chunks of each phase that could be handed out, in order."""
        rows = await self._pool.fetch(
            f"""SELECT w.place, w.campaign_no, w.phase, w.run, c.first_position, c.names
               FROM unnest($1::int[], $2::smallint[], $3::int[]) WITH ORDINALITY
                   AS w (campaign_no, phase, run, place)
               CROSS JOIN LATERAL (
                   SELECT first_position, {_OPEN_NAMES} AS names FROM chunks
                   WHERE campaign_no = w.campaign_no AND phase = w.phase AND run = w.run
                     AND state = 'ready' AND ready_time IS NULL
                   ORDER BY first_position LIMIT $4) c""",
            *_columns([_run(running) for running in phases], 3),
            limit,
        )
        offers: list[list[Offer]] = [[] for _ in phases]
        for row in rows:
            offers[row["place"] - 1].append(Offer(ChunkKey(*row[1:5]), row["names"]))
        return [sorted(each, key=lambda offer: offer.key.first_position) for each in offers]

    async def queue(self, keys: Sequence[ChunkKey], lease: timedelta) -> list[ChunkKey]:
        """Mark ready chunks as queued; returns those that were, in the order given.

        Not those whose phase does not run any more, or that somebody else is handing out. A
        dispatcher of the version before takes them back when `lease` is over.
        """
        if not keys:
            return []
        rows = await self._pool.fetch(
            # SKIP LOCKED: a second dispatcher takes other chunks instead of queueing behind this
            # one, and a pause under way goes first. A later one waits for us, and takes back what
            # we have handed out.
            # MATERIALIZED: the rows are locked, or skipped, before they are changed.
            """WITH wanted AS (
                   SELECT * FROM unnest($1::int[], $2::smallint[], $3::int[], $4::int[])
                       AS w (campaign_no, phase, run, first_position)),
               running AS MATERIALIZED (
                   SELECT campaign_no, phase, run FROM phases
                   WHERE status = 'RUNNING' AND (campaign_no, phase, run) IN (
                       SELECT campaign_no, phase, run FROM wanted)
                   ORDER BY campaign_no, phase FOR SHARE SKIP LOCKED),
               ready AS MATERIALIZED (
                   SELECT campaign_no, phase, run, first_position
                   FROM wanted JOIN running USING (campaign_no, phase, run)
                   JOIN chunks c USING (campaign_no, phase, run, first_position)
                   WHERE c.state = 'ready' AND c.ready_time IS NULL
                   ORDER BY campaign_no, phase, run, first_position
                   FOR UPDATE OF c SKIP LOCKED)
               UPDATE chunks c SET state = 'queued', claim_time = NULL, worker = NULL,
                   lease_expire_time = now() + $5::interval
               FROM ready r
               WHERE c.campaign_no = r.campaign_no AND c.phase = r.phase AND c.run = r.run
                 AND c.first_position = r.first_position
               RETURNING c.campaign_no, c.phase, c.run, c.first_position""",
            *_columns([_place(key) for key in keys], 4),
            lease,
        )
        queued = {ChunkKey(*row) for row in rows}
        return [key for key in keys if key in queued]

    async def queued(self) -> list[Sighting[ChunkKey]]:
        """Return every chunk that is handed out."""
        rows = await self._pool.fetch(
            """SELECT c.campaign_no, c.phase, c.run, c.first_position, c.attempt,
                   c.claim_time IS NOT NULL, c.lease_expire_time, c.worker, k.name_count
               FROM chunks c JOIN campaigns k ON k.no = c.campaign_no WHERE c.state = 'queued'"""
        )
        return [
            Sighting(
                key=ChunkKey(*row[:4]),
                subject=task_subject(
                    POOLS.get(Phase(row["phase"]), ""), express=is_small(row["name_count"])
                ),
                attempt=row["attempt"],
                claimed=row[5],
                mark=row["lease_expire_time"],
                worker=row["worker"] or "",
            )
            for row in rows
        ]

    async def take_back_tasks(self, lost: Sequence[Sighting[ChunkKey]]) -> int:
        """Make chunks ready again that nobody has claimed since they were seen so."""
        status = await self._pool.execute(
            f"""WITH lost AS MATERIALIZED ({_SEEN} AND c.claim_time IS NULL
                    FOR UPDATE OF c SKIP LOCKED)
                UPDATE chunks c SET state = 'ready', lease_expire_time = NULL
                FROM lost WHERE {_IS_LOST}""",
            *_seen(lost),
        )
        return int(status.split()[-1])

    async def take_back_claims(
        self, running: RunningPhase | None, lost: Sequence[Sighting[ChunkKey]]
    ) -> list[ChunkKey]:
        """Take chunks of one run from workers that have not changed them since they were seen.

        Each has an event and counts as lost once more. With `running` None, or when it does not run
        any more, nothing is to be tried again, and nothing is told.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            runs = running is not None and await share_phase(connection, running)
            rows = await connection.fetch(
                f"""WITH lost AS MATERIALIZED ({_SEEN} AND c.claim_time IS NOT NULL
                        FOR UPDATE OF c SKIP LOCKED)
                    UPDATE chunks c SET state = 'ready', worker = NULL, claim_time = NULL,
                        lease_expire_time = NULL, lost_count = c.lost_count + $7::int
                    FROM lost WHERE {_IS_LOST}
                    RETURNING c.campaign_no, c.phase, c.run, c.first_position, c.park_count""",
                *_seen(lost),
                int(runs),
            )
            taken = {ChunkKey(*row[:4]): row["park_count"] for row in rows}
            if running is not None and runs:
                told = [_taken_back(each, taken[each.key]) for each in lost if each.key in taken]
                # One statement: meanwhile nobody settles a chunk of the campaign.
                await connection.execute(
                    """SELECT append_event($1, body)
                       FROM unnest($2::bytea[]) WITH ORDINALITY AS told (body, place)
                       ORDER BY place""",
                    running.campaign_no,
                    told,
                )
        return [each.key for each in lost if each.key in taken]

    async def delayed(self) -> dict[ChunkKey, tuple[datetime, float, float]]:
        """Return the chunks of running phases that wait before they are tried again.

        Of each the time that is stored, the seconds until then by the database's clock, and the
        most that these can be: of a chunk that was set aside, what it was set aside for.
        """
        rows = await self._pool.fetch(
            """SELECT c.campaign_no, c.phase, c.run, c.first_position, c.ready_time,
                   extract(epoch FROM c.ready_time - now())::float8,
                   greatest(extract(epoch FROM c.put_off)::float8, $1)
               FROM phases p JOIN chunks c USING (campaign_no, phase, run)
               WHERE p.status = 'RUNNING' AND c.state = 'ready' AND c.ready_time IS NOT NULL""",
            LONGEST_DELAY,
        )
        return {ChunkKey(*row[:4]): (row[4], row[5], row[6]) for row in rows}

    async def end_delays(self, over: Mapping[ChunkKey, datetime]) -> None:
        """Let chunks be handed out whose time has come, unless it was set anew."""
        keys = list(over)
        await self._pool.execute(
            # SKIP LOCKED: a second dispatcher does the same, in whatever order.
            """WITH due AS MATERIALIZED (
                   SELECT campaign_no, phase, run, first_position
                   FROM unnest($1::int[], $2::smallint[], $3::int[], $4::int[], $5::timestamptz[])
                       AS w (campaign_no, phase, run, first_position, mark)
                   JOIN chunks c USING (campaign_no, phase, run, first_position)
                   WHERE c.state = 'ready' AND c.ready_time = w.mark
                   FOR UPDATE OF c SKIP LOCKED)
               UPDATE chunks c SET ready_time = NULL FROM due
               WHERE (c.campaign_no, c.phase, c.run, c.first_position)
                   = (due.campaign_no, due.phase, due.run, due.first_position)""",
            *_columns([_place(key) for key in keys], 4),
            [over[key] for key in keys],
        )

    async def workers(self) -> list[WorkerReport]:
        """Return what every worker process last said, however long ago."""
        rows = await self._pool.fetch("SELECT worker_id, pool, report_time, load FROM workers")
        return [WorkerReport(*row) for row in rows]

    async def complete(self, running: RunningPhase) -> bool:
        """Complete the phase if the ledger has no open chunk, and start the next one in
        FULL_SEQUENCE."""
        no, phase = running.campaign_no, running.phase
        async with self._pool.acquire() as connection, connection.transaction():
            campaign = await lock_campaign(connection, "k.no = $1", no)
            if campaign is None:
                return False
            state = campaign.state(phase)
            open_chunk = await connection.fetchval(
                """SELECT EXISTS (SELECT FROM chunks WHERE campaign_no = $1 AND phase = $2 AND run =
                $3
                       AND state <> 'done')""",
                no,
                phase,
                running.run,
            )
            if open_chunk or state.status is not Status.RUNNING or state.run != running.run:
                return False
            await act(connection, campaign, Action.COMPLETE, phase, actor="dispatcher", reason="")
            return True

    async def fail(self, running: RunningPhase, failure: str) -> None:
        """End the phase as failed, if it still runs."""
        async with self._pool.acquire() as connection, connection.transaction():
            campaign = await lock_campaign(connection, "k.no = $1", running.campaign_no)
            if campaign is None:
                return
            state = campaign.state(running.phase)
            if state.status is Status.RUNNING and state.run == running.run:
                await connection.execute(
                    "UPDATE phases SET failure = $3 WHERE campaign_no = $1 AND phase = $2",
                    running.campaign_no,
                    running.phase,
                    failure.replace("\0", "\ufffd"),
                )
                await act(
                    connection,
                    campaign,
                    Action.FAIL,
                    running.phase,
                    actor="dispatcher",
                    reason=failure,
                )


# Names of a chunk that are not finished. One that was split has fewer than when it was set aside.
_OPEN_NAMES = "least(waiting_count, name_count)"
# Chunks that are as they were seen, and how the statement that changes them finds them.
_SEEN = """SELECT campaign_no, phase, run, first_position
    FROM unnest($1::int[], $2::smallint[], $3::int[], $4::int[], $5::int[], $6::timestamptz[])
        AS w (campaign_no, phase, run, first_position, attempt, mark)
    JOIN chunks c USING (campaign_no, phase, run, first_position)
    WHERE c.state = 'queued' AND c.attempt = w.attempt
      AND c.lease_expire_time IS NOT DISTINCT FROM w.mark"""
_IS_LOST = """(c.campaign_no, c.phase, c.run, c.first_position)
    = (lost.campaign_no, lost.phase, lost.run, lost.first_position)"""


def _run(running: RunningPhase) -> tuple[int, int, int]:
    return running.campaign_no, running.phase, running.run


def _place(key: ChunkKey) -> tuple[int, int, int, int]:
    return key.campaign_no, key.phase, key.run, key.first_position


def _columns(rows: Sequence[tuple[object, ...]], count: int) -> list[tuple[object, ...]]:
    """Rows as columns, of which there are `count` also when there are no rows."""
    return list(zip(*rows, strict=True)) if rows else [()] * count


def _taken_back(lost: Sighting[ChunkKey], park_count: int) -> bytes:
    """As workers tell it: that the chunk was set aside in between does not make it two attempts."""
    key, attempt = lost.key, lost.attempt - park_count
    cause = f"worker {lost.worker} did not report in time"
    event = chunk_retried(key.phase, key.run, key.first_position, attempt, cause)
    return event.SerializeToString()


def _seen(lost: Sequence[Sighting[ChunkKey]]) -> list[tuple[object, ...]]:
    return _columns([(*_place(each.key), each.attempt, each.mark) for each in lost], 6)


async def _last_chunk(connection: Connection, running: RunningPhase) -> tuple[int, int]:
    """The position after the last chunk, and its names. Chunks may have been split, so that only
    the ledger knows."""
    row = await connection.fetchrow(
        """SELECT coalesce(last_position + 1, first_position + name_count), name_count FROM chunks
           WHERE campaign_no = $1 AND phase = $2 AND run = $3
           ORDER BY first_position DESC LIMIT 1""",
        *_run(running),
    )
    return (row[0], row[1]) if row else (0, 0)


async def _insert_chunks(
    connection: Connection, running: RunningPhase, first: int, past: int, chunk_size: int
) -> list[Offer]:
    """Ready chunks from first to past. Raises UniqueViolationError when the first one is there."""
    rows = await connection.fetch(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
           SELECT $1, $2, $3, first, least($6, $5 - first), 'ready'
           FROM generate_series($4::int, $5::int - 1, $6::int) AS first
           RETURNING first_position, name_count""",
        *_run(running),
        first,
        past,
        chunk_size,
    )
    key = _run(running)
    return [Offer(ChunkKey(*key, row[0]), row[1]) for row in rows]


async def _insert_cuts(
    connection: Connection, running: RunningPhase, cuts: Sequence[Cut]
) -> list[Offer]:
    """Ready chunks of some names only. Raises UniqueViolationError when one is there."""
    key = _run(running)
    await connection.execute(
        """INSERT INTO chunks
               (campaign_no, phase, run, first_position, last_position, name_count, state)
           SELECT $1, $2, $3, first, last, names, 'ready'
           FROM unnest($4::int[], $5::int[], $6::int[]) AS c (first, last, names)""",
        *key,
        [each.first_position for each in cuts],
        [each.last_position for each in cuts],
        [each.name_count for each in cuts],
    )
    return [Offer(ChunkKey(*key, each.first_position), each.name_count) for each in cuts]
