"""The process: that it says how it is by itself, and what its calls took."""

import signal

import asyncpg
import grpc

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.database_pb2 import GetDatabaseStatusRequest, GetDatabaseStatusResponse
from domainflow.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.suite.ports import is_free
from tests.eventually import eventually
from tests.query.conftest import Writer
from tests.query.test_main import KEY, start


async def test_a_process_reports_its_pool_and_its_queries(
    database_url: str, writer: Writer
) -> None:
    made = await writer.campaign(3)
    port = next(port for port in range(23_000, 60_000) if is_free(port))
    process = start(
        DATABASE_URL=database_url,
        QUERY_ADDRESS=f"127.0.0.1:{port}",
        PAGE_TOKEN_KEY=KEY,
        QUERY_CONNECTIONS="3",
        QUERY_SLOW_MS="0",
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = QueryServiceStub(channel)
            request = pb.ListDomainsRequest(campaign_id=str(made))
            await stub.ListDomains(request, wait_for_ready=True)

            async def reported() -> GetDatabaseStatusResponse:
                status = await stub.GetDatabaseStatus(GetDatabaseStatusRequest())
                assert status.pools
                return status

            [pool] = (await eventually(reported)).pools

        async def planned() -> None:
            assert await writer.connection.fetchval(
                "SELECT count(*) FROM slow_queries WHERE method = 'ListDomains' AND plan <> ''"
            )

        await eventually(planned)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)

    assert process.returncode == 0
    assert (pool.process.split()[0], pool.process.split()[2]) == ("query", str(process.pid))
    assert pool.max_count == 3
    # What was counted last is written down at the end.
    assert await _statements(writer.connection) > 0


async def _statements(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    counted = await connection.fetchval(
        "SELECT sum(query_count) FROM query_performance WHERE method = 'ListDomains'"
    )
    return int(counted or 0)
