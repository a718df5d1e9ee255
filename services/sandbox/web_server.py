"""The sandbox's web servers: one port for plain HTTP, one for TLS, on every address of loopback.

The truth gives names addresses in 127.64.0.0/10. On Linux one listener serves them all: it is bound
to the loopback device, so nobody else can reach it. A fetcher needs nothing but the sandbox's DNS,
the two ports, and that network on its list of what is allowed besides public addresses. Whoever
asks for a name at an address that is not the name's gets 421.

Nothing is remembered of a name but, for the last 65,536 of those that are limited at first, when it
was asked for first: from then on it is limited until Retry-After is over, however often it is asked
for, and never again. robots.txt is answered wherever requests are answered in HTTP, unlimited.
"""

import asyncio
import socket
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from .truth import Mix
from .web_certificates import Certificates
from .web_connection import Connection, TlsConnection
from .web_truth import WebMix, WebTruth, WebWorld

ANY_LOOPBACK = "127.0.0.0/8"
# Of those that truths have.
NETWORK = "127.64.0.0/10"
_LIMITED_KEPT = 65_536
_SWEEP = 1.0


@dataclass(frozen=True, slots=True)
class SandboxWebSettings:
    """What a sandbox's web servers are like."""

    # To bind: an address, or all of loopback, which Linux has.
    host: str = ANY_LOOPBACK
    # 0 to choose one.
    http_port: int = 0
    https_port: int = 0
    seed: int = 1
    mix: Mix = field(default_factory=Mix)
    web: WebMix = field(default_factory=WebMix)
    # Seconds between two bytes of a page that drips.
    drip: float = 1.0
    # Seconds without a byte from the client after which a connection is closed, up to a second
    # later: also where nothing is ever answered, or without end.
    idle: float = 75.0
    # Connections open at once; others are reset.
    limit: int = 20_000


@dataclass(slots=True)
class WebStats:
    """Counted since the server was opened."""

    connections: int = 0
    # Reset because too many were open.
    rejected: int = 0
    # Of TLS, completed.
    handshakes: int = 0
    requests: int = 0
    # At an address that is not the name's, or for a name without a web server.
    misdirected: int = 0


class SandboxWeb:
    """Both ports, open inside `async with`. Raises ValueError for a senseless mix."""

    def __init__(self, settings: SandboxWebSettings | None = None) -> None:
        self.settings = settings or SandboxWebSettings()
        self.world = WebWorld(self.settings.seed, self.settings.mix, self.settings.web)
        self.stats = WebStats()
        self.certificates = Certificates()
        # Sweeps since the beginning: a clock that costs nothing to read.
        self.tick = 0
        self.http_port = self.https_port = 0
        # Where nobody listens, and nobody else can.
        self.closed_port = 0
        self._first: OrderedDict[str, float] = OrderedDict()
        self._open: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._closed: socket.socket | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def ca(self) -> str:
        """The authority to trust, PEM."""
        return self.certificates.ca

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._open)

    async def __aenter__(self) -> Self:
        settings = self.settings
        loop = asyncio.get_running_loop()
        plain = _bound(settings.host, settings.http_port)
        tls = _bound(settings.host, settings.https_port)
        self._closed = _bound(settings.host, 0, shared=False)
        for kind, listener in ((Connection, plain), (TlsConnection, tls)):
            server = await loop.create_server(partial(kind, self), sock=listener, backlog=4096)
            self._servers.append(server)
        self.http_port, self.https_port, self.closed_port = (
            it.getsockname()[1] for it in (plain, tls, self._closed)
        )
        self._sweeper = loop.call_later(_SWEEP, self._sweep)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        for server in self._servers:
            server.close()
        lost = [connection.lost for connection in self._open]
        for connection in list(self._open):
            connection.reset()
        for server in self._servers:
            await server.wait_closed()
        await asyncio.gather(*lost)
        if self._closed:
            self._closed.close()
        self.certificates.close()

    def admit(self, connection: "Connection") -> bool:
        """Whether there is room for another connection."""
        self.stats.connections += 1
        if len(self._open) >= self.settings.limit:
            self.stats.rejected += 1
            return False
        self._open.add(connection)
        return True

    def forget(self, connection: "Connection") -> None:
        self._open.discard(connection)

    def left(self, known: WebTruth) -> float:
        """Seconds until a name that is limited at first has a page; 0 when it has."""
        wait = known.wait
        if not wait:
            return 0.0
        now = asyncio.get_running_loop().time()
        first = self._first.setdefault(known.name, now)
        if len(self._first) > _LIMITED_KEPT:
            self._first.popitem(last=False)
        return max(0.0, first + wait - now)

    def url(self, host: str, path: str, *, tls: bool, port: int = 0) -> str:
        """Of something on these servers; `port` if it is another."""
        port = port or (self.https_port if tls else self.http_port)
        scheme, usual = ("https", 443) if tls else ("http", 80)
        return f"{scheme}://{host}{'' if port == usual else f':{port}'}{path}"

    def _sweep(self) -> None:
        self.tick += 1
        oldest = self.tick - self.settings.idle / _SWEEP
        for connection in [it for it in self._open if it.heard < oldest]:
            connection.expire()
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)


def _bound(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """A socket that may listen; unless `shared`, nobody else gets its port. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        if shared:
            # Connections of a server before this one may still be ending.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == ANY_LOOPBACK:
            host = "0.0.0.0"
            if hasattr(socket, "SO_BINDTODEVICE"):
                try:
                    bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
                except PermissionError:
                    # Before Linux 5.7; connections are looked at as well.
                    pass
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
