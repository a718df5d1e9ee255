"""What the planner makes of the statements while it knows nothing of the tables."""

import asyncpg
import pytest

from services.query import pages


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        (pages._domains(True, True, True), "1, '{1,2,3}', 1, 1, 1, 1"),
        (pages._domains(False, False, False), "1, '{1,2,3}', 1, 0, 0, 0"),
        (pages._domains(True, True, True, whole=True), "1, '{1}', 1, 1, 1, 1"),
        (pages._FIRST_PHASES, "1, '{1,2,3}', 1"),
        (pages._later_phases(True, True, True), "1, '{1,2,3}', 1, 1, 1"),
    ],
    ids=["page", "page of DNS", "one domain", "first phases", "later phases"],
)
async def test_young_campaign_is_not_joined_by_a_loop(
    database_url: str, statement: str, arguments: str
) -> None:
    """A loop over two ranges takes the square of their length."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"PREPARE read AS {statement}")
        plan = "\n".join(r[0] for r in await connection.fetch(f"EXPLAIN EXECUTE read({arguments})"))
    finally:
        await connection.close()

    assert "Join" in plan
    assert "Nested Loop" not in plan
