"""Outcomes by top-level domain of chunks that were settled by a worker that did not count them."""

import logging
from collections.abc import Sequence

from services.query.maintenance.job import Hands

log = logging.getLogger(__name__)

# Chunks counted in one transaction, and names after which it takes no more: some 0.2 s. At its end
# the campaign's row is held, for 1 ms a chunk, or 12 where it has 1,000 top-level domains.
PORTION = 20
ENOUGH_NAMES = 200_000


class TldBackfill:
    """Counts the rows of such chunks; the trigger on chunks adds them to the totals.

    Generation and DNS only: whoever settles chunks of a later phase counts them himself.
    """

    name = "outcomes by top-level domain"
    period = 10.0

    async def find(self, hands: Hands, aside: Sequence[int]) -> int | None:
        no: int | None = await hands.reads.fetchval(_UNCOUNTED, aside)
        return no

    async def work(self, hands: Hands, campaign_no: int) -> None:
        connection = hands.connection
        async with connection.transaction():
            # Locked before their rows are counted: a verdict that is taken back waits, or is seen.
            chunks = await connection.fetch(_LOCK, campaign_no, PORTION)
            names = 0
            for phase, run, first, count in chunks:
                statement = _COUNT_NAMES if phase == 1 else _COUNT_VERDICTS
                await connection.execute(statement, campaign_no, phase, run, first, first + count)
                names += count
                if names >= ENOUGH_NAMES:
                    break
        log.debug("counted %d names of the campaign with the number %d", names, campaign_no)

    async def leave_off(self) -> None:
        pass


_WITHOUT = "outcome_counts IS NOT NULL AND tld_counts IS NULL AND phase <= 2"
_UNCOUNTED = f"""
SELECT campaign_no FROM chunks WHERE {_WITHOUT} AND campaign_no <> ALL($1::int[])
ORDER BY campaign_no, phase, run, first_position LIMIT 1"""
_LOCK = f"""
SELECT phase, run, first_position, name_count FROM chunks WHERE {_WITHOUT} AND campaign_no = $1
ORDER BY phase, run, first_position LIMIT $2 FOR NO KEY UPDATE"""

_BOUND = "campaign_no = $1 AND position >= $4 AND position < $5"
_TLD = "split_part(name, '.', -1)"


def _count(rows: str) -> str:
    """What is there is counted; whether that is what the ledger says is another job's question."""
    return f"""
    UPDATE chunks SET tld_counts = (
        SELECT coalesce(jsonb_object_agg(tld, counts), '{{}}') FROM (
            SELECT tld, jsonb_object_agg(outcome::text, n) AS counts FROM (
                SELECT {_TLD} AS tld, outcome, count(*) AS n FROM ({rows}) r
                WHERE outcome IS NOT NULL GROUP BY 1, 2
            ) counted GROUP BY tld
        ) by_tld)
    WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND first_position = $4"""


_COUNT_NAMES = _count(f"SELECT name, 1 AS outcome FROM domains WHERE {_BOUND}")
# FULL JOIN: no loop over both ranges can carry it out. OFFSET 0 keeps the condition out of it.
_COUNT_VERDICTS = _count(
    f"""SELECT name, verdict AS outcome
    FROM (SELECT position, name FROM domains WHERE {_BOUND}) d
    FULL JOIN (SELECT position, verdict FROM dns_results WHERE {_BOUND} AND run = $3) v
        USING (position)
    OFFSET 0"""
)
