"""Keeps what is derived true, one piece at a time, and gives way to everybody else.

`python -m services.query maintain` is one of these, `... maintain --once` does what is due and
ends. Any number may run: one works, the others wait for its lock.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from services.chassis import postgres
from services.chassis.config import BadEnvironment, read_settings
from services.chassis.jetstream import raise_if_cancelled
from services.chassis.pool import MeasuredPool
from services.chassis.pool_reports import process_label, reported
from services.chassis.postgres import Beside, Connection, open_pool
from services.query.maintenance.copies import Sealing, UntrueCopies
from services.query.maintenance.drift import INTERVAL, DriftCheck
from services.query.maintenance.job import CampaignGone, Hands, Job
from services.query.maintenance.name_order import NameOrder
from services.query.maintenance.retention import OldFigures, Orphans
from services.query.maintenance.schedule import Agenda, rest
from services.query.maintenance.tld_backfill import TldBackfill

log = logging.getLogger(__name__)

# Whose it is, works.
LOCK = 7_305_142_002
# Seconds between two tries to get it. Nobody queues for it: whoever waits inside of a statement
# holds a snapshot, and dead rows would stay for as long.
LOCK_PERIOD = 1.0
# Seconds between two tries while the database is away.
AWAY_PERIOD = 2.0
# Of AWAY, what a server says that is there: it would say it again, at once and for ever.
_ANSWERS = (
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
)
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """Environment of the role `maintain`; names in upper case."""

    database_url: str
    # "off": no copies of finished campaigns; those that are there are removed.
    query_seal: str = "on"
    # Hours between two comparisons of a campaign's counters with its rows, while they change.
    query_counter_check_hours: float = INTERVAL / timedelta(hours=1)
    log_format: str = "text"


def read(environment: Mapping[str, str] | None = None) -> Settings:
    """What `environment`, by default this process's own, says. Raises BadEnvironment."""
    settings = read_settings(Settings, environment)
    if settings.query_seal not in ("on", "off"):
        raise BadEnvironment(f"QUERY_SEAL={settings.query_seal!r} is neither on nor off")
    if settings.query_counter_check_hours <= 0:
        raise BadEnvironment("QUERY_COUNTER_CHECK_HOURS is not above 0")
    return settings


def jobs_of(settings: Settings) -> list[Job]:
    """All jobs, the most urgent first."""
    sealing = settings.query_seal != "off"
    return [
        NameOrder(),
        OldFigures(),
        Orphans(),
        TldBackfill(),
        UntrueCopies(sealing=sealing),
        *([Sealing()] if sealing else []),
        DriftCheck(timedelta(hours=settings.query_counter_check_hours)),
    ]


class Maintainer:
    """Does the jobs, in turns, while it holds the lock."""

    def __init__(self, database_url: str, jobs: Sequence[Job]) -> None:
        self._url = database_url
        self._jobs = {job.name: job for job in jobs}
        self._agenda = Agenda({job.name: job.period for job in jobs})
        self._failures = 0
        # What this process reads with, by the name that reports give it; empty between sessions.
        self.pools: dict[str, MeasuredPool] = {}

    async def maintain(self) -> None:
        """Run until cancelled, whatever becomes of the database."""
        while True:
            raise_if_cancelled()
            try:
                await self._session(once=False)
            except postgres.AWAY as error:
                log.warning("maintenance waits: %s: %s", type(error).__name__, error)
                await asyncio.sleep(AWAY_PERIOD)

    async def once(self) -> bool:
        """Do all that is due; whether it could be done. Somebody else who works does it for us.

        Raises one of AWAY when the database is not to be had.
        """
        await self._session(once=True)
        return not self._failures

    async def _session(self, *, once: bool) -> None:
        """Work over one connection, which holds the lock for as long as it lives."""
        async with AsyncExitStack() as stack:
            # Not closed in order: what still runs over there is of no use to anybody.
            writing = await open_pool(
                self._url,
                application_name="domainflow-maintainer",
                max_size=1,
                statement_timeout=0,
                leak_after=float("inf"),
            )
            stack.callback(writing.terminate)
            reading = await open_pool(
                self._url,
                application_name="domainflow-maintainer-reads",
                max_size=2,
                read_only=True,
                statement_timeout=600,
            )
            stack.callback(reading.terminate)
            self.pools = {process_label("query-maintainer"): reading}
            stack.callback(self.pools.clear)
            for job in self._jobs.values():
                stack.push_async_callback(job.leave_off)
            connection = await stack.enter_async_context(writing.acquire())
            if await _get_lock(connection, wait=not once):
                log.info("maintenance begins")
                await self._work(Hands(connection, reading), once=once)
            else:
                log.info("another one maintains: there is nothing to do here")

    async def _work(self, hands: Hands, *, once: bool) -> None:
        while True:
            # The driver loses a cancellation that comes together with an answer.
            raise_if_cancelled()
            name, wait = self._agenda.next(time.monotonic())
            if wait > 0 and once:
                return
            if wait > 0:
                await asyncio.sleep(wait)
            began = time.monotonic()
            found = await self._piece(self._jobs[name], hands)
            now = time.monotonic()
            if not found:
                self._agenda.found_nothing(name, now, now - began)
                continue
            self._agenda.worked(name, now)
            if not once:
                await asyncio.sleep(rest(now - began))

    async def _piece(self, job: Job, hands: Hands) -> bool:
        """The next piece of the job; False when there is nothing to do."""
        no = None
        try:
            no = await job.find(hands, self._agenda.aside(job.name, time.monotonic()))
            if no is None:
                return False
            await job.work(hands, no)
        except CampaignGone:
            pass
        except Exception as error:
            if isinstance(error, postgres.AWAY) and not isinstance(error, _ANSWERS):
                raise
            # Of this campaign alone, or of this job: the others go on.
            log.exception("%s, campaign number %s", job.name, no)
            self._failures += 1
            if no is None:
                return False
            self._agenda.failed(job.name, no, time.monotonic())
        return True


async def _get_lock(connection: Connection, *, wait: bool) -> bool:
    # A process that was killed loses its lock even in the middle of a long statement.
    await connection.execute("SET client_connection_check_interval = '1s'")
    # Campaigns differ too much for a plan that is made once.
    await connection.execute("SET plan_cache_mode = force_custom_plan")
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        if not wait:
            return False
        await asyncio.sleep(LOCK_PERIOD)
    return True


async def run(settings: Settings, *, once: bool) -> bool:
    """Maintain until a signal ends it, or `once`; whether all could be done."""
    with suppress(OSError):
        os.nice(_NICENESS)
    maintainer = Maintainer(settings.database_url, jobs_of(settings))
    work = asyncio.create_task(maintainer.once() if once else maintainer.maintain())
    loop = asyncio.get_running_loop()
    for end in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(end, work.cancel)
    beside = Beside(settings.database_url, application_name="domainflow-maintainer-reports")
    async with beside, reported(beside, lambda: maintainer.pools):
        try:
            return await work is not False
        except asyncio.CancelledError:
            return True
