"""The engine with a resolver a tenth of a second away that loses one question in a hundred.

`python -m tests.load.dns_latency_mode` prints the results; `run()` returns them.
"""

import asyncio
import gc
import json
import resource
import subprocess
import sys
import time
from typing import Any

import uvloop

from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Outcome, Verdict
from tests.load.distant_server import DELAY, LOSS, address_of
from tests.load.processes import server

NAMES = 1_000_000
WINDOW = 10_000
BATCH = 2_000
# A lost question holds its call for a second, so there must be many for the window to stay full.
CALLS = 48


def run() -> list[dict[str, Any]]:
    with server("tests.load.distant_server") as said:
        # A process of its own, so that its CPU time is the engine's alone.
        command = [sys.executable, "-m", "tests.load.dns_latency_mode", said.strip()]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return [json.loads(done.stdout)]


async def _measure(address: str) -> dict[str, Any]:
    # As worker processes do: what lives forever is not for the collector to walk.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    wrong = 0
    settings = EngineSettings(window=WINDOW)
    async with Engine([Resolver.parse(address)], settings) as engine:
        starts = iter(range(0, NAMES, BATCH))

        async def ask() -> None:
            nonlocal wrong
            for start in starts:
                names = [f"name{number}.com" for number in range(start, start + BATCH)]
                outcomes = await engine.resolve(names)
                wrong += sum(not _is_right(outcome) for outcome in outcomes)

        before, began = _cpu(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS):
                group.create_task(ask())
        elapsed, cpu = time.monotonic() - began, _cpu() - before
        (resolver,) = engine.stats().resolvers
    return {
        "name": "dns_latency_mode",
        "value": round(NAMES / elapsed),
        "unit": "names/s",
        "target": "names/s >= 40,000",
        "names": NAMES,
        "right": NAMES - wrong,
        "delay_s": DELAY,
        "loss": LOSS,
        "window": WINDOW,
        "resolver_window": resolver.window,
        "timeouts": resolver.timeouts,
        "cpu_s_per_million": round(cpu * 1_000_000 / NAMES, 2),
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _is_right(outcome: Outcome) -> bool:
    label, _, parent = outcome.name.encode().partition(b".")
    wire = bytes((len(label),)) + label + bytes((len(parent),)) + parent + b"\0"
    address = address_of(wire)
    if address is None:
        return outcome.verdict is Verdict.NXDOMAIN
    return outcome.verdict is Verdict.RESOLVED and outcome.addresses == (address,)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        sys.stdout.write(json.dumps(uvloop.run(_measure(sys.argv[1]))))
    else:
        sys.stdout.write(json.dumps(run(), indent=2) + "\n")
