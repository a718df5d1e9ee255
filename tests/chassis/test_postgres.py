"""The pool: what one user of a connection leaves to the next."""

import asyncio
import contextlib

from services.chassis.postgres import AWAY, Pulse, open_pool
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
