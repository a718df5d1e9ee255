"""Figures of the past and what is left of nothing: removed a portion at a time."""

from collections.abc import Sequence
from datetime import timedelta

from services.query.maintenance.job import Hands

# Rows deleted in one transaction.
PORTION = 5_000
# Time of each row, and how long it is kept. A clock that is set does no harm here.
_AGE_LIMITS = {
    "query_performance": ("begin_time", timedelta(days=7)),
    "pool_history": ("begin_time", timedelta(days=7)),
    "slow_queries": ("end_time", timedelta(days=7)),
    # Of processes that are gone.
    "pool_reports": ("report_time", timedelta(minutes=1)),
}


class OldFigures:
    """Removes figures that are older than the time they are kept for."""

    name = "old figures"
    period = 30.0

    async def find(self, hands: Hands, aside: Sequence[int]) -> int | None:
        if 0 in aside:
            return None
        ages = [age for _, age in _AGE_LIMITS.values()]
        return 0 if await hands.reads.fetchval(_ANY_OLD, *ages) else None

    async def work(self, hands: Hands, campaign_no: int) -> None:
        for table, (column, age) in _AGE_LIMITS.items():
            await hands.connection.execute(
                f"""DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                    SELECT ctid FROM {table} WHERE {column} < now() - $1::interval LIMIT $2))""",
                age,
                PORTION,
            )

    async def leave_off(self) -> None:
        pass


_ANY_OLD = "SELECT " + " OR ".join(
    f"EXISTS (SELECT FROM {table} WHERE {column} < now() - ${n}::interval)"
    for n, (table, (column, _)) in enumerate(_AGE_LIMITS.items(), 1)
)


class Orphans:
    """Removes derived rows of campaigns that are not there.

    There are none by our own doing (`hold_campaign`); a restored backup may have some, and whoever
    deletes a campaign with a version that knows nothing of them leaves all.
    """

    name = "orphans"
    period = 600.0

    async def find(self, hands: Hands, aside: Sequence[int]) -> int | None:
        if 0 in aside:
            return None
        return 0 if await hands.reads.fetchval(f"SELECT EXISTS ({_ORPHANS})") else None

    async def work(self, hands: Hands, campaign_no: int) -> None:
        connection = hands.connection
        for row in await connection.fetch(f"SELECT * FROM ({_ORPHANS}) o LIMIT 10"):
            table, column, value = row
            await connection.execute(
                f"""DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                    SELECT ctid FROM {table} WHERE {column} = $1 LIMIT 500))""",
                value,
            )

    async def leave_off(self) -> None:
        pass


def _orphans(table: str, column: str, owner: str, owner_column: str, values: str = "") -> str:
    """Values of the first column of the primary key without owner."""
    values = values or f"SELECT {column} AS value FROM {table}"
    return f"""
    SELECT '{table}' AS rows_of, '{column}' AS key, value::bigint FROM ({values}) v
    WHERE NOT EXISTS (SELECT FROM {owner} o WHERE o.{owner_column} = v.value)"""


def _each(table: str, column: str) -> str:
    """The values of that column where many rows have the same one: an index look-up each."""
    step = f"SELECT {column} FROM {table}"
    return f"""
    SELECT value FROM (
        WITH RECURSIVE found (value) AS (
            ({step} ORDER BY {column} LIMIT 1)
            UNION ALL
            SELECT ({step} WHERE {column} > f.value ORDER BY {column} LIMIT 1)
            FROM found f WHERE f.value IS NOT NULL
        ) SELECT value FROM found WHERE value IS NOT NULL
    ) each_once"""


_SEGMENTS, _ORDERS = _each("segments", "derivation_id"), _each("name_orders", "campaign_no")
_TOTALS, _TLD_TOTALS = (_each(table, "campaign_no") for table in ("ledger_totals", "tld_totals"))
_ORPHANS = " UNION ALL ".join(
    (
        _orphans("derivations", "campaign_no", "campaigns", "no"),
        _orphans("counter_checks", "campaign_no", "campaigns", "no"),
        _orphans("name_orders", "campaign_no", "campaigns", "no", _ORDERS),
        _orphans("ledger_totals", "campaign_no", "campaigns", "no", _TOTALS),
        _orphans("tld_totals", "campaign_no", "campaigns", "no", _TLD_TOTALS),
        _orphans("segments", "derivation_id", "derivations", "id", _SEGMENTS),
    )
)
