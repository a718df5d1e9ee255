"""What the planner makes of whole ranges of results while it knows nothing of the tables."""

import asyncpg
import pytest

from services.query import counter_check, differences

RANGES = [
    *((f"compare {phase}", differences._compare(phase), "1, 0, 5000, 1, 2, 1") for phase in (2, 3)),
    *(
        (f"count {phase}", counter_check._range_statement(phase), f"1, 0, 100000, {phase}, 1")
        for phase in range(2, 6)
    ),
]


@pytest.mark.parametrize(("name", "statement", "arguments"), RANGES, ids=[r[0] for r in RANGES])
async def test_ranges_of_a_young_campaign_are_not_joined_by_a_loop(
    database_url: str, name: str, statement: str, arguments: str
) -> None:
    """A loop over two ranges takes the square of their length; a full join cannot be one."""
    connection = await asyncpg.connect(database_url)
    try:
        types = ", ".join(["int"] * len(arguments.split(",")))
        await connection.execute(f"PREPARE read ({types}) AS {statement}")
        plan = [row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE read({arguments})")]
    finally:
        await connection.close()

    assert sum("Full Join" in line for line in plan) == 1, "\n".join(plan)
