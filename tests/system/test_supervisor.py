"""The process that runs the whole suite is killed in the middle; a new one takes up its folder."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from services.suite.envoy import REPOSITORY
from services.suite.suite import Suite
from tests.suite.living import gone
from tests.system.campaigns import UNHURRIED, Trial, check_every_verdict
from tests.system.conftest import DNS_ALONE, WORKERS, reached

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SUPERVISOR = f"""
import asyncio, sys
from pathlib import Path
from services.suite.suite import Options, Suite

async def supervise():
    options = Options(workers={WORKERS}, http_workers=0, analysis_workers=0)
    async with Suite(Path(sys.argv[1]), options) as suite:
        print(suite.address, flush=True)
        await asyncio.Event().wait()

asyncio.run(supervise())
"""


class Elsewhere(Suite):
    """A suite that another process runs: the same addresses, read from its state file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, DNS_ALONE)
        state = json.loads((folder / "suite.json").read_text())
        self.address = state["address"]
        self.database_url = state["database_url"]
        self.parts = {name: part["pid"] for name, part in state["parts"].items() if part["pid"]}


async def test_campaign_survives_the_death_of_supervisor_and_all(
    folder: Path, resolver: str
) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SUPERVISOR, str(folder)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/gen/python"},
    )
    try:
        assert supervisor.stdout
        assert await supervisor.stdout.readline()
        first = Elsewhere(folder)
        assert len(first.parts) == 7 + WORKERS
        async with reached(first, folder, resolver) as world:
            trial = await Trial.begin(world, 40_000, rate=UNHURRIED)
            await trial.until(lambda t: t.share() >= 0.1)
            settled = await trial.is_in_the_middle()
            await trial.stop_watching()
    finally:
        supervisor.kill()
        await supervisor.wait()
    for pid in first.parts.values():
        await gone(pid)
    assert _still_running_on(folder) == []

    async with (
        Suite(folder, DNS_ALONE) as second,
        reached(second, folder, resolver) as world,
    ):
        assert second.address == first.address
        # Nobody tells it to: the campaign goes on by itself.
        trial.world = world
        await trial.until(lambda t: t.share() * t.name_count > settled)
        await trial.hurry()
        await trial.finished()
        await check_every_verdict(trial)


def _still_running_on(folder: Path) -> list[str]:
    """Command lines of processes that work in the folder or name it, whoever their parent is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
            place = os.readlink(process / "cwd")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if str(folder) in command or place.startswith(str(folder)):
            found.append(command)
    return found
