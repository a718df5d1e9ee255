"""Scripted DNS servers: real sockets on loopback whose answers a test writes itself."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from services.validation.dns.resolvers import Resolver

# A question in, the datagrams to send back out.
Script = Callable[[bytes], list[bytes]]


class _Scripted(asyncio.DatagramProtocol):
    def __init__(self, script: Script) -> None:
        self._script = script

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for answer in self._script(data):
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def _serve(script: Script, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Resolver]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Scripted(script), local_addr=(host, port)
    )
    try:
        yield Resolver(*transport.get_extra_info("sockname")[:2])
    finally:
        transport.close()


@pytest.fixture
def scripted():
    """A context manager: script in, resolver out."""
    return _serve


@pytest.fixture
def dead_port():
    """A port that refuses: bound once, closed again, on an address where nobody else binds any."""
    host = "127.7.7.7"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return Resolver(host, sock.getsockname()[1])


@pytest.fixture
def mute():
    """A resolver that takes every question and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield Resolver("127.0.0.1", sock.getsockname()[1])
