"""A read replica: whether it can be used, how far it is behind, and connections to it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import asyncpg

from services.chassis.pool import MeasuredPool
from services.chassis.postgres import AWAY, OnStatement, open_pool
from services.query.lag import Lag

log = logging.getLogger(__name__)

# Both servers are looked at so often; a replica that has caught up is said to be behind by as much
# at most. In seconds.
PERIOD = 0.5
# A server that does not answer a question about itself within so many seconds is away.
PATIENCE = 2.0

_WHICH = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
    (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
    pg_is_in_recovery() AS replica,"""
# What is flushed, not what is inserted: every commit here is flushed before anybody sees it, and
# marks that readers leave behind may wait for seconds.
_AT_PRIMARY = f"""{_WHICH}
    CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_flush_lsn() - '0/0')::bigint END
        AS position"""
_AT_REPLICA = f"""{_WHICH}
    (pg_last_wal_replay_lsn() - '0/0')::bigint AS position"""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What is known of the replica."""

    reachable: bool = False
    # Seconds at most; None: unknown, but more than since the process began to look.
    lag: float | None = None
    # WAL that it has to replay yet; None: unknown.
    lag_bytes: int | None = None
    # Why it is not used; empty when it can be.
    reason: str = "it was not reached yet"


class Replica:
    """`async with Replica(...) as replica:` then use `replica.pool` where that is not None.

    The replica may be away at any time, also at the beginning; it is used again when it is back.
    """

    def __init__(
        self,
        url: str,
        primary_url: str,
        *,
        application_name: str,
        max_size: int = 10,
        statement_timeout: float = 60,
        on_statement: OnStatement | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._application_name = application_name
        self._max_size = max_size
        self._statement_timeout = statement_timeout
        self._on_statement = on_statement
        self._clock = clock
        self._began = clock()
        self._at_primary = _Line(primary_url, _AT_PRIMARY)
        self._at_replica = _Line(url, _AT_REPLICA)
        self._lag = Lag()
        self._reason = ReplicaState().reason
        self._doubt = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.pool: MeasuredPool | None = None
        # The primary did not answer when it was looked at last.
        self.alone = False

    @property
    def lag(self) -> float | None:
        """Seconds that it is behind at most; None: unknown."""
        return self._lag.behind(self._clock())

    @property
    def least_lag(self) -> float:
        """Seconds that it is behind at least, as far as this process has watched."""
        return 0.0 if self.lag is not None else self._clock() - self._began

    @property
    def state(self) -> ReplicaState:
        if self.pool is None:
            return ReplicaState(reason=self._reason)
        return ReplicaState(True, self.lag, self._lag.size, "")

    def failed(self, error: BaseException) -> None:
        """A statement failed on it: look whether it is still there, now."""
        log.info("the replica failed, the primary goes on: %s: %s", type(error).__name__, error)
        self._doubt.set()

    async def __aenter__(self) -> Self:
        await self._look()
        self._keeper = asyncio.create_task(self._keep_looking(), name="watch the replica")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._at_primary.close()
        self._at_replica.close()
        if self.pool is not None:
            self.pool.terminate()
            self.pool = None

    async def _keep_looking(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._doubt.wait()
            self._doubt.clear()
            await self._look()

    async def _look(self) -> None:
        try:
            moment = self._clock()
            primary = await self._at_primary.ask()
            if primary["position"] is not None:
                self._lag.primary_was_at(moment, primary["position"])
            self.alone = False
        except _FAILED:
            primary = None
            self.alone = True
        try:
            replica = await self._at_replica.ask()
            if reason := _unfit(primary, replica):
                self._leave(reason)
                return
            self._lag.replica_is_at(replica["position"])
            if self.pool is None:
                self.pool = await open_pool(
                    self._url,
                    application_name=self._application_name,
                    max_size=self._max_size,
                    read_only=True,
                    statement_timeout=self._statement_timeout,
                    wait=0,
                    on_statement=self._on_statement,
                )
                log.info("the replica is used")
        except _FAILED as error:
            self._leave(f"{type(error).__name__}: {error}")

    def _leave(self, reason: str) -> None:
        """Use it no more, and end what waits for it."""
        if reason != self._reason:
            log.warning("the replica is not used: %s", reason)
        self._reason = reason
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.terminate()


# A wrong password or database is a reason like any other: somebody may mend it.
_FAILED = (*AWAY, asyncpg.PostgresError, TimeoutError)


def _unfit(primary: asyncpg.Record | None, replica: asyncpg.Record) -> str:
    """Why this server must not be read from; empty when it may be."""
    if not replica["replica"]:
        return "it is no replica, or not any more: it takes writes"
    if primary is not None and any(primary[key] != replica[key] for key in ("system", "database")):
        return "it is a replica of another database"
    if replica["position"] is None:
        return "it has not begun to replay"
    return ""


class _Line:
    """A connection of its own for one small question: a busy pool would let it wait."""

    def __init__(self, url: str, statement: str) -> None:
        self._url = url
        self._statement = statement
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def ask(self) -> asyncpg.Record:
        """Raises what the driver does, TimeoutError after PATIENCE."""
        try:
            async with asyncio.timeout(PATIENCE):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(self._url)
                row = await self._connection.fetchrow(self._statement)
        except BaseException:
            self.close()
            raise
        assert row is not None
        return row

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
