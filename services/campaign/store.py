"""The tables of the campaign service: campaigns here, `names` and `ledger` in their own modules.

One public method is one transaction.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from domainflow.campaign.v1 import event_pb2
from services.campaign.campaign import Action, Campaign, Mode, Phase, Status, step
from services.campaign.ledger import Ledger
from services.campaign.names import SELECT_UPLOAD, Names, Upload
from services.campaign.rows import (
    Tally,
    append_event,
    apply_step,
    get_campaign,
    lock_campaign,
    read_campaign,
    read_campaigns,
    read_tally,
)
from services.chassis.errors import (
    CampaignNotFound,
    RequestIdReused,
)
from services.chassis.postgres import Connection, Pool


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
    """Campaigns, their history, and what belongs to them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.names = Names(pool)
        self.ledger = Ledger(pool)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        """A connection on which all reads see one moment: a campaign takes several."""
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection

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
            await append_event(connection, no, created)
            return await read_campaign(connection, "no = $1", no)

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
            campaign = await lock_campaign(connection, "k.id = $1", campaign_id)
            if campaign is None:
                raise CampaignNotFound(campaign_id)
            await apply_step(
                connection, campaign, step(campaign, action, phase), actor="caller", reason=reason
            )
            return await read_campaign(connection, "id = $1", campaign_id)

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
            return await get_campaign(connection, campaign_id)

    async def page(self, before_no: int | None, limit: int) -> list[Campaign]:
        """Return campaigns, newest first, below the number `before_no`."""
        async with self._snapshot() as connection:
            condition = "($1::int IS NULL OR no < $1) ORDER BY no DESC LIMIT $2"
            return await read_campaigns(connection, condition, before_no, limit)

    async def by_number(self, numbers: Sequence[int] | None) -> list[Campaign]:
        """Return the campaigns with these numbers, or all that exist, oldest first."""
        async with self._snapshot() as connection:
            condition = "($1::int[] IS NULL OR no = ANY($1)) ORDER BY no"
            return await read_campaigns(connection, condition, numbers)

    async def numbers(self, campaign_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return the internal numbers of those campaigns that exist."""
        rows = await self._pool.fetch(
            "SELECT id, no FROM campaigns WHERE id = ANY($1)", campaign_ids
        )
        return {row["id"]: row["no"] for row in rows}

    async def tally(self, campaign_no: int, phase: int, run: int) -> Tally:
        """Sum the ledger of one run: exact at any time, whatever the workers are doing."""
        async with self._pool.acquire() as connection:
            return await read_tally(connection, campaign_no, phase, run)

    async def accounts(self, campaign_id: UUID) -> Accounts:
        """Return what a receipt is made of, all of one moment. Raises CampaignNotFound."""
        async with self._snapshot() as connection:
            campaign = await get_campaign(connection, campaign_id)
            row = await connection.fetchrow(SELECT_UPLOAD, campaign.no)
            return Accounts(
                campaign=campaign,
                upload=Upload(**row) if row else None,
                tallies=[
                    await read_tally(connection, campaign.no, state.phase, state.run)
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
