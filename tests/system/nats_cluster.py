"""Three nats-servers that are one queue, from the configuration that is shipped for it."""

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, StreamInfo

from services.chassis import jetstream
from services.suite.envoy import REPOSITORY
from services.suite.nats import binary
from services.suite.ports import Ports
from services.suite.process import Process, Spec
from tests.eventually import eventually
from tests.system.machines import Machine

NAMES = ("nats-1", "nats-2", "nats-3")
CONFIGURATION = REPOSITORY / "deploy" / "nats" / "cluster.conf"
POOL_CONSUMER = "dns-workers"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one server is: its machine and its ports there."""

    machine: Machine
    client: int
    cluster: int
    monitoring: int

    def address(self, port: int) -> str:
        return f"{self.machine.address}:{port}"


class NatsCluster:
    """`async with nats_cluster(folder, machines) as cluster:` then connect to `cluster.url`.

    Server nats-1 is on the first machine, and so on. Nobody restarts a server that was killed but
    `start`.
    """

    def __init__(self, folder: Path, machines: Sequence[Machine]) -> None:
        self._folder = folder
        self._machines = dict(zip(NAMES, machines, strict=True))
        # A letter first: the configuration would read a number.
        self._password = "p" + secrets.token_hex(16)
        self._places: dict[str, _Place] = {}
        self._processes: dict[str, Process] = {}

    @property
    def url(self) -> str:
        """All three, separated by commas."""
        return ",".join(
            f"nats://domainflow:{self._password}@{place.address(place.client)}"
            for place in self._places.values()
        )

    async def start_all(self) -> None:
        ports = Ports(self._folder / "ports.json")
        for name, machine in self._machines.items():
            uses = ("client", "cluster", "monitoring")
            self._places[name] = _Place(
                machine, *[await ports.claim(f"{name}-{use}") for use in uses]
            )
        # One waits for the others before it is ready.
        async with asyncio.TaskGroup() as group:
            for name in NAMES:
                group.create_task(self.start(name))
        await self.is_whole()

    async def start(self, name: str) -> None:
        """Start one of the three, again or for the first time."""
        place = self._places[name]
        routes = {
            f"NATS_ROUTE_{number}": f"nats://domainflow:{self._password}@{each.address(each.cluster)}"
            for number, each in enumerate(self._places.values(), 1)
        }
        process = Process(
            Spec(
                name=name,
                command=[*place.machine.prefix, str(binary()), "--config", str(CONFIGURATION)],
                log=self._folder / f"{name}.log",
                ready=lambda: self._says_healthy(name),
                environment={
                    "PATH": os.defpath,
                    "NATS_NAME": name,
                    "NATS_LISTEN": place.address(place.client),
                    "NATS_CLUSTER_LISTEN": place.address(place.cluster),
                    "NATS_MONITORING": place.address(place.monitoring),
                    "NATS_STORE": str(self._store(name)),
                    "NATS_PASSWORD": self._password,
                    **routes,
                },
            )
        )
        await process.start()
        self._processes[name] = process

    async def kill(self, name: str, *, wipe: bool = False) -> None:
        """kill -9; with `wipe` its disk is lost, too."""
        await self._processes.pop(name).stop(grace=0)
        if wipe:
            shutil.rmtree(self._store(name))

    async def stop(self) -> None:
        for name in list(self._processes):
            await self.kill(name)

    async def stream(self) -> StreamInfo:
        """What the cluster says of the stream of tasks."""
        async with self._connected() as manager:
            return await manager.stream_info(jetstream.TASK_STREAM)

    async def consumer(self) -> ConsumerInfo:
        """What the cluster says of the consumer that all workers share."""
        async with self._connected() as manager:
            return await manager.consumer_info(jetstream.TASK_STREAM, POOL_CONSUMER)

    async def stream_leader(self) -> str:
        return await eventually(lambda: _leader(self.stream), within=30)

    async def consumer_leader(self) -> str:
        return await eventually(lambda: _leader(self.consumer), within=30)

    async def is_whole(self) -> None:
        """Return when every server has everything that the others have."""

        async def healthy() -> None:
            for name in NAMES:
                try:
                    assert await self._says_healthy(name, "/healthz")
                except OSError as error:
                    raise AssertionError(f"{name} does not answer") from error

        await eventually(healthy, within=60)

    async def server_of(self, client: str) -> str:
        """The server that the client of that name is connected to."""

        async def found() -> str:
            for name in self._processes:
                connections = (await self._get(name, "/connz"))["connections"]
                if any(each.get("name") == client for each in connections):
                    return name
            raise AssertionError(f"{client} is not connected")

        return await eventually(found, within=30)

    async def _says_healthy(self, name: str, path: str = "/healthz?js-enabled-only=true") -> bool:
        try:
            return bool((await self._get(name, path))["status"] == "ok")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(str(error)) from error

    async def _get(self, name: str, path: str) -> dict[str, Any]:
        """What a server says of itself."""
        place = self._places[name]
        url = f"http://{place.address(place.monitoring)}{path}"
        limit = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as answer:
            found: dict[str, Any] = await answer.json(content_type=None)
            return found

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[JetStreamContext]:
        client = await jetstream.connect(self.url, name="test")
        try:
            yield client.jetstream(timeout=2)
        finally:
            await client.close()

    def _store(self, name: str) -> Path:
        return self._folder / f"{name}-store"


async def _leader(ask: Callable[[], Awaitable[StreamInfo | ConsumerInfo]]) -> str:
    """Who leads, once there is somebody: while they vote nobody answers."""
    try:
        info = await ask()
    except jetstream.AWAY as error:
        raise AssertionError("nobody answers") from error
    assert info.cluster
    assert info.cluster.leader
    return info.cluster.leader


@contextlib.asynccontextmanager
async def nats_cluster(folder: Path, machines: Sequence[Machine]) -> AsyncIterator[NatsCluster]:
    """Three servers, one on each machine."""
    cluster = NatsCluster(folder, machines)
    try:
        await cluster.start_all()
        yield cluster
    finally:
        await cluster.stop()
