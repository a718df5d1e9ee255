"""Campaign rows. All SQL of this service; one public method is one transaction.

Lock order everywhere: phases, chunks, campaigns (services/schema/migrations/0002_ledger.sql).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from domainflow.campaign.v1 import event_pb2
from services.campaign.campaign import (
    PASSED,
    Action,
    Campaign,
    Mode,
    Phase,
    PhaseState,
    Status,
    Step,
    next_start,
    step,
)
from services.campaign.events import chunk_retried, chunk_settled, finished, phase_changed
from services.chassis.errors import (
    CampaignNotFound,
    RequestIdReused,
    TransitionNotAllowed,
    UploadClosed,
    UploadOffsetGap,
    UploadOffsetStored,
)
from services.chassis.postgres import Connection, Pool

# The first outcome of the generation phase: the name was made and stored.
GENERATED = 1
# Entries of chunks.outcome_counts that a phase may use.
MAX_OUTCOMES = 16
PHASE_COLUMNS = "phase, status, run, name_count, start_time, end_time, failure"
CAMPAIGN_COLUMNS = (
    "id, no, name, mode, initial_phase, final_phase, configuration, name_count, revision,"
    " create_time, update_time"
)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a repeated mutation recognisable (AIP-155)."""

    request_id: UUID
    method: str
    body_sha256: bytes


@dataclass(frozen=True, slots=True)
class NewCampaign:
    """What a campaign is created from. `phases` maps every phase to whether it is configured."""

    id: UUID
    name: str
    mode: Mode
    phases: dict[Phase, bool]
    configuration: bytes


@dataclass(frozen=True, slots=True)
class RunningPhase:
    """A phase that the dispatcher has to move on."""

    campaign_id: UUID
    campaign_no: int
    phase: Phase
    run: int
    name_count: int
    planned: bool
    campaign_name_count: int
    configuration: bytes


@dataclass(frozen=True, slots=True)
class ChunkKey:
    """Identifies a chunk of the ledger."""

    campaign_no: int
    phase: int
    run: int
    first_position: int


@dataclass(frozen=True, slots=True)
class Upload:
    """How far the upload of a list is."""

    upload_id: UUID
    next_offset: int
    accepted_count: int
    duplicate_count: int
    rejected_count: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """What the ledger says about one run of a phase. `outcomes[i]` counts outcome number i + 1."""

    outcomes: Sequence[int]
    settled_count: int
    chunks_in_flight: int
    retry_count: int


@dataclass(frozen=True, slots=True)
class Accounts:
    """What a receipt is made of: tallies and chunks' digests phase by phase, as in the campaign."""

    campaign: Campaign
    upload: Upload | None
    tallies: Sequence[Tally]
    digests: Sequence[Sequence[bytes | None]]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One row of the campaign's history."""

    campaign_no: int
    revision: int
    create_time: datetime
    body: bytes


