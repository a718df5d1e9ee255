"""What the drift check finds, and what it does not mind."""

import asyncio
import random

import asyncpg

from domainflow.query.v1 import summary_pb2
from services.query.counter_check import check_counters
from tests.query.conftest import Analysis, Made, Query, Writer
from tests.query.test_changes import take_back

RESOLVED, NXDOMAIN = 1, 2


async def settled(writer: Writer) -> Made:
    """Forty names below four top-level domains, with results of every phase."""
    made = await writer.campaign(
        [f"name-{n}.{('com', 'net', 'org', 'io')[n % 4]}" for n in range(40)]
    )
    await writer.plan(made, 40, 10)
    for first in (0, 20, 30):
        await writer.settle(made, first, [RESOLVED, NXDOMAIN] * 5)
    await writer.settle_http(made, {0: 1, 2: 1, 4: 9, 6: 1})
    await writer.settle_http(made, {20: 1, 24: 2, 28: 1})
    await writer.settle_analysis(made, {0: Analysis(500, keywords={"shop": 2}), 2: Analysis(10)})
    await writer.settle_leads(made, {0: 1})
    return made


def told(answer: summary_pb2.CheckCountersResponse | None) -> list[tuple[int, int, str, int, int]]:
    assert answer is not None
    return [(d.phase, d.run, d.counter, d.counted, d.actual) for d in answer.drifts]


async def test_no_drift_where_every_writer_kept_the_rules(query: Query, writer: Writer) -> None:
    made = await settled(writer)
    answer = await check_counters(query.pool, made.no)
    assert told(answer) == []
    assert answer
    # Names, DNS, HTTP and its pages, analysis, leads.
    assert answer.row_count == 40 + 30 + 7 + 5 + 2 + 1
    assert answer.revision == await writer.connection.fetchval(
        "SELECT revision FROM campaigns WHERE no = $1", made.no
    )


async def test_no_drift_while_four_settle_and_take_back(
    query: Query, writer: Writer, database_url: str
) -> None:
    """Many small ranges, whose chunks are settled, taken back and split between two of them."""
    size, chunk = 400, 10
    made = await writer.campaign(
        [f"name-{n}.{('com', 'net', 'org', 'io')[n % 4]}" for n in range(size)]
    )
    await writer.plan(made, size, chunk)

    async def work(number: int) -> None:
        dice = random.Random(number)
        connection = await asyncpg.connect(database_url)
        mine = Writer(connection)
        for first in range(number * chunk, size, 4 * chunk):
            await mine.settle(made, first, dice.choices([1, 2, 6], k=chunk))
            if dice.random() < 0.5:
                await take_back(connection, made, first, 1)
                await connection.execute(
                    """UPDATE chunks SET state = 'queued', attempt = 1, claim_time = now()
                    WHERE phase = 2 AND first_position = $1""",
                    first,
                )
                split = "SELECT split_chunk($1, 2::smallint, 1, $2, 1, 1)"
                await connection.execute(split, made.no, first)
                await mine.settle(made, first, dice.choices([1, 2, 6], k=chunk // 2))
        await connection.close()

    async with asyncio.TaskGroup() as group:
        working = [group.create_task(work(number)) for number in range(4)]
        while not all(task.done() for task in working):
            assert told(await check_counters(query.pool, made.no, size=50)) == []
    answer = await check_counters(query.pool, made.no, size=50)
    assert told(answer) == []
    assert answer
    assert answer.row_count == size + await writer.connection.fetchval(
        "SELECT count(*) FROM dns_results"
    )


async def test_each_kind_of_drift_is_told(query: Query, writer: Writer) -> None:
    made = await settled(writer)
    await writer.connection.execute(
        """UPDATE ledger_totals SET outcome_counts = ARRAY[14, 16] WHERE phase = 2;
        UPDATE tld_totals SET outcome_counts[1] = 4 WHERE phase = 3 AND tld = 'com';
        DELETE FROM leads;
        DELETE FROM pages WHERE position = 20;
        UPDATE page_analyses SET with_keyword = false;
        DELETE FROM domains WHERE position = 39"""
    )
    assert told(await check_counters(query.pool, made.no, size=10)) == [
        (1, 0, "names", 40, 39),
        (2, 1, "RESOLVED", 14, 15),
        (2, 1, "NXDOMAIN", 16, 15),
        (2, 1, "? NXDOMAIN", 0, 1),
        (2, 1, "io NXDOMAIN", 7, 6),
        (3, 1, "pages", 5, 4),
        (3, 1, "com OK", 4, 3),
        (4, 1, "WITH_KEYWORD", 1, 0),
        (4, 1, "WITHOUT_KEYWORD", 1, 2),
        (4, 1, "com WITH_KEYWORD", 1, 0),
        (4, 1, "com WITHOUT_KEYWORD", 0, 1),
        (5, 1, "QUALIFIED", 1, 0),
        (5, 1, "com QUALIFIED", 1, 0),
    ]
