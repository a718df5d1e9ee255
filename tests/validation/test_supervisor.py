"""A pool as a process: real workers, a real queue and names that wait."""

import contextlib
import os
import signal
import sys
from asyncio import create_subprocess_exec, subprocess
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from domainflow.campaign.v1.event_pb2 import PoolDecided, SystemEvent
from services.campaign.store import Store as CampaignStore
from services.chassis import jetstream
from services.chassis.postgres import Pool
from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Mix
from services.suite.process import guarded
from services.validation.dns_probe import DnsProbe
from services.validation.pool import Bounds, Size
from services.validation.pools import Pools
from services.validation.store import Store
from services.validation.worker import TASK_LIMIT, Worker
from tests.campaigns import validating
from tests.eventually import eventually
from tests.queues import publish
from tests.suite.living import gone
from tests.validation.conftest import asking
from tests.validation.test_worker import handed_out, working

# Rounds and reports follow each other fast; other programs of this machine decide nothing.
FAST = {
    "POOL_PERIOD": "0.3",
    "WORKER_REPORT_PERIOD": "0.3",
    "POOL_GROW_AFTER": "1",
    "POOL_IDLE_ROUNDS": "3",
    "POOL_CPU_LIMIT": "1000",
    "POOL_LOSS_LIMIT": "1",
}


@contextlib.asynccontextmanager
async def running_pool(
    database_url: str, nats_url: str, **environment: str
) -> AsyncIterator[subprocess.Process]:
    supervisor = await create_subprocess_exec(
        *guarded([sys.executable, "-m", "services.validation", "pool", "dns"]),
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([os.getcwd(), "gen/python"]),
            "DATABASE_URL": database_url,
            "NATS_URL": nats_url,
            **FAST,
            **environment,
        },
    )
    try:
        yield supervisor
    finally:
        if supervisor.returncode is None:
            supervisor.terminate()
        await supervisor.wait()


@pytest.fixture
async def slow_dns() -> AsyncIterator[DnsConfiguration]:
    """Some 200 names per second and worker."""
    faults = Faults(loss=0, servfail=0, late=0, bogus=0, delay=0.1)
    settings = SandboxDnsSettings(mix=Mix(mute=0, slow=0), faults=faults)
    async with SandboxDns(settings) as server:
        dns = asking("{}:{}".format(*server.address))
        dns.window = 20
        yield dns


async def worker_pids(pool: Pool, count: int) -> set[int]:
    """The pids of the workers that report, once there are so many."""

    async def so_many() -> set[int]:
        pids = {row[0] for row in await pool.fetch("SELECT pid FROM workers")}
        assert len(pids) == count
        return pids

    return await eventually(so_many, within=30)


async def decisions(pool: Pool) -> list[PoolDecided]:
    rows = await pool.fetch("SELECT body FROM system_events ORDER BY revision")
    return [SystemEvent.FromString(row["body"]).pool_decided for row in rows]


async def test_a_pool_grows_with_what_waits_and_shrinks_when_nothing_does(
    database_url: str,
    nats_url: str,
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    slow_dns: DnsConfiguration,
) -> None:
    names = [f"name-{number}.com" for number in range(20_000)]
    running = await validating(campaign_store, names, slow_dns, chunk_size=50)
    await publish(queue, *await handed_out(campaign_store, running))
    hints = await queue.subscribe(jetstream.EVENT_SUBJECT)

    async with running_pool(database_url, nats_url, WORKER_MAX="3") as supervisor:

        async def decided(count: int) -> None:
            rows = await Pools(pool).pools()
            assert [row.size.process_count for row in rows] == [count]

        async def grown() -> None:
            await decided(3)

        async def shrunk() -> None:
            await decided(1)

        await eventually(grown, within=30)
        await worker_pids(pool, 3)
        await pool.execute("UPDATE phases SET status = 'PAUSED' WHERE phase = 2")
        await eventually(shrunk, within=30)
        (last,) = await worker_pids(pool, 1)
        supervisor.send_signal(signal.SIGTERM)
        assert await supervisor.wait() == 0
        await gone(last)

    made = await decisions(pool)
    counts = [0, *(decision.process_count for decision in made)]
    assert [decision.previous_process_count for decision in made] == counts[:-1]
    assert counts == [0, 1, 2, 3, 2, 1, 0]
    reasons = [decision.reason for decision in made]
    assert reasons[0] == "0 -> 1 process: the pool starts with as few as there may be"
    assert "names wait" in reasons[1]
    assert reasons[3].startswith("3 -> 2 processes: 0 names wait")
    assert reasons[-1] == "1 -> 0 processes: the pool was told to end"
    assert await Pools(pool).pools() == []
    assert await pool.fetchval("SELECT count(*) FROM workers") == 0
    told = {(await hints.next_msg(timeout=5)).data for _ in made}
    assert b"0" in told