class Store:
    """The tables of the campaign service."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ping(self) -> None:
        """Raise unless the database answers."""
        await self._pool.fetchval("SELECT 1")

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        """A connection on which all reads see one moment: a campaign takes several."""
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection

    # Campaigns and transitions.

    async def create(
        self, new: NewCampaign, key: RequestKey | None, answer: Callable[[Campaign], bytes]
    ) -> bytes:
        """Store a campaign; returns what `answer` makes of it, or the stored answer of `key`."""

        async def insert(connection: Connection) -> Campaign:
            phases = sorted(new.phases)
            no = await connection.fetchval(
                """INSERT INTO campaigns (id, name, mode, initial_phase, final_phase, configuration)
                   VALUES ($1, $2, $3, $4, $5, $6) RETURNING no""",
                new.id,
                new.name,
                new.mode,
                phases[0],
                phases[-1],
                new.configuration,
            )
            await connection.executemany(
                "INSERT INTO phases (campaign_no, phase, status) VALUES ($1, $2, $3)",
                [
                    (no, phase, Status.CONFIGURED if new.phases[phase] else Status.NOT_STARTED)
                    for phase in phases
                ],
            )
            created = event_pb2.Event(campaign_created=event_pb2.CampaignCreated(name=new.name))
            await _append(connection, no, created)
            return await _campaign(connection, "no = $1", no)

        return await self._once(key, insert, answer)

    async def transition(
        self,
        campaign_id: UUID,
        action: Action,
        *,
        phase: Phase | None,
        reason: str,
        key: RequestKey | None,
        answer: Callable[[Campaign], bytes],
    ) -> bytes:
        """Do `action` to the current phase (or to `phase`) if the table allows it.

        Raises CampaignNotFound and what campaign.step raises; then nothing has changed.
        """

        async def change(connection: Connection) -> Campaign:
            campaign = await _lock(connection, "k.id = $1", campaign_id)
            if campaign is None:
                raise CampaignNotFound(campaign_id)
            await _apply(
                connection, campaign, step(campaign, action, phase), actor="caller", reason=reason
            )
            return await _campaign(connection, "id = $1", campaign_id)

        return await self._once(key, change, answer)

    async def _once(
        self,
        key: RequestKey | None,
        change: Callable[[Connection], Awaitable[Campaign]],
        answer: Callable[[Campaign], bytes],
    ) -> bytes:
        """Run `change` in a transaction, at most once per key; concurrent repeats wait for the
        first."""
        async with self._pool.acquire() as connection, connection.transaction():
            if key is not None:
                claimed = await connection.fetchval(
                    """INSERT INTO requests (request_id, method, body_sha256, response)
                       VALUES ($1, $2, $3, '') ON CONFLICT DO NOTHING RETURNING 1""",
                    key.request_id,
                    key.method,
                    key.body_sha256,
                )
                if claimed is None:
                    return await _earlier_answer(connection, key)
            response = answer(await change(connection))
            if key is not None:
                await connection.execute(
                    "UPDATE requests SET response = $2 WHERE request_id = $1",
                    key.request_id,
                    response,
                )
            return response

    async def forget_requests(self, age: timedelta) -> None:
        """Drop stored answers older than `age`."""
        await self._pool.execute(
            "DELETE FROM requests WHERE create_time < now() - $1::interval", age
        )

    async def get(self, campaign_id: UUID) -> Campaign:
        """Return a campaign. Raises CampaignNotFound."""
        async with self._snapshot() as connection:
            return await _get(connection, campaign_id)

    async def page(self, before_no: int | None, limit: int) -> list[Campaign]:
        """Return campaigns, newest first, below the number `before_no`."""
        async with self._snapshot() as connection:
            condition = "($1::int IS NULL OR no < $1) ORDER BY no DESC LIMIT $2"
            return await _campaigns(connection, condition, before_no, limit)

    async def by_number(self, numbers: Sequence[int] | None) -> list[Campaign]:
        """Return the campaigns with these numbers, or all that exist, oldest first."""
        async with self._snapshot() as connection:
            condition = "($1::int[] IS NULL OR no = ANY($1)) ORDER BY no"
            return await _campaigns(connection, condition, numbers)

    async def numbers(self, campaign_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return the internal numbers of those campaigns that exist."""
        rows = await self._pool.fetch(
            "SELECT id, no FROM campaigns WHERE id = ANY($1)", campaign_ids
        )
        return {row["id"]: row["no"] for row in rows}

    # Generation.

    async def announce(self, running: RunningPhase, name_count: int, *, planned: bool) -> None:
        """Say how many names the run has to settle, and whether all of them stand in the ledger."""
        await self._pool.execute(
            """UPDATE phases SET name_count = $4, planned = $5
               WHERE campaign_no = $1 AND phase = $2 AND run = $3""",
            running.campaign_no,
            running.phase,
            running.run,
            name_count,
            planned,
        )

    async def append_names(
        self, running: RunningPhase, first: int, rows: bytes, count: int, sha256: bytes
    ) -> bool:
        """Store generated names at positions first.. in one transaction: rows, ledger, counter,
        event.

        False when the phase does not run any more or these positions are stored; then nothing has
        changed.
        """
        async with self._pool.acquire() as connection:
            try:
                async with connection.transaction():
                    if not await _share_phase(connection, running):
                        return False
                    await _copy_domains(connection, rows)
                    await _book_names(connection, running, first, count, sha256)
                    return True
            except asyncpg.UniqueViolationError:
                return False

    async def upload(self, campaign_no: int) -> Upload | None:
        """Return how far the campaign's upload is; None before its first message."""
        row = await self._pool.fetchrow(_SELECT_UPLOAD, campaign_no)
        return Upload(**row) if row else None

    async def append_upload(
        self,
        running: RunningPhase,
        upload_id: UUID,
        offset: int,
        names: Sequence[str],
        rejected_count: int,
        encode: Callable[[int, Sequence[str]], tuple[bytes, bytes]],
    ) -> Upload:
        """Store one part of an uploaded list, all or nothing. `names` are its good lines in order.

        `encode` turns (first position, names) into COPY rows and a digest. Raises
        UploadOffsetStored,
        UploadOffsetGap, UploadClosed, TransitionNotAllowed.
        """
        no = running.campaign_no
        async with self._pool.acquire() as connection, connection.transaction():
            upload = await _open_upload(connection, running, upload_id)
            facts: dict[str, Any] = {
                "campaign_id": running.campaign_id,
                "upload_id": upload_id,
                "next_offset": upload.next_offset,
            }
            if offset < upload.next_offset:
                raise UploadOffsetStored(f"go on at {upload.next_offset}", **facts)
            if offset > upload.next_offset:
                raise UploadOffsetGap(f"go on at {upload.next_offset}", **facts)
            distinct = list(dict.fromkeys(names))
            rows = await connection.fetch(
                """INSERT INTO upload_names (campaign_no, name) SELECT $1, unnest($2::text[])
                   ON CONFLICT DO NOTHING RETURNING name""",
                no,
                distinct,
            )
            new = {row["name"] for row in rows}
            accepted = [name for name in distinct if name in new]
            duplicates = len(names) - len(accepted)
            if accepted:
                first = upload.accepted_count
                copy, sha256 = await asyncio.to_thread(encode, first, accepted)
                await _copy_domains(connection, copy)
                await _book_names(connection, running, first, len(accepted), sha256)
            row = await connection.fetchrow(
                f"""UPDATE uploads SET next_offset = next_offset + $2,
                        accepted_count = accepted_count + $3,
                        duplicate_count = duplicate_count + $4, rejected_count = rejected_count + $5
                    WHERE campaign_no = $1 RETURNING {_UPLOAD_COLUMNS}""",
                no,
                len(names) + rejected_count,
                len(accepted),
                duplicates,
                rejected_count,
            )
            assert row is not None
            return Upload(**row)

    async def finish_upload(self, running: RunningPhase, upload_id: UUID) -> Upload:
        """Close the upload; generation is then complete. Raises UploadClosed when it is closed."""
        no = running.campaign_no
        async with self._pool.acquire() as connection, connection.transaction():
            upload = await _open_upload(connection, running, upload_id)
            row = await connection.fetchrow(
                f"""UPDATE uploads SET finished = true WHERE campaign_no = $1
                    RETURNING {_UPLOAD_COLUMNS}""",
                no,
            )
            await connection.execute("DELETE FROM upload_names WHERE campaign_no = $1", no)
            await connection.execute(
                """UPDATE phases SET planned = true, name_count = $3
                   WHERE campaign_no = $1 AND phase = $2""",
                no,
                Phase.DOMAIN_GENERATION,
                upload.accepted_count,
            )
            assert row is not None
            return Upload(**row)

    async def running_phase(self, campaign_id: UUID, phase: Phase) -> RunningPhase:
        """Return a phase to work on. Raises CampaignNotFound, or TransitionNotAllowed if it does
        not run."""
        row = await self._pool.fetchrow(
            f"{_RUNNING} WHERE k.id = $1 AND p.phase = $2", campaign_id, phase
        )
        if row is None:
            raise CampaignNotFound(campaign_id)
        if row["status"] != Status.RUNNING:
            raise _not_running(campaign_id, phase, row["status"])
        return _running_phase(row)

    # Dispatching.

    async def running_phases(self) -> list[RunningPhase]:
        """Return every phase that runs, oldest campaign first."""
        rows = await self._pool.fetch(
            f"{_RUNNING} WHERE p.status = 'RUNNING' ORDER BY p.campaign_no"
        )
        return [_running_phase(row) for row in rows]

    async def plan(self, running: RunningPhase, name_count: int, chunk_size: int) -> None:
        """Write the ledger of a run: chunks over positions 0 to name_count - 1. Idempotent."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await _take_phase(connection, running):
                return
            await connection.execute(
                """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
                   SELECT $1, $2, $3, first, least($5, $4 - first), 'ready'
                   FROM generate_series(0, $4 - 1, $5) AS first
                   ON CONFLICT DO NOTHING""",
                running.campaign_no,
                running.phase,
                running.run,
                name_count,
                chunk_size,
            )
            await connection.execute(
                """UPDATE phases SET planned = true, name_count = $3
                   WHERE campaign_no = $1 AND phase = $2""",
                running.campaign_no,
                running.phase,
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
                changed = await connection.fetchval(
                    """UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL,
                           lease_expire_time = NULL
                       WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND first_position = $4
                         AND state = 'queued' AND attempt = $5 AND lease_expire_time < now()
                       RETURNING 1""",
                    *row[:5],
                )
                if changed is None:
                    continue
                cause = f"worker {row['worker']} did not report in time"
                retried = chunk_retried(
                    key.phase, key.run, key.first_position, row["attempt"], cause
                )
                await _append(connection, key.campaign_no, retried)
                taken.append(key)
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
            campaign = await _lock(connection, "k.no = $1", no)
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
            done = Step(phase, state.status, Status.COMPLETED)
            campaign = await _apply(connection, campaign, done, actor="dispatcher", reason="")
            if (following := next_start(campaign)) is not None:
                start = step(campaign, Action.START, following)
                await _apply(connection, campaign, start, actor="dispatcher", reason="next phase")
            return True

    async def fail(self, running: RunningPhase, failure: str) -> None:
        """End the phase as failed, if it still runs."""
        async with self._pool.acquire() as connection, connection.transaction():
            campaign = await _lock(connection, "k.no = $1", running.campaign_no)
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
                failed = Step(running.phase, state.status, Status.FAILED)
                await _apply(connection, campaign, failed, actor="dispatcher", reason=failure)

    # Progress and receipts.

    async def tally(self, campaign_no: int, phase: int, run: int) -> Tally:
        """Sum the ledger of one run: exact at any time, whatever the workers are doing."""
        async with self._pool.acquire() as connection:
            return await _tally(connection, campaign_no, phase, run)

    async def accounts(self, campaign_id: UUID) -> Accounts:
        """Return what a receipt is made of, all of one moment. Raises CampaignNotFound."""
        async with self._snapshot() as connection:
            campaign = await _get(connection, campaign_id)
            row = await connection.fetchrow(_SELECT_UPLOAD, campaign.no)
            return Accounts(
                campaign=campaign,
                upload=Upload(**row) if row else None,
                tallies=[
                    await _tally(connection, campaign.no, state.phase, state.run)
                    for state in campaign.phases
                ],
                digests=[
                    await _chunk_digests(connection, campaign.no, state.phase, state.run)
                    for state in campaign.phases
                ],
            )

    async def revisions(self, numbers: Sequence[int] | None) -> dict[int, int]:
        """Return the newest revision of these campaigns, or of all."""
        rows = await self._pool.fetch(
            "SELECT no, revision FROM campaigns WHERE $1::int[] IS NULL OR no = ANY($1)", numbers
        )
        return {row["no"]: row["revision"] for row in rows}

    async def events(self, campaign_no: int, after: int, limit: int) -> list[StoredEvent]:
        """Return events in order of revision, from after + 1 on."""
        rows = await self._pool.fetch(
            """SELECT campaign_no, revision, create_time, body FROM events
               WHERE campaign_no = $1 AND revision > $2 ORDER BY revision LIMIT $3""",
            campaign_no,
            after,
            limit,
        )
        return [StoredEvent(*row) for row in rows]


_UPLOAD_COLUMNS = (
    "upload_id, next_offset, accepted_count, duplicate_count, rejected_count, finished"
)
_SELECT_UPLOAD = f"SELECT {_UPLOAD_COLUMNS} FROM uploads WHERE campaign_no = $1"
_RUNNING = """SELECT k.id, k.no, p.phase, p.run, p.name_count, p.planned, p.status,
        k.name_count AS campaign_name_count, k.configuration
    FROM phases p JOIN campaigns k ON k.no = p.campaign_no"""


def _running_phase(row: asyncpg.Record) -> RunningPhase:
    return RunningPhase(
        campaign_id=row["id"],
        campaign_no=row["no"],
        phase=Phase(row["phase"]),
        run=row["run"],
        name_count=row["name_count"],
        planned=row["planned"],
        campaign_name_count=row["campaign_name_count"],
        configuration=row["configuration"],
    )


def _not_running(campaign_id: UUID, phase: Phase, status: str) -> TransitionNotAllowed:
    return TransitionNotAllowed(
        f"{phase.name} is {status}; it takes names while it is RUNNING",
        campaign_id=campaign_id,
        phase=phase.name,
        status=status,
        action="UPLOAD",
        allowed="",
    )


async def _earlier_answer(connection: Connection, key: RequestKey) -> bytes:
    row = await connection.fetchrow(
        "SELECT method, body_sha256, response FROM requests WHERE request_id = $1", key.request_id
    )
    assert row is not None
    if (row["method"], row["body_sha256"]) != (key.method, key.body_sha256):
        raise RequestIdReused(
            "this request_id came before, with another request", request_id=key.request_id
        )
    response: bytes = row["response"]
    return response


async def _campaign(connection: Connection, condition: str, argument: object) -> Campaign:
    campaigns = await _campaigns(connection, condition, argument)
    if not campaigns:
        raise LookupError(argument)
    return campaigns[0]


async def _get(connection: Connection, campaign_id: UUID) -> Campaign:
    try:
        return await _campaign(connection, "id = $1", campaign_id)
    except LookupError:
        raise CampaignNotFound(campaign_id) from None


async def _tally(connection: Connection, campaign_no: int, phase: int, run: int) -> Tally:
    sums = ", ".join(f"sum(outcome_counts[{i}])" for i in range(1, MAX_OUTCOMES + 1))
    row = await connection.fetchrow(
        f"""SELECT {sums}, sum(name_count) FILTER (WHERE state = 'done'),
                count(*) FILTER (WHERE state = 'queued'), sum(greatest(attempt - 1, 0))
            FROM chunks WHERE campaign_no = $1 AND phase = $2 AND run = $3""",
        campaign_no,
        phase,
        run,
    )
    assert row is not None
    values = [int(value or 0) for value in row.values()]
    return Tally(values[:MAX_OUTCOMES], *values[MAX_OUTCOMES:])


async def _chunk_digests(
    connection: Connection, campaign_no: int, phase: int, run: int
) -> list[bytes | None]:
    """The content hashes of a run's chunks in order of position; none for one not settled."""
    rows = await connection.fetch(
        """SELECT content_sha256 FROM chunks WHERE campaign_no = $1 AND phase = $2 AND run = $3
           ORDER BY first_position""",
        campaign_no,
        phase,
        run,
    )
    return [row[0] for row in rows]


