"""Names a second of the whole suite's DNS phase, against the bare engine on the same server.

The campaign goes in through the public door; time is what the phase says of itself.
"""

import asyncio
import gc
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from services.suite.suite import Options, Suite
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from tests.load.name_server import exists, fast_name_server, tool
from tests.load.processes import cpu, cpu_of_family, peak_rss_mb, server

NAMES = 500_000
FAULTY_NAMES = 200_000
# The names of fast_name_server that have six digits.
FIRST = 100_000
# As in dns_engine: knot's socket buffer holds no more of a larger window.
WINDOW = 1_000


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of whom."""

    resolver: str
    names: int
    window: int


@dataclass(frozen=True, slots=True)
class Phase:
    """One DNS phase. CPU in seconds."""

    seconds: float
    worker_cpu: float
    postgres_cpu: float
    worker_rss_mb: float
    outcomes: dict[str, int]


def run() -> list[dict[str, Any]]:
    results = []
    with fast_name_server(FIRST + NAMES) as resolver:
        task = Task(resolver, NAMES, WINDOW)
        alone, asked = _engine_alone(task), _dnsperf(resolver)
        for workers in (1, 2):
            phase = asyncio.run(_campaign(task, workers))
            found = sum(map(exists, range(FIRST, FIRST + NAMES)))
            result = _result(f"dns_end_to_end, {_of(workers)}", task, phase, alone)
            result["target"] = "names/s >= 50,000"
            result["right"] = phase.outcomes == {"RESOLVED": found, "NXDOMAIN": NAMES - found}
            result["dnsperf_queries_per_second"] = asked
            results.append(result)
    with server("tests.load.mute_server") as said:
        # Three names in a thousand wait 6 s: at 4,000 in flight they take half of the window.
        task = Task(said.strip(), NAMES, 4_000)
        alone, phase = _engine_alone(task), asyncio.run(_campaign(task, 1))
        result = _result("dns_end_to_end, 3 in 1,000 mute", task, phase, alone)
        # Names that wait must not keep others from being asked about.
        results.append({**result, "target": "ratio >= 0.8"})
    with server("services.sandbox", "--die-with-parent") as said:
        task = Task(json.loads(said)["dns"][0], FAULTY_NAMES, 4_000)
        alone, phase = _engine_alone(task), asyncio.run(_campaign(task, 1))
        results.append(_result("dns_end_to_end, sandbox with faults", task, phase, alone))
    return results


def _of(workers: int) -> str:
    return f"{workers} worker" if workers == 1 else f"{workers} workers"


def _result(name: str, task: Task, phase: Phase, alone: float) -> dict[str, Any]:
    names = task.names
    value = names / phase.seconds
    return {
        "name": name,
        "value": value,
        "unit": "names/s",
        "yardstick": {"name": "engine alone", "value": alone, "unit": "names/s"},
        "ratio": value / alone,
        "names": names,
        "seconds": phase.seconds,
        "worker_cpu_seconds_per_1m": phase.worker_cpu / names * 1e6,
        "postgres_cpu_seconds_per_1m": phase.postgres_cpu / names * 1e6,
        "worker_rss_mb": phase.worker_rss_mb,
        "outcomes": phase.outcomes,
    }


async def _campaign(task: Task, workers: int) -> Phase:
    """Start the suite, generate the names, then check them."""
    folder = Path(tempfile.mkdtemp(prefix="domainflow-load-"))
    try:
        async with (
            Suite(folder, Options(workers=workers, http_workers=0, analysis_workers=0)) as suite,
            grpc.aio.insecure_channel(suite.address.removeprefix("http://")) as channel,
        ):
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            created = await stub.CreateCampaign(_request(task))
            campaign_id = created.campaign.campaign_id
            await _phase_completed(stub, campaign_id, 0)
            worker_pids = [
                process.pid
                for name, process in suite.processes.items()
                if name.startswith("worker-") and process.pid
            ]
            postgres_pid = suite.processes["postgres"].pid
            assert postgres_pid
            before = sum(map(cpu, worker_pids)), cpu_of_family(postgres_pid)
            done = await _phase_completed(stub, campaign_id, 1)
            after = sum(map(cpu, worker_pids)), cpu_of_family(postgres_pid)
            rss = max(map(peak_rss_mb, worker_pids))
            outcomes = await _outcomes(stub, campaign_id, task.names)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    elapsed = done.end_time.ToNanoseconds() - done.start_time.ToNanoseconds()
    return Phase(elapsed / 1e9, after[0] - before[0], after[1] - before[1], rss, outcomes)


async def _phase_completed(
    stub: "campaign_service_pb2_grpc.CampaignServiceAsyncStub", campaign_id: str, number: int
) -> campaign_pb2.PhaseState:
    """Start a phase and wait for its end."""
    await stub.StartCampaign(campaign_service_pb2.StartCampaignRequest(campaign_id=campaign_id))
    while True:
        request = campaign_service_pb2.GetCampaignRequest(campaign_id=campaign_id)
        phase = (await stub.GetCampaign(request)).campaign.phases[number]
        if phase.status == campaign_pb2.PHASE_STATUS_COMPLETED:
            return phase
        assert phase.status == campaign_pb2.PHASE_STATUS_RUNNING, phase
        await asyncio.sleep(0.1)


async def _outcomes(
    stub: "campaign_service_pb2_grpc.CampaignServiceAsyncStub", campaign_id: str, names: int
) -> dict[str, int]:
    """Counts by verdict; speed is worth nothing unless every name is accounted for."""
    request = campaign_service_pb2.GetReceiptRequest(campaign_id=campaign_id)
    receipt = (await stub.GetReceipt(request)).receipt
    assert receipt.balanced
    outcomes = {outcome.outcome: outcome.count for outcome in receipt.phases[1].outcomes}
    assert sum(outcomes.values()) == names
    return outcomes


def _request(task: Task) -> campaign_service_pb2.CreateCampaignRequest:
    pattern = campaign_pb2.PatternSource(
        type=campaign_pb2.PATTERN_TYPE_SUFFIX,
        suffix_length=len(str(FIRST)),
        character_set="0123456789",
        constant="name",
        tlds=[".com"],
        first_offset=FIRST,
        name_count=task.names,
        # All tasks are of the names that the engine alone is given.
        overlap_allowed=True,
    )
    return campaign_service_pb2.CreateCampaignRequest(
        name=f"load of {task.names:,} names",
        mode=campaign_pb2.CAMPAIGN_MODE_STEP_BY_STEP,
        configuration=campaign_pb2.CampaignConfiguration(
            generation=campaign_pb2.GenerationConfiguration(pattern=pattern),
            dns=campaign_pb2.DnsConfiguration(resolvers=[task.resolver], window=task.window),
        ),
    )


def _names(count: int) -> list[str]:
    """What the campaign's pattern stands for."""
    return [f"name{number}.com" for number in range(FIRST, FIRST + count)]


