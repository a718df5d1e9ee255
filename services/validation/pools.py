"""Worker rows, the decided sizes of pools, and what waits for them.

One public method is one transaction.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from domainflow.campaign.v1 import event_pb2
from domainflow.validation.v1 import task_pb2
from services.chassis.postgres import AWAY, Pool
from services.validation.pool import Bounds, Size
from services.validation.presence import Presence, Sighting

# Numbers of the phases whose chunks each pool works on.
PHASES = {"dns": (2,), "http": (3,), "analysis": (4, 5)}
LOOK_PERIOD = 5.0


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself."""

    worker_id: str
    pool: str
    host: str
    pid: int
    # Since it started; only used when there is no row of it.
    uptime: timedelta
    chunks_in_flight: int
    settled_count: int
    load: task_pb2.WorkerLoad


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process as it last reported."""

    worker_id: str
    pool: str
    host: str
    pid: int
    start_time: datetime
    report_time: datetime
    chunks_in_flight: int
    settled_count: int
    load: task_pb2.WorkerLoad
    # Seconds since the reader saw a new report.
    silence: float


@dataclass(frozen=True, slots=True)
class PoolRow:
    """The latest decision on a pool of one machine."""

    pool: str
    host: str
    size: Size
    bounds: Bounds
    reason: str
    decide_time: datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one running campaign has for a pool. `name_rate_limit`: names per second, 0 none."""

    unsettled_count: int
    name_rate_limit: int


class Pools:
    """The tables `workers` and `pools`, and the suite's history of them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._presence = Presence()

    async def report(self, report: WorkerReport) -> int | None:
        """Say that a worker lives; return its pool's task limit, None where none was decided."""
        limit: int | None = await self._pool.fetchval(
            """WITH reported AS (
                   INSERT INTO workers (worker_id, pool, host, pid, start_time, chunks_in_flight,
                       settled_count, load)
                   VALUES ($1, $2, $3, $4, now() - $5::interval, $6, $7, $8)
                   ON CONFLICT (worker_id) DO UPDATE SET report_time = now(),
                       chunks_in_flight = excluded.chunks_in_flight,
                       settled_count = excluded.settled_count, load = excluded.load)
               SELECT task_limit FROM pools WHERE pool = $2 AND host = $3""",
            report.worker_id,
            report.pool,
            report.host,
            report.pid,
            report.uptime,
            report.chunks_in_flight,
            report.settled_count,
            report.load.SerializeToString(),
        )
        return limit

    async def sign_off(self, worker_id: str) -> None:
        """Forget a worker that ended in order."""
        await self._pool.execute("DELETE FROM workers WHERE worker_id = $1", worker_id)

    async def workers(self) -> list[WorkerRow]:
        """Return the workers that live, oldest first, and forget those that are gone.

        To be called again and again by the same reader: it learns who lives from what changes.
        """
        rows = await self._pool.fetch(
            """SELECT worker_id, pool, host, pid, start_time, report_time, chunks_in_flight,
                   settled_count, load, extract(epoch FROM now() - report_time)::float8 AS age
               FROM workers ORDER BY start_time, worker_id"""
        )
        living, gone = self._presence.look(
            time.monotonic(),
            [Sighting(row["worker_id"], row["report_time"], row["age"]) for row in rows],
        )
        if gone:
            # Unless it has reported meanwhile.
            await self._pool.execute(
                """DELETE FROM workers w USING unnest($1::text[], $2::timestamptz[])
                       AS gone (worker_id, report_time)
                   WHERE w.worker_id = gone.worker_id AND w.report_time = gone.report_time""",
                *zip(
                    *((row[0], row["report_time"]) for row in rows if row["worker_id"] in gone),
                    strict=True,
                ),
            )
        return [
            _worker_row(row, living[row["worker_id"]]) for row in rows if row["worker_id"] in living
        ]

    async def watch(self) -> None:
        """Look again and again until cancelled: those that are gone are forgotten unasked."""
        while True:
            with contextlib.suppress(asyncpg.PostgresError, *AWAY):
                await self.workers()
            await asyncio.sleep(LOOK_PERIOD)

    async def waiting(self, pool: str) -> list[Waiting]:
        """Return what the running phases of this pool have not settled."""
        rows = await self._pool.fetch(
            """SELECT p.name_count - coalesce(done.name_count, 0), k.name_rate_limit
               FROM phases p
               JOIN campaigns k ON k.no = p.campaign_no
               CROSS JOIN LATERAL (
                   SELECT sum(c.name_count) AS name_count FROM chunks c
                   WHERE c.campaign_no = p.campaign_no AND c.phase = p.phase AND c.run = p.run
                     AND c.state = 'done'
               ) done
               WHERE p.status = 'RUNNING' AND p.phase = ANY($1::smallint[])""",
            PHASES[pool],
        )
        return [Waiting(max(0, int(row[0])), row[1]) for row in rows]

    async def pools(self) -> list[PoolRow]:
        """Return the latest decision for each pool and machine, by name."""
        rows = await self._pool.fetch(_POOLS + " ORDER BY pool, host")
        return [_pool_row(row) for row in rows]

    async def pool(self, pool: str, host: str) -> PoolRow | None:
        """Return the latest decision on this pool; None when there is none."""
        row = await self._pool.fetchrow(_POOLS + " WHERE pool = $1 AND host = $2", pool, host)
        return _pool_row(row) if row else None

    async def decide(
        self, pool: str, host: str, before: Size, size: Size, bounds: Bounds, reason: str
    ) -> None:
        """Put a decision on record: the pool's row and the event, in one transaction."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                """INSERT INTO pools (pool, host, process_count, task_limit, min_process_count,
                       max_process_count, reason)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)
                   ON CONFLICT (pool, host) DO UPDATE SET
                       process_count = excluded.process_count, task_limit = excluded.task_limit,
                       min_process_count = excluded.min_process_count,
                       max_process_count = excluded.max_process_count,
                       reason = excluded.reason, decide_time = now()""",
                pool,
                host,
                size.process_count,
                size.task_limit,
                bounds.min_process_count,
                bounds.max_process_count,
                reason,
            )
            await connection.execute(
                "SELECT append_system_event($1)", _decided(pool, host, before, size, reason)
            )

    async def close(self, pool: str, host: str, before: Size, reason: str) -> None:
        """Put the end of a pool on record: no row any more, and the event."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("DELETE FROM pools WHERE pool = $1 AND host = $2", pool, host)
            end = Size(0, before.task_limit)
            await connection.execute(
                "SELECT append_system_event($1)", _decided(pool, host, before, end, reason)
            )


