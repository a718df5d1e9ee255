"""Names on their way into the tables: generated ones and uploaded lists.

One public method is one transaction.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any
from uuid import UUID

import asyncpg

from services.campaign.campaign import (
    Phase,
    Status,
)
from services.campaign.events import chunk_settled
from services.campaign.ingest import Digest, digest
from services.campaign.rows import (
    RUNNING_PHASES,
    RunningPhase,
    append_event,
    share_phase,
    take_phase,
    to_running_phase,
)
from services.chassis.errors import (
    CampaignNotFound,
    TransitionNotAllowed,
    UploadClosed,
    UploadOffsetGap,
    UploadOffsetStored,
)
from services.chassis.postgres import Connection, Pool

# Rejected lines that are kept of one list.
KEPT_REJECTIONS = 1000


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
class Rejection:
    """A line of an uploaded list that is no DNS name."""

    # Number of the line in the list.
    offset: int
    # As much of it as is shown.
    line: str
    reason: str


class Names:
    """The names of campaigns and the uploads they come from."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def announce(self, running: RunningPhase, name_count: int, *, planned: bool) -> bool:
        """Say how many names the run has to settle, and whether all of them stand in the ledger.

        False when the phase does not run any more; then nothing has changed.
        """
        status = await self._pool.execute(
            """UPDATE phases SET name_count = $4, planned = $5
               WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND status = 'RUNNING'""",
            running.campaign_no,
            running.phase,
            running.run,
            name_count,
            planned,
        )
        return status == "UPDATE 1"

    async def append_names(
        self, running: RunningPhase, first: int, names: Sequence[str], kept: Digest
    ) -> bool:
        """Store generated names at positions first.. in one transaction: rows, ledger, counter,
        event. `kept` is their digest.

        False when the phase does not run any more or these positions are stored; then nothing has
        changed.
        """
        async with self._pool.acquire() as connection:
            try:
                async with connection.transaction():
                    if not await share_phase(connection, running):
                        return False
                    await _copy_domains(connection, running.campaign_no, first, names)
                    await _book_names(connection, running, first, len(names), kept)
                    return True
            except asyncpg.UniqueViolationError:
                return False

    async def upload(self, campaign_no: int) -> Upload | None:
        """Return how far the campaign's upload is; None before its first message."""
        row = await self._pool.fetchrow(SELECT_UPLOAD, campaign_no)
        return Upload(**row) if row else None

    async def rejections(self, campaign_no: int, limit: int) -> list[Rejection]:
        """Return the first rejected lines of the campaign's list; KEPT_REJECTIONS are kept."""
        rows = await self._pool.fetch(
            """SELECT line_offset, line, reason FROM upload_rejections WHERE campaign_no = $1
               ORDER BY line_offset LIMIT $2""",
            campaign_no,
            limit,
        )
        return [Rejection(*row) for row in rows]

    async def append_upload(
        self,
        running: RunningPhase,
        upload_id: UUID,
        offset: int,
        names: Sequence[str],
        rejected: Sequence[Rejection] = (),
        *,
        finish: bool = False,
    ) -> Upload:
        """Store one part of an uploaded list, all or nothing. `names` are its good lines in order.

        With `finish` the list is closed by it, and generation complete; done again, it changes
        nothing and returns the same, whatever became of the phase since. Raises CampaignNotFound,
        UploadOffsetStored, UploadOffsetGap, UploadClosed, TransitionNotAllowed.
        """
        no = running.campaign_no
        async with self._pool.acquire() as connection, connection.transaction():
            upload = await _open_upload(connection, running, upload_id)
            past = offset + len(names) + len(rejected)
            if upload.finished and finish and past == upload.next_offset:
                return upload
            _require_next(running, upload, offset)
            accepted = await _add_new(connection, running, upload.accepted_count, names)
            await _keep_rejections(connection, no, upload.rejected_count, rejected)
            row = await connection.fetchrow(
                f"""UPDATE uploads SET next_offset = $2, accepted_count = accepted_count + $3,
                        duplicate_count = duplicate_count + $4,
                        rejected_count = rejected_count + $5, finished = $6
                    WHERE campaign_no = $1 RETURNING {_UPLOAD_COLUMNS}""",
                no,
                past,
                accepted,
                len(names) - accepted,
                len(rejected),
                finish,
            )
            assert row is not None
            if finish:
                await connection.execute(
                    """UPDATE phases SET planned = true, name_count = $3
                       WHERE campaign_no = $1 AND phase = $2""",
                    no,
                    Phase.DOMAIN_GENERATION,
                    row["accepted_count"],
                )
            return Upload(**row)

    async def forget_uploaded(self, limit: int) -> int:
        """Drop up to `limit` names that were kept to find repeated lines of uploads now over."""
        status = await self._pool.execute(
            # A failed one can be retried, and its list goes on. SKIP LOCKED: whoever deletes the
            # campaign takes them in another order.
            """DELETE FROM upload_names WHERE ctid = ANY(ARRAY(
                   SELECT n.ctid FROM upload_names n
                   JOIN uploads u USING (campaign_no) JOIN phases p USING (campaign_no)
                   WHERE p.phase = 1 AND (u.finished OR p.status IN ('CANCELLED', 'SKIPPED'))
                   LIMIT $1 FOR UPDATE OF n SKIP LOCKED))""",
            limit,
        )
        return int(status.split()[-1])

    async def generation(self, campaign_id: UUID) -> RunningPhase:
        """Return the phase that names are uploaded to, whatever its status. Raises
        CampaignNotFound."""
        row = await self._phase(campaign_id, Phase.DOMAIN_GENERATION)
        return to_running_phase(row)

    async def running_phase(self, campaign_id: UUID, phase: Phase) -> RunningPhase:
        """Return a phase to work on. Raises CampaignNotFound, or TransitionNotAllowed if it does
        not run."""
        row = await self._phase(campaign_id, phase)
        if row["status"] != Status.RUNNING:
            raise _not_running(campaign_id, phase, row["status"])
        return to_running_phase(row)

    async def _phase(self, campaign_id: UUID, phase: Phase) -> asyncpg.Record:
        row = await self._pool.fetchrow(
            f"{RUNNING_PHASES} WHERE k.id = $1 AND p.phase = $2", campaign_id, phase
        )
        if row is None:
            raise CampaignNotFound(campaign_id)
        return row


