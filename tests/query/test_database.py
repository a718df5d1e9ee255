"""Care of the database over gRPC: real tables, real statistics, and faults that are provoked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import grpc
import pytest

from domainflow.query.v1 import database_pb2 as pb
from domainflow.query.v1.query_service_pb2 import GetDomainRequest
from domainflow.query.v1.query_service_pb2_grpc import (
    QueryServiceStub,
    add_QueryServiceServicer_to_server,
)
from services.chassis.pool import MeasuredPool
from services.chassis.pool_reports import PoolReporter
from services.chassis.postgres import Beside, open_pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.query.histogram import LENGTH, entry_of
from services.query.reads import Reads
from services.query.replica import Replica
from services.query.service import RULES, QueryService
from services.query.statements import StatementWatch
from tests.eventually import eventually
from tests.refusals import refused

MINUTE = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Care:
    """The service, its pool of one connection, and a writer."""

    stub: QueryServiceStub
    pool: MeasuredPool
    watch: StatementWatch
    beside: Beside
    writer: "asyncpg.Connection[asyncpg.Record]"

    async def status(self) -> pb.GetDatabaseStatusResponse:
        return await self.stub.GetDatabaseStatus(pb.GetDatabaseStatusRequest())

    async def performance(self, **arguments: object) -> pb.ListQueryPerformanceResponse:
        request = pb.ListQueryPerformanceRequest(**arguments)  # type: ignore[arg-type]
        return await self.stub.ListQueryPerformance(request)

    async def advice(self) -> dict[str, pb.Recommendation]:
        answer = await self.stub.ListRecommendations(pb.ListRecommendationsRequest())
        return {each.code: each for each in answer.recommendations}

    def reporter(self) -> PoolReporter:
        return PoolReporter(self.beside, "query a 1", self.pool)

    async def counted(self) -> None:
        """Let the statistics of the writer's scans be seen."""
        await self.writer.execute("SELECT pg_stat_force_next_flush()")


@pytest.fixture
async def care(database_url: str) -> AsyncIterator[Care]:
    async with careful(database_url) as care:
        yield care


@asynccontextmanager
async def careful(database_url: str, replica: Replica | None = None) -> AsyncIterator[Care]:
    watch = StatementWatch("query a 1", slow=0.3)
    writer = await asyncpg.connect(database_url)
    async with (
        Beside(database_url, application_name="beside") as beside,
        await open_pool(
            database_url,
            application_name="query",
            max_size=1,
            read_only=True,
            leak_after=0.2,
            on_statement=watch.note,
        ) as pool,
    ):
        server = grpc.aio.server(
            interceptors=[CallGuard(rules=RULES, max_calls=50, max_streams=50)]
        )
        service = QueryService(reads=Reads(pool, replica), seal=Seal([b"k" * 32]), beside=beside)
        add_QueryServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Care(QueryServiceStub(channel), pool, watch, beside, writer)
        await server.stop(0)
    await writer.close()


async def test_status_says_what_the_server_is(care: Care) -> None:
    status = await care.status()

    assert status.server_version.startswith("18.")
    assert status.size_bytes > 1_000_000
    assert status.migration >= "0005_query.sql"
    assert not status.HasField("replica")
    assert not status.HasField("counters_check_time")


async def test_status_answers_while_the_pool_is_exhausted(care: Care) -> None:
    async with care.pool.acquire():
        waiter = asyncio.create_task(care.pool.fetchval("SELECT 1"))

        async def waits() -> None:
            assert care.pool.waiting_count == 1

        await eventually(waits)
        await care.reporter().report()
        [pool] = (await care.status()).pools
    await waiter

    assert (pool.process, pool.max_count) == ("query a 1", 1)
    assert (pool.in_use_count, pool.waiting_count) == (1, 1)


async def test_status_forgets_processes_that_report_no_more(care: Care) -> None:
    await care.reporter().report()
    await care.writer.execute("UPDATE pool_reports SET report_time = now() - interval '61 s'")

    assert not (await care.status()).pools


async def test_scans_of_partitions_are_added_up(care: Care) -> None:
    def use(status: pb.GetDatabaseStatusResponse) -> pb.IndexUse:
        [found] = [each for each in status.index_uses if each.table == "domains"]
        return found

    await fill(care, campaigns=3, names=100)
    before = use(await care.status())
    for campaign in (1, 2, 3, 1):
        await care.writer.fetch(
            "SELECT name FROM domains WHERE campaign_no = $1 AND position = 7", campaign
        )
    await care.writer.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")
    await care.writer.fetch("SELECT name FROM domains WHERE campaign_no = 1 AND position = 8")
    await care.counted()
    after = use(await care.status())

    assert after.row_count == 300
    assert after.index_scan_count - before.index_scan_count == 4
    assert after.sequential_scan_count - before.sequential_scan_count == 1
    assert after.ratio == pytest.approx(
        after.index_scan_count / (after.index_scan_count + after.sequential_scan_count)
    )
    assert not any("domains_" in each.table for each in (await care.status()).index_uses)


