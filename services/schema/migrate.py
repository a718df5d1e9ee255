"""Applies the migrations that a database has not seen yet, each in its own transaction."""

import hashlib
from pathlib import Path

import asyncpg

MIGRATIONS = Path(__file__).parent / "migrations"
# Any number does, as long as every version of the suite uses the same one.
ADVISORY_LOCK = 7_216_604


class MigrationChanged(Exception):
    """A migration that this database has applied reads differently now. Applied files are never
    edited."""


async def migrate(database_url: str) -> list[str]:
    """Bring the database up to date and return the names of the migrations applied now.

    Safe to call from several processes at once: they take turns. Raises MigrationChanged, and
    asyncpg's own errors.
    """
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", ADVISORY_LOCK)
        await connection.execute(
            """CREATE TABLE IF NOT EXISTS migrations (
                name text PRIMARY KEY, sha256 text NOT NULL, apply_time timestamptz NOT NULL DEFAULT
                now())"""
        )
        rows = await connection.fetch("SELECT name, sha256 FROM migrations")
        known = {row["name"]: row["sha256"] for row in rows}
        applied = []
        for path in sorted(MIGRATIONS.glob("[0-9]*.sql")):
            sql = path.read_text()
            digest = hashlib.sha256(sql.encode()).hexdigest()
            if path.name not in known:
                await _apply(connection, path.name, sql, digest)
                applied.append(path.name)
            elif known[path.name] != digest:
                raise MigrationChanged(path.name)
        return applied
    finally:
        await connection.close()


async def _apply(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, sql: str, digest: str
) -> None:
    async with connection.transaction():
        # A migration must not queue behind a long reader and stall everybody behind itself.
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        await connection.execute(sql)
        await connection.execute(
            "INSERT INTO migrations (name, sha256) VALUES ($1, $2)", name, digest
        )
