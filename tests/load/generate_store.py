"""Names a second through generation into the tables, against psql copying the same rows."""

import asyncio
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

from domainflow.campaign.v1 import campaign_pb2
from services.campaign.campaign import Action, Mode, Phase
from services.campaign.configuration import asked_names
from services.campaign.generation import generate
from services.campaign.rows import RunningPhase
from services.campaign.store import NewCampaign, Store
from services.chassis.postgres import open_pool
from services.schema import migrate
from services.suite.postgres import EmbeddedPostgres, binaries

NAMES = 2_000_000
ROUNDS = 5


def run() -> list[dict[str, Any]]:
    return [asyncio.run(_measure())]


async def _measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="domainflow-load-") as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as server:
            await migrate(server.url)
            pool = await open_pool(server.url, application_name="load")
            async with pool:
                rows = Path(folder) / "rows.txt"
                rows.write_text(_copy_text(_configuration()))
                generated, copied = [], []
                for number in range(ROUNDS):
                    copied.append(NAMES / await _copy(server.url, rows))
                    generated.append(NAMES / await _generate(server.url, Store(pool), number))
    value, yardstick = median(generated), median(copied)
    return {
        "name": "generate_store",
        "value": value,
        "unit": "names/s",
        "yardstick": {
            "name": "psql \\copy of the same rows",
            "value": yardstick,
            "unit": "names/s",
        },
        "ratio": value / yardstick,
        "target": "ratio >= 0.8",
        "names": NAMES,
        "rounds": {"generated": generated, "copied": copied},
    }


async def _generate(url: str, store: Store, number: int) -> float:
    """Seconds from the start of the phase's work to its last announcement."""
    running = await _start_campaign(store, f"generate_store {number}")
    await _settle_down(url)
    begun = time.perf_counter()
    assert await generate(store, running)
    elapsed = time.perf_counter() - begun
    await _empty(url)
    return elapsed


async def _copy(url: str, rows: Path) -> float:
    """Seconds of psql, its connecting included."""
    await _settle_down(url)
    columns = "domains (campaign_no, position, name)"
    command = [str(binaries() / "psql"), "--no-psqlrc", "--quiet", "--dbname", url]
    begun = time.perf_counter()
    await asyncio.to_thread(
        subprocess.run, [*command, "--command", f"\\copy {columns} FROM '{rows}'"], check=True
    )
    elapsed = time.perf_counter() - begun
    await _empty(url)
    return elapsed


async def _settle_down(url: str) -> None:
    """Give each run the same start: no checkpoint owed by the one before."""
    await _execute(url, "CHECKPOINT")


async def _empty(url: str) -> None:
    """Count the rows, so that no run is fast because it left some out, and drop them."""
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM domains") == NAMES
        await connection.execute("TRUNCATE domains")
    finally:
        await connection.close()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _start_campaign(store: Store, name: str) -> RunningPhase:
    campaign_id = uuid.uuid4()
    new = NewCampaign(
        id=campaign_id,
        name=name,
        mode=Mode.STEP_BY_STEP,
        phases={Phase.DOMAIN_GENERATION: True},
        configuration=_configuration(),
    )
    await store.create(new, None, lambda _: b"")
    await store.transition(
        campaign_id, Action.START, phase=None, reason="", key=None, answer=lambda _: b""
    )
    return await store.names.running_phase(campaign_id, Phase.DOMAIN_GENERATION)


def _configuration() -> bytes:
    pattern = campaign_pb2.PatternSource(
        type=campaign_pb2.PATTERN_TYPE_PREFIX,
        prefix_length=5,
        character_set="abcdefghijklmnopqrstuvwxyz",
        constant="shop",
        tlds=[".com", ".net"],
        name_count=NAMES,
        # Each round makes the names that psql copies.
        overlap_allowed=True,
    )
    return campaign_pb2.CampaignConfiguration(
        generation=campaign_pb2.GenerationConfiguration(pattern=pattern)
    ).SerializeToString()


def _copy_text(configuration: bytes) -> str:
    """What psql copies: the same names at the same positions of a campaign without other rows."""
    asked = asked_names(configuration)
    assert asked is not None
    names = (name for part in asked.pattern.names(0, NAMES) for name in part)
    return "".join(f"1\t{position}\t{name}\n" for position, name in enumerate(names))
