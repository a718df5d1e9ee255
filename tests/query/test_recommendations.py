"""Advice: each rule speaks at its limit, and is silent below it."""

import pytest

from services.query.recommendations import (
    Facts,
    Index,
    Pool,
    Replica,
    Severity,
    Slow,
    Table,
    recommendations,
)

MB = 1024**2
BUSY = Pool("query a 1", max_count=4, in_use_max=4, acquired=100, waited=10.0, longest_wait=0.5)


def codes(facts: Facts) -> list[str]:
    return [each.code for each in recommendations(facts)]


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (Facts(pools=[Pool("a", 4, leaks=[("x.py:1 f", 61.0)])]), "CONNECTION_LEAK"),
        (Facts(pools=[Pool("a", 50), Pool("b", 50)], connection_limit=100), "POOLS_EXCEED_SERVER"),
        (Facts(connection_count=91, connection_limit=100), "CONNECTIONS_RUN_OUT"),
        (Facts(pools=[BUSY]), "POOL_TOO_SMALL"),
        (Facts(pools=[Pool("a", 4, in_use_max=4, longest_wait=1.5)]), "POOL_TOO_SMALL"),
        (Facts(tables=[Table("t", 10_001, 94, 6)]), "INDEX_USE_LOW"),
        (Facts(tables=[Table("t", 9, overdue_dead=10_001)]), "VACUUM_BEHIND"),
        (Facts(tables=[Table("t", 10_001, unknown_rows=10_001)]), "STATISTICS_MISSING"),
        (
            Facts(tables=[Table("t", 9, unused_indexes=[Index("i", 101 * MB, False)])]),
            "INDEX_UNUSED",
        ),
        (Facts(slow=[Slow("ListDomains", 1, 0.6)]), "QUERIES_SLOW"),
        (Facts(autovacuum=False), "AUTOVACUUM_OFF"),
        (Facts(blocks_hit=800_000, blocks_read=200_001), "CACHE_TOO_SMALL"),
        (Facts(checkpoints_timed=4, checkpoints_requested=6), "CHECKPOINTS_TOO_FREQUENT"),
        (Facts(oldest_transaction=601), "TRANSACTION_TOO_OLD"),
        (Facts(oldest_row=1_000_000_001), "TRANSACTION_NUMBERS_RUN_OUT"),
        (Facts(drift_count=1), "COUNTERS_DRIFT"),
        (Facts(replica=Replica(False, reason="refused")), "REPLICA_AWAY"),
        (Facts(replica=Replica(True, 61.0)), "REPLICA_LAGS"),
        (Facts(replica=Replica(True, None)), "REPLICA_LAGS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(facts: Facts, code: str) -> None:
    [advice] = recommendations(facts)
    assert advice.code == code
    assert advice.finding
    assert advice.action


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(pools=[Pool("a", 40), Pool("b", 50)], connection_limit=100),
        # Calls waited, but for connections that were being opened.
        Facts(pools=[Pool("a", 4, in_use_max=3, acquired=1, waited=0.5, longest_wait=0.5)]),
        # All were in use, and hardly anybody waited.
        Facts(pools=[Pool("a", 4, in_use_max=4, acquired=100, waited=1.0, longest_wait=0.5)]),
        Facts(tables=[Table("t", 10_000, 0, 1_000)]),
        Facts(tables=[Table("t", 10_001, 0, 99)]),
        Facts(tables=[Table("t", 10_001, 95, 5)]),
        Facts(tables=[Table("t", 9, unused_indexes=[Index("i", 101 * MB, True)])]),
        Facts(tables=[Table("t", 9, unused_indexes=[Index("i", 100 * MB, False)])]),
        Facts(slow=[Slow("CheckCounters", 50, 9.0)]),
        Facts(blocks_hit=1, blocks_read=900_000),
        Facts(checkpoints_timed=1, checkpoints_requested=8),
        Facts(replica=Replica(True, 0.2)),
    ],
)
def test_what_hurts_nobody_is_not_mentioned(facts: Facts) -> None:
    assert recommendations(facts) == []


def test_a_leak_is_not_taken_for_a_small_pool() -> None:
    starved = Pool("a", 1, in_use_max=1, longest_wait=9.0, leaks=[("x.py:1 f", 61.0)])
    assert codes(Facts(pools=[starved])) == ["CONNECTION_LEAK"]


def test_the_most_urgent_comes_first() -> None:
    facts = Facts(slow=[Slow("ListDomains", 1, 0.6), Slow("StreamLogs", 10, 0.7)], autovacuum=False)
    found = recommendations(facts)
    assert [each.severity for each in found] == [
        Severity.URGENT,
        Severity.ADVISABLE,
        Severity.NOTE,
    ]
