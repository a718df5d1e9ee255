"""The whole suite and a DNS server of known truth, once a test module, reached through the door."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
import pytest_asyncio

from services.suite.suite import Options, Suite
from tests.system.campaigns import SEED, World

WORKERS = 2
# These tests ask for no pages.
DNS_ALONE = Options(workers=WORKERS, http_workers=0, analysis_workers=0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starting everything takes longer than the ordinary limit of a test allows for."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder() -> AsyncIterator[Path]:
    """The suite's data folder; pytest would keep three of them."""
    with tempfile.TemporaryDirectory(prefix="domainflow-test-") as path:
        yield Path(path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def resolver() -> AsyncIterator[str]:
    """A sandbox resolver: slow enough that a campaign has a middle, with its ordinary faults."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.sandbox", "--die-with-parent"),
        *("--seed", str(SEED), "--delay", "0.02"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout
        yield json.loads(await process.stdout.readline())["dns"][0]
    finally:
        process.terminate()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(folder: Path, resolver: str) -> AsyncIterator[World]:
    async with (
        Suite(folder, DNS_ALONE) as suite,
        reached(suite, folder, resolver) as world,
    ):
        yield world


@asynccontextmanager
async def reached(suite: Suite, folder: Path, resolver: str) -> AsyncIterator[World]:
    """A running suite as a client sees it."""
    options = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(suite.address, options=options)
        )
        http = await stack.enter_async_context(aiohttp.ClientSession(f"http://{suite.address}"))
        yield World(suite, folder, resolver, channel, http)
