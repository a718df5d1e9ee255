"""Names that were given up: found, handed out again, or left at that.

Workers write the letters (services/schema/migrations/0003_control.sql). One public method is one
transaction.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import asyncpg

from services.campaign.campaign import Action, Campaign, Phase, require_open
from services.campaign.events import dead_letters_resolved
from services.campaign.rows import act, append_event, lock_existing
from services.chassis.errors import CampaignNotFound, DeadLetterNotFound
from services.chassis.postgres import Connection, Pool
from services.chassis.requests import RequestKey, once


class LetterState(StrEnum):
    """What became of a dead letter. Names are those of the proto enum."""

    OPEN = "OPEN"
    REDRIVEN = "REDRIVEN"
    DISCARDED = "DISCARDED"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a letter stands in the list of all: newest campaign first, then by position."""

    campaign_no: int
    phase: int
    run: int
    position: int


# Before every letter.
BEGINNING = Place(2**31 - 1, 0, 0, -1)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One name that was given up."""

    place: Place
    campaign_id: UUID
    name: str
    cause: str
    failure_count: int
    create_time: datetime
    state: LetterState
    resolve_time: datetime | None
    resolve_reason: str


class DeadLetters:
    """The dead letters of all campaigns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(
        self, campaign_id: UUID | None, state: LetterState | None, after: Place, limit: int
    ) -> list[DeadLetter]:
        """Return letters behind `after`. Raises CampaignNotFound."""
        if campaign_id is not None:
            found = await self._pool.fetchval("SELECT 1 FROM campaigns WHERE id = $1", campaign_id)
            if found is None:
                raise CampaignNotFound(campaign_id)
        rows = await self._pool.fetch(
            f"""{_SELECT}
                WHERE ($1::uuid IS NULL OR k.id = $1) AND ($2::text IS NULL OR d.state = $2)
                  AND d.campaign_no <= $3
                  AND (d.campaign_no < $3 OR (d.phase, d.run, d.position) > ($4, $5, $6))
                ORDER BY d.campaign_no DESC, d.phase, d.run, d.position LIMIT $7""",
            campaign_id,
            state,
            after.campaign_no,
            after.phase,
            after.run,
            after.position,
            limit,
        )
        return [_to_letter(row) for row in rows]

    async def get(self, campaign_id: UUID, phase: Phase, run: int, position: int) -> DeadLetter:
        """Return one letter; run 0 means the newest that has one. Raises DeadLetterNotFound."""
        row = await self._pool.fetchrow(
            f"""{_SELECT}
                WHERE k.id = $1 AND d.phase = $2 AND d.position = $3::bigint
                  AND ($4 = 0 OR d.run = $4)
                ORDER BY d.run DESC LIMIT 1""",
            campaign_id,
            phase,
            position,
            run,
        )
        if row is None:
            raise _not_found(campaign_id, phase, position)
        return _to_letter(row)

    async def redrive(
        self,
        campaign_id: UUID,
        phase: Phase,
        positions: Sequence[int],
        *,
        reason: str,
        key: RequestKey | None,
        answer: Callable[[int], bytes],
    ) -> bytes:
        """Hand open letters of the newest run out again: those at `positions`, or all.

        A completed phase runs once more for them. Raises CampaignNotFound, DeadLetterNotFound and
        what campaign.steps raises; then nothing has changed.
        """

        async def change(
            connection: Connection, campaign: Campaign, letters: Sequence[int]
        ) -> None:
            # Chunks before the campaign's row, as everybody takes them; a refusal undoes it.
            await connection.fetch(
                """SELECT redrive_dead_letter($1, $2, $3, position, $5)
                   FROM unnest($4::int[]) AS position""",
                campaign.no,
                phase,
                campaign.state(phase).run,
                letters,
                reason,
            )
            await act(connection, campaign, Action.REDRIVE, phase, actor="caller", reason=reason)

        return await self._resolve(
            campaign_id, phase, positions, LetterState.REDRIVEN, change, reason, key, answer
        )

    async def discard(
        self,
        campaign_id: UUID,
        phase: Phase,
        positions: Sequence[int],
        *,
        reason: str,
        key: RequestKey | None,
        answer: Callable[[int], bytes],
    ) -> bytes:
        """Leave open letters of the newest run at that: those at `positions`, or all.

        Raises CampaignNotFound, DeadLetterNotFound, CampaignArchived, CampaignDeleted.
        """

        async def change(
            connection: Connection, campaign: Campaign, letters: Sequence[int]
        ) -> None:
            await connection.execute(
                """UPDATE dead_letters SET state = 'DISCARDED', resolve_time = now(),
                       resolve_reason = $5
                   WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND position = ANY($4)""",
                campaign.no,
                phase,
                campaign.state(phase).run,
                letters,
                reason,
            )

        return await self._resolve(
            campaign_id, phase, positions, LetterState.DISCARDED, change, reason, key, answer
        )

    async def _resolve(
        self,
        campaign_id: UUID,
        phase: Phase,
        positions: Sequence[int],
        state: LetterState,
        change: Callable[[Connection, Campaign, Sequence[int]], Awaitable[None]],
        reason: str,
        key: RequestKey | None,
        answer: Callable[[int], bytes],
    ) -> bytes:
        async def resolve(connection: Connection) -> bytes:
            campaign = await lock_existing(connection, campaign_id)
            require_open(campaign)
            run = campaign.state(phase).run
            letters = await _open_letters(connection, campaign, phase, run, positions)
            if letters:
                await change(connection, campaign, letters)
                event = dead_letters_resolved(phase, run, state, len(letters), "caller", reason)
                await append_event(connection, campaign.no, event)
            return answer(len(letters))

        return await once(self._pool, key, resolve)


_SELECT = """SELECT d.campaign_no, d.phase, d.run, d.position, k.id, d.name, d.cause,
        d.failure_count, d.create_time, d.state, d.resolve_time, d.resolve_reason
    FROM dead_letters d JOIN campaigns k ON k.no = d.campaign_no"""


def _to_letter(row: asyncpg.Record) -> DeadLetter:
    return DeadLetter(
        place=Place(row["campaign_no"], row["phase"], row["run"], row["position"]),
        campaign_id=row["id"],
        name=row["name"],
        cause=row["cause"],
        failure_count=row["failure_count"],
        create_time=row["create_time"],
        state=LetterState(row["state"]),
        resolve_time=row["resolve_time"],
        resolve_reason=row["resolve_reason"],
    )


async def _open_letters(
    connection: Connection, campaign: Campaign, phase: Phase, run: int, positions: Sequence[int]
) -> list[int]:
    """The open letters' positions, locked. Raises DeadLetterNotFound for one asked for."""
    rows = await connection.fetch(
        """SELECT position FROM dead_letters
           WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND state = 'OPEN'
             AND ($4::bigint[] = '{}' OR position = ANY($4))
           ORDER BY position FOR UPDATE""",
        campaign.no,
        phase,
        run,
        list(positions),
    )
    found = [row["position"] for row in rows]
    missing = set(positions) - set(found)
    if missing:
        raise _not_found(campaign.id, phase, min(missing))
    return found


def _not_found(campaign_id: UUID, phase: Phase, position: int) -> DeadLetterNotFound:
    return DeadLetterNotFound(
        f"{phase.name} has no such dead letter at position {position}",
        campaign_id=campaign_id,
        phase=phase.name,
        position=position,
    )
