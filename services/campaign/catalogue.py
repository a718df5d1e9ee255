"""Campaigns as entries of a catalogue: made, listed, changed, put away, copied.

One public method is one transaction. What their phases do is no matter here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias
from uuid import UUID

from domainflow.campaign.v1 import event_pb2
from services.campaign.campaign import (
    Campaign,
    Mode,
    Phase,
    Priority,
    Status,
    require_etag,
    require_idle,
    require_open,
    require_sequence,
)
from services.campaign.configuration import without_range
from services.campaign.events import campaign_updated
from services.campaign.filter import And, Comparison, Condition, Not, Operator, Order
from services.campaign.page_token import Place
from services.campaign.rows import (
    append_event,
    lock_existing,
    read_campaign,
    read_campaigns,
    touch,
)
from services.chassis.postgres import Connection, Pool
from services.chassis.requests import RequestKey, once

MAX_NAME = 200
_COPY = " (copy)"


@dataclass(frozen=True, slots=True)
class NewCampaign:
    """What a campaign is created from. `phases` maps every phase to whether it is configured."""

    id: UUID
    name: str
    mode: Mode
    phases: dict[Phase, bool]
    configuration: bytes
    priority: Priority = Priority.NORMAL
    name_rate_limit: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """New settings of a campaign; none leaves one as it is."""

    name: str | None = None
    mode: Mode | None = None
    priority: Priority | None = None
    name_rate_limit: int | None = None

    def fields(self, campaign: Campaign) -> list[str]:
        """The settings that the campaign has otherwise."""
        return [
            field
            for field in self.__slots__
            if getattr(self, field) not in {None, getattr(campaign, field)}
        ]


Answer: TypeAlias = Callable[[Campaign], bytes]


class Catalogue:
    """Lists of campaigns, and what changes a campaign without moving its phases."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(
        self,
        condition: Condition | None,
        order: Order,
        after: Place | None,
        limit: int,
        *,
        archived: bool = False,
        deleted: bool = False,
    ) -> list[Campaign]:
        """Return up to `limit` campaigns that meet `condition`, in order, from behind `after` on.

        Archived ones and those that are being deleted are among them when asked for.
        """
        statement = _Statement()
        terms = [statement.condition(condition)] if condition is not None else []
        if not archived:
            terms.append("archive_time IS NULL")
        if not deleted:
            terms.append("delete_time IS NULL")
        if after is not None:
            beyond = "<" if order.descending else ">"
            place = f"({statement.value(after.value)}, {statement.value(after.no)})"
            terms.append(f"({_COLUMNS[order.field]}, no) {beyond} {place}")
        direction = "DESC" if order.descending else "ASC"
        text = f"""{" AND ".join(terms) or "true"}
            ORDER BY {_COLUMNS[order.field]} {direction}, no {direction}
            LIMIT {statement.value(limit)}"""
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await read_campaigns(connection, text, *statement.arguments)

    async def update(
        self,
        campaign_id: UUID,
        change: Change,
        *,
        etag: str,
        reason: str,
        key: RequestKey | None,
        answer: Answer,
        validate_only: bool = False,
    ) -> bytes:
        """Change settings. What is as asked for already changes nothing, no version and no event.

        Raises CampaignNotFound, EtagMismatch, CampaignArchived, CampaignDeleted, and
        PhaseNotConfigured for a FULL_SEQUENCE that would come to such a phase.
        """

        async def write(connection: Connection) -> bytes:
            before = await lock_existing(connection, campaign_id)
            require_etag(before, etag)
            require_open(before)
            fields = change.fields(before)
            if not fields:
                return answer(before)
            if "mode" in fields and change.mode is Mode.FULL_SEQUENCE:
                require_sequence(before)
            settings = ", ".join(f"{field} = ${n}" for n, field in enumerate(fields, 2))
            await connection.execute(
                f"UPDATE campaigns SET {settings} WHERE no = $1",
                before.no,
                *(getattr(change, field) for field in fields),
            )
            return answer(await _updated(connection, before, fields, reason))

        return await once(self._pool, key, write, validate_only=validate_only)

    async def archive(
        self,
        campaign_id: UUID,
        *,
        archived: bool,
        reason: str,
        key: RequestKey | None,
        answer: Answer,
    ) -> bytes:
        """Put a campaign away, or take it out again; one that is where it is to be stays as it is.

        Raises CampaignNotFound, CampaignDeleted, and CampaignActive when it is to be put away.
        """

        async def write(connection: Connection) -> bytes:
            before = await lock_existing(connection, campaign_id)
            require_open(replace(before, archive_time=None))
            if archived is (before.archive_time is not None):
                return answer(before)
            if archived:
                require_idle(before)
            await connection.execute(
                """UPDATE campaigns SET archive_time = CASE WHEN $2 THEN now() END
                   WHERE no = $1""",
                before.no,
                archived,
            )
            return answer(await _updated(connection, before, ["archive_time"], reason))

        return await once(self._pool, key, write)

    async def duplicate(
        self,
        campaign_id: UUID,
        new_id: UUID,
        name: str,
        *,
        key: RequestKey | None,
        answer: Answer,
        validate_only: bool = False,
    ) -> bytes:
        """Create a campaign like another one, which has its names still before it.

        An empty name stands for the other's and " (copy)". Raises CampaignNotFound,
        CampaignDeleted.
        """

        async def write(connection: Connection) -> bytes:
            # Locked: it must not vanish while it is read.
            source = await lock_existing(connection, campaign_id)
            require_open(replace(source, archive_time=None))
            new = NewCampaign(
                id=new_id,
                name=name or source.name[: MAX_NAME - len(_COPY)] + _COPY,
                mode=source.mode,
                phases={state.phase: state.phase in source.configured for state in source.phases},
                configuration=without_range(source.configuration),
                priority=source.priority,
                name_rate_limit=source.name_rate_limit,
            )
            return answer(await insert_campaign(connection, new))

        return await once(self._pool, key, write, validate_only=validate_only)


