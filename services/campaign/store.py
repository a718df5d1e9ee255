"""The tables of the campaign service: campaigns here, `names` and `ledger` in their own modules.

One public method is one transaction.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from services.campaign.campaign import (
    Action,
    Campaign,
    Phase,
    require_etag,
    require_open,
)
from services.campaign.catalogue import Catalogue, NewCampaign, insert_campaign
from services.campaign.configuration import CONFIGURATION_FIELDS, with_part
from services.campaign.dead_letters import DeadLetters
from services.campaign.deletion import Deletions
from services.campaign.events import campaign_updated
from services.campaign.history import History
from services.campaign.ledger import Ledger
from services.campaign.named_settings import with_named
from services.campaign.names import SELECT_UPLOAD, Names, Upload
from services.campaign.reservations import Reservations
from services.campaign.rows import (
    Tally,
    act,
    append_event,
    get_campaign,
    lock_existing,
    read_campaign,
    read_campaigns,
    read_tally,
)
from services.chassis.http_settings import Network
from services.chassis.postgres import Connection, Pool
from services.chassis.requests import RequestKey, once


@dataclass(frozen=True, slots=True)
class Accounts:
    """What a receipt is made of: tallies and chunks' digests phase by phase, as in the campaign."""

    campaign: Campaign
    upload: Upload | None
    tallies: Sequence[Tally]
    digests: Sequence[Sequence[bytes | None]]


class Store:
    """Campaigns, their history, and what belongs to them."""

    def __init__(self, pool: Pool, *, allowed_networks: Sequence[Network] = ()) -> None:
        """`allowed_networks`: those that HTTP settings may name."""
        self._pool = pool
        self._allowed_networks = allowed_networks
        self.names = Names(pool)
        self.reservations = Reservations(pool)
        self.ledger = Ledger(pool)
        self.history = History(pool)
        self.catalogue = Catalogue(pool)
        self.deletions = Deletions(pool)
        self.dead_letters = DeadLetters(pool)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        """A connection on which all reads see one moment: a campaign takes several."""
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection

    async def create(
        self,
        new: NewCampaign,
        key: RequestKey | None,
        answer: Callable[[Campaign], bytes],
        *,
        validate_only: bool = False,
    ) -> bytes:
        """Store a campaign; returns what `answer` makes of it, or the stored answer of `key`.

        Raises DnsPersonaNotFound, ResourceNotFound, InvalidFields.
        """

        async def insert(connection: Connection) -> bytes:
            configuration = await self._with_named(connection, new.configuration)
            made = replace(new, configuration=configuration)
            return answer(await insert_campaign(connection, made))

        return await once(self._pool, key, insert, validate_only=validate_only)

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

        Raises CampaignNotFound and what campaign.steps raises; then nothing has changed.
        """

        async def change(connection: Connection) -> bytes:
            campaign = await lock_existing(connection, campaign_id)
            return answer(
                await act(connection, campaign, action, phase, actor="caller", reason=reason)
            )

        return await once(self._pool, key, change)

    async def configure(
        self,
        campaign_id: UUID,
        phase: Phase,
        given: bytes,
        *,
        etag: str,
        reason: str,
        key: RequestKey | None,
        answer: Callable[[Campaign], bytes],
        validate_only: bool,
    ) -> bytes:
        """Replace the part of `phase` in the stored configuration by that of `given`.

        A campaign that ends before the phase goes on to it from now on. Raises CampaignNotFound,
        EtagMismatch, DnsPersonaNotFound, ResourceNotFound, InvalidFields and what campaign.steps
        raises; then nothing has changed.
        """

        async def change(connection: Connection) -> bytes:
            # Before the campaign is locked: it may take a second.
            named = await self._with_named(connection, given)
            before = await lock_existing(connection, campaign_id)
            require_etag(before, etag)
            require_open(before)
            await _extend(connection, before, phase)
            await connection.execute(
                "UPDATE campaigns SET configuration = $2 WHERE no = $1",
                before.no,
                with_part(before.configuration, phase, named),
            )
            campaign = await read_campaign(connection, "no = $1", before.no)
            after = await act(
                connection, campaign, Action.CONFIGURE, phase, actor="caller", reason=reason
            )
            fields = [f"configuration.{CONFIGURATION_FIELDS[phase]}"]
            if after.phases[-1].phase is not before.phases[-1].phase:
                fields.append("final_phase")
            event = campaign_updated(fields, "caller", reason)
            await append_event(connection, after.no, event)
            return answer(await read_campaign(connection, "no = $1", after.no))

        return await once(self._pool, key, change, validate_only=validate_only)

    async def _with_named(self, connection: Connection, configuration: bytes) -> bytes:
        return await with_named(connection, configuration, self._allowed_networks)

    async def forget_requests(self, age: timedelta) -> None:
        """Drop stored answers older than `age`."""
        await self._pool.execute(
            "DELETE FROM requests WHERE create_time < now() - $1::interval", age
        )

    async def get(self, campaign_id: UUID) -> Campaign:
        """Return a campaign. Raises CampaignNotFound."""
        async with self._snapshot() as connection:
            return await get_campaign(connection, campaign_id)

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


async def _extend(connection: Connection, campaign: Campaign, phase: Phase) -> None:
    """Let the campaign go on to `phase` if it ends before it."""
    last = campaign.phases[-1].phase
    await connection.executemany(
        "INSERT INTO phases (campaign_no, phase, status) VALUES ($1, $2, 'NOT_STARTED')",
        [(campaign.no, number) for number in range(last + 1, phase + 1)],
    )
    await connection.execute(
        "UPDATE campaigns SET final_phase = greatest(final_phase, $2) WHERE no = $1",
        campaign.no,
        phase,
    )


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
