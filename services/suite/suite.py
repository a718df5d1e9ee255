"""The whole product on one machine: the real parts, our services, and the door before them.

What the services are told, all by environment variables (the caller's own are passed on too):

| variable | to | value |
|---|---|---|
| DATABASE_URL | all | the embedded PostgreSQL or the caller's |
| NATS_URL | all | the embedded NATS or the caller's |
| LOG_FORMAT | all | json |
| CAMPAIGN_ADDRESS, VALIDATION_ADDRESS, QUERY_ADDRESS | all | host:port that service listens on |
| PAGE_TOKEN_KEY | campaign, validation, query | 32 bytes in base64, the same at every start |
| DATABASE_REPLICA_URL | query | the replica that `Options.replica` asks for, or the caller's |
| WORKER_MIN, WORKER_MAX | each pool | fewest and most worker processes |
| DOMAINFLOW_SECRET_KEYS | validation, HTTP workers | the caller's, or 32 bytes in base64, kept |
| DOMAINFLOW_SUPPRESSION_SALT | validation, HTTP and analysis workers | as the keys |

What is made here for want of the caller's own is kept in the data folder, and goes into backups:
without it, stored passwords of proxies and hashed suppressions are lost.
"""

import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from services.suite import probe
from services.suite.envoy import LOCAL_ORIGINS, REPOSITORY, EmbeddedEnvoy, Upstreams
from services.suite.lock import FolderLock
from services.suite.nats import EmbeddedNats
from services.suite.ports import Ports
from services.suite.postgres import EmbeddedPostgres, EmbeddedReplica
from services.suite.private import kept_secret, write_private
from services.suite.process import Process, Report, Spec, StartFailed, State, run_once

# The parts that keep as many workers as there is work for, one for each kind of work.
POOLS = ("dns-pool", "http-pool", "analysis-pool")
# The part that keeps true what is derived of the tables.
MAINTAINER = "query-maintainer"
# A short call ends within this; a stream is cut and resumed by its client.
_DRAIN = 2.0
# A worker listens nowhere: one that outlives its imports is taken for started.
_WORKER_SETTLES = 1.0