async def _campaigns(connection: Connection, condition: str, *arguments: object) -> list[Campaign]:
    rows = await connection.fetch(
        f"SELECT {CAMPAIGN_COLUMNS} FROM campaigns WHERE {condition}", *arguments
    )
    # A completed phase has settled all its names; the ledger is summed for the others only.
    phase_rows = await connection.fetch(
        f"""SELECT campaign_no, {PHASE_COLUMNS},
                CASE WHEN status = 'COMPLETED' THEN name_count ELSE (
                    SELECT coalesce(sum(c.name_count), 0) FROM chunks c
                    WHERE c.campaign_no = phases.campaign_no AND c.phase = phases.phase
                      AND c.run = phases.run AND c.state = 'done') END AS settled_count
            FROM phases WHERE campaign_no = ANY($1) ORDER BY campaign_no, phase""",
        [row["no"] for row in rows],
    )
    stored = {row["no"]: row["name_count"] for row in rows}
    phases: dict[int, list[PhaseState]] = {}
    for row in phase_rows:
        phase, name_count = Phase(row["phase"]), row["name_count"]
        if phase is Phase.DOMAIN_GENERATION:
            # How many names an open upload will have is not known: at least those that are stored.
            name_count = max(name_count, stored[row["campaign_no"]])
        state = PhaseState(
            phase=phase,
            status=Status(row["status"]),
            run=row["run"],
            name_count=name_count,
            settled_count=int(row["settled_count"]),
            start_time=row["start_time"],
            end_time=row["end_time"],
            failure=row["failure"],
        )
        phases.setdefault(row["campaign_no"], []).append(state)
    return [
        Campaign(
            id=row["id"],
            no=row["no"],
            name=row["name"],
            mode=Mode(row["mode"]),
            phases=tuple(phases[row["no"]]),
            configuration=row["configuration"],
            name_count=row["name_count"],
            revision=row["revision"],
            create_time=row["create_time"],
            update_time=row["update_time"],
        )
        for row in rows
    ]


