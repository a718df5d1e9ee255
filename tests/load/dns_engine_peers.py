"""The engine beside dnspython and aiodns: the same names, the same server, a process for each.

`python -m tests.load.dns_engine_peers` prints the results; `run()` returns them.
"""

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiodns
import dns.asyncresolver
import dns.resolver
import uvloop

from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.verdict import Verdict
from tests.load.name_server import NoNameServer, address_of, exists, fast_name_server
from tests.load.processes import peak_rss_mb

# The others are slow.
NAMES = {"engine": 500_000, "aiodns": 50_000, "dnspython": 20_000}
# Names under way at once with the others.
CONCURRENT = 100
BATCH = 2_000
CALLS = 8

# The addresses of a name; none when it does not exist.
Ask = Callable[[str], Awaitable[tuple[str, ...]]]


def run() -> list[dict[str, Any]]:
    """Measure all. Raises NoNameServer where there is no knot and no way to install it."""
    measured = {}
    with fast_name_server(max(NAMES.values())) as address:
        for library in NAMES:
            command = [sys.executable, "-m", "tests.load.dns_engine_peers", library, address]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            measured[library] = json.loads(done.stdout)
    ours = measured["engine"]
    results = []
    for library in ("aiodns", "dnspython"):
        peer = measured[library]
        results.append(
            {
                "name": f"dns_engine beside {library}",
                **ours,
                "yardstick": {"name": library, **peer},
                "ratio": round(ours["value"] / peer["value"], 1),
            }
        )
    return results


async def _measure(library: str, address: str) -> dict[str, Any]:
    total = NAMES[library]
    # As worker processes do; the others get it, too.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    before, began = _cpu(), time.monotonic()
    if library == "engine":
        wrong = await _engine(address, total)
    else:
        wrong = await _peer({"aiodns": _aiodns, "dnspython": _dnspython}[library](address), total)
    elapsed, cpu = time.monotonic() - began, _cpu() - before
    return {
        "value": round(total / elapsed),
        "unit": "names/s",
        "names": total,
        "right": total - wrong,
        "cpu_s_per_million": round(cpu * 1_000_000 / total, 1),
        "rss_mb": round(peak_rss_mb(os.getpid())),
    }


async def _engine(address: str, total: int) -> int:
    wrong = 0
    starts = iter(range(0, total, BATCH))
    async with Engine([Resolver.parse(address)]) as engine:

        async def ask() -> None:
            nonlocal wrong
            for start in starts:
                numbers = range(start, min(start + BATCH, total))
                outcomes = await engine.resolve([f"name{number}.com" for number in numbers])
                for number, outcome in zip(numbers, outcomes, strict=True):
                    if exists(number):
                        wrong += outcome.addresses != (address_of(number),)
                    else:
                        wrong += outcome.verdict is not Verdict.NXDOMAIN

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS):
                group.create_task(ask())
    return wrong


async def _peer(ask: Ask, total: int) -> int:
    wrong = 0
    numbers = iter(range(total))

    async def work() -> None:
        nonlocal wrong
        for number in numbers:
            right = (address_of(number),) if exists(number) else ()
            wrong += await ask(f"name{number}.com") != right

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENT):
            group.create_task(work())
    return wrong


def _dnspython(address: str) -> Ask:
    host, _, port = address.partition(":")
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [host], int(port)

    async def ask(name: str) -> tuple[str, ...]:
        try:
            answer = await resolver.resolve(name, "A", search=False)
        except dns.resolver.NXDOMAIN:
            return ()
        return tuple(record.address for record in answer)

    return ask


def _aiodns(address: str) -> Ask:
    host, _, port = address.partition(":")
    resolver = aiodns.DNSResolver(nameservers=[host], udp_port=int(port), tcp_port=int(port))

    async def ask(name: str) -> tuple[str, ...]:
        try:
            result = await resolver.query_dns(name, "A")
        except aiodns.error.DNSError as error:
            if error.args[0] == aiodns.error.ARES_ENOTFOUND:
                return ()
            return ("failed",)
        return tuple(record.data.addr for record in result.answer)

    return ask


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(uvloop.run(_measure(*sys.argv[1:]))))
    else:
        try:
            sys.stdout.write(json.dumps(run(), indent=2) + "\n")
        except NoNameServer as error:
            sys.exit(str(error))
