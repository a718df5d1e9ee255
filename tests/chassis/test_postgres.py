"""The pool: what one user of a connection leaves to the next."""

import asyncio
import contextlib

import asyncpg

from services.chassis.postgres import AWAY, PLANNED_ONCE, Pulse, open_pool
from tests.eventually import eventually


async def test_a_cancelled_statement_leaves_nothing_to_the_next(database_url: str) -> None:
    async with await open_pool(database_url, application_name="test", max_size=1) as pool:
        for number in range(200):
            # Another text each time: what is left behind is left by its preparation.
            reading = asyncio.create_task(pool.fetchrow(f"SELECT {number} FROM campaigns"))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])

            async with pool.acquire() as connection:
                # Refused inside of a transaction that has begun before.
                async with connection.transaction(isolation="repeatable_read"):
                    assert await connection.fetchval("SELECT 1") == 1


async def test_a_busy_pool_is_well(database_url: str) -> None:
    async with (
        await open_pool(database_url, application_name="test", max_size=1) as pool,
        Pulse(database_url) as pulse,
        pool.acquire(),
    ):
        await pulse.check()


async def test_a_lost_connection_is_made_again(database_url: str) -> None:
    async with (
        await open_pool(database_url, application_name="test", max_size=1) as pool,
        Pulse(database_url) as pulse,
    ):
        await pulse.check()
        await pool.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE pid <> pg_backend_pid() AND datname = current_database()"""
        )

        async def answers() -> None:
            with contextlib.suppress(*AWAY):
                await pulse.check()
                return
            raise AssertionError("the lost connection was told")

        await eventually(answers)


_PLANNING = "SELECT current_setting('plan_cache_mode') || current_setting('enable_seqscan')"
_ONCE, _EACH_TIME = "force_generic_planoff", "force_custom_planon"


async def test_each_statement_is_planned_as_it_says(database_url: str) -> None:
    async with await open_pool(
        database_url, application_name="test", max_size=1, read_only=True
    ) as pool:
        for _ in range(2):
            assert await pool.fetchval(PLANNED_ONCE + _PLANNING) == _ONCE
            assert await pool.fetchval(PLANNED_ONCE + _PLANNING) == _ONCE
            assert await pool.fetchval(_PLANNING) == _EACH_TIME
        async with pool.acquire() as connection, connection.transaction():
            for _ in range(2):
                assert await connection.fetchval(PLANNED_ONCE + _PLANNING) == _ONCE
                assert await connection.fetchval(_PLANNING) == _EACH_TIME


async def test_a_failed_transaction_takes_back_how_statements_are_planned(
    database_url: str,
) -> None:
    async with await open_pool(
        database_url, application_name="test", max_size=1, read_only=True
    ) as pool:
        for inside, outside, expected in (
            (PLANNED_ONCE, "", _EACH_TIME),
            ("", PLANNED_ONCE, _ONCE),
        ):
            await pool.fetchval(outside + _PLANNING)
            async with pool.acquire() as connection:
                with contextlib.suppress(asyncpg.DivisionByZeroError):
                    async with connection.transaction():
                        assert await connection.fetchval(inside + _PLANNING) != expected
                        await connection.fetchval(inside + "SELECT 1 / 0")

            assert await pool.fetchval(inside + _PLANNING) != expected
            assert await pool.fetchval(outside + _PLANNING) == expected


async def test_a_connection_that_was_put_in_order_plans_as_statements_say(
    database_url: str,
) -> None:
    async with await open_pool(
        database_url, application_name="test", max_size=1, read_only=True
    ) as pool:
        await pool.fetchval(PLANNED_ONCE + _PLANNING)
        with contextlib.suppress(asyncpg.PostgresSyntaxError):
            await pool.fetchval(PLANNED_ONCE + "SELECT FROM WHERE")

        assert await pool.fetchval(PLANNED_ONCE + _PLANNING) == _ONCE
        assert await pool.fetchval(_PLANNING) == _EACH_TIME
