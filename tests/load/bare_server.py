"""The least that a service could do for a page: one statement, one message. A yardstick only.

`python -m tests.load.bare_server DATABASE_URL` prints its address. It knows no filter, order, token
or limit, and answers ListDomains by position alone. What slows this machine down slows it as much
as the query service, which asks the same server over the same protocol.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import asyncpg
import grpc

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.query_service_pb2_grpc import (
    QueryServiceServicer,
    add_QueryServiceServicer_to_server,
)
from domainflow.validation.v1 import dns_pb2
from tests.load.__main__ import ROOT, _import_path

CONNECTIONS = 10
PAGE = """SELECT d.position, d.name, r.verdict, r.addresses
    FROM domains d JOIN dns_results r USING (campaign_no, position)
    WHERE d.campaign_no = $1 AND d.position >= $2 AND r.campaign_no = $1 AND r.run = 1
      AND r.position >= $2
    ORDER BY d.position LIMIT $3"""


class BarePages(QueryServiceServicer):
    """ListDomains by position; every other method is unimplemented."""

    def __init__(self, pool: Any, numbers: dict[UUID, int]) -> None:
        self._pool = pool
        self._numbers = numbers

    async def ListDomains(
        self, request: pb.ListDomainsRequest, context: Any
    ) -> pb.ListDomainsResponse:
        no = self._numbers[UUID(request.campaign_id)]
        rows = await self._pool.fetch(PAGE, no, request.start_position, request.page_size)
        return pb.ListDomainsResponse(
            domains=[
                pb.Domain(
                    position=position,
                    name=name,
                    dns=dns_pb2.DnsResult(
                        verdict=verdict, addresses=addresses.split(",") if addresses else ()
                    ),
                )
                for position, name, verdict, addresses in rows
            ]
        )


@contextmanager
def bare_server(database_url: str) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load.bare_server", database_url],
        cwd=ROOT,
        env={"PYTHONPATH": _import_path()},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=30)


async def serve(database_url: str) -> None:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=CONNECTIONS) as pool:
        rows = await pool.fetch("SELECT id, no FROM campaigns")
        server = grpc.aio.server()
        pages = BarePages(pool, {UUID(str(row["id"])): row["no"] for row in rows})
        add_QueryServiceServicer_to_server(pages, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        sys.stdout.write(f"127.0.0.1:{port}\n")
        sys.stdout.flush()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()
        await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
