"""Migrations: once each, in order, whoever asks, and never an edited one."""

import asyncio

import asyncpg
import pytest

from services.schema.files import MIGRATIONS
from services.schema.locks import Patience, TablesInUse
from services.schema.migrate import MigrationChanged, State, migrate, status
from tests.conftest import _execute
from tests.schema.databases import FILES, at_version, executed, planned, settle


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

    tables = await executed(
        empty_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )
    assert {row[0] for row in tables} == {"workers", "migrations"}


def test_every_file_is_a_migration_or_the_way_back_of_one() -> None:
    backs = [name.removesuffix(".sql") + ".down.sql" for name in FILES]

    assert sorted(path.name for path in MIGRATIONS.iterdir()) == sorted([*FILES, *backs])


async def test_status_tells_what_is_missing_and_changes_nothing(empty_url: str) -> None:
    assert [each.state for each in await status(empty_url)] == [State.PENDING] * len(FILES)

    await at_version(empty_url, "0003")
    await _execute(empty_url, f"UPDATE migrations SET sha256 = '' WHERE name = '{FILES[1]}'")
    await _execute(empty_url, "INSERT INTO migrations VALUES ('9999_later.sql', '')")

    found = await status(empty_url)
    assert [each.name for each in found] == [*FILES, "9999_later.sql"]
    assert [each.state for each in found] == [
        State.APPLIED,
        State.EDITED,
        State.APPLIED,
        *[State.PENDING] * (len(FILES) - 3),
        State.UNKNOWN,
    ]
    assert all((each.apply_time is None) == (each.state is State.PENDING) for each in found)


async def test_a_session_in_the_way_is_named_and_waited_for_in_turns(empty_url: str) -> None:
    await at_version(empty_url, "0004")
    told: list[str] = []
    reader = await asyncpg.connect(
        empty_url, server_settings={"application_name": "the long report"}
    )
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("SELECT FROM chunks")
    impatient = Patience(tries=2, lock_seconds=1, pause=0.01)

    with pytest.raises(TablesInUse, match=f"pid {reader.get_server_pid()} .the long report of"):
        await migrate(empty_url, patience=impatient, on_blocked=told.append)

    assert len(told) == 1
    assert "try 1 of 2" in told[0]
    assert "SELECT FROM chunks" in told[0]
    assert (await status(empty_url))[4].state is State.PENDING

    await transaction.rollback()
    await reader.close()
    assert await migrate(empty_url, patience=impatient) == FILES[4:]


async def test_a_session_that_ends_in_time_only_delays(empty_url: str) -> None:
    await at_version(empty_url, "0004")
    reader = await asyncpg.connect(empty_url)
    await reader.execute("BEGIN; SELECT FROM phases; SELECT FROM chunks")
    blocked = asyncio.Event()

    migrating = asyncio.create_task(
        migrate(
            empty_url,
            patience=Patience(tries=100, lock_seconds=0.2, pause=0.01),
            on_blocked=lambda _: blocked.set(),
        )
    )
    await blocked.wait()
    await reader.close()

    assert await migrating == FILES[4:]


async def test_rows_of_the_version_before_are_counted_by_the_new_one(empty_url: str) -> None:
    await at_version(empty_url, "0004")
    no = await planned(empty_url, chunks=5)
    worker = await asyncpg.connect(empty_url)
    for first, resolved in ((300, 10), (0, 20), (100, 30)):
        await settle(worker, no, first, [resolved, 100 - resolved])
    await worker.close()

    await migrate(empty_url)

    totals = await executed(
        empty_url, "SELECT phase, run, settled_count, outcome_counts, revision FROM ledger_totals"
    )
    assert [tuple(row) for row in totals] == [(2, 1, 300, [60, 240], 3)]
    # Below the newest, each its own, in the order in which they were settled.
    revisions = await executed(
        empty_url,
        "SELECT first_position FROM chunks WHERE revision BETWEEN 1 AND 3 ORDER BY revision",
    )
    assert [row[0] for row in revisions] == [300, 0, 100]
    unsettled = "SELECT count(*) FROM chunks WHERE revision IS NULL AND state <> 'done'"
    assert (await executed(empty_url, unsettled))[0][0] == 2


async def test_workers_of_the_version_before_go_on_while_it_migrates(empty_url: str) -> None:
    workers, chunks, size = 4, 8_000, 100
    await at_version(empty_url, "0004")
    no = await planned(empty_url, chunks, size)
    some_settled, migrated = asyncio.Event(), asyncio.Event()
    settled: list[int] = []

    async def work(share: range) -> None:
        connection = await asyncpg.connect(empty_url)
        try:
            for number in share:
                # No error is allowed for: a worker that is taken for deadlocked fails here.
                await settle(connection, no, number * size, [number % size, size - number % size])
                settled.append(number)
                if number > workers * 5:
                    some_settled.set()
                if migrated.is_set():
                    return
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        for worker in range(workers):
            group.create_task(work(range(worker, chunks, workers)))
        await some_settled.wait()
        assert await migrate(empty_url) == FILES[4:]
        migrated.set()
    assert len(settled) < chunks, "the workers were done before the migration was"

    [total] = await executed(
        empty_url, "SELECT settled_count, outcome_counts, revision FROM ledger_totals"
    )
    [summed] = await executed(
        empty_url,
        """SELECT sum(name_count), sum(outcome_counts[1]), max(revision)
        FROM chunks WHERE state = 'done'""",
    )
    assert total["settled_count"] == summed[0] == len(settled) * size
    assert total["outcome_counts"][0] == summed[1] == sum(number % size for number in settled)
    assert total["revision"] == summed[2] == len(settled)
