"""The order of a campaign's names, once all of them are there: they never change any more."""

import logging
from collections.abc import Sequence

from services.query.derived import NAME_ORDER
from services.query.maintenance.job import Hands, hold_campaign

log = logging.getLogger(__name__)

# Positions a block: a row stays just small enough to be stored in its page, four of them a page.
BLOCK_SIZE = 450


class NameOrder:
    """Sorts the names of one campaign in one transaction: seen whole or not at all.

    The server sorts, on disk where it has to: 0.7 to 1.4 s a million names, with 64 MB of its
    memory and none of ours.
    """

    name = "name order"
    period = 1.0

    async def find(self, hands: Hands, aside: Sequence[int]) -> int | None:
        # The smallest first: they are done before anybody asks.
        no: int | None = await hands.reads.fetchval(_UNSORTED, NAME_ORDER, aside)
        return no

    async def work(self, hands: Hands, campaign_no: int) -> None:
        connection = hands.connection
        async with connection.transaction():
            await connection.execute("SET LOCAL work_mem = '64MB'")
            # One statement, begun and ended by the server: none of what it makes comes our way.
            await connection.execute(_SORT.format(no=int(campaign_no), size=BLOCK_SIZE))
            # Behind the sorting: nobody is to wait for that.
            await hold_campaign(connection, campaign_no)
            count = await connection.fetchval(_FINISH, campaign_no, NAME_ORDER)
        log.info("sorted %d names of the campaign with the number %d", count, campaign_no)

    async def leave_off(self) -> None:
        pass


_UNSORTED = """
SELECT c.no FROM phases p JOIN campaigns c ON c.no = p.campaign_no
WHERE p.phase = 1 AND p.status IN ('COMPLETED', 'SKIPPED') AND c.delete_time IS NULL
  AND NOT EXISTS (
      SELECT FROM derivations d
      WHERE d.campaign_no = c.no AND d.kind = $1 AND d.finish_time IS NOT NULL)
  AND c.no <> ALL($2::int[])
ORDER BY c.name_count, c.no LIMIT 1"""

# A loop on the server: 1.3 s for 2M names. An INSERT ... SELECT with array_agg sorts twice (1.9 s),
# because only ORDER BY inside of the aggregate promises the order of its input.
_SORT = """
DO $$
DECLARE
    one record;
    made integer[] := '{{}}';
    first text;
    number integer := 0;
BEGIN
    -- Left by somebody else: we leave none that are not finished.
    DELETE FROM name_orders WHERE campaign_no = {no};
    FOR one IN SELECT position, name FROM domains WHERE campaign_no = {no} ORDER BY name, position
    LOOP
        IF first IS NULL THEN
            first := one.name;
        END IF;
        made := made || one.position;
        IF cardinality(made) = {size} THEN
            INSERT INTO name_orders (campaign_no, block, first_name, positions)
            VALUES ({no}, number, first, made);
            number := number + 1;
            made := '{{}}';
            first := NULL;
        END IF;
    END LOOP;
    IF first IS NOT NULL THEN
        INSERT INTO name_orders (campaign_no, block, first_name, positions)
        VALUES ({no}, number, first, made);
    END IF;
END $$"""

_FINISH = """
INSERT INTO derivations (campaign_no, kind, source_version, name_count, finish_time)
SELECT no, $2, name_count::text, name_count, clock_timestamp() FROM campaigns WHERE no = $1
RETURNING name_count"""
