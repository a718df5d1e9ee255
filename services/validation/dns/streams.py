"""Channels that last: one connection over TCP or TLS for thousands of questions (RFC 7766, 7858).

To the engine they are like its UDP sockets: a question goes in, datagrams come out. Answers come in
any order. A connection opens with the first question and closes when none was asked for a while;
when it ends before, what it owes is asked again over the next one.
"""

import asyncio
import os
import ssl
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from services.validation.dns import wire
from services.validation.dns.resolvers import Transport
from services.validation.dns.upstream import ID_BATCH, Channel, Upstream

# Ids drawn when so few are left. Answered ones may come again, so a channel lasts.
IDS = 4096
IDS_LOW = 64
# Seconds to connect, TLS included.
CONNECT_TIMEOUT = 5.0
# Seconds without any answer to what was asked before a connection counts as dead: a few questions
# may be hard ones; when so many wait, a quarter of the time is enough.
PATIENCE = 8.0
MANY = 16
# Seconds without a question before it is closed.
IDLE = 30.0
# Seconds before the next connection when one failed; doubles with each that does.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
# Bytes the kernel did not take yet: the resolver no longer reads.
UNSENT_LIMIT = 1 << 20
# Encrypted questions are filled up to multiples of this (RFC 8467).
BLOCK = 128
_PADDING = 12