@dataclass(frozen=True, slots=True)
class WorkerRange:
    """Fewest and most worker processes. `most` 0: as many as the machine has cores."""

    fewest: int = 1
    most: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a start may vary. `port` is the public one: None takes 8080 or the next free.

    `workers`: so many processes that ask DNS, or a range within which their number follows the
    work; `http_workers` those that fetch pages, `analysis_workers` those that score them and decide
    on leads. `replica`: a second PostgreSQL that follows the embedded one, and is read from.
    """

    port: int | None = None
    workers: int | WorkerRange = 1
    http_workers: int | WorkerRange = 1
    analysis_workers: int | WorkerRange = 1
    database_url: str | None = None
    nats_url: str | None = None
    replica: bool = False
    cors_origins: str = LOCAL_ORIGINS
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @classmethod
    def from_environment(
        cls,
        *,
        port: int | None = None,
        workers: int | WorkerRange = 1,
        http_workers: int | WorkerRange = 1,
        analysis_workers: int | WorkerRange = 1,
        replica: bool = False,
    ) -> Self:
        """Uses the servers that DATABASE_URL and NATS_URL name, where they do."""
        return cls(
            port=port,
            workers=workers,
            http_workers=http_workers,
            analysis_workers=analysis_workers,
            database_url=os.environ.get("DATABASE_URL") or None,
            nats_url=os.environ.get("NATS_URL") or None,
            replica=replica,
        )


class Suite:
    """`async with Suite(folder) as suite:` then dial `suite.address`.

    Every part is restarted when it dies. `suite.json` in the folder always tells pids, ports and
    states; it holds the URLs with their passwords and is readable by its owner only.
    """

    def __init__(
        self,
        data_folder: Path,
        options: Options | None = None,
        *,
        on_change: Callable[[Report], None] | None = None,
    ) -> None:
        self._folder = data_folder.absolute()
        self._options = options or Options()
        self._on_change = on_change
        self._reports: dict[str, Report] = {}
        self._listening: dict[str, int] = {}
        self._stack = AsyncExitStack()
        self.processes: dict[str, Process] = {}
        self.database_url = ""
        self._replica: dict[str, str] = {}
        self.nats_url = ""
        self.address = ""

    async def start(self) -> None:
        """Start everything in order, or raise with nothing left running."""
        async with AsyncExitStack() as stack:
            lock = FolderLock(self._folder)
            stack.callback(lock.release)
            stack.callback(self._say_stopped)
            ports = Ports(self._folder / "ports.json")
            self.database_url = await self._start_postgres(stack, ports)
            self.nats_url = await self._start_nats(stack, ports)
            await self._migrate()
            upstreams = await self._start_services(stack, ports)
            await self._start_envoy(stack, ports, upstreams)
            self._stack = stack.pop_all()
        self._write_state()

    async def stop(self) -> None:
        """Stop everything in the opposite order. Idempotent."""
        await self._stack.aclose()

    def _say_stopped(self) -> None:
        self._changed(Report("schema", State.STOPPED, None, 0))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _start_postgres(self, stack: AsyncExitStack, ports: Ports) -> str:
        if self._options.database_url:
            if self._options.replica:
                raise StartFailed("only the embedded PostgreSQL can be given a replica")
            return self._options.database_url
        folder = self._folder / "postgres"
        postgres = EmbeddedPostgres(folder, ports=ports, on_change=self._changed)
        await stack.enter_async_context(postgres)
        self.processes["postgres"] = postgres.process
        self._listening["postgres"] = postgres.port
        if self._options.replica:
            await self._start_replica(stack, ports, postgres)
        return postgres.url

    async def _start_replica(
        self, stack: AsyncExitStack, ports: Ports, postgres: EmbeddedPostgres
    ) -> None:
        replica = EmbeddedReplica(
            self._folder / "replica", postgres, ports=ports, on_change=self._changed
        )
        await stack.enter_async_context(replica)
        self.processes["replica"] = replica.process
        self._listening["replica"] = replica.port
        self._replica = {"DATABASE_REPLICA_URL": replica.url}

    async def _start_nats(self, stack: AsyncExitStack, ports: Ports) -> str:
        if self._options.nats_url:
            return self._options.nats_url
        nats = EmbeddedNats(self._folder / "nats", ports=ports, on_change=self._changed)
        await stack.enter_async_context(nats)
        self.processes["nats"] = nats.process
        self._listening["nats"] = nats.port
        return nats.url

    async def _migrate(self) -> None:
        self._changed(Report("schema", State.STARTING, None, 0))
        applied = await run_once(
            "schema",
            [sys.executable, "-m", "services.schema"],
            environment={**self._inherited(), "DATABASE_URL": self.database_url},
            folder=self._folder,
        )
        self._changed(Report("schema", State.READY, None, 0, applied.strip()))

    async def _start_services(self, stack: AsyncExitStack, ports: Ports) -> Upstreams:
        for name in ("campaign", "validation", "query"):
            self._listening[name] = await ports.claim(name)
        addresses = {
            name: f"127.0.0.1:{self._listening[name]}"
            for name in ("campaign", "validation", "query")
        }
        common = {
            **self._inherited(),
            "DATABASE_URL": self.database_url,
            "NATS_URL": self.nats_url,
            "LOG_FORMAT": "json",
            **{f"{name.upper()}_ADDRESS": address for name, address in addresses.items()},
        }
        sealing = {
            **common,
            "PAGE_TOKEN_KEY": kept_secret(self._folder / "page-token-key", _new_key),
        }
        salt = self._kept("DOMAINFLOW_SUPPRESSION_SALT", "suppression-salt", _new_salt)
        keys = self._kept("DOMAINFLOW_SECRET_KEYS", "secret-keys", _new_key)
        checking = {**sealing, **keys, **salt}
        parts = [
            self._service("campaign", ["services.campaign"], sealing, addresses),
            self._service("validation", ["services.validation", "serve"], checking, addresses),
            self._service("query", ["services.query"], {**sealing, **self._replica}, addresses),
            self._service(MAINTAINER, ["services.query", "maintain"], common, addresses),
        ]
        parts += self._workers("dns", self._options.workers, common)
        parts += self._workers("http", self._options.http_workers, {**common, **keys, **salt})
        parts += self._workers("analysis", self._options.analysis_workers, {**common, **salt})
        stack.push_async_callback(_together, [part.stop for part in parts])
        await _together([part.start for part in parts])
        return Upstreams(**addresses)

    def _workers(
        self, pool: str, number: int | WorkerRange, environment: Mapping[str, str]
    ) -> list[Process]:
        """The workers of one kind, or the part that keeps them."""
        match number:
            case WorkerRange(fewest, most):
                command = ["services.validation", "pool", pool]
                limits = {"WORKER_MIN": str(fewest), "WORKER_MAX": str(most)}
                return [self._service(f"{pool}-pool", command, {**environment, **limits}, {})]
            case count:
                command = ["services.validation", "work", pool]
                kind = "" if pool == "dns" else f"{pool}-"
                return [
                    self._service(f"{kind}worker-{each}", command, environment, {})
                    for each in range(1, count + 1)
                ]

    def _kept(self, variable: str, file: str, make: Callable[[], str]) -> dict[str, str]:
        """A variable of the caller's, or else a secret of this data folder."""
        given = self._options.environment.get(variable)
        return {variable: given or kept_secret(self._folder / file, make)}

    def _inherited(self) -> dict[str, str]:
        """The caller's variables; children import the same tree as we do, installed or not."""
        environment = dict(self._options.environment)
        paths = [str(REPOSITORY), str(REPOSITORY / "gen" / "python")]
        if caller := environment.get("PYTHONPATH"):
            paths.append(caller)
        return {**environment, "PYTHONPATH": os.pathsep.join(paths)}

    def _service(
        self,
        name: str,
        module: list[str],
        environment: Mapping[str, str],
        addresses: Mapping[str, str],
    ) -> Process:
        address = addresses.get(name)
        process = Process(
            Spec(
                name=name,
                command=[sys.executable, "-m", *module],
                log=self._folder / "logs" / f"{name}.log",
                ready=_serves(address) if address else _settles(),
                environment=environment,
                folder=self._folder,
            ),
            on_change=self._changed,
        )
        self.processes[name] = process
        return process

    async def _start_envoy(self, stack: AsyncExitStack, ports: Ports, upstreams: Upstreams) -> None:
        envoy = EmbeddedEnvoy(
            self._folder / "envoy",
            upstreams,
            ports=ports,
            port=self._options.port,
            cors_origins=self._options.cors_origins,
            on_change=self._changed,
        )
        await envoy.start()
        stack.push_async_callback(envoy.stop, _DRAIN)
        self.processes["envoy"] = envoy.process
        self._listening["envoy"] = envoy.port
        self.address = envoy.address

    def _changed(self, report: Report) -> None:
        self._reports[report.name] = report
        self._write_state()
        if self._on_change:
            self._on_change(report)

    def _write_state(self) -> None:
        parts = {
            name: {
                "state": report.state,
                "pid": report.pid,
                "port": self._listening.get(name),
                "restarts": report.restarts,
            }
            for name, report in self._reports.items()
        }
        state = {
            "pid": os.getpid(),
            "address": self.address,
            "database_url": self.database_url,
            "nats_url": self.nats_url,
            "parts": parts,
        }
        write_private(self._folder / "suite.json", json.dumps(state, indent=2) + "\n")


def _serves(address: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await probe.is_serving(address)

    return ready


def _settles() -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        await asyncio.sleep(_WORKER_SETTLES)
        return True

    return ready


async def _together(actions: list[Callable[[], Awaitable[None]]]) -> None:
    """Run all at once; the first failure cancels the others and is raised by itself."""

    async def perform(action: Callable[[], Awaitable[None]]) -> None:
        await action()

    try:
        async with asyncio.TaskGroup() as group:
            for action in actions:
                group.create_task(perform(action))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _new_salt() -> str:
    return secrets.token_hex(32)