async def test_indexes_that_nothing_uses_are_named_once_for_all_partitions(care: Care) -> None:
    [leads] = [each for each in (await care.status()).index_uses if each.table == "leads"]
    assert {"leads_by_status", "leads_by_reason"} <= set(leads.unused_indexes)


async def test_status_tells_of_the_last_comparison_of_counters(care: Care) -> None:
    await care.writer.execute(
        """INSERT INTO counter_checks (campaign_no, revision, check_time, row_count, drift_count,
            body) VALUES (1, 1, $1, 0, 2, ''), (2, 1, $1 - interval '1 h', 0, 1, '')""",
        MINUTE,
    )

    status = await care.status()
    assert status.counters_check_time.ToDatetime(UTC) == MINUTE
    assert status.counter_drift_count == 3
    assert "3 counters" in (await care.advice())["COUNTERS_DRIFT"].finding


async def test_a_replica_that_is_away_is_told_and_advised_on(database_url: str) -> None:
    nobody = "postgresql://nobody@127.0.0.1:1/nothing"
    async with (
        Replica(nobody, database_url, application_name="query") as replica,
        careful(database_url, replica) as care,
    ):
        told = (await care.status()).replica
        advice = (await care.advice())["REPLICA_AWAY"]

    assert (told.reachable, told.lag_bytes) == (False, -1)
    assert told.reason in advice.finding


async def test_performance_adds_up_processes_and_walks_minutes_backwards(care: Care) -> None:
    for minute in range(3):
        for method in ("GetDomain", "ListDomains"):
            for process in ("query a 1", "query b 2"):
                await measured(care, minute, process, method, us=[1_000] * 19 + [50_000])

    whole = await care.performance()
    assert [(f.begin_time.ToDatetime(UTC), f.method) for f in whole.figures] == [
        (MINUTE + timedelta(minutes=minute), method)
        for minute in (2, 1, 0)
        for method in ("GetDomain", "ListDomains")
    ]
    first = whole.figures[0]
    assert (first.query_count, first.row_count) == (40, 80)
    assert first.mean.ToMicroseconds() == (19 * 1_000 + 50_000) // 20
    assert 1_000 <= first.p95.ToMicroseconds() <= 1_101
    assert first.longest.ToMicroseconds() == 50_000
    assert await walked(care) == list(whole.figures)


async def test_performance_begins_where_it_is_told(care: Care) -> None:
    for minute in range(3):
        await measured(care, minute, "query a 1", "ListDomains", us=[1_000])
    begin = MINUTE + timedelta(minutes=1)

    answer = await care.performance(begin_time=begin)
    assert [f.begin_time.ToDatetime(UTC) for f in answer.figures] == [
        MINUTE + timedelta(minutes=2),
        begin,
    ]


async def test_slow_queries_are_walked_from_the_slowest(care: Care) -> None:
    for number, us in enumerate([600_000, 900_000, 600_000, 700_000]):
        await care.writer.execute(
            """INSERT INTO slow_queries (method, duration_us, statement, plan)
            VALUES ('ListDomains', $1, $2, 'Seq Scan')""",
            us,
            f"SELECT {number}",
        )

    slow, token = [], ""
    while True:
        page = await care.performance(slow_only=True, page_size=1, page_token=token)
        assert not page.figures
        slow += [(each.statement, each.plan) for each in page.slow_queries]
        if not (token := page.next_page_token):
            break
    assert slow == [(f"SELECT {number}", "Seq Scan") for number in (1, 3, 2, 0)]


async def test_a_token_of_figures_is_refused_for_slow_queries(care: Care) -> None:
    for method in ("GetDomain", "ListDomains"):
        await measured(care, 0, "query a 1", method, us=[1_000])
    token = (await care.performance(page_size=1)).next_page_token

    request = pb.ListQueryPerformanceRequest(page_token=token, slow_only=True)
    refusal = await refused(care.stub.ListQueryPerformance(request))
    assert refusal.reason == "INVALID_TOKEN"


async def test_a_time_that_is_none_is_refused(care: Care) -> None:
    request = pb.ListQueryPerformanceRequest()
    request.begin_time.seconds = 2**60

    refusal = await refused(care.stub.ListQueryPerformance(request))
    assert refusal.fields == {"begin_time"}


async def test_an_exhausted_pool_is_called_too_small(care: Care) -> None:
    async with care.pool.acquire():
        waiters = [asyncio.create_task(care.pool.fetchval("SELECT 1")) for _ in range(5)]
        await care.beside.fetch("SELECT pg_sleep(0.1)")
    await asyncio.wait(waiters)
    reporter = care.reporter()
    await reporter.report()
    await reporter.write_history()

    advice = (await care.advice())["POOL_TOO_SMALL"]
    assert advice.severity == pb.Recommendation.SEVERITY_ADVISABLE
    assert "query a 1: all 1 connections were in use" in advice.finding


