"""What the planner makes of the statements while it knows nothing of the tables."""

import asyncpg
import pytest

from services.query import columns, pages


@pytest.mark.parametrize(
    "statement",
    [
        pages._RANGE,
        columns._columns(frozenset({columns.NAME, columns.VERDICT, columns.ADDRESSES}), False),
        columns._columns(frozenset({columns.NAME, columns.POSITION}), True),
    ],
    ids=["page", "columns", "columns with some verdicts"],
)
async def test_young_campaign_is_not_joined_by_a_loop(database_url: str, statement: str) -> None:
    """A loop over two ranges takes the square of their length."""
    arguments = "1, 0, 5000, '{1,2}'" if "$4" in statement else "1, 0, 5000"
    types = "int, int, int, smallint[]" if "$4" in statement else "int, int, int"
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"PREPARE read ({types}) AS {statement}")
        plan = "\n".join(r[0] for r in await connection.fetch(f"EXPLAIN EXECUTE read({arguments})"))
    finally:
        await connection.close()

    assert "Join" in plan
    assert "Nested Loop" not in plan
