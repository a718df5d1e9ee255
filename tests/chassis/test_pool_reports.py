"""Reports on pools: that they come, that nobody waits for them, and what they say."""

import asyncio
import logging
from collections.abc import AsyncIterator

import asyncpg
import pytest

from domainflow.query.v1.database_pb2 import ConnectionPool
from services.chassis.pool import MeasuredPool
from services.chassis.pool_reports import PoolReporter, process_label, reported
from services.chassis.postgres import Beside, open_pool
from services.suite.postgres import EmbeddedPostgres
from tests.eventually import eventually


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[MeasuredPool]:
    async with await open_pool(
        database_url, application_name="test", max_size=1, read_only=True, leak_after=0
    ) as pool:
        yield pool


@pytest.fixture
async def beside(database_url: str) -> AsyncIterator[Beside]:
    async with Beside(database_url, application_name="beside") as beside:
        yield beside


async def test_an_exhausted_pool_is_reported_with_who_waits_and_who_holds(
    pool: MeasuredPool, beside: Beside
) -> None:
    async def report() -> ConnectionPool:
        rows = await beside.fetch("SELECT body FROM pool_reports WHERE process = 'test 1 2'")
        assert rows
        message = ConnectionPool.FromString(rows[0]["body"])
        assert message.waiting_count == 1
        return message

    async with pool.acquire():
        waiter = asyncio.create_task(pool.fetchval("SELECT 1"))
        async with reported(beside, lambda: {"test 1 2": pool}, period=0.01):
            said = await eventually(report)
    await waiter

    assert (said.open_count, said.in_use_count, said.max_count) == (1, 1, 1)
    assert said.longest_wait.ToNanoseconds() > 0
    assert said.leaks[0].taken_at.startswith("tests/chassis/test_pool_reports.py:")


async def test_history_adds_up_what_was_reported(pool: MeasuredPool, beside: Beside) -> None:
    reporter = PoolReporter(beside, "test 1 2", pool)
    for _ in range(3):
        await pool.fetchval("SELECT 1")
        await reporter.report()
    await reporter.write_history()
    await pool.fetchval("SELECT 1")
    await reporter.report()
    await reporter.write_history()

    # Two rows when the minute ended in between.
    [row] = await beside.fetch(
        """SELECT sum(acquire_count) AS acquired, max(in_use_max) AS in_use,
            sum(wait_us) > 0 AS waited, max(max_count) AS most FROM pool_history"""
    )
    assert dict(row) == {"acquired": 4, "in_use": 1, "waited": True, "most": 1}


async def test_history_that_could_not_be_written_is_added_to_the_next_row(
    pool: MeasuredPool, beside: Beside
) -> None:
    reporter = PoolReporter(beside, "test 1 2", pool)
    await pool.fetchval("SELECT 1")
    await reporter.report()
    await beside.fetch("ALTER TABLE pool_history RENAME TO away")
    with pytest.raises(asyncpg.UndefinedTableError):
        await reporter.write_history()

    await beside.fetch("ALTER TABLE away RENAME TO pool_history")
    await reporter.write_history()

    [row] = await beside.fetch("SELECT acquire_count FROM pool_history")
    assert row[0] == 1


async def test_a_leak_is_logged_once(
    pool: MeasuredPool, beside: Beside, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = PoolReporter(beside, "test 1 2", pool)
    with caplog.at_level(logging.WARNING):
        async with pool.acquire():
            await reporter.report()
            await reporter.report()
        await reporter.report()
        async with pool.acquire():
            await reporter.report()

    assert len(caplog.records) == 2
    assert "test_a_leak_is_logged_once" in caplog.records[0].message


async def test_reports_go_on_when_the_connection_for_them_was_lost(
    pool: MeasuredPool, beside: Beside, database_url: str
) -> None:
    async with await open_pool(database_url, application_name="another") as another:

        async def reports_come() -> None:
            await another.execute("DELETE FROM pool_reports")

            async def came() -> None:
                assert await another.fetch("SELECT FROM pool_reports")

            await eventually(came)

        async with reported(beside, lambda: {process_label("test"): pool}, period=0.01):
            await reports_come()
            await another.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = 'beside' AND datname = current_database()"""
            )
            await reports_come()


async def test_a_database_of_an_older_version_disturbs_nobody(
    postgres_server: EmbeddedPostgres,
) -> None:
    """A process that is newer than the tables: there is nothing to report into."""
    async with (
        Beside(postgres_server.url, application_name="beside") as beside,
        await open_pool(postgres_server.url, application_name="test") as pool,
    ):
        taken = 0

        def pools() -> dict[str, MeasuredPool]:
            nonlocal taken
            taken += 1
            return {"test": pool}

        async def keeps_trying() -> None:
            assert taken > 3

        async with reported(beside, pools, period=0.01):
            await eventually(keeps_trying)
