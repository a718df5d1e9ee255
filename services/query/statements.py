"""What every statement of the query service took, by method and minute, and the plans of slow ones.

Arguments are never logged or stored: names and keywords are customers' own.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from services.chassis import telemetry
from services.chassis.postgres import AWAY, Beside
from services.query.histogram import LENGTH, entry_of

log = logging.getLogger(__name__)

# Seconds between two times that figures are written.
PERIOD = 10.0
# Figures that are kept while they cannot be written; then the oldest are lost.
MAX_FIGURES = 2_000
# Slow statements that are looked into within a minute, and each text but once: a server that is
# slow has better things to do than to plan.
EXAMINED_A_MINUTE = 6
MAX_STATEMENT, MAX_PLAN = 4_000, 16_000
# A statement that no call waits for: the watch over a replica, for instance.
NO_METHOD = "(none)"


@dataclass(slots=True)
class Figures:
    """Statements of one method that ended within one minute."""

    query_count: int = 0
    row_count: int = 0
    total_us: int = 0
    longest_us: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * LENGTH)

    def add(self, other: "Figures") -> None:
        self.query_count += other.query_count
        self.row_count += other.row_count
        self.total_us += other.total_us
        self.longest_us = max(self.longest_us, other.longest_us)
        self.histogram = [a + b for a, b in zip(self.histogram, other.histogram, strict=True)]


@dataclass(frozen=True, slots=True)
class _Slow:
    method: str
    statement: str
    arguments: Sequence[Any]
    seconds: float
    # By the monotonic clock.
    end: float
    # Other slow statements before this one that nobody looked into.
    passed_over: int


class StatementWatch:
    """Hears of every statement: `open_pool(..., on_statement=watch.note)`.

    `slow`: seconds from which on a statement is logged, and stored with its plan.
    """

    def __init__(
        self, process: str, *, slow: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._process = process
        self._slow_after = slow
        self._clock = clock
        self._figures: dict[tuple[int, str], Figures] = {}
        self._slow: deque[_Slow] = deque()
        self._is_slow = asyncio.Event()
        # When each slow statement was last taken up, within the last minute.
        self._examined: dict[tuple[str, str], float] = {}
        self._passed_over = 0

    def note(self, statement: str, arguments: Sequence[Any], seconds: float, rows: int) -> None:
        """Count a statement that has ended, for the call that this task answers. 1.1 us."""
        method = telemetry.current_method() or NO_METHOD
        key = (int(self._clock()) // 60 * 60, method)
        figures = self._figures.get(key)
        if figures is None:
            figures = self._figures[key] = Figures()
        us = int(seconds * 1e6)
        figures.query_count += 1
        figures.row_count += rows
        figures.total_us += us
        if us > figures.longest_us:
            figures.longest_us = us
        figures.histogram[entry_of(us)] += 1
        if seconds >= self._slow_after:
            self._note_slow(method, statement, arguments, seconds)

    def _note_slow(
        self, method: str, statement: str, arguments: Sequence[Any], seconds: float
    ) -> None:
        now = time.monotonic()
        self._examined = {k: then for k, then in self._examined.items() if now - then < 60}
        if len(self._examined) >= EXAMINED_A_MINUTE or (method, statement) in self._examined:
            self._passed_over += 1
            return
        self._examined[method, statement] = now
        self._slow.append(_Slow(method, statement, arguments, seconds, now, self._passed_over))
        self._passed_over = 0
        self._is_slow.set()

    @asynccontextmanager
    async def recorded(self, beside: Beside, *, period: float = PERIOD) -> AsyncIterator[None]:
        """Write down what is noted for as long as the context is open, and the rest at its end."""
        tasks = [
            asyncio.create_task(self._write_figures(beside, period)),
            asyncio.create_task(self._examine(beside)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self.write(beside)

    async def _write_figures(self, beside: Beside, period: float) -> None:
        while True:
            await asyncio.sleep(period)
            await self.write(beside)

    async def write(self, beside: Beside) -> None:
        """Add what was counted since the last time to the table. What fails is kept for later."""
        taken, self._figures = self._figures, {}
        try:
            while taken:
                (minute, method), figures = next(iter(taken.items()))
                await beside.fetch(
                    _ADD,
                    minute,
                    self._process,
                    method,
                    figures.query_count,
                    figures.row_count,
                    figures.total_us,
                    figures.longest_us,
                    figures.histogram,
                )
                del taken[minute, method]
        except (*AWAY, asyncpg.PostgresError) as error:
            log.debug("figures of queries were not written: %s", error)
        finally:
            for key, figures in self._figures.items():
                taken.setdefault(key, Figures()).add(figures)
            self._figures = dict(list(taken.items())[-MAX_FIGURES:])

    async def _examine(self, beside: Beside) -> None:
        while True:
            await self._is_slow.wait()
            while self._slow:
                await self._tell(beside, self._slow.popleft())
            self._is_slow.clear()

    async def _tell(self, beside: Beside, slow: _Slow) -> None:
        """Log a slow statement with its plan, and store both."""
        statement = slow.statement.strip()[:MAX_STATEMENT]
        plan = ""
        try:
            plan = await self._plan(beside, slow)
            ended = time.monotonic() - slow.end
            await beside.fetch(
                """INSERT INTO slow_queries (end_time, method, duration_us, statement, plan)
                VALUES (now() - make_interval(secs => $1), $2, $3, $4, $5)""",
                ended,
                slow.method,
                int(slow.seconds * 1e6),
                statement,
                plan,
            )
        except (*AWAY, asyncpg.PostgresError) as error:
            log.debug("a slow query was not stored: %s", error)
        others = f" ({slow.passed_over} others since the last one)" if slow.passed_over else ""
        log.warning(
            "slow query of %s: %.3f s%s\n%s\n%s",
            slow.method,
            slow.seconds,
            others,
            statement,
            plan,
        )

    async def _plan(self, beside: Beside, slow: _Slow) -> str:
        """How the server would carry it out now, with the same arguments; empty if it cannot say.

        A statement that is PLANNED_ONCE has a plan for any arguments, which may be another one.
        EXPLAIN without ANALYZE: nothing is carried out again. Raises one of AWAY.
        """
        try:
            rows = await beside.fetch(f"EXPLAIN {slow.statement}", *slow.arguments)
        except asyncpg.QueryCanceledError:
            return ""
        except AWAY:
            raise
        except asyncpg.PostgresError:
            return ""
        return without_arguments("\n".join(row[0] for row in rows), slow.statement)[:MAX_PLAN]


_ADD = """
INSERT INTO query_performance AS q
    (begin_time, process, method, query_count, row_count, total_us, longest_us, histogram)
VALUES (to_timestamp($1), $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (begin_time, process, method) DO UPDATE
SET query_count = q.query_count + excluded.query_count,
    row_count = q.row_count + excluded.row_count,
    total_us = q.total_us + excluded.total_us,
    longest_us = greatest(q.longest_us, excluded.longest_us),
    histogram = added(q.histogram::bigint[], excluded.histogram::bigint[])::integer[]"""

_LITERAL = re.compile(r"'(?:[^']|'')*'")


def without_arguments(plan: str, statement: str) -> str:
    """The plan with every text in quotes hidden that is not the statement's own.

    A plan is made for its arguments, and shows them. Numbers stay: positions and counts explain it.
    """
    own = set(_LITERAL.findall(statement))
    return _LITERAL.sub(lambda found: found[0] if found[0] in own else "'...'", plan)