async def test_a_connection_that_nobody_gave_back_is_found(care: Care) -> None:
    reporter = care.reporter()
    forgotten = await care.pool.acquire()

    async def found() -> pb.Recommendation:
        await reporter.report()
        advice = await care.advice()
        assert "CONNECTION_LEAK" in advice
        return advice["CONNECTION_LEAK"]

    advice = await eventually(found)
    await care.pool.release(forgotten)

    assert advice.severity == pb.Recommendation.SEVERITY_URGENT
    assert "test_a_connection_that_nobody_gave_back_is_found" in advice.finding
    await reporter.report()
    assert "CONNECTION_LEAK" not in await care.advice()


async def test_pools_that_the_server_cannot_serve_are_found(care: Care) -> None:
    for number in range(4):
        body = pb.ConnectionPool(process=f"worker {number}", max_count=50).SerializeToString()
        await care.writer.execute(
            "INSERT INTO pool_reports (process, body) VALUES ($1, $2)", f"worker {number}", body
        )

    assert "4 pools may open 208" in (await care.advice())["POOLS_EXCEED_SERVER"].finding


async def test_a_table_that_is_read_whole_again_and_again_is_found(care: Care) -> None:
    await fill(care, campaigns=1, names=11_000)
    assert "INDEX_USE_LOW" not in await care.advice()
    await care.writer.execute("SET enable_indexscan = off")
    await care.writer.execute("SET enable_indexonlyscan = off; SET enable_bitmapscan = off")
    for _ in range(120):
        await care.writer.fetch("SELECT count(*) FROM domains WHERE campaign_no = 1")
    await care.counted()

    assert "of domains" in (await care.advice())["INDEX_USE_LOW"].finding


async def test_rows_that_nobody_analyzed_and_dead_ones_are_found(care: Care) -> None:
    # Whatever the server's own cleaners do meanwhile, they leave this table alone.
    await care.writer.execute(
        "CREATE TABLE stale (n integer PRIMARY KEY, m integer) WITH (autovacuum_enabled = false)"
    )
    await care.writer.execute("INSERT INTO stale SELECT n, n FROM generate_series(1, 20000) n")
    await care.counted()
    assert "of stale" in (await care.advice())["STATISTICS_MISSING"].finding

    await care.writer.execute("ANALYZE stale")
    await care.writer.execute("UPDATE stale SET m = 0")
    await care.counted()
    advice = await care.advice()
    assert "stale" not in advice.get("STATISTICS_MISSING", pb.Recommendation()).finding
    assert "stale holds 20,000 dead rows" in advice["VACUUM_BEHIND"].finding

    await care.writer.execute("VACUUM stale")
    await care.counted()
    assert "VACUUM_BEHIND" not in await care.advice()


async def test_a_slow_statement_of_a_call_becomes_advice(care: Care) -> None:
    # Somebody's lock makes the call slow, as it might be in life.
    other = care.writer.transaction()
    await other.start()
    await care.writer.execute("LOCK TABLE campaigns IN ACCESS EXCLUSIVE MODE")

    async with care.watch.recorded(care.beside, period=3600):
        request = GetDomainRequest(campaign_id="00000000-0000-0000-0000-000000000001")
        call = asyncio.create_task(refused(care.stub.GetDomain(request)))
        await care.beside.fetch("SELECT pg_sleep(0.5)")
        await other.rollback()
        await call

        async def advised() -> None:
            advice = (await care.advice()).get("QUERIES_SLOW", pb.Recommendation())
            assert "GetDomain: 1 slow query" in advice.finding

        await eventually(advised)

    [slow] = (await care.performance(slow_only=True)).slow_queries
    assert (slow.method, "campaigns" in slow.plan) == ("GetDomain", True)
    [figures] = (await care.performance()).figures
    assert figures.method == "GetDomain"
    assert figures.longest.ToMilliseconds() >= 300


async def fill(care: Care, *, campaigns: int, names: int) -> None:
    for campaign in range(1, campaigns + 1):
        await care.writer.execute(
            """INSERT INTO domains (campaign_no, position, name)
            SELECT $1, n, 'name-' || n || '.example' FROM generate_series(0, $2 - 1) n""",
            campaign,
            names,
        )
    await care.counted()


async def measured(care: Care, minute: int, process: str, method: str, *, us: list[int]) -> None:
    histogram = [0] * LENGTH
    for each in us:
        histogram[entry_of(each)] += 1
    await care.writer.execute(
        "INSERT INTO query_performance VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        MINUTE + timedelta(minutes=minute),
        process,
        method,
        len(us),
        len(us) * 2,
        sum(us),
        max(us),
        histogram,
    )


async def walked(care: Care) -> list[pb.QueryFigures]:
    figures, token = [], ""
    while True:
        page = await care.performance(page_size=1, page_token=token)
        figures += page.figures
        if not (token := page.next_page_token):
            return figures
