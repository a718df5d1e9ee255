"""A campaign is backed up while it runs, everything is killed and deleted, and the restored suite
ends it with every verdict right."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest

from domainflow.query.v1 import query_service_pb2
from services.suite.postgres import EmbeddedPostgres
from services.suite.suite import Suite
from tests.cli.processes import process
from tests.suite.living import gone
from tests.system.campaigns import Trial, check_every_verdict
from tests.system.conftest import DNS_ALONE, WORKERS, reached

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
    pytest.mark.postgres,
    pytest.mark.nats,
]

NAMES = 40_000
# Names per second: the campaign must outlast the backup, on a busy machine too.
RATE = 500


@dataclass(frozen=True, slots=True)
class Started:
    """What a Trial asks of a suite, of one that `domainflow up` runs."""

    address: str
    database_url: str
    pids: tuple[int, ...]


async def _up(folder: Path) -> tuple["subprocess.Popen[str]", Started]:
    command = process("up", "--data", str(folder), "--workers", str(WORKERS))
    assert command.stdout
    address = await asyncio.to_thread(command.stdout.readline)
    state = json.loads((folder / "suite.json").read_text())
    assert address.strip() == f"http://{state['address']}", command.poll()
    pids = tuple(part["pid"] for part in state["parts"].values() if part["pid"])
    return command, Started(state["address"], state["database_url"], pids)


async def _domainflow(*arguments: str) -> str:
    """Run a command to its good end; what it said."""
    command = process(*arguments)
    _, said = await asyncio.to_thread(command.communicate)
    assert command.returncode == 0, said
    return said


async def test_a_running_campaign_survives_the_loss_of_everything_but_its_backup(
    folder: Path, resolver: str
) -> None:
    data, backup, again = folder / "data", folder / "backup", folder / "again"
    command, started = await _up(data)
    try:
        async with reached(cast(Suite, started), data, resolver) as world:
            trial = await Trial.begin(world, NAMES, rate=RATE)
            await trial.until(lambda seen: seen.share() > 0.05)
            before = await trial.settled_in_tables()
            assert "as of" in await _domainflow("backup", str(backup), "--data", str(data))
            after = await trial.is_in_the_middle()
            page = await world.query.ListDomains(_first_page(trial))
    finally:
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
    for pid in started.pids:
        await gone(pid)
    shutil.rmtree(data)

    assert "restored" in await _domainflow("restore", str(backup), "--data", str(again))

    # Before anything goes on: the backup is one moment, each settled name with its result.
    async with EmbeddedPostgres(again / "postgres") as server:
        settled, results = await _settled_and_results(server.url)
    assert before <= settled <= after
    assert settled == results

    async with (
        Suite(again, DNS_ALONE) as suite,
        reached(suite, again, resolver) as world,
    ):
        finished = Trial(world, trial.campaign_id, NAMES, trial.constant)
        await finished.hurry()
        await finished.finished()
        await check_every_verdict(finished)
        # A page token of before leads on.
        following = await world.query.ListDomains(_first_page(trial, page.next_page_token))
        assert following.domains[0].position == page.domains[-1].position + 1


def _first_page(trial: Trial, token: str = "") -> Any:
    return query_service_pb2.ListDomainsRequest(
        campaign_id=trial.campaign_id, page_size=10, page_token=token
    )


async def _settled_and_results(url: str) -> tuple[int, int]:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            """SELECT (SELECT sum(name_count) FROM chunks WHERE phase = 2 AND state = 'done'),
                (SELECT count(*) FROM dns_results)"""
        )
        assert row is not None
        return row[0], row[1]
    finally:
        await connection.close()
