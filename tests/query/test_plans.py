"""What the planner makes of the statements while it knows nothing of the tables, or is wrong."""

import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from services.chassis.postgres import PLANNED_ONCE, PLANS_ONCE
from services.query.campaigns import Runs, read_campaigns
from services.query.domain_rows import DomainRows
from services.query.page_plan import Key
from services.query.pages import Pages
from tests.query.test_list_domains_walks import literal

RUNS, DNS_ALONE = Runs(1, 1, 1, 1), Runs(1)
RESULTS = ("domains", "dns_results", "http_results", "page_analyses", "leads")
ORDERED = ("name_orders", "chunks")


class Asked:
    """Stands for a pool: takes down what it is asked, and has no rows."""

    def __init__(self) -> None:
        self.statements: dict[str, tuple[object, ...]] = {}

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        self.statements[statement] = arguments
        return []

    async def fetchrow(self, statement: str, *arguments: object) -> None:
        self.statements[statement] = arguments


Walk = Callable[[Any], Coroutine[Any, Any, Any]]


def by_name(
    start: Key | None, *, prefix: str = "", ascending: bool = True, limit: int = 99
) -> Walk:
    return lambda pool: Pages(pool).by_name(
        1, prefix, start, limit=limit, blocks=2, ascending=ascending, runs=RUNS
    )


def by_score(key: Key | None, *, ascending: bool = True, limit: int = 99) -> Walk:
    return lambda pool: Pages(pool).by_score(
        1, 1, (200, 800), key, limit=limit, ascending=ascending, runs=RUNS
    )


def settled(key: Key | None, *, ascending: bool = True) -> Walk:
    return lambda pool: Pages(pool).settled_spans(1, 1, key, limit=4, ascending=ascending)


READS: dict[str, Walk] = {
    "near": lambda pool: DomainRows(pool).at(1, RUNS, list(range(100))),
    "near, DNS alone": lambda pool: DomainRows(pool).at(1, DNS_ALONE, list(range(100))),
    "far": lambda pool: DomainRows(pool).at(1, RUNS, list(range(0, 10**6, 10**4))),
    "one": lambda pool: DomainRows(pool).one(1, RUNS, 5),
    "names": by_name(None),
    "names behind one": by_name(Key(3, 5)),
    "names ahead of one": by_name(Key(3, 5), ascending=False),
    "names behind a name": by_name(Key(0, 5)),
    "names with a prefix": by_name(None, prefix="a"),
    "names with a prefix, from the end": by_name(None, prefix="a", ascending=False),
    "a few names": by_name(Key(3, 5), limit=9),
    "scores": by_score(None),
    "scores behind one": by_score(Key(500, 5)),
    "scores ahead of one": by_score(Key(500, 5), ascending=False),
    "a few scores": by_score(Key(500, 5), limit=9),
    "settled": settled(None),
    "settled behind one": settled(Key(7, 5)),
    "settled ahead of one": settled(Key(7, 5), ascending=False),
}


async def _never_filled(connection: Any) -> None:
    """Nobody has looked at the tables yet."""


async def _emptied(connection: Any) -> None:
    """The planner knows for sure that there is nothing."""
    await connection.execute(f"VACUUM ANALYZE {', '.join((*RESULTS, *ORDERED))}")


async def _known(connection: Any) -> None:
    """Another campaign's rows are known, three in a thousand with a score."""
    for table, columns, values in (
        ("domains", "name", "g::text"),
        ("dns_results", "run, verdict, rcode, attempt_count, tcp, duration_us, check_time_us",
         "1, 1 + g % 2, 0, 1, false, 1, 1"),
        ("http_results", "run, verdict, attempt_count, duration_us, check_time_us",
         "1, 1 + g % 9, 1, 1, 1"),
        ("page_analyses", "run, score, check_time_us", "1, g % 1000, 0"),
        ("leads", "run, status, reason, check_time_us", "1, 1, 1, 0"),
    ):  # fmt: skip
        await connection.execute(
            f"""INSERT INTO {table} (campaign_no, position, {columns})
            SELECT 2, g, {values} FROM generate_series(0, 2999) g"""
        )
    await _emptied(connection)


@pytest.mark.parametrize("prepared", [_never_filled, _emptied, _known])
async def test_what_is_planned_once_is_planned_well(database_url: str, prepared: Walk) -> None:
    """The plan is for all arguments, and may outlive what the planner knew when it made it."""
    connection = await asyncpg.connect(database_url)
    try:
        await prepared(connection)
        for what, read in READS.items():
            for plan in await _planned(connection, read):
                _check(plan, what)
    finally:
        await connection.close()


async def _planned(connection: Any, read: Walk) -> list[str]:
    """The plans of all statements that are asked, which are planned once."""
    asked = Asked()
    await read(asked)
    await connection.execute(PLANS_ONCE)
    plans = []
    for statement, arguments in asked.statements.items():
        assert statement.startswith(PLANNED_ONCE)
        await connection.execute(f"PREPARE read AS {statement}")
        values = ", ".join(literal(each) for each in arguments)
        rows = await connection.fetch(f"EXPLAIN EXECUTE read({values})")
        plans.append("\n".join(row[0] for row in rows))
        await connection.execute("DEALLOCATE read")
    return plans


def _check(plan: str, what: str) -> None:
    reads = list(_reads(plan))
    assert {read for read, _, _ in reads}, plan
    for table, index, condition in reads:
        if "position = ANY" in condition or table == "domains":
            assert index.endswith("_pkey"), plan
            assert "position = " in condition, plan
        elif table == "page_analyses":
            assert "score_position" in index, plan
            assert "score" in condition, plan
        elif table == "name_orders":
            assert "block" in condition or "first_name" in condition or what.endswith("names"), plan
    assert "Seq Scan" not in plan, plan
    # Whatever is put together by hashing; a block and its names are put together by a loop.
    if "Full Join" not in plan:
        assert "settled" in what, plan
    if "name" not in what:
        assert "Nested Loop" not in plan, plan


def _reads(plan: str) -> Iterator[tuple[str, str, str]]:
    """Table, index and its condition, of every look into an index."""
    table = index = ""
    for line in plan.replace('"position"', "position").splitlines():
        if found := re.search(r"Bitmap Heap Scan on (\w+?)(_\d+)? ", line):
            table = found[1]
        if found := re.search(
            r"Index (?:Only )?Scan (?:Backward )?using (\w+) on (\w+?)(_\d+)? ", line
        ):
            index, table = found[1], found[2]
        if found := re.search(r"Bitmap Index Scan on (\w+) ", line):
            index = found[1]
        if found := re.search(r"Index Cond: (.*)", line):
            yield table, index, found[1]


async def test_campaigns_are_looked_up(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        (plan,) = await _planned(connection, lambda pool: read_campaigns(pool, [uuid4()]))
    finally:
        await connection.close()

    assert "campaigns_pkey" in plan
    assert "phases_pkey" in plan
    assert "Seq Scan" not in plan


async def test_a_page_of_dns_alone_reads_nothing_of_later_phases(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        (plan,) = await _planned(connection, READS["near, DNS alone"])
    finally:
        await connection.close()

    assert {table for table, _, _ in _reads(plan)} == {"domains", "dns_results", "campaigns"}
