"""The workers of one pool on this machine: as many as are decided on, restarted when they die.

Every few seconds: measure, decide (pool.py), put the decision on record, then act. Whatever is
away meanwhile, the workers there are go on.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import asyncpg
from nats.aio.client import Client

from services.chassis import jetstream, postgres
from services.validation import machine
from services.validation.pool import Bounds, History, PoolLoad, Rules, Size, decide
from services.validation.pools import Pools, WorkerRow, backlog

log = logging.getLogger(__name__)

# Tells a worker whose it is: the pid of its supervisor, with which it ends and whose decisions it
# follows.
SUPERVISOR_PID = "WORKER_SUPERVISOR_PID"
# Seconds a worker has to give its claims back; shorter than what the suite leaves us.
GRACE = 10.0
# Seconds before a worker that died is started again: doubling, forgotten after so long a life.
FIRST_PAUSE, LONGEST_PAUSE, HEALTHY_AFTER = 0.2, 5.0, 30.0
# What a worker reported counts for so many seconds: the row of a killed one stays for longer.
FRESH = 12.0
# What a campaign with a rate limit has waiting at most, as a share of the time that makes it a
# backlog: no process settles it sooner.
LIMITED_SHARE = 0.8


class WorkerProcess:
    """One worker, kept alive from `keep` until `end`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._end = asyncio.Event()
        # None while none runs.
        self.pid: int | None = None

    def end(self) -> None:
        """Let it end in order, and start no other."""
        self._end.set()

    async def keep(self) -> None:
        """Run it until `end` or cancellation; returns when the process is gone."""
        pause = 0.0
        while not self._end.is_set():
            began = time.monotonic()
            try:
                how = await self._live()
            except OSError as error:
                how = f"could not be started: {error}"
            if self._end.is_set():
                return
            healthy = pause == 0 or time.monotonic() - began >= HEALTHY_AFTER
            pause = FIRST_PAUSE if healthy else min(pause * 2, LONGEST_PAUSE)
            log.warning("a worker %s; started again in %.1f s", how, pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._end.wait()

    async def _live(self) -> str:
        """One life of the process; returns how it ended."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            env={**self._environment, SUPERVISOR_PID: str(os.getpid())},
            # Ctrl-C in the terminal reaches us alone, who end it in order.
            start_new_session=True,
        )
        self.pid = process.pid
        ended = asyncio.ensure_future(process.wait())
        told = asyncio.ensure_future(self._end.wait())
        try:
            await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            if not ended.done():
                await _ended_in_order(process, ended)
            self.pid = None
        return (
            f"was killed by signal {-ended.result()}"
            if ended.result() < 0
            else (f"ended with exit status {ended.result()}")
        )


async def _ended_in_order(
    process: asyncio.subprocess.Process, ended: "asyncio.Future[int]"
) -> None:
    """Ask it to end, kill it when it does not in time; not cut short by cancellation."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait((ended,), timeout=GRACE)
    finally:
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await ended


class Supervisor:
    """One pool of this machine. `command` runs one worker."""

    def __init__(
        self,
        *,
        pools: Pools,
        queue: Client,
        pool: str,
        host: str,
        command: Sequence[str],
        bounds: Bounds,
        rules: Rules,
        period: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._pools = pools
        self._queue = queue
        self._pool = pool
        self._host = host
        self._command = command
        self._bounds = bounds
        self._rules = rules
        # Seconds between two rounds.
        self._period = period
        self._environment = dict(os.environ) if environment is None else environment
        self._busy = machine.BusyCores()
        self._workers: list[tuple[WorkerProcess, asyncio.Task[None]]] = []
        # Those that were told to end and have not yet.
        self._ending: set[asyncio.Task[None]] = set()
        self._size = Size(0, rules.task_top)
        self._history = History()

    async def supervise(self) -> None:
        """Run until cancelled; the workers have ended when this returns."""
        try:
            await self._begin()
            while True:
                await asyncio.sleep(self._period)
                await self._round()
        finally:
            await asyncio.shield(self._finish())

    async def _begin(self) -> None:
        """The size of before, when whoever decided it was killed; else the least."""
        while True:
            try:
                before = await self._pools.pool(self._pool, self._host)
                count = before.size.process_count if before else 0
                low, high = self._bounds.min_process_count, self._bounds.max_process_count
                size = Size(min(max(count, low), high), self._rules.task_top)
                what = "as many as before its end" if count else "as few as there may be"
                plural = "process" if size.process_count == 1 else "processes"
                reason = f"0 -> {size.process_count} {plural}: the pool starts with {what}"
                await self._become(size, reason)
                return
            except (asyncpg.PostgresError, *postgres.AWAY) as error:
                log.warning("the pool waits: %s: %s", type(error).__name__, error)
                await asyncio.sleep(min(self._period, 1.0))

    async def _round(self) -> None:
        for _, task in self._workers:
            if task.done():
                # Nothing but a mistake of ours ends it; whoever supervises us starts all anew.
                task.result()
        try:
            load = await self._measure()
            decision = decide(load, self._size, self._bounds, self._history, self._rules)
            if decision.reason:
                await self._become(decision.size, decision.reason)
            # Of a decision that could not be put on record nothing is kept: the next round decides.
            self._history = decision.history
        except (asyncpg.PostgresError, *postgres.AWAY) as error:
            log.warning("nothing is decided: %s: %s", type(error).__name__, error)

    async def _become(self, size: Size, reason: str) -> None:
        """Put the decision on record and act on it. The workers read the task limit themselves."""
        await self._pools.decide(self._pool, self._host, self._size, size, self._bounds, reason)
        log.info("%s", reason)
        self._size = size
        while len(self._workers) < size.process_count:
            worker = WorkerProcess(self._command, self._environment)
            self._workers.append((worker, asyncio.create_task(worker.keep())))
        while len(self._workers) > size.process_count:
            worker, task = self._workers.pop()
            worker.end()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        await self._tell()

    async def _finish(self) -> None:
        """End all workers, then put the end on record."""
        for worker, task in self._workers:
            worker.end()
            self._ending.add(task)
        self._workers.clear()
        if self._ending:
            await asyncio.wait(self._ending)
        size, self._size = self._size, Size(0, self._size.task_limit)
        if size.process_count:
            with contextlib.suppress(asyncpg.PostgresError, *postgres.AWAY):
                reason = f"{size.process_count} -> 0 processes: the pool was told to end"
                log.info("%s", reason)
                await self._pools.close(self._pool, self._host, size, reason)
                await self._tell()

    async def _tell(self) -> None:
        """Wake whoever shows the suite's history; they also look by themselves."""
        with contextlib.suppress(*jetstream.AWAY):
            await self._queue.publish(jetstream.EVENT_SUBJECT, b"0")

    async def _measure(self) -> PoolLoad:
        workers = [
            row
            for row in await self._pools.workers()
            if row.pool == self._pool and row.silence <= FRESH
        ]
        waiting = await self._pools.waiting(self._pool)
        pids = {worker.pid for worker, _ in self._workers}
        own = [row for row in workers if row.host == self._host and row.pid in pids]
        memory = machine.memory()
        return replace(
            questions_of(workers),
            backlog=backlog(waiting, within=self._rules.grow_after * LIMITED_SHARE),
            cores=machine.cores(),
            busy_cores=self._busy.look(),
            process_cores=sum(row.load.cpu_cores for row in own) / max(len(own), 1),
            memory_total=memory.total,
            memory_free=memory.free,
            process_memory=max((row.load.memory_bytes for row in own), default=0),
            chunks_in_hand=max((row.chunks_in_flight for row in own), default=0),
        )


def questions_of(workers: Sequence[WorkerRow]) -> PoolLoad:
    """What all workers of a pool together settle and ask; a loss counts as much as it was asked."""
    # Only the worst endpoints are told of; each name takes a question at least.
    rates = [
        max(row.load.names_per_second, sum(it.questions_per_second for it in row.load.endpoints))
        for row in workers
    ]
    asked = sum(rates)
    weights = [rate / asked if asked else 0.0 for rate in rates]
    return PoolLoad(
        backlog=0,
        names_per_second=sum(row.load.names_per_second for row in workers),
        questions_per_second=asked,
        loss=sum(w * row.load.loss for w, row in zip(weights, workers, strict=True)),
        latency_us=round(
            sum(w * row.load.latency_us for w, row in zip(weights, workers, strict=True))
        ),
    )
