"""Lines a second of a long uploaded list, against psql copying its names; and what memory it takes.

The whole product takes part but for the door: the command line's client, the campaign service as a
process, PostgreSQL.
"""

import asyncio
import base64
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub
from services.cli.connection import connected
from services.cli.retry import Patience
from services.cli.upload import Outcome, upload
from services.schema import migrate
from services.suite.nats import EmbeddedNats
from services.suite.postgres import EmbeddedPostgres, binaries
from tests.load.busy_suite import scaled
from tests.load.processes import peak_rss_mb, rss_mb

ROOT = Path(__file__).parents[2]
LINES = scaled(5_000_000, least=200_000)
# Lines after which the service has everything in memory that it ever needs.
WARM = 100_000
GROUP = 50_000


def run() -> list[dict[str, Any]]:
    return asyncio.run(_measure())


async def _measure() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="domainflow-load-") as folder:
        async with (
            EmbeddedPostgres(Path(folder) / "postgres") as server,
            EmbeddedNats(Path(folder) / "nats") as queue,
        ):
            await migrate(server.url)
            copied = await _copy(server.url, Path(folder) / "rows.txt")
            with _campaign_service(server.url, queue.url) as (pid, address):
                warm: list[float] = []

                def on_progress(now: Outcome) -> None:
                    if not warm and now.upload.next_offset >= WARM:
                        warm.append(rss_mb(pid))

                begun = time.perf_counter()
                outcome = await _upload(address, on_progress)
                elapsed = time.perf_counter() - begun
                after, peak = rss_mb(pid), peak_rss_mb(pid)
    repeated, bad = LINES // 100, LINES // 1000
    done = outcome.upload
    assert (done.next_offset, done.rejected_count, done.finished) == (LINES, bad, True)
    assert done.duplicate_count == repeated
    value, yardstick = LINES / elapsed, LINES / copied
    return [
        {
            "name": "upload_list",
            "value": value,
            "unit": "lines/s",
            "yardstick": {
                "name": "psql \\copy of the names",
                "value": yardstick,
                "unit": "lines/s",
            },
            "ratio": value / yardstick,
            "lines": LINES,
        },
        {
            "name": "upload_list, memory",
            "value": after,
            "unit": "MB",
            "yardstick": {"name": f"after {WARM} lines", "value": warm[0], "unit": "MB"},
            "ratio": after / warm[0],
            "target": "ratio <= 1.1",
            "peak": peak,
            "lines": LINES,
        },
    ]


async def _upload(address: str, on_progress: Any) -> Outcome:
    """The list, in a campaign that was made and started for it."""

    async def groups() -> AsyncIterator[list[str]]:
        for first in range(0, LINES, GROUP):
            yield [_line(number) for number in range(first, min(first + GROUP, LINES))]

    async with connected(address) as channel:
        stub = CampaignServiceStub(channel)
        configuration = pb.CampaignConfiguration(
            generation=pb.GenerationConfiguration(upload=pb.UploadSource())
        )
        created = await stub.CreateCampaign(
            rpc.CreateCampaignRequest(name="upload_list", configuration=configuration),
            wait_for_ready=True,
            timeout=60,
        )
        campaign_id = created.campaign.campaign_id
        await stub.StartCampaign(rpc.StartCampaignRequest(campaign_id=campaign_id))
        return await upload(
            stub, campaign_id, str(uuid.uuid4()), groups(), Patience(), on_progress=on_progress
        )


def _line(number: int) -> str:
    """One line in a hundred repeats another, one in a thousand is no name, some need folding."""
    if number % 1000 == 999:
        return f"no name {number}"
    if number % 100 == 50:
        number -= 50
    return f"Shop-{number:08}.example.com" if number % 10 == 0 else f"shop-{number:08}.example.com"


async def _copy(url: str, rows: Path) -> float:
    """Seconds of psql for as many names, its connecting included."""
    with rows.open("w") as file:
        file.writelines(f"1\t{number}\tshop-{number:08}.example.com\n" for number in range(LINES))
    command = [str(binaries() / "psql"), "--no-psqlrc", "--quiet", "--dbname", url]
    copy = f"\\copy domains (campaign_no, position, name) FROM '{rows}'"
    begun = time.perf_counter()
    await asyncio.to_thread(subprocess.run, [*command, "--command", copy], check=True)
    elapsed = time.perf_counter() - begun
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("TRUNCATE domains")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return elapsed


@contextmanager
def _campaign_service(database_url: str, nats_url: str) -> Iterator[tuple[int, str]]:
    """`python -m services.campaign`: its pid, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [sys.executable, "-m", "services.campaign"],
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
        yield process.pid, address
    finally:
        process.terminate()
        process.wait(timeout=30)
