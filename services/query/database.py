"""SQL of the database's care: what PostgreSQL and the processes say of themselves."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import asyncpg

from domainflow.query.v1 import database_pb2 as pb
from services.query.recommendations import Facts, Index, Pool, Slow, Table


class Asks(Protocol):
    """A pool, or a connection beside it."""

    async def fetch(self, statement: str, /, *arguments: object) -> list[asyncpg.Record]: ...


@dataclass(frozen=True, slots=True)
class Server:
    """What there is one of."""

    version: str
    size_bytes: int
    migration: str
    counters_check_time: datetime | None
    drift_count: int


class Database:
    """Reads of the primary: a replica has statistics of its own, and no unlogged tables."""

    def __init__(self, asks: Asks) -> None:
        self._asks = asks

    async def server(self) -> Server:
        [row] = await self._asks.fetch(_SERVER)
        return Server(**row)

    async def tables(self) -> list[Table]:
        """Every table of ours, those with the most rows first."""
        unused = defaultdict(list)
        for row in await self._asks.fetch(_UNUSED_INDEXES):
            unused[row["table_name"]].append(
                Index(row["index_name"], row["size_bytes"], row["is_unique"])
            )
        return [
            Table(**row, unused_indexes=unused[row["name"]])
            for row in await self._asks.fetch(_TABLES)
        ]

    async def pools(self) -> list[pb.ConnectionPool]:
        """Reports of the last minute."""
        pools = []
        for row in await self._asks.fetch(_POOLS):
            pool = pb.ConnectionPool.FromString(row["body"])
            # By the database's clock: those of many machines differ.
            pool.report_time.FromDatetime(row["report_time"])
            pools.append(pool)
        return pools

    async def facts(self) -> Facts:
        """All that recommendations are made of, but the replica."""
        [row] = await self._asks.fetch(_FACTS)
        settings = {name: row[name] for name in ("shared_buffers", "max_wal_size")}
        known = {name: row[name] for name in row.keys() if name not in settings}
        past = {each["process"]: each for each in await self._asks.fetch(_POOL_HISTORY)}
        return Facts(
            pools=[_pool(report, past.get(report.process)) for report in await self.pools()],
            tables=await self.tables(),
            slow=[Slow(**each) for each in await self._asks.fetch(_SLOW_METHODS)],
            settings=settings,
            **known,
        )

    async def figures(
        self, begin: datetime, minute: datetime, method: str, limit: int
    ) -> list[asyncpg.Record]:
        """Figures of so many minutes and methods behind this one, newest first, a row a process.

        Nothing that is older than `begin`.
        """
        return await self._asks.fetch(_FIGURES, begin, minute, method, limit)

    async def slow(
        self, begin: datetime, duration_us: int, number: int, limit: int
    ) -> list[asyncpg.Record]:
        """So many slow queries behind this one, the slowest first. Nothing older than `begin`."""
        return await self._asks.fetch(_SLOW, begin, duration_us, number, limit)


def _pool(report: pb.ConnectionPool, past: asyncpg.Record | None) -> Pool:
    longest = report.longest_wait.ToMicroseconds() / 1e6
    return Pool(
        process=report.process,
        max_count=report.max_count,
        in_use_max=max(report.in_use_count, past["in_use_max"] if past else 0),
        acquired=past["acquired"] if past else 0,
        waited=past["waited"] if past else 0.0,
        longest_wait=max(longest, past["longest_wait"] if past else 0.0),
        waiting_count=report.waiting_count,
        leaks=[(leak.taken_at, leak.age.ToMilliseconds() / 1000) for leak in report.leaks],
    )


_SERVER = """
SELECT split_part(current_setting('server_version'), ' ', 1) AS version,
    pg_database_size(current_database()) AS size_bytes,
    coalesce((SELECT max(name) FROM migrations), '') AS migration,
    (SELECT max(check_time) FROM counter_checks) AS counters_check_time,
    (SELECT coalesce(sum(drift_count), 0)::bigint FROM counter_checks) AS drift_count"""

# Statistics are kept by partition. Rows are those that the server counts as they come; after a
# crash it has forgotten them, and the last ANALYZE's are better than none.
_TABLES = """
WITH leaves AS (
    SELECT coalesce(pg_partition_root(s.relid), s.relid) AS root, s.schemaname, s.relname,
        greatest(s.n_live_tup, c.reltuples::bigint) AS row_count,
        coalesce(s.idx_scan, 0) AS idx_scan, s.seq_scan, s.n_dead_tup,
        s.n_dead_tup > 2 * (current_setting('autovacuum_vacuum_threshold')::bigint
            + current_setting('autovacuum_vacuum_scale_factor')::float
            * greatest(c.reltuples, 0)) AS is_overdue
    FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
    WHERE c.relkind = 'r' AND s.schemaname = current_schema()
)
SELECT root::regclass::text AS name,
    sum(row_count)::bigint AS row_count,
    sum(idx_scan)::bigint AS index_scans,
    sum(seq_scan)::bigint AS sequential_scans,
    coalesce(sum(row_count) FILTER (WHERE is_overdue), 0)::bigint AS overdue_rows,
    coalesce(sum(n_dead_tup) FILTER (WHERE is_overdue), 0)::bigint AS overdue_dead,
    coalesce(sum(row_count) FILTER (WHERE row_count > 1000 AND NOT EXISTS (
        SELECT FROM pg_stats p WHERE p.schemaname = l.schemaname AND p.tablename = l.relname
    )), 0)::bigint AS unknown_rows
