"""Care of the database: how it is, what queries take, and what to do about it."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter

import asyncpg
from google.protobuf.duration_pb2 import Duration

from domainflow.query.v1 import consistency_pb2
from domainflow.query.v1 import database_pb2 as pb
from services.chassis.errors import FieldViolation
from services.chassis.seal import binding
from services.query.database import Database
from services.query.histogram import added, quantile_us
from services.query.part import Context, Part, coerced
from services.query.performance_token import PerformancePlace
from services.query.recommendations import Replica, Table, recommendations

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Where the first page begins: behind what is newer, or slower, than anything. PostgreSQL knows
# years beyond 9999, datetime does not.
_NEWEST = datetime(9999, 1, 1, tzinfo=UTC)
_SLOWEST = 2**63 - 1


class DatabaseService(Part):
    """GetDatabaseStatus, ListQueryPerformance and ListRecommendations."""

    async def GetDatabaseStatus(
        self, request: pb.GetDatabaseStatusRequest, context: Context
    ) -> pb.GetDatabaseStatusResponse:
        database = await self._database()
        server = await database.server()
        response = pb.GetDatabaseStatusResponse(
            server_version=server.version,
            size_bytes=server.size_bytes,
            migration=server.migration,
            pools=await database.pools(),
            index_uses=[_index_use(table) for table in await database.tables()],
            counter_drift_count=server.drift_count,
        )
        if server.counters_check_time is not None:
            response.counters_check_time.FromDatetime(server.counters_check_time)
        if (replica := self._reads.replica) is not None:
            state = replica.state
            response.replica.reachable = state.reachable
            response.replica.lag_bytes = -1 if state.lag_bytes is None else state.lag_bytes
            response.replica.reason = state.reason
            if state.lag is not None:
                response.replica.lag.CopyFrom(_duration(round(state.lag * 1e6)))
        return response

    async def ListQueryPerformance(
        self, request: pb.ListQueryPerformanceRequest, context: Context
    ) -> pb.ListQueryPerformanceResponse:
        bound = _binding(request)
        place = None
        if request.page_token:
            place = PerformancePlace.open(self._seal, request.page_token, bound)
        size = coerced(request.page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        begin = _EPOCH
        if request.HasField("begin_time"):
            begin = request.begin_time.ToDatetime(UTC)
        page = _slow_page if request.slow_only else _figures_page
        response, last = await page(await self._database(), begin, place, size)
        if last is not None:
            response.next_page_token = last.seal(self._seal, bound)
        return response

    async def ListRecommendations(
        self, request: pb.ListRecommendationsRequest, context: Context
    ) -> pb.ListRecommendationsResponse:
        facts = await (await self._database()).facts()
        if (replica := self._reads.replica) is not None:
            state = replica.state
            known = Replica(state.reachable, state.lag, state.reason)
            facts = replace(facts, replica=known)
        return pb.ListRecommendationsResponse(
            recommendations=[
                pb.Recommendation(
                    severity=pb.Recommendation.Severity.ValueType(each.severity),
                    code=each.code,
                    finding=each.finding,
                    action=each.action,
                )
                for each in recommendations(facts)
            ]
        )

    async def _database(self) -> Database:
        """The primary, over the connection beside the pool: an exhausted one is to be seen."""
        if self._beside is not None:
            return Database(self._beside)
        read = await self._reads.begin(consistency_pb2.Consistency(fully_consistent=True))
        return Database(read.pool)


def check_performance(request: pb.ListQueryPerformanceRequest) -> list[FieldViolation]:
    try:
        request.begin_time.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return [FieldViolation("begin_time", "is no time of the years 1 to 9999")]
    return []


async def _figures_page(
    database: Database, begin: datetime, place: PerformancePlace | None, size: int
) -> tuple[pb.ListQueryPerformanceResponse, PerformancePlace | None]:
    minute, method = _NEWEST, ""
    if place is not None:
        minute, method = _EPOCH + timedelta(microseconds=place.first), place.second
    rows = await database.figures(begin, minute, method, size + 1)
    groups = [list(group) for _, group in groupby(rows, key=itemgetter("begin_time", "method"))]
    response = pb.ListQueryPerformanceResponse(figures=map(_figures, groups[:size]))
    if len(groups) <= size:
        return response, None
    last = groups[size - 1][0]
    return response, PerformancePlace(_microseconds(last["begin_time"]), last["method"])


async def _slow_page(
    database: Database, begin: datetime, place: PerformancePlace | None, size: int
) -> tuple[pb.ListQueryPerformanceResponse, PerformancePlace | None]:
    duration, number = _SLOWEST, _SLOWEST
    if place is not None:
        duration, number = place.first, int(place.second)
    rows = await database.slow(begin, duration, number, size + 1)
    response = pb.ListQueryPerformanceResponse(slow_queries=map(_slow_query, rows[:size]))
    if len(rows) <= size:
        return response, None
    last = rows[size - 1]
    return response, PerformancePlace(last["duration_us"], str(last["id"]))


def _figures(rows: list[asyncpg.Record]) -> pb.QueryFigures:
    """A minute and method of all processes together."""
    histogram: list[int] = []
    for row in rows:
        histogram = added(histogram, row["histogram"])
    count, longest = _sum(rows, "query_count"), max(row["longest_us"] for row in rows)
    figures = pb.QueryFigures(
        method=rows[0]["method"],
        query_count=count,
        row_count=_sum(rows, "row_count"),
        mean=_duration(_sum(rows, "total_us") // max(count, 1)),
        p95=_duration(min(quantile_us(histogram, 0.95), longest)),
        longest=_duration(longest),
    )
    figures.begin_time.FromDatetime(rows[0]["begin_time"])
    return figures


def _slow_query(row: asyncpg.Record) -> pb.SlowQuery:
    slow = pb.SlowQuery(
        method=row["method"],
        duration=_duration(row["duration_us"]),
        statement=row["statement"],
        plan=row["plan"],
    )
    slow.end_time.FromDatetime(row["end_time"])
    return slow


def _index_use(table: Table) -> pb.IndexUse:
    return pb.IndexUse(
        table=table.name,
        row_count=table.row_count,
        index_scan_count=table.index_scans,
        sequential_scan_count=table.sequential_scans,
        ratio=table.index_share,
        unused_indexes=[index.name for index in table.unused_indexes],
    )


def _binding(request: pb.ListQueryPerformanceRequest) -> bytes:
    bound = pb.ListQueryPerformanceRequest()
    bound.CopyFrom(request)
    for free in ("page_size", "page_token"):
        bound.ClearField(free)
    return binding("ListQueryPerformance", bound.SerializeToString(deterministic=True))


def _sum(rows: Iterable[asyncpg.Record], column: str) -> int:
    return sum(row[column] for row in rows)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _duration(microseconds: int) -> Duration:
    made = Duration()
    made.FromMicroseconds(microseconds)
    return made
