"""A campaign of a million names through generation and DNS, and one of twenty thousand as far as
leads, while workers are killed with -9 every few seconds: every row against the truth, every name
exactly once.

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

import grpc
from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from services.cli import demo
from services.cli.demo_pages import Web
from services.cli.demo_sandbox import Sandbox
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
# Of the demo, and names of a chunk of HTTP: few are lost with a worker.
PAGE_NAMES = scaled(20_000, least=1_000)
PAGE_CHUNK = 100
HTTP, LEADS = campaign_pb2.PHASE_HTTP_VALIDATION, campaign_pb2.PHASE_LEAD_EXTRACTION


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
    results = [asyncio.run(_measure()), asyncio.run(_measure_pages())]
    for result in results:
        if result["value"] or not result["balanced"]:
            sys.stderr.write(json.dumps(result, indent=2) + "\n")
            raise NotExact(
                f"{result['lost']} lost, {result['doubled']} doubled, {result['wrong']} wrong"
            )
    return results


async def _measure_pages() -> dict[str, Any]:
    """The storm again, from HTTP to the end; workers of every kind die."""
    with server("services.sandbox", "--die-with-parent", "--seed", str(SEED), "--web") as said:
        told = json.loads(said)
        web = Web.told(told["web"])
        environment = {"HTTP_ALLOWED_NETWORKS": web.network}
        async with busy_suite(1, environment, http_workers=2, analysis_workers=1) as busy:
            asked = demo.request(PAGE_NAMES, Sandbox(tuple(told["dns"])).settings(), web)
            _hurry(asked.configuration.http)
            created = (await busy.campaigns.CreateCampaign(asked)).campaign
            no = await busy.database.fetchval(
                "SELECT no FROM campaigns WHERE id::text = $1", created.campaign_id
            )
            load = Load(busy, created.campaign_id, no, PAGE_NAMES)
            await load.start()
            await load.completed(DNS)
            begun = now()
            over = asyncio.Event()
            storm = asyncio.create_task(_storm(busy, over, pause=3.0))
            try:
                http = await load.completed(HTTP)
                await load.completed(LEADS)
            finally:
                over.set()
                kills = await storm
            took = now() - begun
            events, settled_twice = await _events(busy, load, HTTP)
            lost, surplus = await _counted(busy, load)
            # The door may have been opened anew meanwhile.
            async with grpc.aio.insecure_channel(
                busy.suite.address.removeprefix("http://")
            ) as channel:
                check = await demo.read_back(channel, load.campaign_id, PAGE_NAMES, SEED, web)
            assert check.pages
            account = await load.receipt()
            unlike = demo.accounting_errors(account, PAGE_NAMES, check.verdicts)
            unlike += check.pages.accounting_errors(account)
    return {
        "name": f"kill_storm, pages of {PAGE_NAMES:,} names",
        "value": lost + surplus + settled_twice + check.wrong + len(unlike),
        "unit": "names lost, doubled or wrong",
        "yardstick": None,
        "ratio": None,
        "target": "names <= 0",
        "lost": lost,
        "doubled": surplus + settled_twice,
        "wrong": check.wrong,
        "mistakes": check.mistakes + unlike,
        "balanced": account.balanced,
        "kills": kills,
        "chunks_settled": events["chunk_settled"],
        "chunks_retried": events["chunk_retried"],
        "names_given_up": events["name_dead_lettered"],
        "seconds": took,
        "names_per_second": http.name_count / seconds(http),
        "verdicts": dict(check.pages.verdicts),
    }


async def _counted(busy: Busy, load: Load) -> tuple[int, int]:
    """Rows of later phases that are missing, and those that nothing before them asks for."""
    lost = surplus = 0
    for table, asked, condition in (
        ("http_results", "dns_results", "verdict = 1"),
        ("pages", "http_results", "verdict = 1"),
        ("page_analyses", "http_results", "verdict = 1"),
        ("leads", "http_results", "true"),
    ):
        row = await busy.database.fetchrow(
            f"""SELECT count(*) FILTER (WHERE r.position IS NULL),
                count(*) FILTER (WHERE a.position IS NULL)
            FROM (SELECT position FROM {asked} WHERE campaign_no = $1 AND {condition}) a
            FULL JOIN (SELECT position FROM {table} WHERE campaign_no = $1) r USING (position)""",
            load.no,
        )
        lost += row[0]
        surplus += row[1]
    return lost, surplus


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


def _hurry(http: campaign_pb2.HttpConfiguration) -> None:
    """As of DNS: sites that say nothing hold their chunk for as long as all their chances."""
    http.chunk_size = PAGE_CHUNK
    settings = http.settings
    settings.window = 16
    settings.connect_timeout.CopyFrom(Duration(seconds=2))
    settings.first_byte_timeout.CopyFrom(Duration(seconds=2))
    settings.total_timeout.CopyFrom(Duration(seconds=5))
    for lane in settings.retry_lanes:
        lane.attempt_limit = 3 if lane.reason == lane.REASON_RATE_LIMITED else 1


async def _storm(busy: Busy, over: asyncio.Event, pause: float = 0.0) -> int:
    """Kill any living worker again and again, `pause` seconds less often; return how often."""
    dice = random.Random(SEED)
    kills = 0
    while True:
        try:
            async with asyncio.timeout(pause + dice.uniform(SHORTEST, LONGEST)):
                await over.wait()
            return kills
        except TimeoutError:
            pass
        alive = [
            process
            for name, process in busy.suite.processes.items()
            if "worker-" in name and process.state is State.READY and process.pid
        ]
        if alive:
            victim = dice.choice(alive).pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            kills += 1


async def _events(busy: Busy, load: Load, phase: int = DNS) -> tuple[Counter[str], int]:
    """Events by kind, and how many names of a phase they say were settled more than once."""
    kinds: Counter[str] = Counter()
    settled: Counter[int] = Counter()
    rows = await busy.database.fetch("SELECT body FROM events WHERE campaign_no = $1", load.no)
    for (body,) in rows:
        event = event_pb2.Event.FromString(body)
        kind = event.WhichOneof("kind") or ""
        kinds[kind] += 1
        if kind == "chunk_settled" and event.chunk_settled.phase == phase:
            chunk = event.chunk_settled
            # Later phases have sparse chunks: their first names stand for all of them.
            size = chunk.name_count if phase == DNS else 1
            settled.update(range(chunk.first_position, chunk.first_position + size))
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