FROM leaves l
GROUP BY root
ORDER BY row_count DESC, name"""

_UNUSED_INDEXES = """
SELECT coalesce(pg_partition_root(s.relid), s.relid)::regclass::text AS table_name,
    coalesce(pg_partition_root(s.indexrelid), s.indexrelid)::regclass::text AS index_name,
    sum(pg_relation_size(s.indexrelid))::bigint AS size_bytes,
    bool_or(i.indisunique) AS is_unique
FROM pg_stat_user_indexes s JOIN pg_index i USING (indexrelid)
WHERE s.schemaname = current_schema()
GROUP BY 1, 2
HAVING sum(s.idx_scan) = 0
ORDER BY 1, 2"""

_POOLS = """
SELECT body, report_time FROM pool_reports
WHERE report_time > now() - interval '1 minute'
ORDER BY process"""

_POOL_HISTORY = """
SELECT process, max(in_use_max) AS in_use_max, sum(acquire_count)::bigint AS acquired,
    sum(wait_us)::float / 1e6 AS waited, max(longest_wait_us)::float / 1e6 AS longest_wait
FROM pool_history
WHERE begin_time > now() - interval '15 minutes'
GROUP BY process"""

_FACTS = """
SELECT (SELECT sum(numbackends) FROM pg_stat_database)::int AS connection_count,
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - current_setting('reserved_connections')::int AS connection_limit,
    current_setting('autovacuum')::bool AS autovacuum,
    d.blks_hit AS blocks_hit,
    d.blks_read AS blocks_read,
    c.num_timed AS checkpoints_timed,
    c.num_requested AS checkpoints_requested,
    coalesce((
        SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend'
    ), 0)::float AS oldest_transaction,
    (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS oldest_row,
    (SELECT coalesce(sum(drift_count), 0)::bigint FROM counter_checks) AS drift_count,
    current_setting('shared_buffers') AS shared_buffers,
    current_setting('max_wal_size') AS max_wal_size
FROM pg_stat_checkpointer c, pg_stat_database d
WHERE d.datname = current_database()"""

_SLOW_METHODS = """
SELECT method, count(*) AS count, max(duration_us)::float / 1e6 AS longest
FROM slow_queries
WHERE end_time > now() - interval '1 day'
GROUP BY method
ORDER BY longest DESC, method"""

# The bound on the minute is said twice: alone it is one that an index can be read by.
_FIGURES = """
WITH page AS (
    SELECT begin_time, method FROM query_performance
    WHERE begin_time >= $1 AND begin_time <= $2 AND (begin_time < $2 OR method > $3)
    GROUP BY begin_time, method
    ORDER BY begin_time DESC, method LIMIT $4
)
SELECT begin_time, method, query_count, row_count, total_us, longest_us, histogram
FROM page JOIN query_performance USING (begin_time, method)
ORDER BY begin_time DESC, method"""

_SLOW = """
SELECT id, method, end_time, duration_us, statement, plan FROM slow_queries
WHERE (duration_us, id) < ($2, $3) AND end_time >= $1
ORDER BY duration_us DESC, id DESC LIMIT $4"""