async def insert_campaign(connection: Connection, new: NewCampaign) -> Campaign:
    """Write a new campaign with its phases and its first event."""
    phases = sorted(new.phases)
    no = await connection.fetchval(
        """INSERT INTO campaigns (id, name, mode, initial_phase, final_phase, configuration,
               priority, name_rate_limit, current_phase, status)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $4, $9) RETURNING no""",
        new.id,
        new.name,
        new.mode,
        phases[0],
        phases[-1],
        new.configuration,
        new.priority,
        new.name_rate_limit,
        _first_status(new.phases[phases[0]]),
    )
    await connection.executemany(
        "INSERT INTO phases (campaign_no, phase, status) VALUES ($1, $2, $3)",
        [(no, phase, _first_status(new.phases[phase])) for phase in phases],
    )
    created = event_pb2.Event(campaign_created=event_pb2.CampaignCreated(name=new.name))
    await append_event(connection, no, created)
    return await read_campaign(connection, "no = $1", no)


def _first_status(configured: bool) -> Status:
    return Status.CONFIGURED if configured else Status.NOT_STARTED


async def _updated(
    connection: Connection, before: Campaign, fields: Sequence[str], reason: str
) -> Campaign:
    """Enter a change of settings, which is written, into version and history."""
    after = await read_campaign(connection, "no = $1", before.no)
    await touch(connection, before, after)
    await append_event(connection, after.no, campaign_updated(fields, "caller", reason))
    return await read_campaign(connection, "no = $1", after.no)


# Where a field of the filter or the order stands. What is not here cannot get into a statement.
_COLUMNS = {
    field: field
    for field in (
        "name",
        "status",
        "current_phase",
        "mode",
        "priority",
        "create_time",
        "update_time",
        "name_count",
    )
}
_LIKE = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})


class _Statement:
    """Builds SQL; whatever a caller said becomes an argument."""

    def __init__(self) -> None:
        self.arguments: list[object] = []

    def value(self, value: object) -> str:
        """The argument's place in the statement."""
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def condition(self, condition: Condition) -> str:
        """The condition as SQL, in parentheses."""
        if isinstance(condition, Comparison):
            return self._comparison(condition)
        if isinstance(condition, Not):
            return f"(NOT {self.condition(condition.condition)})"
        joint = " AND " if isinstance(condition, And) else " OR "
        return f"({joint.join(self.condition(each) for each in condition.conditions)})"

    def _comparison(self, comparison: Comparison) -> str:
        column, value = _COLUMNS[comparison.field], comparison.value
        if comparison.operator is Operator.HAS:
            assert isinstance(value, str)
            return f"({column} LIKE {self.value(f'%{value.translate(_LIKE)}%')})"
        operator = "<>" if comparison.operator is Operator.UNEQUAL else comparison.operator.value
        return f"({column} {operator} {self.value(value)})"
