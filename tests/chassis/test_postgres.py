"""The pool: what one user of a connection leaves to the next."""

import asyncio

from services.chassis.postgres import open_pool


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
