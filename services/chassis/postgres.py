"""Opens the connection pool of a service, and single connections beside it."""

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import asyncpg

from services.chassis.pool import LEAK_AFTER, MeasuredPool

log = logging.getLogger(__name__)

# Generic in the stubs only.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

# What the server or the driver raises while PostgreSQL restarts, is away, or shut us out. Safe to
# try again when the work is idempotent.
AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    # A connection that the server has ended and that has not noticed yet.
    asyncpg.InternalClientError,
    # Connections, disk or memory have run out: for somebody to mend, and no fault of the work.
    asyncpg.InsufficientResourcesError,
    # Ended by a limit below, or to let another one live: nothing was changed.
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.DeadlockDetectedError,
)


# Told of every statement when it has ended, however it ended: its text and arguments, the seconds
# it took, and how many rows it gave.
OnStatement: TypeAlias = Callable[[str, Sequence[Any], float, int], None]

# A server that does not even acknowledge for so long, in seconds, is away: as long as a lease.
SILENCE = 15


# At the head of a statement's text: a connection plans it once, for as long as the driver keeps it
# prepared (five minutes), whatever its arguments are, even where it plans others each time, and
# never as a scan of a whole table that has an index. For statements that have but one good plan,
# which is not to depend on what is known of the tables. The plan is of all partitions: whoever
# locks one of them exclusively holds up the statement for every campaign.
PLANNED_ONCE = "/* planned once */ "
PLANS_ONCE = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off"
_PLANS_AS_TOLD = "RESET plan_cache_mode; RESET enable_seqscan"


if TYPE_CHECKING:
    _Driver = asyncpg.Connection[asyncpg.Record]
else:
    _Driver = asyncpg.Connection


