"""A pool that knows how long its callers wait, and who took the connections that are out.

It only measures: what the figures mean is for those to say who read them.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from weakref import WeakSet

import asyncpg
from opentelemetry.metrics import CallbackOptions, Observation

from services.chassis.telemetry import METER

if TYPE_CHECKING:
    _Pool = asyncpg.Pool[asyncpg.Record]
else:
    _Pool = asyncpg.Pool

# Generic in the stubs only.
_Proxy: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

# A connection that is out for longer, in seconds, was forgotten, unless statements may take so
# long.
LEAK_AFTER = 60.0
# Frames in these files take connections for somebody else.
_BETWEEN = frozenset({__file__, asyncpg.pool.__file__, contextlib.__file__})


@dataclass(frozen=True, slots=True)
class Leak:
    """A connection that was not given back. `age` in seconds."""

    # File, line and function.
    taken_at: str
    age: float
    # The same for as long as the connection is out; other connections of the pool have others.
    number: int


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """How a pool is, and what it went through since the last look. Times in seconds."""

    open_count: int
    in_use_count: int
    max_count: int
    waiting_count: int
    # Since the pool was opened.
    acquire_count: int
    # Since the last look. Whoever waits still counts in `longest_wait`.
    acquired: int
    waited: float
    longest_wait: float
    # Most that were in use at once.
    in_use_max: int
    leaks: tuple[Leak, ...]


class _Taken(NamedTuple):
    """Where and when a connection was taken. No frame: that would keep all it refers to alive."""

    number: int
    time: float
    code: CodeType
    line: int


class MeasuredPool(_Pool):
    """Counts every time a connection is taken, by fetch() and its like too."""

    def __init__(self, *arguments: Any, name: str, leak_after: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.name = name
        self._attributes = {_POOL_NAME: name}
        self._leak_after = leak_after
        self._numbers = count(1)
        self._taken: dict[_Proxy, _Taken] = {}
        # Begin of each wait, the longest first.
        self._waiting: dict[int, float] = {}
        self._acquire_count = self._acquired = self._in_use_max = 0
        self._waited = self._longest_wait = 0.0
        _POOLS.add(self)

    @property
    def waiting_count(self) -> int:
        """Calls that wait for a connection now."""
        return len(self._waiting)

    def take_figures(self) -> PoolFigures:
        """What happened since the last call: for one reader alone."""
        # One that was ended while it was out is nobody's any more, whether given back or not.
        for proxy in [p for p in self._taken if p._con is None]:  # type: ignore[attr-defined]
            del self._taken[proxy]
        now = time.monotonic()
        still = max((now - begin for begin in self._waiting.values()), default=0.0)
        open_count = self.get_size()
        figures = PoolFigures(
            open_count=open_count,
            in_use_count=open_count - self.get_idle_size(),
            max_count=self.get_max_size(),
            waiting_count=self.waiting_count,
            acquire_count=self._acquire_count,
            acquired=self._acquired,
            waited=self._waited,
            longest_wait=max(self._longest_wait, still),
            in_use_max=max(self._in_use_max, len(self._taken)),
            leaks=tuple(
                Leak(_place(t.code, t.line), now - t.time, t.number)
                for t in self._taken.values()
                if now - t.time > self._leak_after
            ),
        )
        self._acquired = self._in_use_max = 0
        self._waited = self._longest_wait = 0.0
        return figures

    async def _acquire(self, timeout: float | None) -> _Proxy:
        # 2.6 us together with the release, of which 0.4 to find the caller; the driver takes 30.
        frame = sys._getframe(1)
        while frame.f_code.co_filename in _BETWEEN and frame.f_back is not None:
            frame = frame.f_back
        code, line = frame.f_code, frame.f_lineno
        del frame
        number = next(self._numbers)
        begin = self._waiting[number] = time.monotonic()
        try:
            proxy: _Proxy = await super()._acquire(timeout)  # type: ignore[misc]
        finally:
            del self._waiting[number]
            now = time.monotonic()
            if (waited := now - begin) > self._longest_wait:
                self._longest_wait = waited
        self._taken[proxy] = _Taken(number, now, code, line)
        if (in_use := len(self._taken)) > self._in_use_max:
            self._in_use_max = in_use
        self._acquire_count += 1
        self._acquired += 1
        self._waited += waited
        _WAIT_TIME.record(waited, self._attributes)
        return proxy

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        try:
            await super().release(connection, timeout=timeout)
        finally:
            if (taken := self._taken.pop(connection, None)) is not None:
                _USE_TIME.record(time.monotonic() - taken.time, self._attributes)


def _place(code: CodeType, line: int) -> str:
    """File (its last three parts), line and function."""
    file = "/".join(code.co_filename.rsplit("/", 3)[-3:])
    return f"{file}:{line} {code.co_qualname}"


# Names and units of OpenTelemetry's conventions for database clients. They cost nothing (0.1 us)
# unless a process is told where its metrics go.
_POOLS: WeakSet[MeasuredPool] = WeakSet()
_POOL_NAME = "db.client.connection.pool.name"
_STATE = "db.client.connection.state"


def _connections(_: CallbackOptions) -> Iterator[Observation]:
    for pool in _POOLS:
        idle = pool.get_idle_size()
        yield Observation(idle, {_POOL_NAME: pool.name, _STATE: "idle"})
        yield Observation(pool.get_size() - idle, {_POOL_NAME: pool.name, _STATE: "used"})


def _most(_: CallbackOptions) -> Iterator[Observation]:
    for pool in _POOLS:
        yield Observation(pool.get_max_size(), {_POOL_NAME: pool.name})


def _pending(_: CallbackOptions) -> Iterator[Observation]:
    for pool in _POOLS:
        yield Observation(pool.waiting_count, {_POOL_NAME: pool.name})


METER.create_observable_up_down_counter(
    "db.client.connection.count", [_connections], "{connection}", "Connections of the pool."
)
METER.create_observable_up_down_counter(
    "db.client.connection.max", [_most], "{connection}", "Most connections it may open."
)
METER.create_observable_up_down_counter(
    "db.client.connection.pending_requests", [_pending], "{request}", "Calls that wait for one."
)
_WAIT_TIME = METER.create_histogram(
    "db.client.connection.wait_time", "s", "Time a call waited for a connection."
)
_USE_TIME = METER.create_histogram(
    "db.client.connection.use_time", "s", "Time a connection was out."
)