async def test_a_killed_worker_is_replaced_and_none_outlives_a_killed_pool(
    database_url: str, nats_url: str, pool: Pool, queue: Client
) -> None:
    async with running_pool(database_url, nats_url, WORKER_MIN="2", WORKER_MAX="2") as supervisor:
        killed, other = await worker_pids(pool, 2)

        os.kill(killed, signal.SIGKILL)

        # The row of the killed one stays for a minute.
        (new,) = await worker_pids(pool, 3) - {killed, other}
        supervisor.kill()
        await supervisor.wait()
        await gone(new)
        await gone(other)

    assert len(await decisions(pool)) == 1


async def test_a_pool_goes_on_with_the_size_that_a_killed_one_had(
    database_url: str, nats_url: str, pool: Pool, queue: Client
) -> None:
    bounds = Bounds(1, 2)
    await Pools(pool).decide("dns", os.uname().nodename, Size(1, 9), Size(2, 9), bounds, "why")

    async with running_pool(database_url, nats_url, WORKER_MAX="2", POOL_IDLE_ROUNDS="1000"):
        await worker_pids(pool, 2)

    assert (await decisions(pool))[1].reason == (
        "0 -> 2 processes: the pool starts with as many as before its end"
    )


async def test_a_worker_follows_its_pool_only_when_the_pool_started_it(
    pool: Pool, store: Store, queue: Client, probe: DnsProbe
) -> None:
    await Pools(pool).decide("dns", "host", Size(0, 9), Size(1, 40), Bounds(1, 2), "why")
    workers = {
        supervised: Worker(
            store=store,
            queue=queue,
            probe=probe,
            worker_id=f"worker-{supervised}",
            host="host",
            pid=7,
            supervised=supervised,
            report_period=0.05,
        )
        for supervised in (True, False)
    }

    async def told(limit: int) -> None:
        assert workers[True].task_limit == limit
        assert workers[False].task_limit == TASK_LIMIT
        limits = {row.worker_id: row.load.task_limit for row in await store.pools.workers()}
        assert limits == {"worker-True": limit, "worker-False": TASK_LIMIT}

    async with working(*workers.values()):
        await eventually(lambda: told(40))
        await Pools(pool).decide("dns", "host", Size(1, 40), Size(1, 20), Bounds(1, 2), "why")
        await eventually(lambda: told(20))


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["dns"], {"WORKER_MIN": "3", "WORKER_MAX": "2"}, "WORKER_MAX=2 are no range"),
        (["ftp"], {}, "no workers for the pool 'ftp'"),
    ],
    ids=["a range that is none", "a pool without a probe"],
)
async def test_what_cannot_be_supervised_is_refused_in_one_line(
    arguments: list[str], environment: dict[str, str], said: str
) -> None:
    refused = await create_subprocess_exec(
        *(sys.executable, "-m", "services.validation", "pool", *arguments),
        stderr=subprocess.PIPE,
        env={**os.environ, "DATABASE_URL": "x", "NATS_URL": "x", **environment},
    )
    _, errors = await refused.communicate()

    assert refused.returncode == 2
    assert said in errors.decode()
    assert len(errors.splitlines()) == 1
