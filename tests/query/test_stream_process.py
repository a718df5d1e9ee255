"""Streams of a service that is killed, and what a service keeps in memory of them."""

import os
import random
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1 import stream_pb2
from domainflow.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.suite.ports import is_free
from tests.query.conftest import Made, Writer
from tests.query.test_main import KEY, start

# Flat means: not more than so many MB for many times the names, or for a reader who stands still.
SLACK_MB = 6


@contextmanager
def service(database_url: str) -> Iterator[tuple["subprocess.Popen[str]", QueryServiceStub]]:
    port = next(port for port in random.sample(range(15_000, 30_000), 15_000) if is_free(port))
    address = f"127.0.0.1:{port}"
    process = start(DATABASE_URL=database_url, QUERY_ADDRESS=address, PAGE_TOKEN_KEY=KEY)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            yield process, QueryServiceStub(channel)
    finally:
        process.kill()
        process.communicate()


async def large_campaign(writer: Writer, size: int, suffix: str = ".example") -> Made:
    made = await writer.campaign(0)
    await writer.connection.execute(
        """INSERT INTO domains
        SELECT $1, n, 'name-' || n || $3::text FROM generate_series(0, $2 - 1) n""",
        made.no,
        size,
        suffix,
    )
    await writer.connection.execute(
        """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count, tcp,
            duration_us, check_time_us, addresses)
        SELECT $1, 1, n, 1, 0, 1, false, 5, 1750000000000000 + n, '198.51.100.7,2001:db8::1'
        FROM generate_series(0, $2 - 1) n""",
        made.no,
        size,
    )
    await writer.connection.execute(
        "UPDATE campaigns SET name_count = $2 WHERE no = $1", made.no, size
    )
    await writer.show(made, 2, 1)
    return made


def receive(messages: Iterable[Any], names: list[tuple[str, str]], request: Any) -> Any:
    """Take everything that comes, remembering where to go on. Returns the last message."""
    for message in messages:
        if message.HasField("batch"):
            names += [(message.batch.campaign_id, name) for name in message.batch.names]
            request.cursor = message.batch.cursor
    return message


async def test_a_stream_of_a_killed_service_goes_on_in_the_next_one(
    database_url: str, writer: Writer
) -> None:
    # 12 MB: more than is on the way when the service dies.
    suffix = "x" * 200
    made = [await large_campaign(writer, size, suffix) for size in (20_000, 40_000)]
    ids = [str(each) for each in made]
    requests: list[Any] = [
        pb.StreamDomainsRequest(campaign_ids=ids, batch_size=3_000),
        stream_pb2.StreamEnrichedRequest(campaign_ids=ids, batch_size=3_000),
    ]
    received: list[list[tuple[str, str]]] = [[], []]
    with service(database_url) as (process, stub):
        calls = [stub.StreamDomains(requests[0]), stub.StreamEnriched(requests[1])]
        for n, call in enumerate(calls):
            receive(islice(call, n + 2), received[n], requests[n])
        process.send_signal(signal.SIGKILL)
        process.wait()
        for n, call in enumerate(calls):
            # What is on the way already comes; what comes last is no summary.
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                receive(call, received[n], requests[n])
    # Another process, on another port, with the same key.
    with service(database_url) as (_, stub):
        for n, call in enumerate(
            (stub.StreamDomains(requests[0]), stub.StreamEnriched(requests[1]))
        ):
            assert receive(call, received[n], requests[n]).HasField("summary")
    expected = [
        *((ids[0], f"name-{n}{suffix}") for n in range(20_000)),
        *((ids[1], f"name-{n}{suffix}") for n in range(40_000)),
    ]
    assert received == [expected, expected]


async def test_memory_does_not_grow_with_the_names_nor_with_readers_who_stand_still(
    database_url: str, writer: Writer
) -> None:
    small, large = [await large_campaign(writer, size) for size in (50_000, 400_000)]

    def request(made: Made) -> stream_pb2.StreamEnrichedRequest:
        return stream_pb2.StreamEnrichedRequest(campaign_ids=[str(made)])

    with service(database_url) as (process, stub):
        for _ in range(2):
            assert sum(1 for _ in stub.StreamEnriched(request(small))) > 10
        before = resident_mb(process.pid)
        highest = max(resident_mb(process.pid) for _ in stub.StreamEnriched(request(large)))
        assert highest < before + SLACK_MB

        stalled = stub.StreamEnriched(request(large))
        next(stalled)
        # Time for an unbounded producer to read everything: others read all of it meanwhile.
        highest = max(resident_mb(process.pid) for _ in stub.StreamEnriched(request(large)))
        assert highest < before + 2 * SLACK_MB
        # Whoever wakes up has lost nothing.
        *_, last = stalled
        assert last.summary.row_count == 400_000


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
