"""The names that campaigns have taken of patterns: adopted, read, looked at before the start.

Taking and giving back happen where generation starts and is cancelled: rows.act. One public method
is one transaction, but for `adopt`.
"""

import logging
from uuid import UUID

from services.campaign.allotment import Allotment, Asked
from services.campaign.campaign import PASSED, Phase, Status
from services.campaign.configuration import asked_names
from services.campaign.preview import Survey
from services.campaign.ranges import enter, look_up, next_free_offset, taken_range
from services.campaign.rows import lock_campaign
from services.chassis.errors import InvalidFields
from services.chassis.postgres import Connection, Pool

log = logging.getLogger(__name__)

# Phases of fewer names measure the dispatcher's rounds instead of the work.
MEASURED_NAMES = 10_000
# Phases of a kind that a rate is taken from.
MEASURED_PHASES = 20


class Reservations:
    """The ranges of all campaigns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def taken(self, campaign_id: UUID) -> Allotment:
        """Return the range of a campaign whose generation was started.

        Raises InvalidFields when it has to be adopted and its pattern is not accepted any more.
        """
        async with self._pool.acquire() as connection:
            taken = await taken_range(connection, campaign_id)
            if taken is None:
                # A version that knew no ranges has started it since ours began.
                async with connection.transaction():
                    await _adopt(connection, campaign_id)
                taken = await taken_range(connection, campaign_id)
            assert taken is not None, "its names come from a pattern"
            return taken

    async def adopt(self) -> int:
        """Enter the ranges of campaigns that were started before there were any, whoever overlaps.

        A transaction each; returns how many there were. One whose pattern is not accepted any more
        is left out: it can make no names either.
        """
        rows = await self._pool.fetch(
            """SELECT k.id FROM campaigns k JOIN phases p ON p.campaign_no = k.no
               WHERE p.phase = $1 AND p.run > 0
                 AND NOT EXISTS (SELECT FROM reservations r WHERE r.campaign_id = k.id)
                 AND NOT EXISTS (SELECT FROM uploads u WHERE u.campaign_no = k.no)
               ORDER BY k.no""",
            Phase.DOMAIN_GENERATION,
        )
        adopted = 0
        for row in rows:
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    adopted += await _adopt(connection, row["id"])
                except InvalidFields as problem:
                    log.warning("campaign %s keeps no range: %s", row["id"], problem.message)
        return adopted

    async def survey(self, asked: Asked) -> Survey:
        """Return what `asked` would get now, and how fast it would go. Raises NamesReserved."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return Survey(
                allotment=await look_up(connection, asked),
                next_free_offset=await next_free_offset(connection, asked),
                campaign_count=await connection.fetchval(
                    "SELECT count(*) FROM reservations WHERE pattern_id = $1 AND name_count > 0",
                    asked.pattern.identity,
                ),
                generation_rate=await _rate(connection, Phase.DOMAIN_GENERATION),
                dns_rate=await _rate(connection, Phase.DNS_VALIDATION),
            )


async def _adopt(connection: Connection, campaign_id: UUID) -> bool:
    """Give a campaign the range that its names come from. False: they come from no pattern."""
    campaign = await lock_campaign(connection, "k.id = $1", campaign_id)
    asked = asked_names(campaign.configuration) if campaign else None
    if campaign is None or asked is None:
        return False
    first = asked.first_offset or 0
    count = asked.name_count or asked.end - first
    if campaign.state(Phase.DOMAIN_GENERATION).status in PASSED | {Status.CANCELLED}:
        count = campaign.name_count
    await enter(connection, campaign_id, asked, Allotment(first, count))
    return True


async def _rate(connection: Connection, phase: Phase) -> float | None:
    """The median of the latest phases' names a second: a pause in one of them counts little."""
    rate: float | None = await connection.fetchval(
        """SELECT percentile_cont(0.5) WITHIN GROUP (
               ORDER BY name_count / extract(epoch FROM end_time - start_time)::float)
           FROM (SELECT name_count, start_time, end_time FROM phases
                 WHERE phase = $1 AND status = 'COMPLETED' AND name_count >= $2
                   AND end_time > start_time
                 ORDER BY end_time DESC LIMIT $3) AS latest""",
        phase,
        MEASURED_NAMES,
        MEASURED_PHASES,
    )
    return rate
