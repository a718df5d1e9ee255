"""Compares counters with the rows they count, from time to time, and says so when they differ."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import cast

from domainflow.query.v1 import summary_pb2
from services.chassis.postgres import Pool
from services.chassis.telemetry import METER
from services.query.counter_check import check_counters
from services.query.maintenance.gentle import GentleReads
from services.query.maintenance.job import CampaignGone, Hands, hold_campaign

log = logging.getLogger(__name__)

# Between two checks of a campaign whose counters change, and of one whose counters do not.
INTERVAL = timedelta(hours=6)
IDLE_INTERVAL = timedelta(days=7)
# Seconds of it that are one piece: other jobs get their turns in between.
PIECE = 0.3
_DRIFTS = METER.create_counter(
    "domainflow.query.counter_drift", "{counter}", "Counters found to differ from their rows."
)
_Check = asyncio.Task[summary_pb2.CheckCountersResponse | None]


class DriftCheck:
    """Checks each campaign when it is over, and every few hours while its counters change.

    The reading goes on behind while other jobs have their turns; it holds nothing and begins anew
    after a crash. Stored times only say how often: a clock that is set makes a check early or late.
    """

    name = "counters"
    period = 30.0

    def __init__(self, interval: timedelta = INTERVAL) -> None:
        self._interval = interval
        self._running: tuple[int, _Check] | None = None

    async def find(self, hands: Hands, aside: Sequence[int]) -> int | None:
        if self._running is not None:
            return self._running[0]
        no: int | None = await hands.reads.fetchval(_DUE, aside, self._interval, IDLE_INTERVAL)
        return no

    async def work(self, hands: Hands, campaign_no: int) -> None:
        if self._running is None:
            # It asks its pool for rows and values, and for nothing else.
            reads = cast(Pool, GentleReads(hands.reads))
            check = asyncio.create_task(check_counters(reads, campaign_no))
            self._running = campaign_no, check
        _, check = self._running
        await asyncio.wait([check], timeout=PIECE)
        if not check.done():
            return
        self._running = None
        found = check.result()
        if found is None:
            raise CampaignGone(campaign_no)
        connection = hands.connection
        async with connection.transaction():
            await hold_campaign(connection, campaign_no)
            await connection.execute(
                _STORE,
                campaign_no,
                found.revision,
                found.row_count,
                len(found.drifts),
                found.SerializeToString(),
            )
        if found.drifts:
            _DRIFTS.add(len(found.drifts))
            worst = found.drifts[0]
            log.warning(
                "campaign number %d has %d counters that are not what its rows say; the first one,"
                " %s of phase %d, run %d, says %d instead of %d",
                *(campaign_no, len(found.drifts), worst.counter, worst.phase, worst.run),
                *(worst.counted, worst.actual),
            )

    async def leave_off(self) -> None:
        if self._running is not None:
            _, check = self._running
            self._running = None
            check.cancel()
            await asyncio.wait([check])
            if not check.cancelled():
                check.exception()  # seen: who leaves off does not want it


# What was never checked is due when it is over, or as old as an interval.
_DUE = """
SELECT c.no FROM (
    SELECT c.no, k.revision, c.status IN ('COMPLETED', 'SKIPPED', 'FAILED', 'CANCELLED') AS over,
        now() - coalesce(k.check_time, c.create_time) AS age,
        (SELECT coalesce(max(revision), 0) FROM ledger_totals t WHERE t.campaign_no = c.no)
            > coalesce(k.revision, -1) AS changed
    FROM campaigns c LEFT JOIN counter_checks k ON k.campaign_no = c.no
    WHERE c.delete_time IS NULL AND c.no <> ALL($1::int[])
) c
WHERE changed AND over OR changed AND age > $2::interval OR age > $3::interval
ORDER BY age DESC, no LIMIT 1"""

_STORE = """
INSERT INTO counter_checks (campaign_no, revision, row_count, drift_count, body)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (campaign_no) DO UPDATE
SET revision = excluded.revision, check_time = now(), row_count = excluded.row_count,
    drift_count = excluded.drift_count, body = excluded.body"""