_POOLS = """SELECT pool, host, process_count, task_limit, min_process_count, max_process_count,
    reason, decide_time FROM pools"""


def backlog(waiting: Iterable[Waiting], *, within: float) -> int:
    """Names that more processes could settle sooner.

    A campaign's rate limit lets so many through `within` seconds, and no process changes that.
    """
    return sum(
        min(it.unsettled_count, int(it.name_rate_limit * within))
        if it.name_rate_limit
        else it.unsettled_count
        for it in waiting
    )


def _worker_row(row: asyncpg.Record, silence: float) -> WorkerRow:
    return WorkerRow(
        worker_id=row["worker_id"],
        pool=row["pool"],
        host=row["host"],
        pid=row["pid"],
        start_time=row["start_time"],
        report_time=row["report_time"],
        chunks_in_flight=row["chunks_in_flight"],
        settled_count=row["settled_count"],
        load=task_pb2.WorkerLoad.FromString(row["load"]),
        silence=silence,
    )


def _pool_row(row: asyncpg.Record) -> PoolRow:
    pool, host, processes, tasks, low, high, reason, decide_time = row
    return PoolRow(pool, host, Size(processes, tasks), Bounds(low, high), reason, decide_time)


def _decided(pool: str, host: str, before: Size, size: Size, reason: str) -> bytes:
    event = event_pb2.SystemEvent(
        pool_decided=event_pb2.PoolDecided(
            pool=pool,
            host=host,
            process_count=size.process_count,
            previous_process_count=before.process_count,
            task_limit=size.task_limit,
            previous_task_limit=before.task_limit,
            reason=reason,
        )
    )
    return event.SerializeToString()
