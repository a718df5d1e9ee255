"""Small real proxies on loopback that do as they should, or fail in a way of their own."""

import asyncio
import contextlib
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from ipaddress import ip_address

from services.validation.http import proxies as parsing
from services.validation.http.proxies import Proxy, Scheme
from services.validation.http.proxy_pool import (
    Change,
    HealthRules,
    Member,
    Pool,
    Result,
    Strategy,
    Use,
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# What to write in place of an answer to CONNECT; None: do as asked.
Instead = Callable[[str], Awaitable[bytes | None]]


@dataclass
class ProxyServer:
    """A proxy that listens, and what it was asked for."""

    scheme: Scheme
    port: int = 0
    # Places of tunnels, as asked for, in order; and heads of CONNECT.
    places: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    user: str = ""
    password: str = ""

    def proxy(self, host: str = "127.0.0.1", **changes) -> Proxy:
        """As a client is configured for it."""
        given = {"user": self.user, "password": self.password, **changes}
        return parsing.make(self.scheme, host, self.port, **given)


@contextlib.asynccontextmanager
async def proxying(
    scheme: Scheme = Scheme.HTTP,
    *,
    user: str = "",
    password: str = "",
    tls: ssl.SSLContext | None = None,
    instead: Instead | None = None,
    port: int = 0,
) -> AsyncIterator[ProxyServer]:
    """`tls`: of a proxy that is spoken to in TLS."""
    server = ProxyServer(scheme, user=user, password=password)
    ask = _socks if scheme is Scheme.SOCKS5 else _connect
    tasks: set[asyncio.Task] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        server.connections += 1
        ours = reader, writer
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            if (theirs := await ask(server, ours, instead)) is not None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pipe(ours[0], theirs[1]))
                    group.create_task(_pipe(theirs[0], ours[1]))
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _connect(server: ProxyServer, ours: Streams, instead: Instead | None) -> Streams | None:
    reader, writer = ours
    head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
    server.heads.append(head)
    method, place, _ = head.split("\r\n")[0].split(" ")
    if server.user:
        given = b64encode(f"{server.user}:{server.password}".encode()).decode()
        if f"Proxy-Authorization: Basic {given}\r\n" not in head:
            writer.write(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n")
            return None
    server.places.append(place)
    if instead is not None and (said := await instead(place)) is not None:
        writer.write(said)
        await writer.drain()
        return None
    assert method == "CONNECT"
    host, _, port = place.rpartition(":")
    try:
        theirs = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return None
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    return theirs


async def _socks(server: ProxyServer, ours: Streams, instead: Instead | None) -> Streams | None:
    reader, writer = ours
    _, count = await reader.readexactly(2)
    offered = await reader.readexactly(count)
    wanted = 2 if server.user else 0
    if wanted not in offered:
        writer.write(b"\x05\xff")
        return None
    writer.write(bytes([5, wanted]))
    if wanted:
        _, size = await reader.readexactly(2)
        user = await reader.readexactly(size)
        password = await reader.readexactly((await reader.readexactly(1))[0])
        right = (user.decode(), password.decode()) == (server.user, server.password)
        writer.write(b"\x01\x00" if right else b"\x01\x01")
        if not right:
            return None
    _, _, _, kind = await reader.readexactly(4)
    # A name would be kind 3, which nobody may ask for.
    address = str(ip_address(await reader.readexactly({1: 4, 4: 16}[kind])))
    port = int.from_bytes(await reader.readexactly(2), "big")
    server.places.append(f"{address}:{port}")
    if instead is not None and (said := await instead(address)) is not None:
        writer.write(said)
        await writer.drain()
        return None
    try:
        theirs = await asyncio.open_connection(address, port)
    except OSError:
        writer.write(b"\x05\x05\x00\x01" + bytes(6))
        return None
    # Some say where they connect from as a name.
    writer.write(b"\x05\x00\x00\x03\x04here\x00\x50")
    return theirs


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.close()


class Source:
    """Proxies of a pool by the loop's clock, and what was said of them."""

    def __init__(
        self,
        *proxies: Proxy,
        strategy: Strategy = Strategy.ROUND_ROBIN,
        weights: tuple[int, ...] = (),
        rules: HealthRules | None = None,
    ) -> None:
        members = [
            Member(f"{number}", proxy, weights[number] if weights else 1)
            for number, proxy in enumerate(proxies)
        ]
        # Rotations begin with the first.
        self.pool = Pool(members, strategy=strategy, random=lambda: 0.0, rules=rules)
        self.results: list[tuple[str, Result, str]] = []
        self.changes: list[Change] = []
        # Seconds that this clock is ahead.
        self.ahead = 0.0

    def _now(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead

    def choose(self, avoid: Collection[str] = ()) -> Use | None:
        if (chosen := self.pool.choose(self._now(), avoid)) is None:
            return None
        use, change = chosen
        self._learn(change)
        return use

    def give_back(self, use: Use, result: Result, reason: str) -> None:
        self.results.append((use.member.proxy_id, result, reason))
        self._learn(self.pool.give_back(use, result, self._now()))

    def _learn(self, change: Change | None) -> None:
        if change is not None:
            self.changes.append(change)
