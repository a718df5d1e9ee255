"""Migrations: once each, in order, whoever asks, and never an edited one."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest

from services.schema.migrate import MIGRATIONS, MigrationChanged, migrate
from services.suite.postgres import EmbeddedPostgres
from tests.conftest import _execute

FILES = sorted(path.name for path in MIGRATIONS.glob("*.sql"))


@pytest.fixture
async def empty_url(postgres_server: EmbeddedPostgres):  # type: ignore[no-untyped-def]
    """A database that has seen no migration."""
    await _execute(postgres_server.url, "CREATE DATABASE unmigrated STRATEGY FILE_COPY")
    yield urlsplit(postgres_server.url)._replace(path="/unmigrated").geturl()
    await _execute(postgres_server.url, "DROP DATABASE unmigrated WITH (FORCE)")


async def test_every_migration_is_applied_once(empty_url: str) -> None:
    assert await migrate(empty_url) == FILES
    assert await migrate(empty_url) == []


async def test_processes_that_migrate_at_once_take_turns(empty_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_url) for _ in range(5)))

    assert sorted(applied, key=len) == [[], [], [], [], FILES]


async def test_an_edited_migration_is_refused_by_name(database_url: str) -> None:
    # The same as an edited file, seen from the other side.
    await _execute(
        database_url, f"UPDATE migrations SET sha256 = 'another' WHERE name = '{FILES[0]}'"
    )

    with pytest.raises(MigrationChanged, match=FILES[0]):
        await migrate(database_url)


async def test_a_failing_migration_leaves_no_trace(empty_url: str) -> None:
    # In the way of what the first migration creates last.
    await _execute(empty_url, "CREATE TABLE workers ()")

    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate(empty_url)

    connection = await asyncpg.connect(empty_url)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    assert {row[0] for row in tables} == {"workers", "migrations"}
