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


async def small_campaigns(writer: Writer, count: int, suffix: str) -> list[Made]:
    """0 to 180 names each; of four in five campaigns two names in three are resolved and leads."""
    rows = await writer.connection.fetch(
        """INSERT INTO campaigns
            (id, name, mode, initial_phase, final_phase, configuration, name_count)
        SELECT gen_random_uuid(), 'small', 'STEP_BY_STEP', 1, 5, '', n % 7 * 30
        FROM generate_series(0, $1 - 1) n RETURNING id, no""",
        count,
    )
    await writer.connection.execute(
        """INSERT INTO phases (campaign_no, phase, status, run, result_run)
        SELECT no, phase, 'COMPLETED', 1, 1 FROM campaigns, generate_series(1, 5) phase"""
    )
    await writer.connection.execute(
        """INSERT INTO domains SELECT no, n, 'name-' || no || '-' || n || $1::text
        FROM campaigns, generate_series(0, name_count - 1) n""",
        suffix,
    )
    for statement in (
        """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count, tcp,
            duration_us, check_time_us) SELECT campaign_no, 1, position, 1, 0, 1, false, 5, 1""",
        """INSERT INTO leads (campaign_no, run, position, status, reason, check_time_us)
        SELECT campaign_no, 1, position, 1, 1, 1""",
    ):
        await writer.connection.execute(
            statement + " FROM domains WHERE position % 3 > 0 AND campaign_no % 5 > 0"
        )
    return [Made(row["id"], row["no"]) for row in rows]


def named(batch: Any) -> list[str]:
    return list(batch.names) if hasattr(batch, "names") else [lead.name for lead in batch.leads]


async def test_streams_of_many_small_campaigns_go_on_after_a_kill(
    database_url: str, writer: Writer
) -> None:
    suffix = "x" * 200
    made = await small_campaigns(writer, 800, suffix)
    ids = [str(each) for each in made]
    matching = {"dns_verdicts": [1]}
    requests: list[tuple[str, Any, bool]] = [
        ("StreamDomains", pb.StreamDomainsRequest(campaign_ids=ids), False),
        ("StreamDomains", pb.StreamDomainsRequest(campaign_ids=ids, **matching), True),
        (
            "StreamEnriched",
            stream_pb2.StreamEnrichedRequest(campaign_ids=ids, filter=matching, batch_size=50),
            True,
        ),
        ("StreamLeads", stream_pb2.StreamLeadsRequest(campaign_ids=ids, batch_size=50), True),
    ]
    received: list[list[tuple[str, str]]] = [[] for _ in requests]

    def take(messages: Iterable[Any], n: int) -> Any:
        for message in messages:
            if message.HasField("batch"):
                received[n] += [(message.batch.campaign_id, name) for name in named(message.batch)]
                requests[n][1].cursor = message.batch.cursor
        return message

    with service(database_url) as (process, stub):
        calls = [getattr(stub, method)(request) for method, request, _ in requests]
        for n, call in enumerate(calls):
            take(islice(call, 30 + n), n)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for n, call in enumerate(calls):
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                take(call, n)
    with service(database_url) as (_, stub):
        for n, (method, request, _) in enumerate(requests):
            assert take(getattr(stub, method)(request), n).HasField("summary")
    for found, (_, _, filtered) in zip(received, requests, strict=True):
        assert found == [
            (str(each), f"name-{each.no}-{position}{suffix}")
            for n, each in enumerate(made)
            for position in range(n % 7 * 30)
            if not filtered or (position % 3 and each.no % 5)
        ]


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
