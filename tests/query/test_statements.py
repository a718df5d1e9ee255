"""What the query service writes down of its own statements."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from services.chassis import telemetry
from services.chassis.pool import MeasuredPool
from services.chassis.postgres import Beside, open_pool
from services.query.histogram import LENGTH
from services.query.statements import StatementWatch, without_arguments
from tests.eventually import eventually


class Clock:
    """The wall clock, in seconds since 1970."""

    now = 1_800_000_030.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Watched:
    """A pool whose statements are watched; those of 50 ms and more are slow."""

    watch: StatementWatch
    pool: MeasuredPool
    beside: Beside
    clock: Clock

    async def rows(self) -> list[asyncpg.Record]:
        return await self.beside.fetch(
            """SELECT to_char(begin_time AT TIME ZONE 'UTC', 'HH24:MI:SS') AS minute, method,
                query_count, row_count, longest_us <= total_us AS plausible, histogram
            FROM query_performance ORDER BY begin_time, method"""
        )

    async def slow(self) -> list[asyncpg.Record]:
        return await self.beside.fetch(
            "SELECT method, duration_us, statement, plan FROM slow_queries ORDER BY id"
        )


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[Watched]:
    clock = Clock()
    watch = StatementWatch("query 1 2", slow=0.05, clock=clock)
    async with (
        Beside(database_url, application_name="beside") as beside,
        await open_pool(
            database_url,
            application_name="query",
            read_only=True,
            statement_timeout=1,
            on_statement=watch.note,
        ) as pool,
    ):
        yield Watched(watch, pool, beside, clock)


async def answering(watched: Watched, method: str, statement: str, *arguments: object) -> None:
    """A call of its own, as the server makes it."""

    async def call() -> None:
        with telemetry.call_span(f"/domainflow.query.v1.QueryService/{method}", ()):
            await watched.pool.fetch(statement, *arguments)

    await asyncio.create_task(call())


async def test_statements_are_counted_by_method_and_minute(watched: Watched) -> None:
    await answering(watched, "ListDomains", "SELECT generate_series(1, 3)")
    await answering(watched, "ListDomains", "SELECT 1")
    await answering(watched, "GetDomain", "SELECT 1")
    await watched.pool.fetch("SELECT 1")
    watched.clock.now += 60
    await answering(watched, "GetDomain", "SELECT 1")
    await watched.watch.write(watched.beside)

    rows = await watched.rows()
    assert [(r["minute"], r["method"], r["query_count"], r["row_count"]) for r in rows] == [
        ("08:00:00", "(none)", 1, 1),
        ("08:00:00", "GetDomain", 1, 1),
        ("08:00:00", "ListDomains", 2, 4),
        ("08:01:00", "GetDomain", 1, 1),
    ]
    assert all(row["plausible"] for row in rows)
    assert all(sum(row["histogram"]) == row["query_count"] for row in rows)


async def test_what_is_written_later_in_a_minute_is_added(watched: Watched) -> None:
    for _ in range(3):
        await answering(watched, "GetDomain", "SELECT 1")
        await watched.watch.write(watched.beside)

    [row] = await watched.rows()
    assert (row["query_count"], sum(row["histogram"])) == (3, 3)
    assert len(row["histogram"]) == LENGTH


async def test_what_cannot_be_written_is_kept(watched: Watched) -> None:
    await watched.beside.fetch("ALTER TABLE query_performance RENAME TO gone")
    await answering(watched, "GetDomain", "SELECT 1")
    await watched.watch.write(watched.beside)
    await answering(watched, "GetDomain", "SELECT 1")
    await watched.beside.fetch("ALTER TABLE gone RENAME TO query_performance")
    await watched.watch.write(watched.beside)

    [row] = await watched.rows()
    assert row["query_count"] == 2


async def test_figures_are_written_by_themselves_and_at_the_end(watched: Watched) -> None:
    async with watched.watch.recorded(watched.beside, period=0.01):
        await answering(watched, "GetDomain", "SELECT 1")

        async def written() -> None:
            assert await watched.rows()

        await eventually(written)
    async with watched.watch.recorded(watched.beside, period=3600):
        await answering(watched, "GetDomain", "SELECT 1")

    [row] = await watched.rows()
    assert row["query_count"] == 2


async def test_a_slow_statement_is_stored_with_its_plan_and_without_arguments(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    statement = """
        SELECT name, pg_sleep(0.06) FROM (VALUES (1)) v
        LEFT JOIN domains ON name = $1 AND campaign_no = $2 AND name <> 'its own'"""

    async def stored() -> asyncpg.Record:
        rows = await watched.slow()
        assert rows
        return rows[0]

    with caplog.at_level(logging.WARNING):
        async with watched.watch.recorded(watched.beside):
            await answering(watched, "ListDomains", statement, "secret.example", 4711)
            slow = await eventually(stored)

    assert (slow["method"], slow["statement"]) == ("ListDomains", statement.strip())
    assert slow["duration_us"] >= 50_000
    # A plan for these arguments: one partition of sixteen. Numbers explain it, texts are hidden.
    assert "4711" in slow["plan"]
    assert "'its own'" in slow["plan"]
    assert "domains_" in slow["plan"]
    assert "secret" not in slow["plan"] + caplog.text
    assert "slow query of ListDomains" in caplog.text


async def test_a_statement_that_was_ended_for_its_length_is_slow_too(watched: Watched) -> None:
    async def stored() -> None:
        assert [row["method"] for row in await watched.slow()] == ["ListDomains"]

    async with watched.watch.recorded(watched.beside):
        with pytest.raises(asyncpg.QueryCanceledError):
            await answering(watched, "ListDomains", "SELECT pg_sleep(60)")
        await eventually(stored)


async def test_of_many_slow_statements_few_are_examined(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    async def told() -> None:
        assert "2 others" in caplog.text

    with caplog.at_level(logging.WARNING):
        async with watched.watch.recorded(watched.beside):
            for _ in range(3):
                watched.watch.note("SELECT 1", (), 1.0, 1)
            for number in range(2, 20):
                watched.watch.note(f"SELECT {number}", (), 1.0, 1)
            await eventually(told)

            async def stored() -> None:
                assert len(await watched.slow()) == 6

            await eventually(stored)


async def test_what_has_no_plan_is_stored_without(watched: Watched) -> None:
    async def stored() -> None:
        slow = [(row["statement"], row["plan"]) for row in await watched.slow()]
        assert slow == [("SHOW work_mem", "")]

    async with watched.watch.recorded(watched.beside):
        watched.watch.note("SHOW work_mem", (), 1.0, 1)
        await eventually(stored)


def test_quotes_within_arguments_hide_nothing_less() -> None:
    plan = (
        "Filter: ((a = 'it''s secret'::text) AND (b = 'RUNNING'::text) AND (c = '{a,b}'::text[]))"
    )
    shown = without_arguments(plan, "SELECT 1 WHERE a = $1 AND b = 'RUNNING' AND c = ANY($2)")
    assert shown == (
        "Filter: ((a = '...'::text) AND (b = 'RUNNING'::text) AND (c = '...'::text[]))"
    )