class _Connection(_Driver):
    """Knows whether it has to be put in order before its next user, and tells of its statements.

    Preparing a statement opens a transaction that only its execution ends. Whoever is cancelled in
    between would leave it to the next one, together with its locks.
    """

    __slots__ = ("_in_disorder", "_plans_once", "on_statement")

    def __init__(self, protocol: Any, transport: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(protocol, transport, *arguments, **more)
        self._in_disorder = False
        # Statements come in flocks: what is set stays until one that wants it otherwise. None: it
        # is not known.
        self._plans_once: bool | None = False
        self.on_statement: OnStatement | None = None
        _notice_silence(transport.get_extra_info("socket"))

    async def _get_statement(self, *arguments: Any, **more: Any) -> Any:
        try:
            return await super()._get_statement(*arguments, **more)  # type: ignore[misc]
        except BaseException:
            self._in_disorder = True
            raise

    async def _execute(
        self, query: str, arguments: Sequence[Any], *others: Any, **more: Any
    ) -> Any:
        if (once := query.startswith(PLANNED_ONCE)) is not self._plans_once:
            await self._plan(once)
        if self.on_statement is None:
            return await super()._execute(query, arguments, *others, **more)  # type: ignore[misc]
        rows, begin = 0, time.perf_counter()
        try:
            result = await super()._execute(query, arguments, *others, **more)  # type: ignore[misc]
            # With a status the rows are only a part of it.
            rows = len(result[0]) if isinstance(result, tuple) else len(result)
            return result
        finally:
            self.on_statement(query, arguments, time.perf_counter() - begin, rows)

    async def _plan(self, once: bool) -> None:
        self._plans_once = None
        protocol: Any = self._protocol  # type: ignore[attr-defined]
        await protocol.query(PLANS_ONCE if once else _PLANS_AS_TOLD, None)
        # What a transaction has set is taken back when it fails.
        if not self.is_in_transaction():
            self._plans_once = once

    async def put_in_order(self) -> None:
        """A reset where one is needed. What is open by its own BEGIN was rolled back already."""
        # No statement of ours leaves anything else behind in a session, and a reset at every
        # release costs as much again as a short query.
        if self._in_disorder:
            self._in_disorder = False
            self._plans_once = False
            await self.reset()


def _notice_silence(sock: Any) -> None:
    """Let the kernel end a connection whose other side has vanished without a word.

    Whoever waits for an answer sends nothing, and would wait for ever.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Where the system has them, and it is Linux that has all of them: s, s, tries; ms.
    for option, value in (
        ("TCP_KEEPIDLE", SILENCE // 3),
        ("TCP_KEEPINTVL", SILENCE // 3),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", SILENCE * 1000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class Pulse:
    """Tells whether the database answers, on a connection of its own: a busy pool is well."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def check(self) -> None:
        """Raise unless the database answers."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url, timeout=2)
        try:
            await self._connection.fetchval("SELECT 1", timeout=2)
        except BaseException:
            self._connection.terminate()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.terminate()


async def open_pool(
    url: str,
    *,
    application_name: str,
    max_size: int = 10,
    read_only: bool = False,
    statement_timeout: float = 60,
    wait: float = 60,
    leak_after: float | None = None,
    on_statement: OnStatement | None = None,
) -> MeasuredPool:
    """Open a pool, waiting up to `wait` seconds for a server that is not up yet.

    `statement_timeout` in seconds ends runaway statements, 0: never. A connection that is out for
    longer than `leak_after` seconds is reported as forgotten; default: a minute, or twice what a
    statement may take. Raises what the last try raised.
    """
    if leak_after is None:
        leak_after = max(LEAK_AFTER, 2 * statement_timeout) if statement_timeout else math.inf

    async def listen(connection: _Driver) -> None:
        assert isinstance(connection, _Connection)
        connection.on_statement = on_statement

    settings = _session(application_name, statement_timeout, read_only=read_only)
    give_up = time.monotonic() + wait
    while True:
        try:
            return await MeasuredPool(
                url,
                name=application_name,
                leak_after=leak_after,
                loop=None,
                min_size=1,
                max_size=max_size,
                max_queries=50_000,
                server_settings=settings,
                max_inactive_connection_lifetime=300,
                connection_class=_Connection,
                record_class=asyncpg.Record,
                init=listen,
                reset=_Connection.put_in_order,
                timeout=10,
            )
        except AWAY as error:
            if time.monotonic() > give_up:
                raise
            log.info("waiting for PostgreSQL: %s", error)
            await asyncio.sleep(0.25)


class Beside:
    """One connection beside the pools, for what must get through while they are exhausted.

    Opened when it is first needed, and again when it was lost; one statement at a time. Statements
    are planned for their arguments, as a read-only pool plans all but those that are PLANNED_ONCE.
    """

    def __init__(self, url: str, *, application_name: str) -> None:
        self._url = url
        self._settings = _session(application_name, statement_timeout=5, read_only=False)
        self._settings["plan_cache_mode"] = "force_custom_plan"
        # Whoever else comes here waits as long: better no plan of a table that is locked.
        self._settings["lock_timeout"] = "1000"
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = asyncio.Lock()

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement. Raises one of AWAY when the database is away."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._url, timeout=5, server_settings=self._settings
                )
            try:
                return await self._connection.fetch(statement, *arguments, timeout=6)
            except asyncpg.PostgresError:
                # The server's answer: the connection is well, unless it has said farewell.
                raise
            except BaseException:
                self._connection.terminate()
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.terminate()


def _session(application_name: str, statement_timeout: float, *, read_only: bool) -> dict[str, str]:
    settings = {
        "application_name": application_name,
        "statement_timeout": str(int(statement_timeout * 1000)),
        # Nobody here thinks inside a transaction: whoever is silent in one is frozen or cut off,
        # and its locks stop the whole campaign.
        "idle_in_transaction_session_timeout": "5000",
        "jit": "off",
        # Parallel workers cost more than they bring for short keyset queries on few cores.
        "max_parallel_workers_per_gather": "0",
    }
    if read_only:
        settings["default_transaction_read_only"] = "on"
        # A plan for these very arguments touches one partition, and reads it in order; the general
        # one merges sixteen: 3.5 instead of 1.9 ms for 10,000 names, 0.1 ms of planning saved.
        settings["plan_cache_mode"] = "force_custom_plan"
    return settings
