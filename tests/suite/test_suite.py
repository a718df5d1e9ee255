"""The whole product under one supervisor: up, hurt in every part, killed, up again."""

import asyncio
import json
import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc
from domainflow.query.v1.consistency_pb2 import READ_SOURCE_REPLICA, Consistency
from services.suite.lock import FolderInUse
from services.suite.process import StartFailed, State
from services.suite.suite import Options, Suite, WorkerRange
from tests.eventually import eventually
from tests.suite.living import gone

pytestmark = [pytest.mark.postgres, pytest.mark.nats]

KEY = "a2V5IGtleSBrZXkga2V5IGtleSBrZXkga2V5IGtleSE="
PARTS = {
    *("postgres", "nats", "campaign", "validation", "query", "query-maintainer", "worker-1"),
    *("http-worker-1", "analysis-worker-1", "envoy"),
}
_SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from services.suite.suite import Suite

async def supervise():
    async with Suite(Path(sys.argv[1])) as suite:
        print(suite.address, flush=True)
        await asyncio.Event().wait()

asyncio.run(supervise())
"""


def _state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "suite.json").read_text())


async def _campaigns(address: str) -> int:
    """HTTP status of a read that needs the door, a service and the database."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}/v1/campaigns") as answer,
    ):
        return answer.status


async def _get(address: str, path: str) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}{path}") as answer,
    ):
        return await answer.json()


async def test_ranges_of_workers_are_parts_that_keep_them_themselves(data_folder: Path) -> None:
    ranges = {"dns": WorkerRange(1, 2), "http": WorkerRange(1, 3), "analysis": WorkerRange(1, 4)}
    options = Options(
        workers=ranges["dns"], http_workers=ranges["http"], analysis_workers=ranges["analysis"]
    )
    async with Suite(data_folder, options) as suite:
        parts = _state(data_folder)["parts"]
        alone = {name for name in PARTS if "worker" in name}
        assert {name for name, part in parts.items() if part["pid"]} == (
            PARTS - alone | {"dns-pool", "http-pool", "analysis-pool"}
        )

        async def pools_and_workers() -> tuple[Any, Any]:
            pools = (await _get(suite.address, "/v1/pools"))["workerPools"]
            workers = (await _get(suite.address, "/v1/workers"))["workers"]
            assert len(pools) == len(workers) == 3
            return pools, workers

        pools, workers = await eventually(pools_and_workers, within=30)

    for pool in pools:
        most = ranges[pool["pool"]].most
        assert (pool["minProcessCount"], pool["maxProcessCount"]) == (1, most)
        assert pool["reason"].startswith("0 -> 1 process")
    assert {worker["pool"] for worker in workers} == {pool["pool"] for pool in pools} == {*ranges}
    for worker in workers:
        assert int(worker["load"]["memoryBytes"]) > 1 << 20
        await gone(worker["pid"])


async def test_what_is_not_given_is_made_once_and_told_to_those_who_need_it(
    data_folder: Path,
) -> None:
    given = {**os.environ, "DOMAINFLOW_SECRET_KEYS": KEY, "HTTP_ALLOWED_NETWORKS": "127.0.0.1/32"}
    async with Suite(data_folder, Options(environment=given)) as suite:
        names = ("validation", "http-worker-1", "analysis-worker-1", "query", "worker-1")
        serving, http, analysis, querying, dns = (_environment(suite, name) for name in names)
    salt = data_folder / "suppression-salt"

    for each in (serving, http, analysis):
        assert each["DOMAINFLOW_SUPPRESSION_SALT"] == salt.read_text().strip() != ""
    for each in (serving, http):
        assert each["DOMAINFLOW_SECRET_KEYS"] == KEY
        assert each["HTTP_ALLOWED_NETWORKS"] == "127.0.0.1/32"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    assert not (data_folder / "secret-keys").exists()
    for other in (querying, dns):
        assert "DOMAINFLOW_SUPPRESSION_SALT" not in other


def _environment(suite: Suite, part: str) -> dict[str, str]:
    text = Path(f"/proc/{suite.processes[part].pid}/environ").read_text()
    return dict(line.split("=", 1) for line in text.split("\0") if line)


