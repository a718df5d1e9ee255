"""A worker sleeps through the end of its lease and far beyond, and wakes up with work in hand."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest

from services.campaign.leases import LEASE
from tests.eventually import eventually
from tests.system.campaigns import DNS, UNHURRIED, Trial, World, check_every_verdict

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

NAMES = 20_000
# How long it sleeps beyond its lease, s.
LONGER = 30.0


async def test_a_worker_that_wakes_up_too_late_changes_nothing(world: World) -> None:
    trial = await Trial.begin(world, NAMES, rate=UNHURRIED)
    await trial.until(lambda t: t.share() >= 0.1)
    await trial.is_in_the_middle()
    pid = world.suite.processes["worker-1"].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        slept = time.monotonic()
        held = await world.rows(
            """SELECT campaign_no, first_position, attempt, name_count FROM chunks
               WHERE state = 'queued' AND claim_time IS NOT NULL AND worker LIKE $1""",
            f"%-{pid}-%",
        )
        assert held
        await trial.finished()
        # Not a wait for something to happen: this long is what the test is about.
        await asyncio.sleep(LEASE + LONGER - (time.monotonic() - slept))
        ledger, results = await _stored(world, trial)
        said = len(_log(world.folder))
    finally:
        os.kill(pid, signal.SIGCONT)

    async def refused() -> None:
        told = [line["message"] for line in _log(world.folder)[said:]]
        assert any("not ours any more" in message for message in told), told
        # It lives and has nothing in hand.
        assert await world.rows("SELECT FROM workers WHERE pid = $1 AND chunks_in_flight = 0", pid)

    await eventually(refused, within=30)
    # What it may still have had on its lips: the very call that would store its results.
    for row in held:
        assert not await _settle(world, row)

    assert await _stored(world, trial) == (ledger, results)
    assert world.suite.processes["worker-1"].pid == pid
    done = {row["first_position"]: row for row in ledger}
    for row in held:
        chunk = done[row["first_position"]]
        assert chunk["attempt"] > row["attempt"]
        assert f"-{pid}-" not in chunk["worker"]
        assert (DNS, row["first_position"]) in trial.retried
    await check_every_verdict(trial)


def _log(folder: Path) -> list[dict[str, str]]:
    text = (folder / "logs" / "worker-1.log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


async def _settle(world: World, claim: asyncpg.Record) -> Sequence[asyncpg.Record]:
    return await world.rows(
        "SELECT elapsed FROM settle_chunk($1, $2::smallint, 1, $3, $4, ARRAY[$5::int], 'late')",
        claim["campaign_no"],
        DNS,
        claim["first_position"],
        claim["attempt"],
        claim["name_count"],
    )


async def _stored(world: World, trial: Trial) -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
    """Every column of the campaign's chunks and results."""
    ledger = await world.rows(
        """SELECT c.* FROM chunks c JOIN campaigns k ON k.no = c.campaign_no
           WHERE k.id::text = $1 AND c.phase = $2 ORDER BY c.first_position""",
        trial.campaign_id,
        DNS,
    )
    results = await world.rows(
        """SELECT r.*, r.ctid::text, r.xmin::text FROM dns_results r
           JOIN campaigns k ON k.no = r.campaign_no WHERE k.id::text = $1
           ORDER BY r.position, r.run""",
        trial.campaign_id,
    )
    return ledger, results