async def _lock(connection: Connection, condition: str, argument: object) -> Campaign | None:
    """Lock the campaign's phases, so that transitions take turns, and read it."""
    rows = await connection.fetch(
        f"""SELECT p.campaign_no FROM phases p JOIN campaigns k ON k.no = p.campaign_no
            WHERE {condition} ORDER BY p.phase FOR UPDATE OF p""",
        argument,
    )
    if not rows:
        return None
    return await _campaign(connection, "no = $1", rows[0]["campaign_no"])


async def _apply(
    connection: Connection, campaign: Campaign, change: Step, *, actor: str, reason: str
) -> Campaign:
    """Write one step: status, what leaves the queue with it, its event. Returns the campaign
    afterwards."""
    no, phase, to_status = campaign.no, change.phase, change.to_status
    first_start = change.from_status is Status.CONFIGURED and to_status is Status.RUNNING
    over = to_status in {*PASSED, Status.CANCELLED, Status.FAILED}
    row = await connection.fetchrow(
        """UPDATE phases SET status = $3,
               run = run + $4::int,
               result_run = CASE WHEN $5 OR result_run = 0 THEN run + $4::int ELSE result_run END,
               start_time = CASE WHEN $4::int = 1 THEN now() ELSE start_time END,
               end_time = CASE WHEN $6 THEN now() ELSE end_time END
           WHERE campaign_no = $1 AND phase = $2 RETURNING run""",
        no,
        phase,
        to_status,
        int(first_start),
        to_status is Status.COMPLETED,
        over,
    )
    assert row is not None
    if to_status is not Status.RUNNING:
        # What is on the queue or in a worker's hands comes back; late results meet a chunk that is
        # not theirs any more.
        await connection.execute(
            """UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL,
                   lease_expire_time = NULL
               WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND state = 'queued'""",
            no,
            phase,
            row["run"],
        )
    await connection.execute("UPDATE campaigns SET update_time = now() WHERE no = $1", no)
    await _append(
        connection,
        no,
        phase_changed(phase, change.from_status, to_status, row["run"], actor, reason),
    )
    after = await _campaign(connection, "no = $1", no)
    if after.is_finished:
        await _append(connection, no, finished(after.current.status))
    return after


