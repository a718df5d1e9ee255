"""`python -m tests.load.bare_fetch`: the least that fetching pages takes, a yardstick only.

One process, aiohttp alone: robots.txt and the page of every name, at most so many names at once,
read to the end and forgotten. It is told the addresses, so it resolves nothing; it decides, parses
and stores nothing. Takes a JSON line of `Task`, prints one of `Fetched`.
"""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import aiohttp
import uvloop
from aiohttp.abc import AbstractResolver, ResolveResult

from services.sandbox.truth import World
from tests.load.__main__ import ROOT, _import_path
from tests.load.page_server import DOMAIN, MIX


@dataclass(frozen=True, slots=True)
class Task:
    """Names `first` to `first + names`, so many at once."""

    first: int
    names: int
    window: int
    port: int
    # Trusted; empty: plain HTTP.
    ca_pem: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of it. CPU in seconds."""

    seconds: float
    cpu: float
    pages: int
    size: int


class _Known(AbstractResolver):
    def __init__(self) -> None:
        self._world = World(1, MIX)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._world.truth(host).addresses
        ]

    async def close(self) -> None:
        pass


def bare_fetch(task: Task) -> Fetched:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.bare_fetch"],
        cwd=ROOT,
        env={"PYTHONPATH": _import_path()},
        input=json.dumps(asdict(task)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Fetched(**json.loads(done.stdout))


def host_of(number: int) -> str:
    return f"name{number}.{DOMAIN}"


async def _fetch(task: Task) -> Fetched:
    pages = size = 0
    context = ssl.create_default_context(cadata=task.ca_pem) if task.ca_pem else None
    scheme = "https" if task.ca_pem else "http"
    numbers = iter(range(task.first, task.first + task.names))

    async def go_on(session: aiohttp.ClientSession, left: Iterator[int]) -> None:
        nonlocal pages, size
        for number in left:
            base = f"{scheme}://{host_of(number)}:{task.port}"
            for path in ("/robots.txt", "/"):
                async with session.get(base + path) as response:
                    content = await response.read()
            pages += response.status == 200
            size += len(content)

    # What stays open of names that are done with is closed after as long as our own fetcher's.
    connector = aiohttp.TCPConnector(
        limit=0, resolver=_Known(), ssl=context or False, use_dns_cache=False, keepalive_timeout=3
    )
    began, used = time.monotonic(), time.process_time()
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(go_on(session, numbers) for _ in range(task.window)))
    return Fetched(time.monotonic() - began, time.process_time() - used, pages, size)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(uvloop.run(_fetch(Task(**json.load(sys.stdin)))))) + "\n")
