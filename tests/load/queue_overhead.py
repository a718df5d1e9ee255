"""What it costs that chunks are handed out: the ledger, the queue and the tables around the engine.

Names a second of a DNS phase against the same engine called directly on the same names; CPU seconds
of every part; and the queue by itself.
"""

import asyncio
import gc
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop
from nats.aio.client import Client

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1.task_pb2 import ChunkTask
from services.chassis import jetstream
from services.suite.nats import EmbeddedNats
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from tests.load.busy_suite import Busy, busy_suite, scaled, seconds
from tests.load.name_server import fast_name_server
from tests.load.processes import cpu, cpu_of_family

NAMES = scaled(1_000_000, least=50_000)
# The names of fast_name_server that have as many digits.
FIRST = 1_000_000
# As in dns_engine: knot's socket buffer holds no more of a larger window.
WINDOW = 1_000
TASKS = scaled(20_000, least=1_000)
PUBLISHED_AT_ONCE = 64
# Names in hand of the engine alone, as a worker has them.
BATCH, BATCHES_AT_ONCE = 2_000, 8


@dataclass(frozen=True, slots=True)
class Alone:
    """The engine with nothing around it."""

    names_per_second: float
    # CPU seconds per million names.
    cpu: float


def run() -> list[dict[str, Any]]:
    results = []
    with fast_name_server(FIRST + NAMES) as resolver:
        alone = _engine_alone(resolver)
        for workers in (1, 2):
            results += asyncio.run(_campaign(resolver, workers, alone))
    return [*results, asyncio.run(_queue_alone(results[0]))]


async def _campaign(resolver: str, workers: int, alone: Alone) -> list[dict[str, Any]]:
    pattern = campaign_pb2.PatternSource(
        type=campaign_pb2.PATTERN_TYPE_SUFFIX,
        suffix_length=len(str(FIRST)),
        character_set="0123456789",
        constant="name",
        tlds=[".com"],
        first_offset=FIRST,
    )
    dns = campaign_pb2.DnsConfiguration(window=WINDOW)
    async with busy_suite(workers) as busy:
        load = await busy.create(NAMES, resolver, pattern=pattern, dns=dns)
        await load.generated()
        before = _cpu(busy)
        await load.start()
        took = seconds(await load.completed())
        cost = {part: (used - before[part]) / NAMES * 1e6 for part, used in _cpu(busy).items()}
        assert await load.is_balanced()
        chunks = await busy.database.fetchval(
            "SELECT count(*) FROM chunks WHERE campaign_no = $1 AND phase = 2", load.no
        )
    name = f"queue_overhead, {workers} worker{'s' if workers > 1 else ''}"
    return [
        {
            "name": name,
            "value": NAMES / took,
            "unit": "names/s",
            "yardstick": {
                "name": "engine alone",
                "value": alone.names_per_second,
                "unit": "names/s",
            },
            "ratio": NAMES / took / alone.names_per_second,
            "target": "ratio >= 0.6",
            "names": NAMES,
            "seconds": took,
            "chunks": chunks,
        },
        {
            "name": f"{name}, CPU of all parts",
            "value": sum(cost.values()),
            "unit": "CPU s per 1M",
            "yardstick": {"name": "engine alone", "value": alone.cpu, "unit": "CPU s per 1M"},
            "ratio": sum(cost.values()) / alone.cpu,
            "target": None,
            "by_part": cost,
            # What no worker and no table would cost: who hands out, and the queue.
            "dispatching": cost["campaign"] + cost["nats"],
        },
    ]


def _cpu(busy: Busy) -> dict[str, float]:
    """CPU seconds of each part so far."""
    return {
        "campaign": cpu(busy.pid("campaign")),
        "nats": cpu(busy.pid("nats")),
        "postgres": cpu_of_family(busy.pid("postgres")),
        "workers": sum(map(cpu, busy.worker_pids())),
    }


# What is compared with


def _engine_alone(resolver: str) -> Alone:
    async def resolve() -> Alone:
        settings = EngineSettings(window=WINDOW)
        async with Engine([Resolver.parse(resolver)], settings) as engine:
            starts = iter(range(0, NAMES, BATCH))

            async def ask() -> None:
                for start in starts:
                    some = names[start : start + BATCH]
                    assert len(await engine.resolve(some)) == len(some)

            used, begun = time.process_time(), time.perf_counter()
            await asyncio.gather(*(ask() for _ in range(BATCHES_AT_ONCE)))
            elapsed = time.perf_counter() - begun
            used = time.process_time() - used
        return Alone(NAMES / elapsed, used / NAMES * 1e6)

    names = [f"name{number}.com" for number in range(FIRST, FIRST + NAMES)]
    # As worker processes do: what lives forever is not for the collector to walk.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    return uvloop.run(resolve())


async def _queue_alone(one_worker: dict[str, Any]) -> dict[str, Any]:
    """Tasks a second through the stream: published in batches, fetched one by one, acknowledged."""
    with TemporaryDirectory(prefix="domainflow-load-") as folder:
        async with EmbeddedNats(Path(folder) / "nats") as server:
            client = await jetstream.connect(server.url, name="load")
            try:
                begun = time.perf_counter()
                await _through(client)
                elapsed = time.perf_counter() - begun
            finally:
                await client.close()
    needed = one_worker["chunks"] / one_worker["seconds"]
    return {
        "name": "queue_overhead, publish, fetch and acknowledge",
        "value": TASKS / elapsed,
        "unit": "tasks/s",
        "yardstick": {"name": "chunks of 1 worker", "value": needed, "unit": "chunks/s"},
        "ratio": TASKS / elapsed / needed,
        "target": "ratio >= 10",
        "tasks": TASKS,
    }


async def _through(client: Client) -> None:
    stream = client.jetstream()
    await jetstream.ensure_task_stream(stream)
    durable = await jetstream.ensure_pool_consumer(
        stream, "dns", ack_wait=30, max_ack_pending=10_000
    )
    pull = await stream.pull_subscribe_bind(durable=durable, stream=jetstream.TASK_STREAM)

    async def publish() -> None:
        subject = jetstream.task_subject("dns")
        for first in range(0, TASKS, PUBLISHED_AT_ONCE):
            some = range(first, min(first + PUBLISHED_AT_ONCE, TASKS))
            tasks = [ChunkTask(campaign_no=1, phase=2, run=1, first_position=n) for n in some]
            await asyncio.gather(
                *(stream.publish(subject, task.SerializeToString()) for task in tasks)
            )

    async def take() -> None:
        for _ in range(TASKS):
            (message,) = await pull.fetch(1, timeout=10)
            await message.ack()

    await asyncio.gather(publish(), take())
