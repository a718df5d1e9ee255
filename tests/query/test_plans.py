"""What the planner makes of the statements while it knows nothing of the tables."""

import asyncpg
import pytest

from services.query import pages


@pytest.mark.parametrize(
    "statement",
    [
        pages._RANGE,
    ],
    ids=["page"],
)
async def test_young_campaign_is_not_joined_by_a_loop(database_url: str, statement: str) -> None:
    """A loop over two ranges takes the square of their length."""
    arguments, types = "1, 0, 5000", "int, int, int"
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"PREPARE read ({types}) AS {statement}")
        plan = "\n".join(r[0] for r in await connection.fetch(f"EXPLAIN EXECUTE read({arguments})"))
    finally:
        await connection.close()

    assert "Join" in plan
    assert "Nested Loop" not in plan
