"""Resolvers in use: sockets replaced before their ids run out, health, and whose turn it is."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random, SystemRandom
from typing import TYPE_CHECKING

from services.validation.dns import wire
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.settings import EngineSettings
from services.validation.dns.stats import ResolverState, ResolverStats

if TYPE_CHECKING:
    from services.validation.dns.query import Query

CASE_TABLES = 1024
# Replaced channels kept open for late answers alone. Sockets are replaced six times a second at
# full speed, and descriptors are often limited to 1,024.
RETIRED_LIMIT = 32

_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class Route:
    """Which resolvers may be asked."""

    # None of this operator's, unless there is no other.
    avoid_operator: str = ""
    # Only this one, in whatever state it is.
    resolver: Resolver | None = None


ANY = Route()


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

    def close(self) -> None:
        if self.sock is not None:
            asyncio.get_running_loop().remove_reader(self.sock.fileno())
            self.sock.close()


# Opens a channel to an upstream with so many ids and these tables of cases; what it returns calls
# the last argument whenever it has something to read.
Opener = Callable[["Upstream", int, list[bytes], Callable[[Channel], None]], Channel]


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
        drain: Callable[[Channel], None],
        opener: Opener,
    ) -> None:
        self.resolver = resolver
        self.label = str(resolver)
        self.operator = resolver.operator
        self.channels: list[Channel] = []
        # Replaced channels that still wait for answers.
        self.retired: list[Channel] = []
        self.suspect = False
        # Taken out from outside; see Upstreams.pick.
        self.quarantined = False
        self.silent = 0
        self.sent = self.answered = self.timeouts = 0
        # Answers whose time was taken, and nanoseconds from question to answer in all.
        self.timed = self.waited_ns = 0
        # Answers with these codes.
        self.servfail = self.refused = 0
        # Echoes over UDP in another case than sent, and in the same.
        self.folded = self.exact = 0
        self.folds_case = False
        self._sockets = sockets
        self._queries_per_socket = queries_per_socket
        self._cases = cases
        self._opener = opener
        # Called when a channel has something to read.
        self._drain = drain
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
        channel = self._opener(self, self._queries_per_socket, self._cases, self._drain)
        self.channels.insert(self._turn, channel)
        return channel

    @property
    def state(self) -> ResolverState:
        if self.quarantined:
            return ResolverState.QUARANTINED
        return ResolverState.SUSPECT if self.suspect else ResolverState.ADMITTED

    def credit(self, settled: int) -> None:
        """Count names that an answer settled."""
        self.answered += settled
        self.hear()

    def hear(self) -> None:
        """Take note that the resolver is there."""
        self.silent = 0
        self.suspect = False

    def miss(self, overdue: int) -> None:
        """Count attempts whose time is up."""
        self.timeouts += overdue
        self.silent += overdue
        if self.silent >= self.SILENT_LIMIT:
            self.suspect = True

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

    def live_channels(self) -> tuple[Channel, ...]:
        """Those in use, and those replaced that still wait for answers."""
        return *self.channels, *self.retired

    def close_retired(self, now: int, patience: int) -> None:
        """Close replaced sockets that nothing waits on, or only answers later than `patience`."""
        for channel in self.retired[:]:
            over = now - channel.retired_at > patience or len(self.retired) > RETIRED_LIMIT
            if not channel.pending and (over or not channel.late):
                self.retired.remove(channel)
                channel.close()

    def close(self) -> None:
        for channel in self.live_channels():
            channel.close()
        self.channels.clear()
        self.retired.clear()

    def stats(self) -> ResolverStats:
        return ResolverStats(
            resolver=self.label,
            suspect=self.suspect,
            sent=self.sent,
            answered=self.answered,
            timeouts=self.timeouts,
            timed=self.timed,
            waited_ns=self.waited_ns,
            state=self.state,
            operator=self.operator,
            servfail=self.servfail,
            refused=self.refused,
        )


def open_datagram_channel(
    upstream: Upstream, ids: int, cases: list[bytes], drain: Callable[[Channel], None]
) -> Channel:
    """A channel over UDP. One that sends nowhere if no socket can be had."""
    sock = None
    try:
        sock = socket.socket(upstream.resolver.family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        # The default holds some 270 answers; a burst of a whole window must fit.
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        sock.connect((upstream.resolver.host, upstream.resolver.port))
    except OSError:
        # No route, or no descriptor left. A channel that sends nowhere lets the names time
        # out and go elsewhere like any others, and is soon used up and tried again.
        if sock is not None:
            sock.close()
        return Channel(upstream, None, 64, cases)
    channel = Channel(upstream, sock, ids, cases)
    asyncio.get_running_loop().add_reader(sock.fileno(), drain, channel)
    return channel


class Upstreams:
    """The resolvers of one engine: whose turn it is, and which of them can be relied on."""

    def __init__(
        self,
        resolvers: Sequence[Resolver],
        settings: EngineSettings,
        random: Random,
        drain: Callable[[Channel], None],
        openers: Mapping[Transport, Opener],
    ) -> None:
        cases = wire.case_tables(random, CASE_TABLES) if settings.vary_case else [bytes(range(256))]
        self.all = [
            Upstream(
                resolver,
                sockets=settings.sockets_per_resolver,
                queries_per_socket=settings.queries_per_socket,
                cases=cases,
                drain=drain,
                opener=openers[resolver.transport],
            )
            for resolver in dict.fromkeys(resolvers)
        ]
        self._turn = 0

    def pick(self, now: int, avoid: Upstream | None, route: Route) -> Upstream:
        """An upstream on `route` that answers, in turn, other than `avoid` where there is one.

        Now and then a suspect gets one name, so that it can show it has recovered.
        """
        upstreams = self._on_route(route)
        if len(upstreams) == 1:
            return upstreams[0]
        well = [it for it in upstreams if not it.suspect]
        if well and len(well) < len(upstreams) and avoid is None:
            for upstream in upstreams:
                if upstream.suspect and upstream.probe_due(now):
                    return upstream
        choice = [it for it in well or upstreams if it is not avoid] or well or upstreams
        self._turn += 1
        return choice[self._turn % len(choice)]

    def _on_route(self, route: Route) -> list[Upstream]:
        """Whom a name may be put to: never nobody."""
        if route.resolver is not None:
            named = [it for it in self.all if it.resolver == route.resolver]
            if named:
                return named
        # Where all are in quarantine, each is as good as the others.
        admitted = [it for it in self.all if not it.quarantined] or self.all
        if route.avoid_operator:
            return [it for it in admitted if it.operator != route.avoid_operator] or admitted
        return admitted

    def find(self, resolver: Resolver) -> Upstream:
        """Raises KeyError for one that the engine does not have."""
        for upstream in self.all:
            if upstream.resolver == resolver:
                return upstream
        raise KeyError(str(resolver))

    def usable(self) -> int:
        """How many are worth asking: those that answer, or all where none does."""
        return sum(not it.suspect and not it.quarantined for it in self.all) or len(self.all)

    def lose(self, upstream: Upstream) -> bool:
        """Suspect `upstream` at once. False: it was already, or there is no other to turn to."""
        others = (it for it in self.all if it is not upstream)
        if upstream.suspect or all(it.suspect or it.quarantined for it in others):
            return False
        upstream.suspect = True
        return True

    def close(self) -> None:
        """Close all sockets; asking again opens others."""
        for upstream in self.all:
            upstream.close()

    def channels(self) -> list[Channel]:
        return [channel for upstream in self.all for channel in upstream.live_channels()]
