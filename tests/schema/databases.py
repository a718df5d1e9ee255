"""Databases of older versions, and ledgers in them as workers of that time left them."""

import asyncio
import subprocess

import asyncpg

from services.schema.files import migrations
from services.suite.postgres import binaries

FILES = [migration.name for migration in migrations()]
LEASE = "interval '15 seconds'"


async def executed(url: str, statement: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def at_version(url: str, prefix: str) -> None:
    """Apply the missing files up to this one, as the version that had no newer ones did."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, sha256 text NOT NULL,"
            " apply_time timestamptz NOT NULL DEFAULT now())"
        )
        known = {row[0] for row in await connection.fetch("SELECT name FROM migrations")}
        for migration in migrations():
            if migration.name in known or migration.name[: len(prefix)] > prefix:
                continue
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO migrations VALUES ($1, $2)", migration.name, migration.digest
            )
    finally:
        await connection.close()


async def schema_of(url: str) -> str:
    """What pg_dump says of everything but rows."""
    command = [
        *(str(binaries() / "pg_dump"), "--schema-only", "--no-owner", "--restrict-key=same"),
        *("--exclude-table=migrations", url),
    ]
    done = await asyncio.to_thread(
        subprocess.run, command, check=True, capture_output=True, text=True
    )
    return done.stdout


async def planned(url: str, chunks: int, size: int = 100) -> int:
    """A campaign whose DNS validation runs, with so many chunks handed out to nobody yet."""
    connection = await asyncpg.connect(url)
    try:
        no = await connection.fetchval(
            """INSERT INTO campaigns
                (id, name, mode, initial_phase, final_phase, configuration, name_count)
            VALUES (gen_random_uuid(), 'old', 'STEP_BY_STEP', 1, 2, '', $1) RETURNING no""",
            chunks * size,
        )
        await connection.execute(
            """INSERT INTO phases (campaign_no, phase, status, run, result_run, name_count, planned)
            VALUES ($1, 1, 'COMPLETED', 1, 1, $2, true), ($1, 2, 'RUNNING', 1, 1, $2, true)""",
            no,
            chunks * size,
        )
        await connection.execute(
            """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
            SELECT $1, 2, 1, g * $3, $3, 'queued' FROM generate_series(0, $2 - 1) g""",
            no,
            chunks,
            size,
        )
        return int(no)
    finally:
        await connection.close()


async def settle(
    connection: "asyncpg.Connection[asyncpg.Record]", no: int, first: int, counts: list[int]
) -> None:
    """Claim, hold and settle a chunk as a worker that knows nothing of later versions."""
    key = f"{no}, 2::smallint, 1, {first}"
    attempt = await connection.fetchval(
        f"SELECT attempt FROM claim_chunk({key}, 'old worker', {LEASE})"
    )
    assert await connection.fetchval(f"SELECT hold_chunk({key}, {attempt}, {LEASE})")
    async with connection.transaction():
        settled = await connection.fetch(
            f"SELECT FROM settle_chunk({key}, {attempt}, $1, '\\x00')", counts
        )
        assert settled
        await connection.execute("SELECT append_event($1, '')", no)
