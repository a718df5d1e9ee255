"""Hundreds of finished campaigns for the benches: one is made, and every table copied in one
statement for all the others."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from tests.load.dataset import campaign

_NAMES = ("phases", "domains")
_EVERYTHING = (
    "phases",
    "ledger_totals",
    "domains",
    "dns_results",
    "http_results",
    "page_analyses",
    "keyword_hits",
    "leads",
)

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@dataclass(frozen=True, slots=True)
class Many:
    """Campaigns with consecutive numbers, in their order."""

    ids: Sequence[UUID]
    first_no: int
    last_no: int

    def range(self, alias: str = "") -> str:
        """SQL: a row of theirs."""
        return f"{alias}campaign_no BETWEEN {self.first_no} AND {self.last_no}"


def many_campaigns(database_url: str, count: int, names: int, *, results: bool) -> Many:
    """`count` campaigns of so many names, the same in all; without `results`, names alone."""
    return asyncio.run(_make(database_url, count, names, _EVERYTHING if results else _NAMES))


async def _make(database_url: str, count: int, names: int, tables: Sequence[str]) -> Many:
    connection = await asyncpg.connect(database_url)
    try:
        _, template = await campaign(connection, names)
        async with connection.transaction():
            made = await _heads(connection, template, count)
            for table in tables:
                await _copy(connection, table, template, made)
        # As `analyse` does it, of what has grown only.
        await connection.execute(f"VACUUM ANALYZE {', '.join(tables)}, campaigns")
    finally:
        await connection.close()
    return made


async def _heads(connection: "Connection", template: int, count: int) -> Many:
    rows = await connection.fetch(
        """INSERT INTO campaigns (id, name, mode, initial_phase, final_phase, configuration,
            name_count, current_phase, status, revision)
        SELECT uuidv7(), name, mode, initial_phase, final_phase, configuration,
            name_count, current_phase, status, revision
        FROM campaigns, generate_series(1, $2) WHERE no = $1 RETURNING no, id""",
        template,
        count,
    )
    found = sorted((no, UUID(str(campaign_id))) for no, campaign_id in rows)
    nos = [no for no, _ in found]
    # Nobody else makes campaigns there.
    assert nos == list(range(nos[0], nos[0] + count))
    return Many([campaign_id for _, campaign_id in found], nos[0], nos[-1])


async def _copy(connection: "Connection", table: str, template: int, made: Many) -> None:
    columns = await connection.fetchval(
        """SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
            AND attgenerated = '' AND attname <> 'campaign_no'""",
        table,
    )
    order = "phase" if table in ("phases", "ledger_totals") else "position"
    # The rows are read again for every campaign, so that they stand in order of both.
    await connection.execute(
        f"""INSERT INTO {table} (campaign_no, {columns})
        SELECT no, {columns} FROM generate_series({made.first_no}, {made.last_no}) no, LATERAL (
            SELECT {columns} FROM {table} WHERE campaign_no = {template} AND no > 0 ORDER BY {order}
        ) rows_of_one"""
    )