async def _append(connection: Connection, campaign_no: int, event: event_pb2.Event) -> None:
    await connection.execute("SELECT append_event($1, $2)", campaign_no, event.SerializeToString())


async def _share_phase(connection: Connection, running: RunningPhase) -> bool:
    """Whether the run still runs; a pause or cancel then waits for this transaction."""
    return await _lock_phase(connection, running, "FOR SHARE")


async def _take_phase(connection: Connection, running: RunningPhase) -> bool:
    """As `_share_phase`, for who goes on to change the row: two sharers would wait for each
    other."""
    return await _lock_phase(connection, running, "FOR UPDATE")


async def _lock_phase(connection: Connection, running: RunningPhase, strength: str) -> bool:
    found = await connection.fetchval(
        f"""SELECT 1 FROM phases WHERE campaign_no = $1 AND phase = $2 AND run = $3
               AND status = 'RUNNING' {strength}""",
        running.campaign_no,
        running.phase,
        running.run,
    )
    return found is not None


async def _copy_domains(connection: Connection, rows: bytes) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield rows

    await connection.copy_to_table(
        "domains", source=source(), columns=["campaign_no", "position", "name"], format="binary"
    )


async def _book_names(
    connection: Connection, running: RunningPhase, first: int, count: int, sha256: bytes
) -> None:
    """Enter stored names into the ledger, the campaign's counter and its history."""
    no, phase, run = running.campaign_no, running.phase, running.run
    await connection.execute(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state, attempt,
               done_time, outcome_counts, content_sha256)
           VALUES ($1, $2, $3, $4, $5, 'done', 1, now(), ARRAY[$5::int], $6)""",
        no,
        phase,
        run,
        first,
        count,
        sha256,
    )
    counted = await connection.execute(
        "UPDATE campaigns SET name_count = name_count + $2 WHERE no = $1 AND name_count = $3",
        no,
        count,
        first,
    )
    if counted != "UPDATE 1":
        # Somebody else stored names in between; the primary keys would not have let both commit
        # either.
        raise asyncpg.UniqueViolationError("names are stored from another position on")
    await _append(
        connection, no, chunk_settled(phase, run, first, count, 1, [("GENERATED", count)])
    )


async def _open_upload(connection: Connection, running: RunningPhase, upload_id: UUID) -> Upload:
    """Lock the campaign's upload, making it with the first message. Raises UploadClosed,
    TransitionNotAllowed."""
    no = running.campaign_no
    if not await _take_phase(connection, running):
        status = await connection.fetchval(
            "SELECT status FROM phases WHERE campaign_no = $1 AND phase = $2", no, running.phase
        )
        raise _not_running(running.campaign_id, running.phase, status)
    await connection.execute(
        "INSERT INTO uploads (campaign_no, upload_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        no,
        upload_id,
    )
    row = await connection.fetchrow(f"{_SELECT_UPLOAD} FOR UPDATE", no)
    assert row is not None
    upload = Upload(**row)
    if upload.upload_id != upload_id or upload.finished:
        what = "finished" if upload.upload_id == upload_id else f"another one, {upload.upload_id}"
        raise UploadClosed(
            f"the campaign's upload is {what}",
            campaign_id=running.campaign_id,
            upload_id=upload.upload_id,
        )
    return upload
