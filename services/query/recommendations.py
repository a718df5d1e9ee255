"""What an operator should do about the database: figures in, advice out.

Advice is given for what hurts, not for what is unusual: every rule has a limit below which it keeps
silent, and says its figures and one thing to do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

# Below so many rows a table is read whole because that is the fastest way.
SMALL_TABLE = 10_000
# A share of so many scans is no accident any more.
FEW_SCANS = 100
INDEX_SHARE = 0.95
# An index that is smaller costs less than the thought of dropping it.
LARGE_INDEX = 100 * 1024**2
# Seconds a call may wait for a connection on average; opening one takes a few milliseconds.
MEAN_WAIT = 0.02
LONG_WAIT = 1.0
# Of the connections that the server allows.
NEARLY_ALL = 0.9
# Slow statements of a method within a day that are worth more than a note.
MANY_SLOW = 10
# Methods whose statements take long by their nature: they count everything.
COUNTING = frozenset({"CheckCounters"})
# Dead rows, and how many times more than autovacuum waits for.
MANY_DEAD = 10_000
CACHE_SHARE = 0.9
# Blocks of 8 KB; before so many the cache has only been filled.
WARM_BLOCKS = 1_000_000
FEW_CHECKPOINTS = 10
# Seconds that a transaction may be open: what it can still see is not cleaned up.
OLD_TRANSACTION = 600.0
# Transactions; at 2,000 million the server refuses to write.
OLD_ROWS = 1_000_000_000
REPLICA_LAG = 60.0


class Severity(IntEnum):
    """As in the contract; the smaller the more urgent."""

    URGENT = 1
    ADVISABLE = 2
    NOTE = 3


@dataclass(frozen=True, slots=True)
class Recommendation:
    severity: Severity
    code: str
    finding: str
    action: str


@dataclass(frozen=True, slots=True)
class Pool:
    """A process's pool: its last report, and the last quarter of an hour. Times in seconds."""

    process: str
    max_count: int
    in_use_max: int = 0
    acquired: int = 0
    waited: float = 0.0
    longest_wait: float = 0.0
    waiting_count: int = 0
    # Where each connection that was not given back was taken, and since when.
    leaks: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """An index that no scan has used since the statistics began; partitions are added up."""

    name: str
    size_bytes: int
    is_unique: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A table; partitions are added up."""

    name: str
    row_count: int
    index_scans: int = 0
    sequential_scans: int = 0
    unused_indexes: Sequence[Index] = ()
    # Rows, and dead ones, of the partitions with twice as many dead ones as autovacuum waits for.
    overdue_rows: int = 0
    overdue_dead: int = 0
    # Rows of partitions that have many, and that nobody has analyzed.
    unknown_rows: int = 0

    @property
    def index_share(self) -> float:
        """Scans by index of all scans; 1 without any."""
        scans = self.index_scans + self.sequential_scans
        return self.index_scans / scans if scans else 1.0


@dataclass(frozen=True, slots=True)
class Slow:
    """Slow statements of a method within a day; `longest` in seconds."""

    method: str
    count: int
    longest: float


@dataclass(frozen=True, slots=True)
class Replica:
    """The read replica. `lag` in seconds; None: unknown."""

    reachable: bool
    lag: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """The database as it is."""

    pools: Sequence[Pool] = ()
    tables: Sequence[Table] = ()
    slow: Sequence[Slow] = ()
    replica: Replica | None = None
    # Connections of all users of the server, and how many it allows to ours.
    connection_count: int = 0
    connection_limit: int = 1_000_000
    autovacuum: bool = True
    # Blocks found in the cache, and read, since the statistics began.
    blocks_hit: int = 0
    blocks_read: int = 0
    checkpoints_timed: int = 0
    checkpoints_requested: int = 0
    # Age of the oldest transaction, in seconds, and of the oldest row, in transactions.
    oldest_transaction: float = 0.0
    oldest_row: int = 0
    drift_count: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


def recommendations(facts: Facts) -> list[Recommendation]:
    """What to do, the most urgent first; within a severity in order of the rules."""
    return sorted(_all(facts), key=lambda each: each.severity)


def _all(facts: Facts) -> Iterator[Recommendation]:
    yield from _leaks(facts.pools)
    yield from _pools(facts)
    yield from _small_pools(facts.pools)
    yield from _server(facts)
    yield from _replica(facts.replica)
    for table in facts.tables:
        yield from _table(table)
    yield from _slow(facts.slow)


def _leaks(pools: Iterable[Pool]) -> Iterator[Recommendation]:
    for pool in pools:
        if pool.leaks:
            place, age = max(pool.leaks, key=lambda leak: leak[1])
            yield Recommendation(
                Severity.URGENT,
                "CONNECTION_LEAK",
                f"{pool.process}: {_many(len(pool.leaks), 'connection')} of {pool.max_count} not"
                f" given back, one for {age:,.0f} s, taken at {place}",
                f"Restart {pool.process} to have them back, and report the place: it is a fault.",
            )


def _pools(facts: Facts) -> Iterator[Recommendation]:
    limit = facts.connection_limit
    # Each process has one more to report over, and the services one for their health.
    most = sum(pool.max_count for pool in facts.pools) + 2 * len(facts.pools)
    if facts.connection_count > NEARLY_ALL * limit:
        yield Recommendation(
            Severity.URGENT,
            "CONNECTIONS_RUN_OUT",
            f"{facts.connection_count} of {limit} connections of the server are taken",
            f"Set max_connections to {_rounded(max(most, facts.connection_count))} and restart"
            " PostgreSQL, or end those of pg_stat_activity that nobody needs.",
        )
    elif most > limit:
        yield Recommendation(
            Severity.ADVISABLE,
            "POOLS_EXCEED_SERVER",
            f"{_many(len(facts.pools), 'pool')} may open {most} connections together, the server"
            f" allows {limit}",
            f"Set max_connections to {_rounded(most)} and restart PostgreSQL, or run fewer workers"
            " (WORKER_MAX), or lower QUERY_CONNECTIONS.",
        )


def _small_pools(pools: Iterable[Pool]) -> Iterator[Recommendation]:
    for pool in pools:
        # A leak is another illness with the same signs.
        if pool.leaks or pool.in_use_max < pool.max_count:
            continue
        mean = pool.waited / pool.acquired if pool.acquired else 0.0
        if mean > MEAN_WAIT or pool.longest_wait > LONG_WAIT:
            yield Recommendation(
                Severity.ADVISABLE,
                "POOL_TOO_SMALL",
                f"{pool.process}: all {pool.max_count} connections were in use, and calls waited"
                f" {mean * 1000:,.0f} ms for one on average, {pool.longest_wait * 1000:,.0f} ms at"
                f" most; {pool.waiting_count} wait now",
                "Raise QUERY_CONNECTIONS where it is the query service and the server has cores"
                " to spare, start another process otherwise.",
            )


def _server(facts: Facts) -> Iterator[Recommendation]:
    if facts.oldest_row > OLD_ROWS:
        yield Recommendation(
            Severity.URGENT,
            "TRANSACTION_NUMBERS_RUN_OUT",
            f"the oldest row is {facts.oldest_row:,} transactions old; at 2,000,000,000 the server"
            " stops to write",
            "Run VACUUM (FREEZE) on the database now, and find out what keeps autovacuum from it.",
        )
    if not facts.autovacuum:
        yield Recommendation(
            Severity.URGENT,
            "AUTOVACUUM_OFF",
            "autovacuum is off: tables grow for ever, and statements are planned blindly",
            "Set autovacuum = on and reload PostgreSQL.",
        )
    if facts.oldest_transaction > OLD_TRANSACTION:
        yield Recommendation(
            Severity.URGENT,
            "TRANSACTION_TOO_OLD",
            f"a transaction has been open for {facts.oldest_transaction:,.0f} s: no dead row that"
            " it may see is cleaned up",
            "Look for it in pg_stat_activity (order by xact_start) and end it with"
            " pg_terminate_backend(pid), unless it is a backup's (pg_dump). The suite's other ones"
            " are shorter than a minute.",
        )
    if facts.drift_count:
        yield Recommendation(
            Severity.URGENT,
            "COUNTERS_DRIFT",
            f"{_many(facts.drift_count, 'counter')} did not agree with the rows when they were"
            " last compared",
            "CheckCounters tells which. Report it, unless somebody changed rows by hand.",
        )
    blocks = facts.blocks_hit + facts.blocks_read
    if blocks > WARM_BLOCKS and facts.blocks_hit / blocks < CACHE_SHARE:
        yield Recommendation(
            Severity.ADVISABLE,
            "CACHE_TOO_SMALL",
            f"{facts.blocks_hit / blocks:.1%} of {blocks:,} blocks were found in PostgreSQL's"
            f" cache of {facts.settings.get('shared_buffers', 'unknown size')}",
            "Set shared_buffers to a quarter of the machine's memory and restart PostgreSQL.",
        )
    checkpoints = facts.checkpoints_requested + facts.checkpoints_timed
    if checkpoints >= FEW_CHECKPOINTS and facts.checkpoints_requested * 2 > checkpoints:
        yield Recommendation(
            Severity.ADVISABLE,
            "CHECKPOINTS_TOO_FREQUENT",
            f"{facts.checkpoints_requested} of {checkpoints} checkpoints came early, because"
            f" max_wal_size is {facts.settings.get('max_wal_size', 'small')}",
            "Double max_wal_size and reload PostgreSQL; it takes so much more disk.",
        )


def _replica(replica: Replica | None) -> Iterator[Recommendation]:
    if replica is None:
        return
    if not replica.reachable:
        yield Recommendation(
            Severity.ADVISABLE,
            "REPLICA_AWAY",
            f"the read replica is not used: {replica.reason}",
            "Start it, or take DATABASE_REPLICA_URL away; until then the primary answers.",
        )
    elif replica.lag is None or replica.lag > REPLICA_LAG:
        lag = "by an unknown time" if replica.lag is None else f"{replica.lag:,.0f} s"
        yield Recommendation(
            Severity.ADVISABLE,
            "REPLICA_LAGS",
            f"the read replica is {lag} behind, so it answers nobody",
            "Compare its disk and network with the primary's, and look in its log for statements"
            " that hold replaying up (max_standby_streaming_delay).",
        )


def _table(table: Table) -> Iterator[Recommendation]:
    name = table.name
    scans = table.index_scans + table.sequential_scans
    if table.row_count > SMALL_TABLE and scans >= FEW_SCANS and table.index_share < INDEX_SHARE:
        yield Recommendation(
            Severity.ADVISABLE,
            "INDEX_USE_LOW",
            f"{table.sequential_scans:,} of {scans:,} scans read all of {name}, which has"
            f" {table.row_count:,} rows",
            "Look at the plans of slow queries on it (domainflow database queries --slow), and"
            f" run ANALYZE {name}.",
        )
    if table.overdue_dead > MANY_DEAD:
        yield Recommendation(
            Severity.ADVISABLE,
            "VACUUM_BEHIND",
            f"{name} holds {table.overdue_dead:,} dead rows beside {table.overdue_rows:,}: twice"
            " what autovacuum should let happen",
            f"Run VACUUM {name}; if it comes again, raise autovacuum_max_workers or"
            " autovacuum_vacuum_cost_limit.",
        )
    if table.unknown_rows > SMALL_TABLE:
        yield Recommendation(
            Severity.NOTE,
            "STATISTICS_MISSING",
            f"nobody has analyzed {table.unknown_rows:,} rows of {name}: statements on them are"
            " planned blindly",
            f"Run ANALYZE {name}, or wait a minute: autovacuum does it.",
        )
    for index in table.unused_indexes:
        if index.size_bytes > LARGE_INDEX and not index.is_unique:
            yield Recommendation(
                Severity.NOTE,
                "INDEX_UNUSED",
                f"{index.name} takes {index.size_bytes / 1024**2:,.0f} MB and no scan has used it",
                "Leave the suite's own: a filter may need it tomorrow. Drop it if you made it.",
            )


def _slow(slow: Iterable[Slow]) -> Iterator[Recommendation]:
    for each in slow:
        if each.method in COUNTING:
            continue
        yield Recommendation(
            Severity.ADVISABLE if each.count >= MANY_SLOW else Severity.NOTE,
            "QUERIES_SLOW",
            f"{each.method}: {_many(each.count, 'slow query', 'slow queries')} within a day, the"
            f" slowest took {each.longest:,.2f} s",
            "Look at their plans with domainflow database queries --slow.",
        )


def _many(number: int, one: str, more: str = "") -> str:
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def _rounded(number: int) -> int:
    """A little more, in tens."""
    return -(-(number + 5) // 10) * 10
