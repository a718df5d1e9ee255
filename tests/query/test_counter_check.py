"""What the drift check finds, and what it does not mind."""

from domainflow.query.v1 import summary_pb2
from services.query.counter_check import check_counters
from tests.query.conftest import Analysis, Made, Query, Writer

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
    assert answer.row_count == 40 + 30 + 7 + 2 + 1
    assert answer.revision == await writer.connection.fetchval(
        "SELECT revision FROM campaigns WHERE no = $1", made.no
    )


async def test_each_kind_of_drift_is_told(query: Query, writer: Writer) -> None:
    made = await settled(writer)
    await writer.connection.execute(
        """UPDATE ledger_totals SET outcome_counts = ARRAY[14, 16] WHERE phase = 2;
        UPDATE tld_totals SET outcome_counts[1] = 4 WHERE phase = 3 AND tld = 'com';
        DELETE FROM leads;
        DELETE FROM domains WHERE position = 39"""
    )
    assert told(await check_counters(query.pool, made.no)) == [
        (1, 0, "names", 40, 39),
        (2, 1, "RESOLVED", 14, 15),
        (2, 1, "NXDOMAIN", 16, 15),
        (2, 1, "? NXDOMAIN", 0, 1),
        (2, 1, "io NXDOMAIN", 7, 6),
        (3, 1, "com OK", 4, 3),
        (5, 1, "QUALIFIED", 1, 0),
        (5, 1, "com QUALIFIED", 1, 0),
    ]
