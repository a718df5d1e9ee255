"""What processes say of what they use, in a table of theirs: who of them lives, and what the dead
said is forgotten. And the suite's history, which tells what changed.

One public method is one transaction.
"""

import asyncio
import contextlib
import time

import asyncpg

from domainflow.campaign.v1 import event_pb2
from services.chassis.postgres import AWAY, Pool
from services.validation.presence import Presence, Sighting

LOOK_PERIOD = 5.0


class ProcessReports:
    """One such table: its rows have a `worker_id` and a `report_time`."""

    def __init__(self, pool: Pool, table: str) -> None:
        self._pool = pool
        self._table = table
        self._presence = Presence()

    async def sign_off(self, worker_id: str) -> None:
        """Forget what a process said that ended in order."""
        await self._pool.execute(f"DELETE FROM {self._table} WHERE worker_id = $1", worker_id)

    async def look(self) -> set[str]:
        """Return the processes that live, and forget what the others said.

        To be called again and again by the same reader: it learns who lives from what changes.
        """
        rows = await self._pool.fetch(
            f"""SELECT worker_id, report_time,
                    extract(epoch FROM now() - report_time)::float8 AS age
                FROM (SELECT worker_id, max(report_time) AS report_time
                      FROM {self._table} GROUP BY worker_id) AS latest"""
        )
        living, gone = self._presence.look(time.monotonic(), [Sighting(*row) for row in rows])
        if gone:
            # Unless it has reported meanwhile.
            await self._pool.execute(
                f"""DELETE FROM {self._table} r
                    USING unnest($1::text[], $2::timestamptz[]) AS gone (worker_id, report_time)
                    WHERE r.worker_id = gone.worker_id AND r.report_time <= gone.report_time""",
                *zip(*(row[:2] for row in rows if row["worker_id"] in gone), strict=True),
            )
        return set(living)

    async def watch(self) -> None:
        """Look again and again until cancelled: what the dead said is forgotten unasked."""
        while True:
            with contextlib.suppress(asyncpg.PostgresError, *AWAY):
                await self.look()
            await asyncio.sleep(LOOK_PERIOD)

    async def changed(self, event: event_pb2.SystemEvent) -> None:
        """Put a change on record."""
        await self._pool.execute("SELECT append_system_event($1)", event.SerializeToString())
