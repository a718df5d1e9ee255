"""What the pool knows of its connections and of those who wait for them."""

import asyncio

import asyncpg
import pytest
from opentelemetry.sdk.metrics.export import Metric

from services.chassis.pool import MeasuredPool
from services.chassis.postgres import AWAY, open_pool
from tests.eventually import eventually
from tests.meters import measured


async def small_pool(database_url: str, *, leak_after: float = 60) -> MeasuredPool:
    return await open_pool(database_url, application_name="test", max_size=1, leak_after=leak_after)


async def a_waiter(pool: MeasuredPool) -> "asyncio.Task[object]":
    """A statement that waits until somebody gives a connection back."""
    waiter = asyncio.create_task(pool.fetchval("SELECT 1"))

    async def waits() -> None:
        assert pool.waiting_count == 1

    await eventually(waits)
    return waiter


async def test_every_way_to_take_a_connection_is_counted(database_url: str) -> None:
    async with await small_pool(database_url) as pool:
        await pool.fetchval("SELECT 1")
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT 1")
        connection = await pool.acquire()
        await pool.release(connection)

        figures = pool.take_figures()

    assert (figures.acquire_count, figures.acquired, figures.in_use_max) == (3, 3, 1)
    assert (figures.open_count, figures.in_use_count, figures.max_count) == (1, 0, 1)


async def test_who_waits_is_seen_while_it_waits_and_afterwards(database_url: str) -> None:
    async with await small_pool(database_url) as pool:
        async with pool.acquire():
            waiter = await a_waiter(pool)
            waiting = pool.take_figures()
        await waiter
        done = pool.take_figures()
        idle = pool.take_figures()

    assert (waiting.waiting_count, waiting.acquired, waiting.in_use_count) == (1, 1, 1)
    assert done.longest_wait == done.waited > waiting.longest_wait > 0
    assert (idle.waiting_count, idle.acquired, idle.longest_wait) == (0, 0, 0)
    assert idle.acquire_count == 2


async def test_a_wait_that_was_given_up_is_no_longer_one(database_url: str) -> None:
    async with await small_pool(database_url) as pool, pool.acquire():
        waiter = await a_waiter(pool)
        waiter.cancel()
        await asyncio.wait([waiter])

        figures = pool.take_figures()

    assert (figures.waiting_count, figures.acquire_count) == (0, 1)
    assert figures.longest_wait > 0


async def test_a_forgotten_connection_says_where_it_was_taken(database_url: str) -> None:
    async with await small_pool(database_url, leak_after=0) as pool:
        forgotten = await pool.acquire()
        [first] = pool.take_figures().leaks
        [again] = pool.take_figures().leaks
        await pool.release(forgotten)

        assert first.taken_at.startswith("tests/chassis/test_pool.py:")
        assert first.taken_at.endswith(" test_a_forgotten_connection_says_where_it_was_taken")
        assert (first.number, first.taken_at) == (again.number, again.taken_at)
        assert pool.take_figures().leaks == ()


async def test_a_connection_in_use_by_fetch_is_put_down_to_its_caller(database_url: str) -> None:
    async with await small_pool(database_url, leak_after=0) as pool:

        async def lingers() -> None:
            await pool.fetchval("SELECT pg_sleep(60)")

        lingering = asyncio.create_task(lingers())

        async def is_out() -> str:
            leaks = pool.take_figures().leaks
            assert leaks
            return leaks[0].taken_at

        taken_at = await eventually(is_out)
        lingering.cancel()
        await asyncio.wait([lingering])

    assert taken_at.endswith("<locals>.lingers")


async def test_a_connection_that_died_while_it_was_out_is_no_leak(database_url: str) -> None:
    async with await small_pool(database_url, leak_after=0) as pool:
        connection = await pool.acquire()
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        async def is_gone() -> None:
            assert pool.take_figures().leaks == ()

        await eventually(is_gone)
        await pool.release(connection)


async def test_connections_that_the_server_ended_are_made_again(database_url: str) -> None:
    async with await open_pool(database_url, application_name="test", max_size=3) as pool:
        async with pool.acquire(), pool.acquire(), pool.acquire():
            pass
        killer = await asyncpg.connect(database_url)
        await killer.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE application_name = 'test' AND datname = current_database()"""
        )
        await killer.close()

        async def all_answer() -> None:
            try:
                async with pool.acquire() as one, pool.acquire() as two, pool.acquire() as three:
                    for connection in (one, two, three):
                        await connection.execute("SELECT 1")
            except AWAY as error:
                raise AssertionError from error

        await eventually(all_answer)
        assert pool.take_figures().open_count == 3


async def test_every_statement_is_told_with_its_rows(database_url: str) -> None:
    told: list[tuple[str, object, int]] = []

    def tell(statement: str, arguments: object, seconds: float, rows: int) -> None:
        assert seconds > 0
        told.append((statement, arguments, rows))

    async with await open_pool(database_url, application_name="test", on_statement=tell) as pool:
        await pool.fetch("SELECT generate_series(1, $1)", 3)
        await pool.fetchval("SELECT 1")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await pool.fetchval("SELECT 1 / 0")

    assert told == [
        ("SELECT generate_series(1, $1)", (3,), 3),
        ("SELECT 1", (), 1),
        ("SELECT 1 / 0", (), 0),
    ]


async def test_meters_of_a_pool_have_the_conventional_names(database_url: str) -> None:
    measured()

    async with await small_pool(database_url) as pool:
        async with pool.acquire():
            count = measured()["db.client.connection.count"]
        names = {name for name in measured() if name.startswith("db.")}

    assert _values(count, "test") == {"used": 1, "idle": 0}
    assert names == {
        "db.client.connection.count",
        "db.client.connection.max",
        "db.client.connection.pending_requests",
        "db.client.connection.use_time",
        "db.client.connection.wait_time",
    }


def _values(metric: Metric, pool: str) -> dict[object, object]:
    # Other tests' pools may not have been collected yet: the one that is in use is ours.
    points = [
        (point.attributes or {}, getattr(point, "value", None)) for point in metric.data.data_points
    ]
    found: dict[object, object] = {}
    for attributes, value in points:
        if attributes["db.client.connection.pool.name"] == pool:
            state = attributes["db.client.connection.state"]
            found[state] = max(value, found.get(state, 0))  # type: ignore[type-var,call-overload]
    return found
