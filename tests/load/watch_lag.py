"""From commit to receipt with 1,000 watchers, against one watcher alone; and what they, and one
that reads nothing, cost in memory.

Chunks are settled through the ledger's own functions at a steady pace while the campaign service
runs beside with its dispatcher. The watchers live in a process of their own.
"""

import asyncio
import base64
import gc
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import uvloop

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from domainflow.campaign.v1 import campaign_service_pb2 as pb
from services.chassis import jetstream
from services.schema import migrate
from services.suite.nats import EmbeddedNats
from services.suite.postgres import EmbeddedPostgres
from tests.load.processes import cpu, rss_mb

ROOT = Path(__file__).parents[2]
CAMPAIGNS, WATCHERS_EACH = 100, 10
# Of each campaign, per second.
CHUNKS_PER_SECOND = 2
CHUNK = 500
ALONE_SECONDS, SECONDS = 10, 30
# Streams of one connection.
STREAMS_EACH = 50
METHOD = "/domainflow.campaign.v1.CampaignService/WatchCampaigns"
# First byte of a message of each kind that is counted.
EVENT, PROGRESS = 0x12, 0x1A

# One worker's transaction: claim, settle and event at once, because only its commit matters here.
SETTLE = """CREATE FUNCTION settle_now(p_campaign integer, p_first integer, p_body bytea)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE fence integer;
BEGIN
    SELECT attempt INTO STRICT fence
    FROM claim_chunk(p_campaign, 2::smallint, 1, p_first, 'bench', '15 s');
    PERFORM FROM settle_chunk(p_campaign, 2::smallint, 1, p_first, fence, ARRAY[%(chunk)s],
        '\\x00');
    RETURN append_event(p_campaign, p_body);
END $$"""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign whose DNS phase runs."""

    no: int
    id: UUID


@dataclass(frozen=True, slots=True)
class Service:
    """The campaign service as a process."""

    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What watchers were sent while chunks were settled."""

    lags: list[float]
    events: int
    progress: int
    expected: int

    def at(self, share: float) -> float:
        """The lag that `share` of the events do not exceed, milliseconds."""
        return sorted(self.lags)[min(int(share * len(self.lags)), len(self.lags) - 1)] * 1000


def run() -> list[dict[str, Any]]:
    return uvloop.run(_measure())


async def _measure() -> list[dict[str, Any]]:
    folder = Path(tempfile.mkdtemp(prefix="domainflow-load-"))
    try:
        async with (
            EmbeddedPostgres(folder / "postgres") as postgres,
            EmbeddedNats(folder / "nats") as nats,
        ):
            await migrate(postgres.url)
            queue = await jetstream.connect(nats.url, name="bench")
            pool = await asyncpg.create_pool(postgres.url, min_size=4, max_size=4)
            await pool.execute(SETTLE % {"chunk": CHUNK})
            campaigns = [await _campaign(pool) for _ in range(CAMPAIGNS)]
            writer = _Writer(pool, queue, campaigns)
            async with _service(postgres.url, nats.url) as service:
                results = await _watched(service, writer)
            await pool.close()
            await queue.close()
            return results
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _watched(service: Service, writer: "_Writer") -> list[dict[str, Any]]:
    ids = [str(campaign.id) for campaign in writer.campaigns]
    async with _watchers(service.address, [ids]) as watchers:
        alone = await watchers.during(writer, ALONE_SECONDS)
    at_rest = rss_mb(service.pid)
    asked = [[campaign_id] for campaign_id in ids for _ in range(WATCHERS_EACH)]
    async with _watchers(service.address, asked) as watchers:
        await writer.settle(ALONE_SECONDS / 2)
        before, cpu_before = rss_mb(service.pid), cpu(service.pid)
        async with _stalled(service.address):
            many = await watchers.during(writer, SECONDS)
            after = rss_mb(service.pid)
        used = cpu(service.pid) - cpu_before
    return [
        {
            "name": f"watch_lag, {len(asked):,} watchers and a stalled one",
            "value": many.at(0.99),
            "unit": "ms",
            "yardstick": {"name": "one watcher alone", "value": alone.at(0.99), "unit": "ms"},
            "ratio": many.at(0.99) / alone.at(0.99),
            "target": "p99 < 250 ms",
            "p50": many.at(0.5),
            "p50_alone": alone.at(0.5),
            "longest": many.at(1),
            "events_sent": many.events,
            "events_expected": many.expected,
            "progress_sent": many.progress,
            "service_cores": used / (SECONDS + 2),
        },
        {
            "name": "watch_memory, campaign service",
            "value": after,
            "unit": "MB",
            "yardstick": {"name": "before the stalled one", "value": before, "unit": "MB"},
            "ratio": after / before,
            "target": "ratio <= 1.1",
            "with_one_watcher": at_rest,
        },
    ]


class _Writer:
    """Settles chunks of all campaigns in turn, and tells the queue of each as a worker does."""

    def __init__(self, pool: Any, queue: Any, campaigns: Sequence[Campaign]) -> None:
        self._pool = pool
        self._queue = queue
        self.campaigns = campaigns
        self._next = dict.fromkeys((campaign.no for campaign in campaigns), 0)
        # When the transaction of an event began, by campaign id and revision.
        self.times: dict[tuple[str, int], float] = {}

    async def settle(self, seconds: float) -> None:
        """Settle chunks at the pace for so long."""
        gap = 1 / (CAMPAIGNS * CHUNKS_PER_SECOND)
        begin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds / gap)):
                await asyncio.sleep(begin + number * gap - time.monotonic())
                group.create_task(self._settle_one(random.choice(self.campaigns)))

    async def _settle_one(self, campaign: Campaign) -> None:
        first = self._next[campaign.no]
        self._next[campaign.no] += CHUNK
        settled = event_pb2.ChunkSettled(
            phase=campaign_pb2.PHASE_DNS_VALIDATION,
            run=1,
            first_position=first,
            name_count=CHUNK,
            attempt=1,
            outcomes=[campaign_pb2.OutcomeCount(outcome="RESOLVED", count=CHUNK)],
        )
        body = event_pb2.Event(chunk_settled=settled).SerializeToString()
        async with self._pool.acquire() as connection:
            begin = time.monotonic()
            revision = await connection.fetchval(
                "SELECT settle_now($1, $2, $3)", campaign.no, first, body
            )
        self.times[str(campaign.id), revision] = begin
        await self._queue.publish(jetstream.EVENT_SUBJECT, str(campaign.no).encode())


