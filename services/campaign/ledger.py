"""The ledger as the dispatcher sees it: planning, handing out, taking back, completing.

One public method is one transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.campaign.campaign import Action, Status
from services.campaign.events import chunk_retried
from services.campaign.rows import (
    RUNNING_PHASES,
    RunningPhase,
    act,
    append_event,
    lock_campaign,
    take_phase,
    to_running_phase,
)
from services.chassis.postgres import Pool

# Chunks planned in one transaction.
PLAN_SLICE = 50_000


@dataclass(frozen=True, slots=True)
class ChunkKey:
    """Identifies a chunk of the ledger."""

    campaign_no: int
    phase: int
    run: int
    first_position: int


class Ledger:
    """Running phases and their chunks."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def running_phases(self) -> list[RunningPhase]:
        """Return every phase that runs, oldest campaign first."""
        rows = await self._pool.fetch(
            f"{RUNNING_PHASES} WHERE p.status = 'RUNNING' ORDER BY p.campaign_no"
        )
        return [to_running_phase(row) for row in rows]

    async def plan(self, running: RunningPhase, name_count: int, chunk_size: int) -> None:
        """Write the ledger of a run: chunks over positions 0 to name_count - 1. Idempotent.

        In slices of a transaction each, in order: a long one would outlast the statement limit.
        """
        for first in range(0, name_count, chunk_size * PLAN_SLICE):
            past = min(first + chunk_size * PLAN_SLICE, name_count)
            async with self._pool.acquire() as connection, connection.transaction():
                if not await take_phase(connection, running):
                    return
                await connection.execute(
                    """INSERT INTO chunks
                           (campaign_no, phase, run, first_position, name_count, state)
                       SELECT $1, $2, $3, first, least($6, $5 - first), 'ready'
                       FROM generate_series($4::int, $5 - 1, $6) AS first
                       ON CONFLICT DO NOTHING""",
                    running.campaign_no,
                    running.phase,
                    running.run,
                    first,
                    past,
                    chunk_size,
                )
        await self._pool.execute(
            """UPDATE phases SET planned = true, name_count = $4
               WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND status = 'RUNNING'""",
            running.campaign_no,
            running.phase,
            running.run,
            name_count,
        )

    async def waiting_tasks(self) -> tuple[int, int]:
        """Return how many chunks are queued, and how many of them no worker has claimed."""
        row = await self._pool.fetchrow(
            """SELECT count(*), count(*) FILTER (WHERE claim_time IS NULL) FROM chunks
               WHERE state = 'queued'"""
        )
        assert row is not None
        return row[0], row[1]

    async def hand_out(
        self, phases: Sequence[RunningPhase], share: int, lease: timedelta
    ) -> list[ChunkKey]:
        """Mark up to `share` ready chunks of each phase as queued and return them, interleaved."""
        taken: list[list[ChunkKey]] = []
        async with self._pool.acquire() as connection:
            for running in phases:
                rows = await connection.fetch(
                    # SKIP LOCKED: a second dispatcher takes other chunks instead of queueing behind
                    # this one.
                    # MATERIALIZED: as the inner side of a nested loop it would be run again for
                    # every row, and take more than its limit.
                    """WITH ready AS MATERIALIZED (
                           SELECT first_position FROM chunks
                           WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND state = 'ready'
                             AND (ready_time IS NULL OR ready_time <= now())
                             AND EXISTS (SELECT FROM phases WHERE campaign_no = $1 AND phase = $2
                                 AND run = $3 AND status = 'RUNNING')
                           ORDER BY first_position LIMIT $4 FOR UPDATE SKIP LOCKED)
                       UPDATE chunks c SET state = 'queued', claim_time = NULL, worker = NULL,
                           lease_expire_time = now() + $5::interval
                       FROM ready
                       WHERE c.campaign_no = $1 AND c.phase = $2 AND c.run = $3
                         AND c.first_position = ready.first_position
                       RETURNING c.campaign_no, c.phase, c.run, c.first_position""",
                    running.campaign_no,
                    running.phase,
                    running.run,
                    share,
                    lease,
                )
                taken.append(
                    sorted((ChunkKey(*row) for row in rows), key=lambda c: c.first_position)
                )
        return [chunks[i] for i in range(share) for chunks in taken if i < len(chunks)]

    async def take_back_lost(self, lease_left: timedelta) -> int:
        """Make chunks ready again that nobody claimed and whose queue lease ends within
        `lease_left`."""
        status = await self._pool.execute(
            """UPDATE chunks SET state = 'ready', lease_expire_time = NULL
               WHERE state = 'queued' AND claim_time IS NULL
                 AND lease_expire_time < now() + $1::interval""",
            lease_left,
        )
        return int(status.split()[-1])

    async def take_back_expired(self) -> list[ChunkKey]:
        """Make claimed chunks ready again whose lease is over, with an event for each lost
        attempt."""
        rows = await self._pool.fetch(
            """SELECT campaign_no, phase, run, first_position, attempt, worker FROM chunks
               WHERE state = 'queued' AND claim_time IS NOT NULL AND lease_expire_time < now()
               ORDER BY campaign_no, first_position LIMIT 1000"""
        )
        taken = []
        for row in rows:
            key = ChunkKey(*row[:4])
            async with self._pool.acquire() as connection, connection.transaction():
                runs = await connection.fetchval(
                    """UPDATE chunks c SET state = 'ready', worker = NULL, claim_time = NULL,
                           lease_expire_time = NULL
                       FROM phases p
                       WHERE c.campaign_no = $1 AND c.phase = $2 AND c.run = $3
                         AND c.first_position = $4 AND c.state = 'queued' AND c.attempt = $5
                         AND c.lease_expire_time < now()
                         AND p.campaign_no = c.campaign_no AND p.phase = c.phase
                       RETURNING p.run = c.run AND p.status = 'RUNNING'""",
                    *row[:5],
                )
                if runs is None:
                    continue
                taken.append(key)
                if not runs:
                    # Claimed in the moment of a pause or cancel: nothing is to be tried again.
                    continue
                cause = f"worker {row['worker']} did not report in time"
                retried = chunk_retried(
                    key.phase, key.run, key.first_position, row["attempt"], cause
                )
                await append_event(connection, key.campaign_no, retried)
        return taken

    async def has_open_chunk(self, running: RunningPhase) -> bool:
        """Whether the run has chunks that are not settled."""
        found: bool = await self._pool.fetchval(
            """SELECT EXISTS (SELECT FROM chunks WHERE campaign_no = $1 AND phase = $2 AND run = $3
                   AND state <> 'done')""",
            running.campaign_no,
            running.phase,
            running.run,
        )
        return found

    async def complete(self, running: RunningPhase) -> bool:
        """Complete the phase if the ledger has no open chunk, and start the next one in
        FULL_SEQUENCE."""
        no, phase = running.campaign_no, running.phase
        async with self._pool.acquire() as connection, connection.transaction():
            campaign = await lock_campaign(connection, "k.no = $1", no)
            if campaign is None:
                return False
            state = campaign.state(phase)
            open_chunk = await connection.fetchval(
                """SELECT EXISTS (SELECT FROM chunks WHERE campaign_no = $1 AND phase = $2 AND run =
                $3
                       AND state <> 'done')""",
                no,
                phase,
                running.run,
            )
            if open_chunk or state.status is not Status.RUNNING or state.run != running.run:
                return False
            await act(connection, campaign, Action.COMPLETE, phase, actor="dispatcher", reason="")
            return True

    async def fail(self, running: RunningPhase, failure: str) -> None:
        """End the phase as failed, if it still runs."""
        async with self._pool.acquire() as connection, connection.transaction():
            campaign = await lock_campaign(connection, "k.no = $1", running.campaign_no)
            if campaign is None:
                return
            state = campaign.state(running.phase)
            if state.status is Status.RUNNING and state.run == running.run:
                await connection.execute(
                    "UPDATE phases SET failure = $3 WHERE campaign_no = $1 AND phase = $2",
                    running.campaign_no,
                    running.phase,
                    failure,
                )
                await act(
                    connection,
                    campaign,
                    Action.FAIL,
                    running.phase,
                    actor="dispatcher",
                    reason=failure,
                )
