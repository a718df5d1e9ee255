"""Reads that leave the server to others for as long as they have used it."""

import asyncio
import time
from typing import Any

import asyncpg

from services.chassis.postgres import Pool
from services.query.maintenance.schedule import rest


class GentleReads:
    """A pool's reads, each followed by a rest."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        began = time.monotonic()
        rows = await self._pool.fetch(statement, *arguments)
        await asyncio.sleep(rest(time.monotonic() - began))
        return rows

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        rows = await self.fetch(statement, *arguments)
        return rows[0][0] if rows else None