async def test_replica_is_read_from_by_those_who_want_it_fast(data_folder: Path) -> None:
    pattern = {
        "type": "PATTERN_TYPE_SUFFIX",
        "suffixLength": 1,
        "characterSet": "ab",
        "constant": "shop",
        "tlds": [".com"],
        "overlapAllowed": True,
    }
    configuration = {"generation": {"pattern": pattern}}
    body = {"name": "shops", "mode": "CAMPAIGN_MODE_FULL_SEQUENCE", "configuration": configuration}
    async with (
        Suite(data_folder, Options(replica=True)) as suite,
        aiohttp.ClientSession(f"http://{suite.address}") as http,
        grpc.aio.insecure_channel(suite.address) as channel,
    ):
        async with http.post("/v1/campaigns", json=body) as answer:
            campaign_id = (await answer.json())["campaign"]["campaignId"]
        stub = query_service_pb2_grpc.QueryServiceStub(channel)
        request = query_service_pb2.GetDomainSummaryRequest(
            campaign_id=campaign_id, consistency=Consistency(minimize_latency=True)
        )

        async def from_the_replica() -> None:
            summary = await stub.GetDomainSummary(request)
            assert summary.freshness.source == READ_SOURCE_REPLICA

        # The primary answers as long as the replica does not know the campaign.
        await eventually(from_the_replica)
        assert {name for name, part in _state(data_folder)["parts"].items() if part["pid"]} == (
            PARTS | {"replica"}
        )


async def test_server_of_somebody_else_gets_no_replica(data_folder: Path) -> None:
    options = Options(database_url="postgresql://elsewhere/domainflow", replica=True)
    with pytest.raises(StartFailed, match="embedded"):
        await Suite(data_folder, options).start()


async def test_killed_supervisor_takes_all_along_and_can_start_again(data_folder: Path) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SUPERVISOR, str(data_folder)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), "gen/python"])},
    )
    assert supervisor.stdout
    address = (await supervisor.stdout.readline()).decode().strip()
    pids = {part["pid"] for part in _state(data_folder)["parts"].values()} - {None}
    assert len(pids) == len(PARTS)

    supervisor.kill()
    await supervisor.wait()
    for pid in pids:
        await gone(pid)

    async with Suite(data_folder) as suite:
        assert suite.address == address
        assert await _campaigns(suite.address) == 200


async def test_stopped_suite_says_so(data_folder: Path) -> None:
    async with Suite(data_folder) as suite:
        pids = [process.pid for process in suite.processes.values()]

    assert {part["state"] for part in _state(data_folder)["parts"].values()} == {State.STOPPED}
    for pid in pids:
        assert pid
        await gone(pid)


async def test_failed_start_names_the_part_and_leaves_nothing(data_folder: Path) -> None:
    environment = {**os.environ, "QUERY_CONNECTIONS": "many"}
    suite = Suite(data_folder, Options(environment=environment))

    with pytest.raises(
        StartFailed, match=r"query ended with exit status 2(.|\n)*QUERY_CONNECTIONS"
    ):
        await suite.start()

    assert [process.pid for process in suite.processes.values() if process.pid] == []
    async with Suite(data_folder) as suite:
        assert await _campaigns(suite.address) == 200


async def test_own_database_is_used_instead(database_url: str, data_folder: Path) -> None:
    async with Suite(data_folder, Options(database_url=database_url)) as suite:
        assert await _campaigns(suite.address) == 200
        assert "postgres" not in suite.processes


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The data folder of `suite`."""
    with tempfile.TemporaryDirectory(prefix="domainflow-test-") as folder:
        yield Path(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(folder: Path) -> AsyncIterator[Suite]:
    """One for those tests at the end of this file that leave it as they found it."""
    async with Suite(folder) as suite:
        yield suite


@pytest.mark.asyncio(loop_scope="module")
async def test_started_suite_answers_and_tells_its_state(suite: Suite, folder: Path) -> None:
    state = _state(folder)

    assert await _campaigns(suite.address) == 200
    assert state["address"] == suite.address
    assert {name for name, part in state["parts"].items() if part["pid"]} == PARTS
    assert {part["state"] for part in state["parts"].values()} == {"ready"}
    assert stat.S_IMODE((folder / "suite.json").stat().st_mode) == 0o600


@pytest.mark.asyncio(loop_scope="module")
async def test_second_suite_on_the_folder_is_refused(suite: Suite, folder: Path) -> None:
    with pytest.raises(FolderInUse, match=str(os.getpid())):
        await Suite(folder).start()

    assert await _campaigns(suite.address) == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_every_killed_part_comes_back(suite: Suite, folder: Path) -> None:
    for process in suite.processes.values():
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)

    async with asyncio.timeout(30):
        for process in suite.processes.values():
            await process.restarted(after=0)

    assert await _campaigns(suite.address) == 200
    assert {part["state"] for part in _state(folder)["parts"].values()} == {"ready"}
