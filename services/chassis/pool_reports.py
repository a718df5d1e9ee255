"""Says every few seconds how the pools of this process are, and writes down a row a minute.

Over a connection of its own: a pool that is exhausted is the one to hear of. While the database is
away nothing is said, and nobody is disturbed.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from domainflow.query.v1.database_pb2 import ConnectionLeak, ConnectionPool
from services.chassis.pool import MeasuredPool, PoolFigures
from services.chassis.postgres import AWAY, Beside

log = logging.getLogger(__name__)

# Seconds between two reports, and between two rows of the history.
PERIOD = 5.0
HISTORY_PERIOD = 60.0
# Leaks that a report names: a pool that loses all its connections loses them at one place.
MAX_LEAKS = 10


def process_label(name: str) -> str:
    """This process as reports call it: its name, machine and pid."""
    return f"{name} {socket.gethostname()} {os.getpid()}"


# The pools of a process by the names that their reports bear. Asked again before each report: a
# pool may come later, and be another one after a while.
Pools: TypeAlias = Callable[[], Mapping[str, MeasuredPool]]


@asynccontextmanager
async def reported(
    beside: Beside,
    pools: Pools,
    *,
    period: float = PERIOD,
    history_period: float = HISTORY_PERIOD,
) -> AsyncIterator[None]:
    """Report these pools for as long as the context is open."""
    task = asyncio.create_task(_report(beside, pools, period, history_period))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _report(beside: Beside, pools: Pools, period: float, history_period: float) -> None:
    reporters: dict[str, PoolReporter] = {}
    written = time.monotonic()
    while True:
        present = pools()
        reporters = {
            name: reporters[name]
            if name in reporters and reporters[name].pool is pool
            else PoolReporter(beside, name, pool)
            for name, pool in present.items()
        }
        is_due = time.monotonic() - written >= history_period
        if is_due:
            written = time.monotonic()
        for reporter in reporters.values():
            try:
                await reporter.report()
                if is_due:
                    await reporter.write_history()
            except (*AWAY, asyncpg.PostgresError) as error:
                # Also a database that an older version of the suite has made.
                log.debug("the pool of %s was not reported: %s", reporter.process, error)
        await asyncio.sleep(period)


@dataclass(slots=True)
class _Past:
    """What a pool went through since the last row of its history. Times in seconds."""

    in_use_max: int = 0
    acquired: int = 0
    waited: float = 0.0
    longest_wait: float = 0.0

    def add(self, figures: PoolFigures) -> None:
        self.in_use_max = max(self.in_use_max, figures.in_use_max)
        self.acquired += figures.acquired
        self.waited += figures.waited
        self.longest_wait = max(self.longest_wait, figures.longest_wait)


class PoolReporter:
    """The only reader of its pool's figures. Both methods raise one of AWAY."""

    def __init__(self, beside: Beside, process: str, pool: MeasuredPool) -> None:
        self.process = process
        self.pool = pool
        self._beside = beside
        self._past = _Past()
        self._max_count = pool.get_max_size()
        self._known_leaks: set[int] = set()

    async def report(self) -> None:
        """Replace the report on this pool. Forgotten connections are logged, once each."""
        figures = self.pool.take_figures()
        self._past.add(figures)
        self._tell_leaks(figures)
        await self._beside.fetch(
            """INSERT INTO pool_reports (process, body) VALUES ($1, $2)
            ON CONFLICT (process) DO UPDATE SET report_time = now(), body = excluded.body""",
            self.process,
            _message(self.process, figures).SerializeToString(),
        )

    async def write_history(self) -> None:
        """Add what has been reported since the last time to the present minute's row. What could
        not be written is added the next time."""
        past = self._past
        await self._beside.fetch(
            """INSERT INTO pool_history AS h (begin_time, process, in_use_max, max_count,
                acquire_count, wait_us, longest_wait_us)
            VALUES (date_trunc('minute', now()), $1, $2, $3, $4, $5, $6)
            ON CONFLICT (begin_time, process) DO UPDATE
            SET in_use_max = greatest(h.in_use_max, excluded.in_use_max),
                acquire_count = h.acquire_count + excluded.acquire_count,
                wait_us = h.wait_us + excluded.wait_us,
                longest_wait_us = greatest(h.longest_wait_us, excluded.longest_wait_us)""",
            self.process,
            past.in_use_max,
            self._max_count,
            past.acquired,
            round(past.waited * 1e6),
            round(past.longest_wait * 1e6),
        )
        self._past = _Past()

    def _tell_leaks(self, figures: PoolFigures) -> None:
        for leak in figures.leaks:
            if leak.number not in self._known_leaks:
                log.warning(
                    "a connection of %s has been out for %.0f s, taken at %s",
                    self.process,
                    leak.age,
                    leak.taken_at,
                )
        self._known_leaks = {leak.number for leak in figures.leaks}


def _message(process: str, figures: PoolFigures) -> ConnectionPool:
    now = Timestamp()
    now.GetCurrentTime()
    return ConnectionPool(
        process=process,
        report_time=now,
        open_count=figures.open_count,
        in_use_count=figures.in_use_count,
        max_count=figures.max_count,
        waiting_count=figures.waiting_count,
        acquire_count=figures.acquire_count,
        mean_wait=_duration(figures.waited / figures.acquired if figures.acquired else 0.0),
        longest_wait=_duration(figures.longest_wait),
        leaks=[
            ConnectionLeak(taken_at=leak.taken_at, age=_duration(leak.age))
            for leak in sorted(figures.leaks, key=lambda leak: -leak.age)[:MAX_LEAKS]
        ],
    )


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made
