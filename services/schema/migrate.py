"""Brings a database to a version of its tables: forward by what it has not seen yet, or back.

Each migration is a transaction of its own. Whoever migrates takes turns.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import asyncpg

from services.schema.files import Migration, migrations
from services.schema.locks import Patience, change

if TYPE_CHECKING:
    from services.schema.locks import Connection

# Any number does, as long as every version of the suite uses the same one.
ADVISORY_LOCK = 7_216_604


class MigrationChanged(Exception):
    """A migration that this database has applied reads differently now. Applied files are never
    edited."""


class MigrationUnknown(Exception):
    """A migration that this version has no file of."""


class WouldLose(Exception):
    """Going back takes away what no other table has; the text says what."""


class State(StrEnum):
    APPLIED = "applied"
    PENDING = "pending"
    # Reads differently from what was applied.
    EDITED = "edited"
    # Of a newer version.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Standing:
    """One migration as this database has it. `apply_time` is None while it is pending."""

    name: str
    state: State
    apply_time: datetime | None


def silent(_: str) -> None:
    """Nobody hears of waits."""


async def migrate(
    database_url: str,
    *,
    patience: Patience | None = None,
    on_blocked: Callable[[str], None] = silent,
) -> list[str]:
    """Bring the database up to date and return the names of the migrations applied now.

    Safe to call from several processes at once: they take turns. Raises MigrationChanged,
    TablesInUse, and asyncpg's own errors.
    """
    async with _turn(database_url) as (connection, known):
        applied = []
        for migration in migrations():
            if migration.name not in known:
                await _apply(connection, database_url, migration, patience, on_blocked)
                applied.append(migration.name)
            elif known[migration.name] != migration.digest:
                raise MigrationChanged(migration.name)
        return applied


async def revert(
    database_url: str,
    *,
    steps: int = 1,
    to: str | None = None,
    lose_data: bool = False,
    patience: Patience | None = None,
    on_blocked: Callable[[str], None] = silent,
) -> list[str]:
    """Take the newest migrations back and return their names: so many, or all after `to`, which is
    the name of one or the beginning of a name; "0" stands before the first.

    Nothing may use the tables meanwhile but older versions. Unless `lose_data`, nothing is taken
    back when any step would lose rows or values: WouldLose. Raises MigrationUnknown, also where a
    newer version has migrated, MigrationChanged and TablesInUse.
    """
    async with _turn(database_url) as (connection, known):
        files = {migration.name: migration for migration in migrations()}
        if strange := sorted(known.keys() - files.keys()):
            raise MigrationUnknown(f"{strange[-1]}: only the version that brought it takes it back")
        applied = sorted(known)
        going = [files[name] for name in reversed(applied[_kept(applied, steps, to) :])]
        for migration in going:
            if known[migration.name] != migration.digest:
                raise MigrationChanged(migration.name)
        if not lose_data:
            await _refuse_losses(connection, going)
        for migration in going:
            await _take_back(connection, database_url, migration, lose_data, patience, on_blocked)
        return [migration.name for migration in going]


async def status(database_url: str) -> list[Standing]:
    """Every migration that this version or this database knows, in order. Changes nothing."""
    connection = await asyncpg.connect(database_url)
    try:
        rows: list[asyncpg.Record] = []
        if await connection.fetchval("SELECT to_regclass('migrations')"):
            rows = await connection.fetch("SELECT name, sha256, apply_time FROM migrations")
    finally:
        await connection.close()
    known = {row["name"]: row for row in rows}
    files = {migration.name: migration for migration in migrations()}
    return [
        Standing(name, _state(files.get(name), known.get(name)), _time(known.get(name)))
        for name in sorted(files.keys() | known.keys())
    ]


def _state(file: Migration | None, row: asyncpg.Record | None) -> State:
    if file is None:
        return State.UNKNOWN
    if row is None:
        return State.PENDING
    return State.APPLIED if row["sha256"] == file.digest else State.EDITED


def _time(row: asyncpg.Record | None) -> datetime | None:
    return row["apply_time"] if row else None


@asynccontextmanager
async def _turn(database_url: str) -> AsyncIterator[tuple["Connection", dict[str, str]]]:
    """A connection that alone migrates, and the digests of what is applied, by name."""
    connection = await asyncpg.connect(
        database_url, server_settings={"application_name": "domainflow schema"}
    )
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", ADVISORY_LOCK)
        await connection.execute(
            """CREATE TABLE IF NOT EXISTS migrations (
                name text PRIMARY KEY, sha256 text NOT NULL, apply_time timestamptz NOT NULL DEFAULT
                now())"""
        )
        rows = await connection.fetch("SELECT name, sha256 FROM migrations")
        yield connection, {row["name"]: row["sha256"] for row in rows}
    finally:
        await connection.close()


async def _apply(
    connection: "Connection",
    database_url: str,
    migration: Migration,
    patience: Patience | None,
    on_blocked: Callable[[str], None],
) -> None:
    async def work() -> None:
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO migrations (name, sha256) VALUES ($1, $2)",
            migration.name,
            migration.digest,
        )

    await change(connection, database_url, work, patience or Patience(), on_blocked)


async def _take_back(
    connection: "Connection",
    database_url: str,
    migration: Migration,
    lose_data: bool,
    patience: Patience | None,
    on_blocked: Callable[[str], None],
) -> None:
    async def work() -> None:
        if not lose_data:
            # Asked again behind a lock: a row that came since the first time would be gone unseen.
            for table in sorted({loss.table for loss in migration.losses}):
                await connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
            await _refuse_losses(connection, [migration])
        await connection.execute(migration.back)
        await connection.execute("DELETE FROM migrations WHERE name = $1", migration.name)

    await change(connection, database_url, work, patience or Patience(), on_blocked)


async def _refuse_losses(connection: "Connection", going: list[Migration]) -> None:
    lost = [
        f"{migration.name}: {loss.words}"
        for migration in going
        for loss in migration.losses
        if await connection.fetchval(f"SELECT EXISTS ({loss.query})")
    ]
    if lost:
        raise WouldLose("; ".join(lost))


def _kept(applied: list[str], steps: int, to: str | None) -> int:
    """How many of the applied ones stay."""
    if to is None:
        return max(0, len(applied) - steps)
    if to in ("0", "0000"):
        return 0
    found = [number for number, name in enumerate(applied, 1) if name.startswith(to)]
    if len(found) != 1:
        raise MigrationUnknown(f"{to!r} is the beginning of {len(found)} applied migrations")
    return found[0]
