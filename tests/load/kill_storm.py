"""A campaign of a million names through generation and DNS while workers are killed with -9 every
two to five seconds: every row against the truth, every name exactly once.

Crashes, after saying what was found, unless nothing is lost, doubled or wrong.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from services.sandbox.truth import Mix, truth
from services.suite.process import State
from tests.load.busy_suite import DNS, Busy, Load, busy_suite, now, scaled, seconds
from tests.load.processes import server
from tests.system.campaigns import SEED, expected_names, pattern

NAMES = scaled(1_000_000, least=50_000)
WORKERS, RESOLVERS = 4, 2
# Seconds between two kills.
SHORTEST, LONGEST = 2.0, 5.0
CONSTANT = "storm"
# Mute names hold their chunk for as long as all their questions: short, or every chunk is killed.
TIMEOUT_MS, ATTEMPTS, WINDOW = 300, 8, 500
# Rows compared at once.
PORTION = 50_000


class NotExact(AssertionError):
    """Something was lost, doubled or wrong."""


@dataclass(slots=True)
class Found:
    """Names that are not as they should be, and what was said of the others."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    verdicts: Counter[int] | None = None


def run() -> list[dict[str, Any]]:
    result = asyncio.run(_measure())
    if result["value"] or not result["balanced"]:
        sys.stderr.write(json.dumps(result, indent=2) + "\n")
        raise NotExact(
            f"{result['lost']} lost, {result['doubled']} doubled, {result['wrong']} wrong"
        )
    return [result]


async def _measure() -> dict[str, Any]:
    with ExitStack() as stack:
        resolvers = [stack.enter_context(_sandbox(number)) for number in range(1, RESOLVERS + 1)]
        addresses = [json.loads(said)["dns"][0] for said in resolvers]
        async with busy_suite(WORKERS) as busy:
            load = await busy.create(
                NAMES, *addresses, pattern=pattern(NAMES, CONSTANT), dns=_dns(), sequence=True
            )
            begun = now()
            await load.start()
            over = asyncio.Event()
            storm = asyncio.create_task(_storm(busy, over))
            try:
                dns = await load.completed(DNS)
            finally:
                over.set()
                kills = await storm
            took = now() - begun
            events, settled_twice = await _events(busy, load)
            found = await _compare(busy, load)
            balanced = await load.is_balanced()
    doubled = found.doubled + settled_twice
    return {
        "name": f"kill_storm, {NAMES:,} names",
        "value": found.lost + doubled + found.wrong,
        "unit": "names lost, doubled or wrong",
        "yardstick": None,
        "ratio": None,
        "target": "names <= 0",
        "lost": found.lost,
        "doubled": doubled,
        "wrong": found.wrong,
        "balanced": balanced,
        "kills": kills,
        "chunks_settled": events["chunk_settled"],
        "chunks_retried": events["chunk_retried"],
        "names_given_up": events["name_dead_lettered"],
        "seconds": took,
        "names_per_second": NAMES / seconds(dns),
        "verdicts": dict(found.verdicts or {}),
    }


def _sandbox(number: int) -> AbstractContextManager[str]:
    return server(
        "services.sandbox",
        *("--die-with-parent", "--seed", str(SEED), "--fault-seed", str(number)),
    )


def _dns() -> campaign_pb2.DnsConfiguration:
    return campaign_pb2.DnsConfiguration(
        timeout=Duration(nanos=TIMEOUT_MS * 1_000_000), attempt_limit=ATTEMPTS, window=WINDOW
    )


async def _storm(busy: Busy, over: asyncio.Event) -> int:
    """Kill any living worker again and again; return how often."""
    dice = random.Random(SEED)
    kills = 0
    while True:
        try:
            async with asyncio.timeout(dice.uniform(SHORTEST, LONGEST)):
                await over.wait()
            return kills
        except TimeoutError:
            pass
        alive = [
            process
            for name, process in busy.suite.processes.items()
            if name.startswith("worker-") and process.state is State.READY and process.pid
        ]
        if alive:
            victim = dice.choice(alive).pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            kills += 1


async def _events(busy: Busy, load: Load) -> tuple[Counter[str], int]:
    """Events by kind, and how many names they say were settled more than once."""
    kinds: Counter[str] = Counter()
    settled: Counter[int] = Counter()
    rows = await busy.database.fetch("SELECT body FROM events WHERE campaign_no = $1", load.no)
    for (body,) in rows:
        event = event_pb2.Event.FromString(body)
        kind = event.WhichOneof("kind") or ""
        kinds[kind] += 1
        if kind == "chunk_settled" and event.chunk_settled.phase == DNS:
            chunk = event.chunk_settled
            settled.update(range(chunk.first_position, chunk.first_position + chunk.name_count))
    return kinds, sum(times - 1 for times in settled.values())


async def _compare(busy: Busy, load: Load) -> Found:
    """Every name by its position with what is true of it."""
    found, mix, verdicts = Found(), Mix(), Counter[int]()
    names = expected_names(NAMES, CONSTANT)
    for first in range(0, NAMES, PORTION):
        right = dict(enumerate(islice(names, PORTION), first))
        stored = await busy.database.fetch(
            """SELECT position, name FROM domains
               WHERE campaign_no = $1 AND position >= $2 AND position < $3""",
            load.no,
            first,
            first + PORTION,
        )
        results = await busy.database.fetch(
            """SELECT position, verdict FROM dns_results
               WHERE campaign_no = $1 AND position >= $2 AND position < $3""",
            load.no,
            first,
            first + PORTION,
        )
        for rows in (stored, results):
            positions = {row["position"] for row in rows}
            found.lost += len(right) - len(positions & right.keys())
            found.doubled += len(rows) - len(positions)
        found.wrong += sum(right.get(row["position"]) != row["name"] for row in stored)
        for row in results:
            verdicts[row["verdict"]] += 1
            true = truth(right[row["position"]], SEED, mix).verdict
            found.wrong += row["verdict"] != true
    for table in ("domains", "dns_results"):
        rows = await busy.database.fetchval(
            f"SELECT count(*) FROM {table} WHERE campaign_no = $1 AND position >= $2",
            load.no,
            NAMES,
        )
        found.wrong += rows
    found.verdicts = verdicts
    return found
