"""Who has which names of a pattern, on a connection that somebody else holds.

Whoever takes or gives back names holds the pattern's row until the transaction ends. Lock order
everywhere: phases, patterns, chunks, campaigns.
"""

from uuid import UUID

from services.campaign.allotment import Allotment, Asked, allot
from services.chassis.errors import NamesReserved
from services.chassis.postgres import Connection


async def take_names(connection: Connection, campaign_id: UUID, asked: Asked) -> Allotment:
    """Take the campaign's range. Raises NamesReserved when it must be free and is not."""
    await _lock(connection, asked)
    allotment = await look_up(connection, asked, campaign_id)
    await enter(connection, campaign_id, asked, allotment)
    return allotment


async def look_up(
    connection: Connection, asked: Asked, campaign_id: UUID | None = None
) -> Allotment:
    """What `asked` would get now. Raises NamesReserved, in the name of `campaign_id`."""
    next_free = await next_free_offset(connection, asked)
    allotment = allot(asked, next_free)
    if asked.must_be_free:
        other = await connection.fetchval(
            """SELECT campaign_id FROM reservations
               WHERE pattern_id = $1 AND name_count > 0
                 AND first_offset + name_count > $2 AND first_offset < $3
               ORDER BY first_offset + name_count LIMIT 1""",
            asked.pattern.identity,
            allotment.first_offset,
            allotment.end,
        )
        if other is not None:
            raise NamesReserved(
                f"campaign {other} has names of this range; free is what follows offset"
                f" {next_free - 1}",
                campaign_id=campaign_id or "",
                other_campaign_id=other,
                first_offset=allotment.first_offset,
                next_free_offset=next_free,
            )
    return allotment


async def next_free_offset(connection: Connection, asked: Asked) -> int:
    """The offset after the highest that anybody has; 0 when nobody has any."""
    # What was cut down to nothing takes nothing, wherever it stands.
    taken: int | None = await connection.fetchval(
        """SELECT max(first_offset + name_count) FROM reservations
           WHERE pattern_id = $1 AND name_count > 0""",
        asked.pattern.identity,
    )
    return taken or 0


async def enter(
    connection: Connection, campaign_id: UUID, asked: Asked, allotment: Allotment
) -> None:
    """Enter a range; a campaign keeps the one that it has."""
    await _lock(connection, asked)
    await connection.execute(
        """INSERT INTO reservations (campaign_id, pattern_id, first_offset, name_count)
           VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING""",
        campaign_id,
        asked.pattern.identity,
        allotment.first_offset,
        allotment.name_count,
    )


async def give_back_names(connection: Connection, campaign_id: UUID, name_count: int) -> None:
    """Keep the first `name_count` names of the campaign's range, if it has one, and no more."""
    await connection.fetchval(
        """SELECT 1 FROM patterns p JOIN reservations r ON r.pattern_id = p.id
           WHERE r.campaign_id = $1 FOR UPDATE OF p""",
        campaign_id,
    )
    await connection.execute(
        "UPDATE reservations SET name_count = $2 WHERE campaign_id = $1 AND name_count > $2",
        campaign_id,
        name_count,
    )


async def taken_range(connection: Connection, campaign_id: UUID) -> Allotment | None:
    """The range that the campaign has."""
    row = await connection.fetchrow(
        "SELECT first_offset, name_count FROM reservations WHERE campaign_id = $1", campaign_id
    )
    return Allotment(*row) if row else None


async def _lock(connection: Connection, asked: Asked) -> None:
    """Wait until nobody else is changing who has names of the pattern."""
    identity = asked.pattern.identity
    await connection.execute(
        "INSERT INTO patterns (id) VALUES ($1) ON CONFLICT DO NOTHING", identity
    )
    await connection.fetchval("SELECT 1 FROM patterns WHERE id = $1 FOR UPDATE", identity)
