"""One question over a TCP connection of its own, for answers that UDP could not carry."""

import asyncio
import os

from services.validation.dns import wire
from services.validation.dns.resolvers import Resolver
from services.validation.dns.verdict import NO_ANSWER, Answer


async def ask(
    resolver: Resolver, header: bytes, question: bytes, qtype: int, *, tail: bytes
) -> Answer:
    """What the resolver answers; NO_ANSWER if that is unusable or does not come.

    `header` is the part after the id. Takes no longer than the caller's timeout lets it.
    """
    key = os.urandom(2)
    try:
        response = await _exchange(resolver, key + header + question + tail)
        echo = wire.echo_of(response, question)
        if response[:2] == key and echo in (wire.Echo.SAME, wire.Echo.FOLDED):
            return wire.read(response, question, qtype)
    except (OSError, EOFError, wire.Malformed):
        pass
    return NO_ANSWER


async def _exchange(resolver: Resolver, packet: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(resolver.host, resolver.port)
    try:
        writer.write(len(packet).to_bytes(2, "big") + packet)
        length = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(length)
    finally:
        writer.close()