# What is compared with


def _engine_alone(task: Task) -> float:
    """Names a second of the engine with a worker's settings and nothing around it."""

    async def resolve() -> float:
        settings = EngineSettings(window=task.window)
        async with Engine([Resolver.parse(task.resolver)], settings) as engine:
            begun = time.perf_counter()
            outcomes = await engine.resolve(names)
            elapsed = time.perf_counter() - begun
        assert len(outcomes) == task.names
        return task.names / elapsed

    names = _names(task.names)
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    return uvloop.run(resolve())


def _dnsperf(resolver: str) -> float | None:
    """Queries a second of dnsperf, which stores nothing; None without it."""
    program = tool("dnsperf", "dnsperf")
    if program is None:
        return None
    host, _, port = resolver.rpartition(":")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as questions:
        questions.writelines(f"{name} A\n" for name in _names(NAMES))
        questions.flush()
        done = subprocess.run(
            [program, "-s", host, "-p", port, "-d", questions.name, "-n", "1", "-q", str(WINDOW)],
            check=True,
            capture_output=True,
            text=True,
        )
    for line in done.stdout.splitlines():
        label, _, figure = line.partition(":")
        if label.strip() == "Queries per second":
            return float(figure)
    raise ValueError(f"dnsperf said nothing of queries per second: {done.stdout}")
