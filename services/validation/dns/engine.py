"""The bulk engine: thousands of names in flight over a few UDP sockets, one future per call.

Speaks to recursive resolvers only; knows nothing of campaigns, tables or queues.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Sequence
from errno import EINVAL, EIO, EMSGSIZE, ENOBUFS, EOPNOTSUPP
from random import Random, SystemRandom
from types import TracebackType
from typing import Self

from services.validation.dns import wire
from services.validation.dns.flight import Flight
from services.validation.dns.follow_up import FollowUp
from services.validation.dns.https import open_https_channel
from services.validation.dns.line import Line
from services.validation.dns.query import Call, Query
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.settings import EngineSettings
from services.validation.dns.stats import EngineStats
from services.validation.dns.streams import open_stream_channel
from services.validation.dns.upstream import (
    ANY,
    UDP_SEGMENT,
    Channel,
    Opener,
    Route,
    Upstream,
    Upstreams,
    open_datagram_channel,
)
from services.validation.dns.verdict import Outcome, Verdict

# Time-outs and delayed retries are looked at this often.
TICK = 0.02
# Datagrams read from a socket before others have their turn.
DRAIN_LIMIT = 128
# Names sent on one socket before the next is taken.
BURST = 32
# Seconds until a retry that found no resolver with room is looked at again.
FULL_PAUSE = 0.005
# Such retries met before the others are left for the next time.
HELD_LIMIT = 4
RECEIVE_SIZE = 4096
# Seconds between bursts of retries, each of BURST names.
RETRY_PAUSE = 0.001
# Seconds to leave the kernel alone when it takes no more.
BLOCKED_FOR = 0.002

_OPENERS: dict[Transport, Opener] = {
    Transport.UDP: open_datagram_channel,
    Transport.TCP: open_stream_channel,
    Transport.TLS: open_stream_channel,
    Transport.HTTPS: open_https_channel,
    Transport.HTTPS_JSON: open_https_channel,
}

# A count, the type and class of an SOA record, and the same behind the root's name.
ONE = b"\0\1"
SOA_IN = b"\0\6\0\1"
ROOT_SOA = b"\0" + SOA_IN

_new = tuple.__new__
_SEGMENT_SIZE = struct.Struct("=H")
# What sendmsg says where a socket knows segments and the way to the resolver does not.
NO_SEGMENTS = (EIO, EINVAL, EMSGSIZE, EOPNOTSUPP)


class EngineClosed(RuntimeError):
    """The engine was closed before the names were settled."""


class Engine:
    """Resolves names through `resolvers`. Open it with `async with`; one event loop only."""

    def __init__(
        self,
        resolvers: Sequence[Resolver],
        settings: EngineSettings | None = None,
        *,
        random: Random | None = None,
    ) -> None:
        if not resolvers:
            raise ValueError("an engine needs at least one resolver")
        self._settings = settings = settings or EngineSettings()
        self._upstreams = Upstreams(
            resolvers, settings, random or SystemRandom(), self._drain, _OPENERS
        )
        self._flight = Flight(self._upstreams)
        self._follow_up = FollowUp(self._flight, self._upstreams, settings, self._fill)
        self._questions = {qtype: wire.Questions(qtype) for qtype in wire.QTYPES}
        self._timeout_ns = int(settings.timeout * 1e9)
        # Calls with names still to be sent, and all in progress.
        self._calls = Line()
        self._open_calls: set[Call] = set()
        self._ticker: asyncio.TimerHandle | None = None
        # Set while the kernel takes no more.
        self._blocked = False
        # Set while more retries are due than may be sent at once.
        self._resuming = False
        self._retries = 0
        # Of resolvers that fell silent: a question that each answered before.
        self._knocks: dict[Upstream, Call] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # From here on resolve() refuses, and there is nothing left to send.
        self._loop = None
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self._calls.clear()
        self._stop_knocking()
        for call in self._open_calls:
            self._flight.abandon(call)
            if not call.future.done():
                call.future.set_exception(EngineClosed("the engine was closed"))
        self._upstreams.close()
        await self._follow_up.close()
        await self._upstreams.wait_closed()

    @property
    def operators(self) -> frozenset[str]:
        """Who operates the resolvers."""
        return frozenset(upstream.operator for upstream in self._upstreams.all)

    async def resolve(
        self,
        names: Sequence[str],
        *,
        qtype: int = wire.A,
        route: Route = ANY,
        checking_disabled: bool = False,
    ) -> list[Outcome]:
        """One outcome per name, in the order of `names`, which are normalised ASCII.

        `qtype` is one of wire.QTYPES; with `checking_disabled` validating resolvers answer although
        signatures are broken. Calls at once share the window, the earlier served first, but for
        short ones, which seldom wait for long ones before them. A cancelled call abandons its
        names and disturbs no other. Raises EngineClosed.
        """
        if self._loop is None:
            raise EngineClosed("the engine is not open")
        if not names:
            return []
        call = Call(
            names,
            self._loop.create_future(),
            self._questions[qtype],
            route,
            checking_disabled=checking_disabled,
        )
        self._calls.add(call)
        self._open_calls.add(call)
        self._fill()
        if self._ticker is None:
            self._ticker = self._loop.call_later(TICK, self._tick)
        try:
            return await call.future
        finally:
            self._open_calls.discard(call)
            if call.left:
                self._calls.remove(call)
                self._flight.abandon(call)
                self._fill()

    def quarantine(self, resolver: Resolver) -> None:
        """Ask a resolver only where Route(resolver=it) says so, until `admit`; or if all are out.

        Names that wait for it are asked elsewhere, and what it still says about them is ignored.
        Raises KeyError for a resolver that the engine does not have.
        """
        upstream = self._upstreams.find(resolver)
        if upstream.quarantined:
            return
        upstream.quarantine(out=True)
        if self._loop is not None and not all(it.quarantined for it in self._upstreams.all):
            self._flight.take_back(upstream)
            self._fill()

    def admit(self, resolver: Resolver) -> None:
        """End a resolver's quarantine. Raises KeyError as `quarantine` does."""
        self._upstreams.find(resolver).quarantine(out=False)
        if self._loop is not None:
            self._fill()

    def stats(self) -> EngineStats:
        """Cheap enough to ask for every second."""
        resolvers = tuple(upstream.stats() for upstream in self._upstreams.all)
        return EngineStats(
            in_flight=self._flight.count,
            waiting=sum(len(call.names) - call.next for call in self._calls),
            sent=sum(it.sent for it in resolvers),
            answered=sum(it.answered for it in resolvers),
            timeouts=sum(it.timeouts for it in resolvers),
            retries=self._retries,
            tcp=self._follow_up.over_tcp,
            stray=self._follow_up.stray,
            resolvers=resolvers,
        )

    # Sending

    def _fill(self) -> None:
        """Send new names while the window has room."""
        calls = self._calls
        if self._flight.queue:
            self._send_due()
        full: list[Route] = []
        while calls and not self._blocked:
            room = self._settings.window - self._flight.count
            if room <= 0:
                return
            call = calls.next(full)
            if call is None:
                return
            now = time.monotonic_ns()
            picked = self._upstreams.pick(now, call.route)
            if picked is None:
                full.append(call.route)
                continue
            upstream, room_there = picked
            last = min(call.next + min(BURST, room, room_there), len(call.names))
            self._send_names(call, last, upstream.channel(now))
            if call.next == len(call.names):
                calls.remove(call)
                if not call.left:
                    call.finish()

    def _send_names(self, call: Call, last: int, channel: Channel) -> None:
        # This loop and the one in _drain run once per name. They are flat because a call of a
        # function costs 0.1 us, and a name 9 us altogether.
        names = call.names
        suffixes = call.questions.suffixes
        suffix_of = call.questions.suffix
        header, tail = call.header, wire.OPT_RECORD
        ids = channel.ids
        pending = channel.pending
        next_case = channel.next_case
        clock = time.monotonic_ns
        packets: list[bytes] = []
        add = packets.append
        last = min(last, call.next + len(ids))
        for index in range(call.next, last):
            name = names[index]
            label, _, parent = name.partition(".")
            try:
                suffix = suffixes.get(parent) or suffix_of(parent)
                if not 0 < len(label) < 64 or len(name) > 253:
                    raise ValueError
                question = (chr(len(label)) + label + suffix).encode("ascii")
            except ValueError:
                # It may be met twice, where the kernel took no more before it.
                if call.outcomes[index] is None:
                    call.left -= 1
                call.outcomes[index] = Outcome(name, Verdict.ERROR, -1, (), (), -1, "", 0, 0, False)
                continue
            question = question.translate(next_case())
            key = ids.pop()
            pending[key] = Query(call, index, question, clock(), channel, key)
            add(key + header + question + tail)
        call.next = last
        sent = self._send_packets(channel, packets)
        if sent < len(packets):
            call.next = pending[packets[sent][:2]].index
            for packet in packets[sent:]:
                del pending[packet[:2]]
        channel.upstream.count_sent(sent)
        self._flight.count += sent

    def _send_packets(self, channel: Channel, packets: Sequence[bytes]) -> int:
        """Send new questions; those of one size in one call, which costs the kernel a third.

        Returns how many are on their way, or were lost on it; the kernel takes no more for a
        moment if these are not all.
        """
        at, repeated = 0, -1
        while at < len(packets):
            end = at + 1
            size = len(packets[at])
            if channel.segments:
                while end < len(packets) and len(packets[end]) == size:
                    end += 1
            try:
                if end == at + 1:
                    channel.send(packets[at])
                else:
                    assert channel.sock is not None
                    segments = [(socket.IPPROTO_UDP, UDP_SEGMENT, _SEGMENT_SIZE.pack(size))]
                    channel.sock.sendmsg(packets[at:end], segments)
            except OSError as error:
                if end > at + 1 and error.errno in NO_SEGMENTS:
                    # The way there cannot do it.
                    channel.segments = False
                    continue
                if self._send_failed(channel, error):
                    break
                if end > at + 1 and repeated < at:
                    # Spoke of an earlier datagram, and none of these was sent.
                    repeated = at
                    continue
            at = end
        return at

    def _send_failed(self, channel: Channel, error: OSError) -> bool:
        """Whether to stop sending for a moment. Other failures are questions lost on the way."""
        if isinstance(error, ConnectionRefusedError):
            # Tells of an earlier datagram; this one was not sent and waits out its time.
            self._refused(channel.upstream)
            return False
        if isinstance(error, BlockingIOError) or error.errno == ENOBUFS:
            if not self._blocked:
                self._blocked = True
                self._opened_loop().call_later(BLOCKED_FOR, self._unblock)
            return True
        return False

    def _unblock(self) -> None:
        self._blocked = False
        if self._loop is not None:
            self._fill()

    def _send_due(self) -> None:
        """Repeat questions whose time has come, a few at a time: a burst would be lost again."""
        now = time.monotonic_ns()
        held = 0
        for _ in range(BURST):
            if self._blocked:
                return
            if held == HELD_LIMIT:
                break
            query = self._flight.next_due(now)
            if query is None:
                return
            if not self._send_again(query, now):
                self._flight.ask_later(query, FULL_PAUSE)
                held += 1
        if not self._resuming:
            self._resuming = True
            self._opened_loop().call_later(RETRY_PAUSE, self._resume)

    def _resume(self) -> None:
        self._resuming = False
        if self._loop is not None:
            self._fill()

    def _send_again(self, query: Query, now: int) -> bool:
        """The next attempt, through an upstream that was not asked yet, if there is one well.

        False: none has room, or the kernel takes no more.
        """
        assert query.call is not None
        asked = [*query.asked, query.channel.upstream]
        picked = self._upstreams.pick(now, query.call.route, asked)
        if picked is None:
            return False
        channel = picked[0].channel(now)
        earlier = query.channel, query.key, query.sent_at
        self._flight.send(query, channel, now)
        header, tail = query.framing()
        try:
            channel.send(query.key + header + query.question + tail)
        except OSError as error:
            if self._send_failed(channel, error):
                # Nobody was asked, so nobody's silence may count against the name.
                self._flight.unsend(query, *earlier)
                return False
        query.asked = asked
        self._retries += 1
        return True

    # Receiving

    def _drain(self, channel: Channel) -> None:
        recv = channel.recv
        pending = channel.pending
        addresses_at = wire.addresses_at
        clock = time.monotonic_ns
        label = channel.upstream.label
        connected = channel.upstream.connected
        resolved, absent = Verdict.RESOLVED, Verdict.NXDOMAIN
        settled = old = 0
        flight = self._flight
        mark = channel.upstream.mark
        for _ in range(DRAIN_LIMIT):
            try:
                datagram = recv(RECEIVE_SIZE)
            except BlockingIOError:
                break
            except ConnectionRefusedError:
                self._refused(channel.upstream)
                continue
            except OSError:
                break
            key = datagram[:2]
            query = pending.get(key)
            if query is None:
                self._follow_up.read_late(channel, datagram)
                continue
            question = query.question
            call = query.call
            assert call is not None
            records = call.quick(datagram[2:8])
            if records is None or not datagram.startswith(question, 12):
                self._follow_up.read(channel, query, datagram)
                continue
            authority = ""
            if records:
                found = addresses_at(datagram, 12 + len(question), records)
                if found is None:
                    self._follow_up.read(channel, query, datagram)
                    continue
                addresses, ttl = found
                verdict, rcode = resolved, 0
            else:
                addresses, ttl, verdict, rcode = (), -1, absent, 3
                # The SOA's owner, nearly always the root or a pointer into the question.
                at = 12 + len(question)
                if datagram[8:10] != ONE:
                    # None, or several, among which it is for the careful to choose.
                    pass
                elif datagram[at : at + 1] == b"\xc0" and datagram[at + 2 : at + 6] == SOA_IN:
                    start = datagram[at + 1] - 12
                    name = call.names[query.index]
                    if start > 0 and name[start - 1 : start] == ".":
                        authority = name[start:]
                    elif not start:
                        authority = name
                elif datagram[at : at + 5] == ROOT_SOA:
                    authority = "."
            del pending[key]
            index = query.index
            call.outcomes[index] = _new(
                Outcome,
                (
                    call.names[index],
                    verdict,
                    rcode,
                    addresses,
                    (),
                    ttl,
                    label,
                    query.attempts,
                    (clock() - query.started_at) // 1000,
                    connected,
                    authority,
                    None,
                ),
            )
            query.call = None
            if query.sent_at <= mark:
                old += 1
            if query.traces is not None:
                self._follow_up.explain(query, call, channel.upstream)
            settled += 1
            call.left -= 1
            if not call.left:
                call.finish()
        if settled:
            flight.count -= settled
            upstream = channel.upstream
            upstream.settle(settled, old)
            # The last one stands for all that were read together: up to 128.
            if query is not None and query.call is None:
                upstream.take_time(query.sent_at, clock())
                upstream.familiar = query.question
        self._fill()

    def _refused(self, upstream: Upstream) -> None:
        """The host says that nobody listens: what waits there goes elsewhere at once.

        Only if there is an elsewhere; a lone resolver may be restarting, and has its time.
        """
        if self._upstreams.lose(upstream):
            self._opened_loop().call_soon(self._hand_over, upstream)

    def _hand_over(self, upstream: Upstream) -> None:
        for channel in upstream.live_channels():
            self._follow_up.time_out(channel, time.monotonic_ns())

    # Time

    def _tick(self) -> None:
        """Time out attempts, send what is due, judge upstreams; stops when nothing is left."""
        now = time.monotonic_ns()
        for upstream in self._upstreams.all:
            overdue = 0
            if upstream.out:
                for channel in upstream.live_channels():
                    overdue += self._follow_up.time_out(channel, now - self._timeout_ns)
            upstream.miss(overdue, now)
            upstream.learn_case()
            if upstream.retired:
                upstream.close_retired(now, 4 * self._timeout_ns)
            upstream.judge(now)
            if upstream.suspect and upstream.familiar and not upstream.quarantined:
                self._knock(upstream)
        knocks = sum(call.left for call in self._knocks.values())
        if knocks and self._flight.count <= knocks and not self._calls:
            # Nobody waits to know.
            self._stop_knocking()
        self._fill()
        busy = self._flight.count or self._calls
        self._ticker = self._opened_loop().call_later(TICK, self._tick) if busy else None

    def _knock(self, upstream: Upstream) -> None:
        """Ask a resolver that fell silent what it answered before: is it the path, or the names?"""
        known = self._knocks.get(upstream)
        if known is not None and not known.future.done():
            return
        question = upstream.familiar
        call = self._knocks[upstream] = Call(
            [wire.name_in(question)],
            self._opened_loop().create_future(),
            self._questions[int.from_bytes(question[-4:-2], "big")],
            Route(resolver=upstream.resolver),
            checking_disabled=False,
        )
        self._calls.add(call)

    def _stop_knocking(self) -> None:
        for call in self._knocks.values():
            self._calls.remove(call)
            if call.left:
                self._flight.abandon(call)
            call.future.cancel()
        self._knocks.clear()

    def _opened_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None
        return self._loop