async def _campaign(pool: Any) -> Campaign:
    """A campaign with its DNS phase running and more chunks than will be settled."""
    chunks = 4 * CHUNKS_PER_SECOND * (SECONDS + 2 * ALONE_SECONDS)
    configuration = campaign_pb2.CampaignConfiguration(
        generation=campaign_pb2.GenerationConfiguration(upload=campaign_pb2.UploadSource()),
        dns=campaign_pb2.DnsConfiguration(chunk_size=CHUNK),
    )
    row = await pool.fetchrow(
        """INSERT INTO campaigns (id, name, mode, initial_phase, final_phase, configuration,
               name_count, current_phase, status)
           VALUES (uuidv7(), 'bench', 'STEP_BY_STEP', 1, 2, $1, $2, 2, 'RUNNING')
           RETURNING no, id""",
        configuration.SerializeToString(),
        chunks * CHUNK,
    )
    no, campaign_id = row
    await pool.execute(
        """INSERT INTO phases (campaign_no, phase, status, run, result_run, name_count, planned)
           SELECT $1, phase, CASE phase WHEN 1 THEN 'COMPLETED' ELSE 'RUNNING' END, 1, 1, $2, true
           FROM generate_series(1, 2) phase""",
        no,
        chunks * CHUNK,
    )
    await pool.execute(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
           SELECT $1, 2, 1, first, $2, 'ready' FROM generate_series(0, $3 - 1, $2) AS first""",
        no,
        CHUNK,
        chunks * CHUNK,
    )
    return Campaign(no, UUID(str(campaign_id)))


@asynccontextmanager
async def _service(database_url: str, nats_url: str) -> AsyncIterator[Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.campaign",
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": database_url,
            "NATS_URL": nats_url,
            "CAMPAIGN_ADDRESS": address,
            "PAGE_TOKEN_KEY": base64.b64encode(os.urandom(32)).decode(),
        },
    )
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            async with asyncio.timeout(30):
                await channel.channel_ready()
        yield Service(address, process.pid)
    finally:
        process.terminate()
        await process.wait()


class _Watchers:
    """Streams in a process of their own."""

    def __init__(self, process: asyncio.subprocess.Process, expected_each: int) -> None:
        self._process = process
        self._expected_each = expected_each

    async def during(self, writer: _Writer, seconds: float) -> Seen:
        """What they are sent while chunks are settled for so long."""
        before = set(writer.times)
        await writer.settle(seconds)
        settled = writer.times.keys() - before
        # What is still on its way.
        await asyncio.sleep(2)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        events, progress = json.loads(await self._process.stdout.readline())
        lags = [
            received - writer.times[campaign_id, revision]
            for campaign_id, revision, received in events
            if (campaign_id, revision) in settled
        ]
        return Seen(lags, len(lags), progress, len(settled) * self._expected_each)


@asynccontextmanager
async def _watchers(address: str, asked: list[list[str]]) -> AsyncIterator[_Watchers]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.load.watch_lag",
        address,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=2**30,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    assert await process.stdout.readline() == b"ready\n"
    try:
        yield _Watchers(process, WATCHERS_EACH if len(asked) > 1 else 1)
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _stalled(address: str) -> AsyncIterator[None]:
    """A process that watches every campaign from its beginning, and is frozen after the first
    message."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.load.watch_lag",
        address,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"[[]]\n")
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _watch_all(address: str) -> None:
    """The watchers' process: stdin has what each asks for, then a line for each report."""
    reader = asyncio.StreamReader(limit=2**30)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    asked: list[list[str]] = json.loads(await reader.readline())
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(len(asked) // STREAMS_EACH + 1)
    ]
    received: list[tuple[float, bytes]] = []
    progress = 0
    opened = asyncio.Semaphore(0)

    async def read(number: int) -> None:
        nonlocal progress
        call = channels[number % len(channels)].unary_stream(
            METHOD, request_serializer=pb.WatchCampaignsRequest.SerializeToString
        )(pb.WatchCampaignsRequest(campaign_ids=asked[number]))
        begun = False
        while True:
            message = await call.read()
            if message[0] == EVENT:
                received.append((time.monotonic(), message))
            elif message[0] == PROGRESS:
                progress += 1
            elif not begun and pb.WatchCampaignsResponse.FromString(message).HasField("bookmark"):
                begun = True
                opened.release()

    async with asyncio.TaskGroup() as group:
        for number in range(len(asked)):
            group.create_task(read(number))
        for _ in asked:
            await opened.acquire()
        gc.freeze()
        print("ready", flush=True)  # noqa: T201
        while await reader.readline():
            events = []
            for moment, message in received:
                event = pb.WatchCampaignsResponse.FromString(message).event
                events.append((event.campaign_id, event.revision, moment))
            received.clear()
            sys.stdout.write(json.dumps([events, progress]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_watch_all(sys.argv[1]))
