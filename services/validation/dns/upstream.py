"""Resolvers in use: sockets replaced before their ids run out, health, and whose turn it is."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random, SystemRandom
from typing import TYPE_CHECKING

from services.validation.dns import wire
from services.validation.dns.congestion import LEAST_PATIENCE, Congestion, Round
from services.validation.dns.limits import RateLimit
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.settings import EngineSettings, Strategy
from services.validation.dns.stats import ResolverState, ResolverStats

if TYPE_CHECKING:
    from services.validation.dns.query import Query

CASE_TABLES = 1024
# Replaced channels kept open for late answers alone. Sockets are replaced six times a second at
# full speed, and descriptors are often limited to 1,024.
RETIRED_LIMIT = 32
# Ids drawn at first, and all of them: channels share the objects, because a thousand resolvers have
# as many channels, most of them little used.
ID_BATCH = 512
_IDS = [number.to_bytes(2, "big") for number in range(1 << 16)]
# Sockets of an engine, beyond one for each resolver.
SOCKETS_LIMIT = 512
# Questions out at once on one channel: without HTTP/2 each takes a connection of its own.
CHANNEL_LIMITS = {Transport.HTTPS: 32, Transport.HTTPS_JSON: 32}

# Linux's socket option, since 4.18: sendmsg's data are cut into datagrams of that size.
UDP_SEGMENT = 103

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

    `ids` are random and never repeat; `draw` gives more until they end. Then the socket is
    replaced, which also gives a new port. An attempt waits in `pending` until its time is up, then
    in `late`, where an answer to it still counts. Both keep the order of sending, so the oldest
    attempt is always first.
    """

    __slots__ = (
        "_distinct",
        "_drawn",
        "_left",
        "ids",
        "late",
        "next_case",
        "pending",
        "recv",
        "retired_at",
        "segments",
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
        # Whether the kernel takes many datagrams of one size in one call.
        self.segments = sock is not None and _has_segments(sock)
        # So many are to be drawn yet; all that were, one after the other, and how many differ.
        self._left = ids
        self._drawn = b""
        self._distinct = 0
        self.ids: list[bytes] = []
        self.draw()
        shuffled = cases[:]
        _random.shuffle(shuffled)
        self.next_case = cycle(shuffled).__next__
        self.pending: dict[bytes, Query] = {}
        self.late: dict[bytes, Query] = {}
        self.retired_at = 0

    def draw(self) -> bool:
        """Have more ids, where there are none. False: they have ended."""
        while self._left and not self.ids:
            # As many again each time: all that were drawn are looked through.
            batch = min(self._left, max(ID_BATCH, len(self._drawn) // 2))
            self._left -= batch
            self._drawn += os.urandom(2 * batch)
            numbers = dict.fromkeys(memoryview(self._drawn).cast("H"))
            fresh = islice(numbers, self._distinct, None)
            self._distinct = len(numbers)
            # In place, because whoever sends holds the list.
            self.ids += [_IDS[number] for number in fresh]
        return bool(self.ids)

    def close(self) -> None:
        if self.sock is not None:
            asyncio.get_running_loop().remove_reader(self.sock.fileno())
            self.sock.close()


def _has_segments(sock: socket.socket) -> bool:
    try:
        return sock.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT) >= 0
    except OSError:
        return False


# Opens a channel to an upstream with so many ids and these tables of cases; what it returns calls
# the last argument whenever it has something to read.
Opener = Callable[["Upstream", int, list[bytes], Callable[[Channel], None]], Channel]


class Upstream:
    """A resolver in use: a rotation of channels, and whether anything comes back."""

    # So many attempts in a row without an answer make an upstream suspect: with 20% of packets
    # lost that happens by chance once in 10^11.
    SILENT_LIMIT = 16
    # And none in so long: what was lost on the way, or could not be read because the loop was busy,
    # is found out all at once.
    SILENT_FOR_NS = 100_000_000
    # Echoes in the wrong case before any conclusion.
    FOLDED_LIMIT = 8
    PROBE_INTERVAL_NS = 250_000_000
    # One that has no CPU for a while answers nothing; beyond this its buffer is no longer spared.
    SILENCE_NS = 250_000_000

    def __init__(
        self,
        resolver: Resolver,
        settings: EngineSettings,
        *,
        cases: list[bytes],
        drain: Callable[[Channel], None],
        opener: Opener,
        changed: Callable[[], None],
        sockets: int,
    ) -> None:
        self.resolver = resolver
        self.label = str(resolver)
        self.operator = resolver.operator
        # Whether its answers come over connections.
        self.connected = resolver.transport is not Transport.UDP
        self.channels: list[Channel] = []
        # Replaced channels that still wait for answers.
        self.retired: list[Channel] = []
        # Changed by methods only, which say so.
        self.suspect = False
        # Taken out from outside; see Upstreams.pick.
        self.quarantined = False
        self.silent = 0
        self._silent_since = 0
        # When it was last heard, 0: never, and a question that it answered.
        self.heard_at = 0
        self.familiar = b""
        # Questions without an answer, all that are pending on its channels, and of these the ones
        # sent up to `mark`: they are late and count against nothing but `in_flight_limit`. They are
        # not in the resolver's socket buffer, or later ones would not have been answered.
        self.out = self.old = 0
        self.mark = 0
        # When the latest of the answered questions was sent.
        self._newest = 0
        # A late question still has its connection: more would only wait here, and time out.
        self._holds_late = resolver.transport in CHANNEL_LIMITS
        channel_limit = CHANNEL_LIMITS.get(resolver.transport, settings.window)
        self.congestion = Congestion(min(settings.window, channel_limit * sockets))
        # Questions per second, and out at once; None and 0: no limit.
        rate = resolver.rate_limit or settings.rate_limit
        self._rate = RateLimit(rate) if rate else None
        self._in_flight_limit = resolver.in_flight_limit or settings.in_flight_limit
        self.is_limited = bool(rate or self._in_flight_limit)
        # For the weighted strategy: questions so far, over its weight.
        self.passed = 0.0
        # What became of the questions of this round; see congestion.Round.
        self._round_began = 0
        self._round_answered = 0
        self._round_late = self._came_late = 0
        self._round_timed = self._waited = self._strayed = 0
        self._fastest = 0
        self._full = False
        self.sent = self.answered = self.timeouts = 0
        # Answers whose time was taken, and nanoseconds from question to answer in all.
        self.timed = self.waited_ns = 0
        # Answers with these codes.
        self.servfail = self.refused = 0
        # Echoes over UDP in another case than sent, and in the same.
        self.folded = self.exact = 0
        self.folds_case = False
        self._sockets = sockets
        self._queries_per_socket = settings.queries_per_socket
        self._cases = cases
        self._opener = opener
        # Called when a channel has something to read.
        self._drain = drain
        self._changed = changed
        self._turn = 0
        self._probe_at = 0
        # As in ResolverStats.
        self.trouble = ""
        # What closed channels still have to do.
        self.endings: set[asyncio.Future[None]] = set()

    def channel(self, now: int) -> Channel:
        """The next channel to send on; it has at least one id left. `now` in nanoseconds."""
        self._turn = (self._turn + 1) % self._sockets
        if self._turn < len(self.channels):
            channel = self.channels[self._turn]
            if channel.ids or channel.draw():
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

    def settle(self, settled: int, late: int) -> None:
        """Count questions that ordinary answers settled, so many of them late."""
        self.out -= settled
        self.old -= late
        self._came_late += late
        self.exact += settled
        self.credit(settled)

    def withdraw(self, sent_at: int) -> None:
        """Count a question that is no longer pending."""
        self.out -= 1
        if sent_at <= self.mark:
            self.old -= 1

    def credit(self, settled: int) -> None:
        """Count names that an answer settled."""
        self.answered += settled
        self.hear()

    def hear(self) -> None:
        """Take note that the resolver is there."""
        self.silent = 0
        self.heard_at = time.monotonic_ns()
        if self.suspect:
            self.suspect = False
            self.congestion.restart()
            self._changed()

    def miss(self, overdue: int, now: int) -> None:
        """Count attempts whose time is up. `now` in nanoseconds."""
        if not (overdue or self.silent):
            return
        self.timeouts += overdue
        if not self.silent:
            self._silent_since = now
        self.silent += overdue
        if self.silent >= self.SILENT_LIMIT and now - self._silent_since >= self.SILENT_FOR_NS:
            self.lose()

    def lose(self) -> None:
        """Suspect it."""
        if not self.suspect:
            self.suspect = True
            self._changed()

    def quarantine(self, *, out: bool) -> None:
        """Take it out, or in again."""
        self.quarantined = out
        self._changed()

    def room(self, now: int) -> int:
        """How many questions may be sent to it. `now` in nanoseconds."""
        room = self.congestion.window - self.out
        if not self._holds_late:
            room += self.old
        if room <= 0:
            self._full = True
            return 0
        if self._in_flight_limit:
            room = min(room, self._in_flight_limit - self.out)
        if self._rate is not None and room > 0:
            room = min(room, self._rate.allowed(now))
        return room

    def count_sent(self, questions: int) -> None:
        """Count questions that are pending on its channels now."""
        self.sent += questions
        self.out += questions
        self.passed += questions / self.resolver.weight
        if self._rate is not None:
            self._rate.take(questions)

    def take_time(self, sent_at: int, now: int) -> None:
        """Note the time to an answer."""
        waited = now - sent_at
        self._newest = max(self._newest, sent_at)
        self.timed += 1
        self.waited_ns += waited
        if not self._round_timed or waited < self._fastest:
            self._fastest = waited
        self._round_timed += 1
        self._waited += waited
        self._strayed += abs(waited - self.congestion.usual)

    def judge(self, now: int) -> None:
        """Count anew what is late, and adapt the window after each round. `now` in nanoseconds."""
        if not (self.out or self._round_late) and self.answered == self._round_answered:
            # Of a thousand resolvers most have nothing to do.
            self._round_began = now
            return
        before, self.old = self.old, 0
        if self.suspect:
            mark = now - LEAST_PATIENCE
        else:
            mark = min(now - self.congestion.patience(), self._newest)
        self.mark = mark = max(mark, now - self.SILENCE_NS)
        for channel in self.live_channels():
            for query in channel.pending.values():
                if query.sent_at > mark:
                    break
                self.old += 1
        self._round_late += max(0, self.old - before)
        answered = self.answered - self._round_answered
        if not self.congestion.is_over(answered, self._round_late, now - self._round_began):
            return
        last = Round(
            answered=answered,
            late=self._round_late,
            came_late=self._came_late,
            timed=self._round_timed,
            waited=self._waited,
            strayed=self._strayed,
            fastest=self._fastest,
            full=self._full,
        )
        self.congestion.observe(last, now)
        self._round_began = now
        self._round_answered = self.answered
        self._round_late = self._came_late = 0
        self._round_timed = self._waited = self._strayed = 0
        self._full = False

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

    def ending(self, end: asyncio.Future[None]) -> None:
        """Keep what a closed channel still has to do, until it is done."""
        self.endings.add(end)
        end.add_done_callback(self.endings.discard)

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
            window=self.congestion.window,
            loss=self.congestion.loss,
            trouble=self.trouble,
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
        distinct = dict.fromkeys(resolvers)
        sockets = max(1, min(settings.sockets_per_resolver, SOCKETS_LIMIT // len(distinct)))
        self.all = [
            Upstream(
                resolver,
                settings,
                cases=cases,
                drain=drain,
                opener=openers[resolver.transport],
                changed=self._forget,
                sockets=sockets,
            )
            for resolver in distinct
        ]
        self._strategy = settings.strategy
        self._random = random
        self._turn = 0
        # What the weighted strategy has come to.
        self._passed = 0.0
        # By route: those that are well, and those that are suspect.
        self._choices: dict[Route, tuple[list[Upstream], list[Upstream]]] = {}

    def pick(
        self, now: int, route: Route, asked: Sequence[Upstream] = ()
    ) -> tuple[Upstream, int] | None:
        """Whom to ask, and how many questions at most; None while nobody has room.

        One on `route` that answers, as the strategy has it; one that was not `asked` yet, or long
        ago, where there is one. Now and then a suspect gets one name, so that it can show it has
        recovered.
        """
        choices = self._choices.get(route)
        if choices is None:
            choices = self._choices[route] = self._choose(route)
        well, suspects = choices
        if suspects and well and not asked:
            for upstream in suspects:
                if upstream.room(now) > 0 and upstream.probe_due(now):
                    return upstream, 1
        candidates = well or suspects
        if asked and len(candidates) > 1:
            return self._pick_again(candidates, now, asked)
        return self._pick_among(candidates, now)

    def _pick_again(
        self, candidates: list[Upstream], now: int, asked: Sequence[Upstream]
    ) -> tuple[Upstream, int] | None:
        """As `pick`, for a name that these were `asked` about, in that order."""
        left = candidates
        while left:
            fewest = min(map(asked.count, left))
            next_best = [it for it in left if asked.count(it) == fewest]
            next_best = [it for it in next_best if it is not asked[-1]] or next_best
            picked = self._pick_among(next_best, now)
            # A full window is open again in a moment. A limit may keep a resolver busy for hours.
            if picked is not None or not all(it.is_limited for it in next_best):
                return picked
            left = [it for it in left if it not in next_best]
        return None

    def _pick_among(self, candidates: list[Upstream], now: int) -> tuple[Upstream, int] | None:
        if len(candidates) == 1 or self._strategy is Strategy.FAILOVER:
            upstream = candidates[0]
            room = upstream.room(now)
            return (upstream, room) if room > 0 else None
        if self._strategy is Strategy.ROUND_ROBIN:
            return self._next(candidates, now)
        return self._draw(candidates, now)

    def _next(self, candidates: list[Upstream], now: int) -> tuple[Upstream, int] | None:
        for _ in candidates:
            self._turn = (self._turn + 1) % len(candidates)
            upstream = candidates[self._turn]
            room = upstream.room(now)
            if room > 0:
                return upstream, room
        return None

    def _draw(self, candidates: list[Upstream], now: int) -> tuple[Upstream, int] | None:
        free = [(it, room) for it in candidates if (room := it.room(now)) > 0]
        if not free:
            return None
        if self._strategy is Strategy.RANDOM:
            return free[self._random.randrange(len(free))]
        # Who has had least for its weight. What one missed while it was full is gone.
        for upstream, _ in free:
            upstream.passed = max(upstream.passed, self._passed)
        chosen = min(free, key=lambda it: it[0].passed)
        self._passed = chosen[0].passed
        return chosen

    def _choose(self, route: Route) -> tuple[list[Upstream], list[Upstream]]:
        upstreams = self._on_route(route)
        return (
            [it for it in upstreams if not it.suspect],
            [it for it in upstreams if it.suspect],
        )

    def _forget(self) -> None:
        self._choices.clear()

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

    def relied_on(self, route: Route) -> list[Upstream]:
        """Those on `route` whose silence means something: they answer others, or none does."""
        upstreams = self._on_route(route)
        return [it for it in upstreams if not it.suspect] or upstreams

    def fell_silent(self, route: Route, since: int) -> bool:
        """Whether nobody on `route` was heard `since` then, in nanoseconds, though somebody was
        before, and many questions were asked: the path may be cut."""
        upstreams = self._on_route(route)
        heard_at = max(it.heard_at for it in upstreams)
        return 0 < heard_at <= since and all(it.suspect for it in upstreams)

    def find(self, resolver: Resolver) -> Upstream:
        """Raises KeyError for one that the engine does not have."""
        for upstream in self.all:
            if upstream.resolver == resolver:
                return upstream
        raise KeyError(str(resolver))

    def lose(self, upstream: Upstream) -> bool:
        """Suspect `upstream` at once. False: it was already, or there is no other to turn to."""
        others = (it for it in self.all if it is not upstream)
        if upstream.suspect or all(it.suspect or it.quarantined for it in others):
            return False
        upstream.lose()
        return True

    def close(self) -> None:
        """Close all sockets; asking again opens others."""
        for upstream in self.all:
            upstream.close()

    async def wait_closed(self) -> None:
        """Wait until nothing of closed channels is left."""
        endings = [end for upstream in self.all for end in upstream.endings]
        if endings:
            await asyncio.wait(endings)

    def channels(self) -> list[Channel]:
        return [channel for upstream in self.all for channel in upstream.live_channels()]