_UPLOAD_COLUMNS = (
    "upload_id, next_offset, accepted_count, duplicate_count, rejected_count, finished"
)


SELECT_UPLOAD = f"SELECT {_UPLOAD_COLUMNS} FROM uploads WHERE campaign_no = $1"


def _not_running(campaign_id: UUID, phase: Phase, status: str) -> TransitionNotAllowed:
    return TransitionNotAllowed(
        f"{phase.name} is {status}; it takes names while it is RUNNING",
        campaign_id=campaign_id,
        phase=phase.name,
        status=status,
        action="UPLOAD",
        allowed="",
    )


async def _copy_domains(
    connection: Connection, campaign_no: int, first: int, names: Sequence[str]
) -> None:
    # zip, repeat and count: no Python runs per row, and no encoder of ours was as fast
    # (docs/performance.md).
    await connection.copy_records_to_table(
        "domains",
        records=zip(repeat(campaign_no), count(first), names, strict=False),
        columns=["campaign_no", "position", "name"],
    )


async def _book_names(
    connection: Connection, running: RunningPhase, first: int, name_count: int, kept: Digest
) -> None:
    """Enter stored names into the ledger, the campaign's counter and its history."""
    no, phase, run = running.campaign_no, running.phase, running.run
    await connection.execute(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state, attempt,
               done_time, outcome_counts, content_sha256, tld_counts)
           VALUES ($1, $2, $3, $4, $5, 'done', 1, now(), ARRAY[$5::int], $6, $7)""",
        no,
        phase,
        run,
        first,
        name_count,
        kept.sha256,
        json.dumps(kept.tlds),
    )
    counted = await connection.execute(
        "UPDATE campaigns SET name_count = name_count + $2 WHERE no = $1 AND name_count = $3",
        no,
        name_count,
        first,
    )
    if counted != "UPDATE 1":
        # Somebody else stored names in between; the primary keys would not have let both commit
        # either.
        raise asyncpg.UniqueViolationError("names are stored from another position on")
    await append_event(
        connection, no, chunk_settled(phase, run, first, name_count, 1, [("GENERATED", name_count)])
    )


async def _open_upload(connection: Connection, running: RunningPhase, upload_id: UUID) -> Upload:
    """Lock the campaign's upload, making it with the first message; a finished one is returned as
    it is. Raises CampaignNotFound, UploadClosed, TransitionNotAllowed."""
    no = running.campaign_no
    runs = await take_phase(connection, running)
    if runs:
        await connection.execute(
            "INSERT INTO uploads (campaign_no, upload_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            no,
            upload_id,
        )
    row = await connection.fetchrow(f"{SELECT_UPLOAD} FOR UPDATE", no)
    upload = Upload(**row) if row else None
    if upload is not None and upload.upload_id != upload_id:
        raise UploadClosed(
            f"the campaign has another upload, {upload.upload_id}",
            campaign_id=running.campaign_id,
            upload_id=upload.upload_id,
        )
    if upload is None or not (runs or upload.finished):
        status = await connection.fetchval(
            "SELECT status FROM phases WHERE campaign_no = $1 AND phase = $2", no, running.phase
        )
        if status is None:
            raise CampaignNotFound(running.campaign_id)
        raise _not_running(running.campaign_id, running.phase, status)
    return upload


def _require_next(running: RunningPhase, upload: Upload, offset: int) -> None:
    """Raise UploadOffsetStored, UploadOffsetGap or UploadClosed unless the upload goes on at
    `offset`."""
    facts: dict[str, Any] = {"campaign_id": running.campaign_id, "upload_id": upload.upload_id}
    where = {**facts, "next_offset": upload.next_offset}
    if offset < upload.next_offset:
        raise UploadOffsetStored(f"go on at {upload.next_offset}", **where)
    if upload.finished:
        raise UploadClosed("the campaign's upload is finished", **facts)
    if offset > upload.next_offset:
        raise UploadOffsetGap(f"go on at {upload.next_offset}", **where)


async def _add_new(
    connection: Connection, running: RunningPhase, first: int, names: Sequence[str]
) -> int:
    """Store those names at positions `first`.. that the list has not had yet; how many they are."""
    distinct = list(dict.fromkeys(names))
    rows = await connection.fetch(
        """INSERT INTO upload_names (campaign_no, name) SELECT $1, unnest($2::text[])
           ON CONFLICT DO NOTHING RETURNING name""",
        running.campaign_no,
        distinct,
    )
    new = {row["name"] for row in rows}
    accepted = [name for name in distinct if name in new]
    if accepted:
        kept = await asyncio.to_thread(digest, accepted)
        await _copy_domains(connection, running.campaign_no, first, accepted)
        await _book_names(connection, running, first, len(accepted), kept)
    return len(accepted)


async def _keep_rejections(
    connection: Connection, campaign_no: int, count_before: int, rejected: Sequence[Rejection]
) -> None:
    """Keep the first KEPT_REJECTIONS of a list."""
    kept = rejected[: max(KEPT_REJECTIONS - count_before, 0)]
    if kept:
        # COPY, not INSERT: a round trip for all of them.
        await connection.copy_records_to_table(
            "upload_rejections",
            records=[(campaign_no, r.offset, r.line, r.reason) for r in kept],
            columns=["campaign_no", "line_offset", "line", "reason"],
        )
