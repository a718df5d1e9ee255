"""The bare DNS engine against a fast local name server, beside dnsperf on the same names.

`python -m tests.load.dns_engine` prints the results; `run()` returns them.
"""

import asyncio
import gc
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from services.validation.dns.congestion import START
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Outcome, Verdict
from tests.load.name_server import NoNameServer, address_of, exists, fast_name_server, tool
from tests.load.processes import peak_rss_mb

NAMES = 1_000_000
# To see that memory does not grow with the names; the same again and again, for the server's sake.
MANY = 10_000_000
BATCH = 2_000
# Batches under way at once, as in a worker.
CALLS = 8
# Questions dnsperf keeps out at once: what a default socket buffer holds, as the engine does.
OUTSTANDING = START


def run() -> list[dict[str, Any]]:
    """Measure both. Raises NoNameServer where there is no knot and no way to install it."""
    with fast_name_server(NAMES) as address:
        yardstick = _dnsperf(address)
        result, many = (_measure_apart(address, total) for total in (NAMES, MANY))
    result["yardstick"] = yardstick
    result["ratio"] = round(result["value"] / yardstick["value"], 3) if yardstick else None
    result["target"] = "ratio >= 0.65"
    return [result, _cpu_measurement(result, yardstick), _memory_measurement(result, many)]


def _measure_apart(address: str, total: int) -> dict[str, Any]:
    """Measure in a process of its own, so that its CPU time and memory are the engine's alone."""
    command = [sys.executable, "-m", "tests.load.dns_engine", address, str(total)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _memory_measurement(few: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    """Resident memory after ten times the names, beside that after a million."""
    return {
        "name": f"dns_engine, memory at {MANY:,} names",
        "value": many["rss_mb"],
        "unit": "MB",
        "yardstick": {"name": f"at {NAMES:,} names", "value": few["rss_mb"], "unit": "MB"},
        "ratio": round(many["rss_mb"] / few["rss_mb"], 3),
        "target": "ratio <= 1.1",
        "names": MANY,
        "right": many["right"],
        "names_per_second": many["value"],
    }


def _cpu_measurement(result: dict[str, Any], yardstick: dict[str, Any] | None) -> dict[str, Any]:
    """What a million names cost the client, whatever the server did meanwhile."""
    unit, value = "CPU s per 1M", result["cpu_s_per_million"]
    cost = yardstick and {"name": "dnsperf", "value": yardstick["cpu_s_per_million"], "unit": unit}
    return {
        "name": "dns_engine, client CPU",
        "value": value,
        "unit": unit,
        "yardstick": cost,
        "ratio": round(value / cost["value"], 3) if cost else None,
        "target": "CPU s per 1M <= 9",
    }


def _dnsperf(address: str) -> dict[str, Any] | None:
    """Names a second of dnsperf with as many questions out; None where it cannot be had."""
    program = tool("dnsperf", "dnsperf")
    if program is None:
        return None
    host, _, port = address.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "names"
        data.write_text("".join(f"name{number}.com A\n" for number in range(NAMES)))
        command = [program, "-s", host, "-p", port, "-d", str(data), "-n", "1", "-e"]
        started = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, "-c", "4", "-T", "1", "-q", str(OUTSTANDING), "-t", "1"],
            capture_output=True,
            text=True,
            check=True,
        )
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    completed = int(_number(r"Queries completed:\s+(\d+)", done.stdout))
    return {
        "name": "dnsperf",
        "value": round(_number(r"Queries per second:\s+([\d.]+)", done.stdout)),
        "unit": "names/s",
        # Queries dnsperf never saw answered; it does not ask again.
        "lost": NAMES - completed,
        "cpu_s_per_million": round(_cpu(ended) - _cpu(started), 2),
    }


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"dnsperf said nothing of {pattern}: {text[-500:]}")
    return float(found[1])


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


async def _measure(address: str, total: int) -> dict[str, Any]:
    # As worker processes do: what lives forever is not for the collector to walk.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    wrong = 0
    async with Engine([Resolver.parse(address)], EngineSettings()) as engine:
        starts = iter(range(0, total, BATCH))

        async def ask() -> None:
            nonlocal wrong
            for start in starts:
                first = start % NAMES
                names = [f"name{number}.com" for number in range(first, first + BATCH)]
                outcomes = await engine.resolve(names)
                # Names and comparison are inside the measured CPU time: some 0.4 s a million.
                wrong += sum(not _is_right(it, first + at) for at, it in enumerate(outcomes))

        before, began = _cpu(resource.getrusage(resource.RUSAGE_SELF)), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS):
                group.create_task(ask())
        elapsed = time.monotonic() - began
        cpu = _cpu(resource.getrusage(resource.RUSAGE_SELF)) - before
        stats = engine.stats()
    return {
        "name": "dns_engine",
        "value": round(total / elapsed),
        "unit": "names/s",
        "names": total,
        "right": total - wrong,
        "cpu_s_per_million": round(cpu * 1_000_000 / total, 2),
        "timeouts": stats.timeouts,
        "rss_mb": round(peak_rss_mb(os.getpid())),
    }


def _is_right(outcome: Outcome, number: int) -> bool:
    if exists(number):
        return outcome.addresses == (address_of(number),)
    return outcome.verdict is Verdict.NXDOMAIN


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(uvloop.run(_measure(sys.argv[1], int(sys.argv[2])))))
    else:
        try:
            sys.stdout.write(json.dumps(run(), indent=2) + "\n")
        except NoNameServer as error:
            sys.exit(str(error))
