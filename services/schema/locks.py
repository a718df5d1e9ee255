"""Changes the schema in a transaction that waits for others a while only, and says for whom."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

# Shorter waits are nobody's concern.
_LOOK_AFTER = 0.3
_LOOK_PERIOD = 0.3


class TablesInUse(Exception):
    """A change of the schema gave up its wait for locks; the text names who holds them."""


@dataclass(frozen=True, slots=True)
class Patience:
    """`tries` transactions, each waiting at most `lock_seconds` for a lock; whoever comes after it
    waits as long. Between them everybody else goes on, for `pause` seconds, doubling."""

    tries: int = 5
    lock_seconds: float = 5.0
    pause: float = 1.0


async def change(
    connection: "Connection",
    database_url: str,
    work: Callable[[], Awaitable[None]],
    patience: Patience,
    on_blocked: Callable[[str], None],
) -> None:
    """Do `work` in a transaction of `connection`. Work that met others' locks is done anew.

    `on_blocked` hears of every try that was in vain. Raises TablesInUse after the last.
    """
    for attempt in range(1, patience.tries + 1):
        try:
            async with _watched(connection, database_url) as blockers, connection.transaction():
                # A migration must not queue behind a long reader and stall everybody behind itself.
                await connection.execute(
                    f"SET LOCAL lock_timeout = {patience.lock_seconds * 1000:.0f}"
                )
                await work()
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            told = f"tables are in use by {'; '.join(blockers) or 'sessions that have ended since'}"
            if attempt == patience.tries:
                raise TablesInUse(f"{told}; end them, or try again when they are done") from None
            on_blocked(f"try {attempt} of {patience.tries}: {told}")
        await asyncio.sleep(patience.pause * 2 ** (attempt - 1))


@asynccontextmanager
async def _watched(connection: "Connection", database_url: str) -> AsyncIterator[list[str]]:
    """A list that names, after every wait of some length, whom this connection waited for last."""
    found: list[str] = []
    # Not a TaskGroup: the errors of the body have to come out as they are.
    watch = asyncio.ensure_future(_watch(connection.get_server_pid(), database_url, found))
    try:
        yield found
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _watch(pid: int, database_url: str, found: list[str]) -> None:
    await asyncio.sleep(_LOOK_AFTER)
    # A server without room for one more connection: then the message has no names.
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await asyncpg.connect(database_url)
        try:
            while True:
                rows = await connection.fetch(
                    """SELECT pid, application_name, usename, backend_type, state,
                        extract(epoch FROM clock_timestamp() - xact_start)::float AS seconds,
                        left(regexp_replace(query, '\\s+', ' ', 'g'), 120) AS query
                    FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))
                    ORDER BY xact_start""",
                    pid,
                )
                if rows:
                    found[:] = [_described(row) for row in rows]
                await asyncio.sleep(_LOOK_PERIOD)
        finally:
            await connection.close()


def _described(row: asyncpg.Record) -> str:
    """`pid 4711 (psql of domainflow, idle in transaction for 312 s: SELECT ...)`."""
    who = row["application_name"] or row["backend_type"] or "session"
    since = f" for {row['seconds']:.0f} s" if row["seconds"] is not None else ""
    return f"pid {row['pid']} ({who} of {row['usename']}, {row['state']}{since}: {row['query']})"
