"""Resolvers: how one is written, where the system's own stand, and what the engine knows of each.

An `Upstream` is a resolver in use: sockets that are replaced before their ids run out, and health.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

from services.chassis.endpoint import BadEndpoint, parse_endpoint

if TYPE_CHECKING:
    from .engine import Query

_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class Resolver:
    """A recursive resolver, by address: a name would itself have to be resolved."""

    host: str
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> "Resolver":
        """From "192.0.2.1", "192.0.2.1:53", "::1", "[::1]" or "[::1]:53". Raises BadEndpoint."""
        return cls(*parse_endpoint(text, default_port=53))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


def system_resolvers(path: Path = Path("/etc/resolv.conf")) -> tuple[Resolver, ...]:
    """The resolvers this machine uses; the loopback one when none is named, as libc has it."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append(Resolver.parse(words[1]))
            except BadEndpoint:
                continue
    return tuple(found) or (Resolver("127.0.0.1"),)


class Channel:
    """One connected UDP socket: the kernel drops what comes from any other address or port.

    `ids` are random, never repeat, and end; then the socket is replaced, which also gives a new
    port. An attempt waits in `pending` until its time is up, then in `late`, where an answer to
    it still counts. Both keep the order of sending, so the oldest attempt is always first.
    """

    __slots__ = (
        "ids",
        "late",
        "next_case",
        "pending",
        "recv",
        "retired_at",
        "send",
        "sock",
        "upstream",
    )

    def __init__(
        self, upstream: "Upstream", sock: socket.socket | None, ids: int, cases: list[bytes]
    ) -> None:
        self.upstream = upstream
        self.sock = sock
        if sock is None:
            self.send: Callable[[bytes], int] = len
        else:
            self.send, self.recv = sock.send, sock.recv
        raw = os.urandom(2 * ids)
        self.ids = list({raw[at : at + 2]: None for at in range(0, len(raw), 2)})
        shuffled = cases[:]
        _random.shuffle(shuffled)
        self.next_case = cycle(shuffled).__next__
        self.pending: dict[bytes, Query] = {}
        self.late: dict[bytes, Query] = {}
        self.retired_at = 0


class Upstream:
    """A resolver in use: a rotation of channels, and whether anything comes back."""

    # So many attempts in a row without an answer make an upstream suspect: with 20% of packets
    # lost that happens by chance once in 10^11.
    SILENT_LIMIT = 16
    # Echoes in the wrong case before any conclusion.
    FOLDED_LIMIT = 8
    PROBE_INTERVAL_NS = 250_000_000

    def __init__(
        self,
        resolver: Resolver,
        *,
        sockets: int,
        queries_per_socket: int,
        cases: list[bytes],
        opened: "Callable[[Channel], None]",
    ) -> None:
        self.resolver = resolver
        self.label = str(resolver)
        self.channels: list[Channel] = []
        # Replaced channels that still wait for answers.
        self.retired: list[Channel] = []
        self.suspect = False
        self.silent = 0
        self.sent = self.answered = self.timeouts = 0
        # Echoes over UDP in another case than sent, and in the same.
        self.folded = self.exact = 0
        self.folds_case = False
        self._sockets = sockets
        self._queries_per_socket = queries_per_socket
        self._cases = cases
        self._opened = opened
        self._turn = 0
        self._probe_at = 0

    def channel(self, now: int) -> Channel:
        """The next channel to send on; it has at least one id left. `now` in nanoseconds."""
        self._turn = (self._turn + 1) % self._sockets
        if self._turn < len(self.channels):
            channel = self.channels[self._turn]
            if channel.ids:
                return channel
            channel.retired_at = now
            self.retired.append(channel)
            del self.channels[self._turn]
        channel = self._open()
        self.channels.insert(self._turn, channel)
        return channel

    def learn_case(self) -> None:
        """Take a resolver to fold case if most echoes say so; some match by chance.

        A forger cannot bring this about: he would have to guess id and port more often than the
        resolver answers.
        """
        if self.folded >= self.FOLDED_LIMIT and self.folded > 2 * self.exact:
            self.folds_case = True

    def probe_due(self, now: int) -> bool:
        """Whether a suspect upstream may be tried with one name again. `now` in nanoseconds."""
        if now < self._probe_at:
            return False
        self._probe_at = now + self.PROBE_INTERVAL_NS
        return True

    def _open(self) -> Channel:
        sock = None
        try:
            sock = socket.socket(self.resolver.family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            # The default holds some 270 answers; a burst of a whole window must fit.
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
            sock.connect((self.resolver.host, self.resolver.port))
        except OSError:
            # No route, or no descriptor left. A channel that sends nowhere lets the names time
            # out and go elsewhere like any others, and is soon used up and tried again.
            if sock is not None:
                sock.close()
            return Channel(self, None, 64, self._cases)
        channel = Channel(self, sock, self._queries_per_socket, self._cases)
        self._opened(channel)
        return channel
