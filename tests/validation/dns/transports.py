"""A sandbox resolver that can be asked every way there is, and servers that misbehave."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.dns_transports import (
    Identity,
    SandboxDnsOverHttps,
    SandboxDnsOverTls,
    identity,
)
from services.sandbox.truth import Mix
from services.validation.dns.resolvers import Resolver, Transport

# Whatever ends soon; a broken signature is SERVFAIL to an engine, which asks no further.
MIX = Mix(mute=0, slow=0)
NAME = "dns.sandbox"
OVER_CONNECTIONS = (Transport.TCP, Transport.TLS, Transport.HTTPS, Transport.HTTPS_JSON)


@dataclass
class Servers:
    """The same truth behind each."""

    identity: Identity
    dns: SandboxDns
    tcp: SandboxDnsOverTls
    tls: SandboxDnsOverTls
    web: SandboxDnsOverHttps

    def resolver(
        self, transport: Transport, *, name: str = NAME, ca: str | None = None
    ) -> Resolver:
        trusted = self.identity.ca if ca is None else ca
        if transport is Transport.UDP:
            return Resolver(*self.dns.address)
        if transport is Transport.TCP:
            return Resolver(*self.tcp.address, transport)
        if transport is Transport.TLS:
            return Resolver(*self.tls.address, transport, tls_name=name, ca_pem=trusted)
        return over_https(self.web.address, trusted, name, json=transport is Transport.HTTPS_JSON)

    def cut(self) -> None:
        self.tcp.cut()
        self.tls.cut()


def over_https(
    address: tuple[str, int], ca: str, name: str = NAME, *, json: bool = False
) -> Resolver:
    transport = Transport.HTTPS_JSON if json else Transport.HTTPS
    # No port, which is part of where it is and not of who it is.
    url = f"https://{name}/{'resolve' if json else 'dns-query'}"
    return Resolver(*address, transport, url=url, ca_pem=ca)


@asynccontextmanager
async def every_transport(mix: Mix = MIX, **settings: object) -> AsyncIterator[Servers]:
    known = identity()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = await enter(SandboxDns(SandboxDnsSettings(mix=mix, **settings)))
        yield Servers(
            known,
            server,
            await enter(SandboxDnsOverTls(server, None)),
            await enter(SandboxDnsOverTls(server, known)),
            await enter(SandboxDnsOverHttps(server, known)),
        )


# What to do with a connection; it is closed afterwards.
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def talking(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, int]]:
    """A server over TCP or TLS that does as told. Its address."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        await server.wait_closed()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def take(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@asynccontextmanager
async def web_server(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], known: Identity
) -> AsyncIterator[tuple[str, int]]:
    """HTTPS, the same whatever is requested. Its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=known.context).start()
    try:
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()