@lru_cache(maxsize=64)
def trust(ca_pem: str) -> ssl.SSLContext:
    """Checks certificates against `ca_pem`, or the machine's authorities if it is empty.

    Raises OSError or ValueError if there is no certificate in it.
    """
    context = ssl.create_default_context(cadata=ca_pem or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def padded(packet: bytes) -> bytes:
    """The question filled up, so that its length does not tell the name; as it is without EDNS."""
    if not packet.endswith(wire.OPT_RECORD):
        return packet
    gap = -(len(packet) + 4) % BLOCK
    return b"".join(
        (
            packet[:-2],
            (gap + 4).to_bytes(2, "big"),
            _PADDING.to_bytes(2, "big"),
            gap.to_bytes(2, "big"),
            bytes(gap),
        )
    )


def unusable(response: bytes) -> bytes:
    """A truncated response made unreadable: where this one came from, there is no longer one.

    As it stands it would be asked for again, over plain TCP. Raises ValueError: no question in it.
    """
    end = response.index(b"\0", 12) + 5
    # Announces a record that is missing.
    flags = bytes((response[2] & ~0x02, response[3]))
    return response[:2] + flags + b"\0\1\0\1\0\0\0\0" + response[12:end]


class LastingChannel(Channel, ABC):
    """A channel over connections. Nobody on another path can forge what comes through.

    So letters may come back in another case than sent, and ids may be drawn again.
    """

    def __init__(
        self, upstream: Upstream, cases: list[bytes], drain: Callable[[Channel], None]
    ) -> None:
        super().__init__(upstream, None, ID_BATCH, cases)
        self.send, self.recv = self._send, self._recv
        upstream.folds_case = True
        # Sent and not answered; includes some that nobody waits for any more.
        self._asked: dict[bytes, bytes] = {}
        self._inbox: deque[bytes] = deque()
        self._closed = False
        self._drain = drain
        self._refusing = False
        self._pause = 0.0

    def close(self) -> None:
        self._closed = True
        self.send = len
        self._asked.clear()
        self._inbox.clear()

    @abstractmethod
    def _send(self, packet: bytes) -> int:
        """Send or queue a question that begins with its id. Raises OSError as a socket does."""

    def _recv(self, size: int, flags: int = 0) -> bytes:
        """One response, whole: the arguments are for datagrams."""
        if self._refusing:
            self._refusing = False
            raise ConnectionRefusedError
        if not self._inbox:
            raise BlockingIOError
        return self._inbox.popleft()

    def _take(self, response: bytes) -> None:
        """Keep a response of at least 12 bytes for the engine."""
        if response[2] & 0x02:
            try:
                response = unusable(response)
            except ValueError:
                return
        self._inbox.append(response)

    def _deliver(self) -> None:
        """Let the engine read all there is."""
        before = len(self._inbox) + 1
        while not self._closed and 0 < len(self._inbox) < before:
            before = len(self._inbox)
            self._drain(self)

    def _fail(self, error: BaseException | None) -> None:
        """Report that the resolver cannot be reached, and wait longer before the next try."""
        self._note(error)
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._refusing = True
        self._drain(self)

    def _note(self, error: BaseException | None) -> None:
        text = f"{type(error).__name__}: {error}" if error else "the connection was closed"
        self.upstream.trouble = text[:300]

    def _answered(self) -> None:
        self._pause = 0.0
        self.upstream.trouble = ""

    def _refill(self) -> None:
        raw = os.urandom(2 * IDS)
        fresh = {raw[at : at + 2]: None for at in range(0, len(raw), 2)}
        for taken in (self.ids, self.pending, self.late, self._asked):
            for key in taken:
                fresh.pop(key, None)
        # In place, because the engine holds the list; they are taken from its end.
        self.ids[:0] = fresh


class StreamChannel(LastingChannel):
    """One TCP or TLS connection at a time."""

    def __init__(
        self,
        upstream: Upstream,
        cases: list[bytes],
        drain: Callable[[Channel], None],
        *,
        patience: float = PATIENCE,
        idle: float = IDLE,
    ) -> None:
        super().__init__(upstream, cases, drain)
        resolver = upstream.resolver
        self.patience = patience
        self.idle = idle
        self._host, self._port = resolver.host, resolver.port
        self._tls: ssl.SSLContext | None = None
        self._tls_name: str | None = None
        if resolver.transport is Transport.TLS:
            self._tls = trust(resolver.ca_pem)
            self._tls_name = resolver.tls_name or resolver.host
        self._connection: _Connection | None = None
        self._opening: asyncio.Task[None] | None = None

    def close(self) -> None:
        super().close()
        if self._connection is not None:
            self.upstream.ending(self._connection.lost)
            self._connection.abort()
        if self._opening is not None:
            self._opening.cancel()
            self.upstream.ending(self._opening)

    # Called by the connection

    def opened(self, connection: "_Connection") -> None:
        """Ask what was asked since the last connection ended, and what that one left."""
        if self._closed:
            connection.abort()
            return
        self._connection = connection
        self._forget_settled()
        for packet in self._asked.values():
            connection.ask(packet)

    def ended(self, connection: "_Connection", error: BaseException | None) -> None:
        """Open another if answers are waited for: at once if this one gave any."""
        if connection is not self._connection:
            return
        self._connection = None
        if self._closed or not self._wanted():
            return
        if not connection.answered:
            self._fail(error)
        if self._opening is None and not self._closed:
            self._open()

    def received(self, responses: list[bytes]) -> bool:
        """Hand responses on. Whether one of them answers a question."""
        answered = False
        for response in responses:
            if self._asked.pop(response[:2], None) is not None:
                answered = True
            self._take(response)
        if answered:
            self._answered()
        self._deliver()
        return answered

    # Questions

    def _send(self, packet: bytes) -> int:
        if self._tls is not None:
            packet = padded(packet)
        self._asked[packet[:2]] = packet
        if self._connection is not None:
            self._connection.ask(packet)
        elif self._opening is None:
            self._open()
        if len(self.ids) < IDS_LOW:
            self._forget_settled()
            self._refill()
        return len(packet)

    def _wanted(self) -> bool:
        return not self.pending.keys().isdisjoint(self._asked)

    def _forget_settled(self) -> None:
        pending = self.pending
        self._asked = {key: packet for key, packet in self._asked.items() if key in pending}

    # Connections

    def _open(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        """Try until there is a connection, or nobody waits for one."""
        loop = asyncio.get_running_loop()
        try:
            # One may open and end before this goes on.
            while self._connection is None and self._wanted():
                if self._pause:
                    await asyncio.sleep(self._pause)
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        await loop.create_connection(
                            lambda: _Connection(self),
                            self._host,
                            self._port,
                            ssl=self._tls,
                            server_hostname=self._tls_name,
                        )
                except (OSError, ValueError) as error:
                    self._fail(error)
        finally:
            self._opening = None


class _Connection(asyncio.Protocol):
    """Length and message, both ways."""

    def __init__(self, channel: StreamChannel) -> None:
        # Whether it ever answered a question.
        self.answered = False
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        # Sent together once the loop turns: one call of the kernel, one TLS record.
        self._unsent: list[bytes] = []
        # When the first question was asked after the last answer, 0 if none waits, and how many.
        self._waiting_since = 0.0
        self._owed = 0
        self._used_at = time.monotonic()
        self._watcher: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's over TLS is none by its class.
        self._transport = cast(asyncio.Transport, transport)
        self._watch()
        self._channel.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.lost.set_result(None)
        self._channel.ended(self, exc)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        responses = []
        at = 0
        sane = True
        while len(received) - at >= 2:
            length = received[at] << 8 | received[at + 1]
            if length < 12:
                sane = False
                break
            end = at + 2 + length
            if end > len(received):
                break
            responses.append(bytes(received[at + 2 : end]))
            at = end
        del received[:at]
        if responses and self._channel.received(responses):
            self.answered = True
            self._waiting_since = time.monotonic() if self._channel.pending else 0.0
            self._owed = 0
        if not sane:
            self.abort()

    def ask(self, packet: bytes) -> None:
        """Send a question soon."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(len(packet).to_bytes(2, "big") + packet)

    def abort(self) -> None:
        """End now; what was not sent is lost."""
        self._stop()
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(b"".join(self._unsent))
        self._owed += len(self._unsent)
        self._unsent.clear()
        self._used_at = time.monotonic()
        if not self._waiting_since:
            self._waiting_since = self._used_at
        if transport.get_write_buffer_size() > UNSENT_LIMIT:
            self.abort()

    def _watch(self) -> None:
        now = time.monotonic()
        channel = self._channel
        waited = now - self._waiting_since if self._waiting_since else 0.0
        limit = channel.patience / 4 if self._owed >= MANY else channel.patience
        if waited > limit or (not channel.pending and now - self._used_at > channel.idle):
            # Not close(): over TLS that waits for the other side.
            self.abort()
            return
        period = min(channel.patience, channel.idle) / 8
        self._watcher = self._loop.call_later(period, self._watch)

    def _stop(self) -> None:
        self._unsent.clear()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None


def open_stream_channel(
    upstream: Upstream, _: int, cases: list[bytes], drain: Callable[[Channel], None]
) -> Channel:
    """A channel over TCP or TLS. One that sends nowhere if its certificates cannot be read."""
    try:
        return StreamChannel(upstream, cases, drain)
    except (OSError, ValueError) as error:
        upstream.trouble = str(error)
        return Channel(upstream, None, 64, cases)
