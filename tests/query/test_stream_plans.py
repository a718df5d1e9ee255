"""What the planner makes of the statements of streams while it knows nothing of the tables."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from domainflow.query.v1.filter_pb2 import DomainFilter
from services.query.batches import ALL
from services.query.bulk_rows import events, leads
from services.query.campaigns import Runs
from services.query.columns import ColumnStore, Span
from services.query.conditions import conditions_of
from services.query.derived import segments_of

RUNS = Runs(1, 1, 1, 1)
EVERYTHING = DomainFilter(
    dns_verdicts=[1, 6],
    http_verdicts=[1],
    lead_statuses=[1, 2],
    lead_reasons=[1],
    min_score=0.5,
    tlds=["com"],
    name_contains="shop",
    keywords=["a", "b"],
    warnings=[1],
)


class Explaining:
    """Stands for a pool: runs each statement, and keeps its plan."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self.plans: list[str] = []

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        # Explained with arguments: the pool plans every statement for its own.
        rows = await self._connection.fetch(f"EXPLAIN {statement}", *arguments)
        self.plans.append("\n".join(row[0] for row in rows))
        return await self._connection.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: Any) -> asyncpg.Record:
        return (await self.fetch(statement, *arguments))[0]


async def _read(pool: Any, what: str) -> None:
    store = ColumnStore(pool)
    match what:
        case "all":
            await store.columns(1, RUNS, 0, 5000, ALL)
        case "several campaigns":
            await store.spans([Span(no, RUNS, 0, 5000) for no in range(1, 9)], ALL)
        case "matching":
            chosen = conditions_of(EVERYTHING)
            await store.matching(1, RUNS, chosen, 0, 5000, ALL, limit=5000)
        case "pending":
            chosen = conditions_of(DomainFilter(dns_pending=True, tlds=["com"]))
            await store.matching(1, RUNS, chosen, 0, 5000, ALL, limit=5000)
        case "driven":
            chosen = conditions_of(EVERYTHING)
            for table, conditions in chosen.by_table.items():
                for condition in conditions:
                    if condition.indexed:
                        driver = (table, condition)
                        await store.driven(1, RUNS, chosen, driver, 0, 2_000_000, ALL, limit=5000)
        case "leads":
            await leads(pool, 1, RUNS, [1, 2], 0, 2_000_000, limit=1000)
        case "events":
            await events(pool, 1, 0, 2_000_000, limit=1000)
        case "segments":
            await segments_of(pool, 1, 1, 0, 5000)


@pytest.mark.parametrize(
    "what",
    ["all", "several campaigns", "matching", "pending", "driven", "leads", "events", "segments"],
)
async def test_every_table_is_read_along_an_index_and_no_ranges_meet_in_a_loop(
    database_url: str, what: str
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            """INSERT INTO campaigns
                (id, name, mode, initial_phase, final_phase, configuration, name_count)
            VALUES (gen_random_uuid(), 'young', 'STEP_BY_STEP', 1, 2, '', 0)"""
        )
        # As in the pool of the service; of tables this small a scan is cheap, which tells nothing.
        await connection.execute("SET plan_cache_mode = force_custom_plan")
        await connection.execute("SET enable_seqscan = off")
        explaining = Explaining(connection)
        await _read(explaining, what)
    finally:
        await connection.close()

    for plan in explaining.plans:
        assert "Seq Scan" not in plan.replace("Seq Scan on campaigns", "")
        # Rows that are one already: aggregates side by side, or the row that is always there.
        assert set(_in_loops(plan)) <= {
            "Aggregate",
            "Result",
            "Nested Loop",
            "Function Scan on generate_series first",
            "Function Scan on span",
        }, plan


def _in_loops(plan: str) -> Iterator[str]:
    """What the loops of a plan go over."""
    lines = plan.splitlines()
    for n, line in enumerate(lines):
        if "Nested Loop" not in line or "Left Join" in line:
            continue
        depth = len(line) - len(line.lstrip())
        for following in lines[n + 1 :]:
            indent = len(following) - len(following.lstrip())
            if indent <= depth:
                break
            if indent == depth + 6 or (depth == 0 and indent == 2):
                node = following.strip().removeprefix("->  ")
                if following.strip().startswith("->"):
                    yield node.split("  (")[0]
