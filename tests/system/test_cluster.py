"""The suite on a cluster of three queues, with workers on machines of their own: leaders are killed
and a machine is unplugged in the middle of a campaign, and nobody lifts a hand."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from services.suite.envoy import REPOSITORY
from services.suite.postgres import EmbeddedPostgres
from services.suite.process import Process, Spec
from services.suite.suite import Options, Suite
from tests.system.campaigns import DNS, SEED, UNHURRIED, Trial, World, check_every_verdict
from tests.system.conftest import reached
from tests.system.machines import Lan, Machine, lan, why_not
from tests.system.nats_cluster import NAMES as NATS_SERVERS
from tests.system.nats_cluster import NatsCluster, nats_cluster

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
    pytest.mark.postgres,
    pytest.mark.nats,
]

NAMES = 50_000
MACHINES = 3
NO_NAMESPACES = why_not()
HELD = """SELECT first_position FROM chunks
    WHERE state = 'queued' AND claim_time IS NOT NULL AND worker LIKE $1"""


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that runs: the suite here, the queue's servers, workers elsewhere."""

    world: World
    cluster: NatsCluster
    machines: tuple[Machine, ...]
    workers: tuple[Process, ...]

    def nobody_was_restarted(self) -> None:
        for process in (*self.world.suite.processes.values(), *self.workers):
            assert process.restarts == 0, process.name


@pytest.fixture(scope="module")
def network() -> Iterator[Lan]:
    """Namespaces where they can be had, else loopback for all."""
    if NO_NAMESPACES:
        places = tuple(
            Machine(f"loopback-{number}", "127.0.0.1") for number in range(1, MACHINES + 1)
        )
        yield Lan("127.0.0.1", "127.0.0.1/32", places)
        return
    with lan(MACHINES) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def resolver(network: Lan) -> AsyncIterator[str]:
    """As in conftest, where the workers' machines reach it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.sandbox", "--die-with-parent", "--host", network.host),
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
async def site(folder: Path, resolver: str, network: Lan) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        postgres = await _postgres(stack, folder / "postgres", network)
        cluster = await stack.enter_async_context(
            nats_cluster(folder / "cluster", network.machines)
        )
        environment = {**os.environ, "NATS_REPLICAS": "3"}
        suite = await stack.enter_async_context(
            Suite(
                folder,
                Options(
                    workers=0,
                    http_workers=0,
                    analysis_workers=0,
                    database_url=postgres.url,
                    nats_url=cluster.url,
                    environment=environment,
                ),
            )
        )
        world = await stack.enter_async_context(reached(suite, folder, resolver))
        there = {
            **environment,
            "DATABASE_URL": _at(postgres.url, network.host),
            "NATS_URL": cluster.url,
        }
        workers = [_worker(folder, machine, there) for machine in network.machines]
        for worker in workers:
            stack.push_async_callback(worker.stop)
        await asyncio.gather(*(worker.start() for worker in workers))
        yield Site(world, cluster, network.machines, tuple(workers))


async def _postgres(stack: AsyncExitStack, folder: Path, network: Lan) -> EmbeddedPostgres:
    """One that listens in the network, too, as docs/operations.md says."""
    async with EmbeddedPostgres(folder):
        pass
    settings = folder / "data" / "conf.d" / "network.conf"
    settings.write_text(f"listen_addresses = '127.0.0.1, {network.host}'\n")
    settings.chmod(0o644)
    with (folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write(f"host domainflow domainflow {network.network} scram-sha-256\n")
    return await stack.enter_async_context(EmbeddedPostgres(folder))


def _at(url: str, host: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.replace(str(parts.hostname), host)).geturl()


def _worker(folder: Path, machine: Machine, environment: dict[str, str]) -> Process:
    async def lives() -> bool:
        return True

    return Process(
        Spec(
            name=f"worker on {machine.name}",
            command=[*machine.prefix, sys.executable, "-m", "services.validation", "work"],
            log=folder / "logs" / f"{machine.name}.log",
            ready=lives,
            environment={
                **environment,
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "gen/python")]),
            },
        )
    )


def more_than(share: float) -> Callable[[Trial], bool]:
    return lambda trial: trial.share() >= share


async def test_leaders_of_the_queue_die_under_load(site: Site) -> None:
    """The stream's with its disk, the consumer's without; each comes back by itself."""
    cluster = site.cluster
    # It must outlast the return of a server.
    trial = await Trial.begin(site.world, NAMES, rate=UNHURRIED)
    await trial.until(more_than(0.08))
    info = await cluster.stream()
    assert info.config.num_replicas == 3

    leader = await cluster.stream_leader()
    await trial.is_in_the_middle()
    await cluster.kill(leader, wipe=True)
    # Two of three are a majority: work goes on before anybody comes back.
    assert await cluster.stream_leader() != leader
    await trial.until(more_than(trial.share() + 0.1))
    await cluster.start(leader)
    await cluster.is_whole()

    await trial.is_in_the_middle()
    leader = await cluster.consumer_leader()
    await cluster.kill(leader)
    assert await cluster.consumer_leader() != leader
    await trial.until(more_than(trial.share() + 0.1))
    await cluster.start(leader)
    await trial.hurry()
    await trial.finished()

    await cluster.is_whole()
    site.nobody_was_restarted()
    await check_every_verdict(trial)


@pytest.mark.skipif(bool(NO_NAMESPACES), reason=NO_NAMESPACES)
async def test_machine_vanishes_with_its_worker_and_server_and_comes_back(site: Site) -> None:
    """Unplugged: nobody is told that a connection is over. It is the campaign service's server."""
    trial = await Trial.begin(site.world, 20_000, rate=2 * UNHURRIED)
    await trial.until(more_than(0.08))
    number = NATS_SERVERS.index(await site.cluster.server_of("campaign"))
    gone, pid = site.machines[number], site.workers[number].pid
    assert pid is not None

    gone.unplug()
    try:
        await trial.is_in_the_middle()
        held = {(DNS, row[0]) for row in await site.world.rows(HELD, f"%-{pid}-%")}
        # The others do its chunks when their leases are over.
        await trial.finished()
    finally:
        gone.plug_in()
    assert held & set(trial.retried)
    await check_every_verdict(trial)

    # Without anybody's help, and the others cannot have done it.
    await site.cluster.is_whole()
    site.nobody_was_restarted()
    await asyncio.gather(*(each.stop() for each in site.workers if each.pid != pid))
    another = await Trial.begin(site.world, 1_000)
    await another.finished()
    await check_every_verdict(another)
