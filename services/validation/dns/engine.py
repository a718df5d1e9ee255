"""The bulk engine: thousands of names in flight over a few UDP sockets, one future per call.

Speaks to recursive resolvers only; knows nothing of campaigns, tables or queues.
"""

import asyncio
import heapq
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOBUFS
from itertools import count
from random import Random, SystemRandom
from types import TracebackType
from typing import Self

from . import wire
from .resolvers import Channel, Resolver, Upstream
from .verdict import (
    BADVERS,
    FORMERR,
    NOTIMP,
    REFUSED,
    Answer,
    Outcome,
    Verdict,
    conclude,
    is_final,
    judge,
)

# Time-outs and delayed retries are looked at this often.
TICK = 0.02
# Datagrams read from a socket before others have their turn.
DRAIN_LIMIT = 128
# Names sent on one socket before the next is taken.
BURST = 32
# A question unanswered for this long is no longer in the resolver's socket buffer.
RECENT_NS = 20_000_000
RECEIVE_SIZE = 4096
SOFT_DELAY_LIMIT = 1.0
# Seconds between bursts of retries, each of BURST names.
RETRY_PAUSE = 0.001
# Seconds to leave the kernel alone when it takes no more.
BLOCKED_FOR = 0.002
CASE_TABLES = 1024
NO_ANSWER = Answer(-1, False, (), (), -1, False, False)

_new = tuple.__new__


class EngineClosed(RuntimeError):
    """The engine was closed before the names were settled."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How hard and how patiently to ask. Raises ValueError for a setting out of its limits."""

    # Names in flight, 1-10,000. About twice the rate wanted times the mean latency.
    window: int = 4000
    # Of these, questions per resolver sent in the last 20-40 ms and unanswered, 1-10,000. A
    # resolver that falls behind drops what its socket buffer does not hold, 270 questions by
    # default, and each costs a time-out: on two busy cores, 4,000 at once gave 19,000 names/s and
    # 200 gave 50,000. Raise it for a distant resolver with a larger buffer (so-rcvbuf).
    burst: int = 200
    # Seconds to wait for an answer to one attempt, 0.01-60.
    timeout: float = 1.0
    # Questions asked about one name before its verdict rests on what came, 1-50.
    tries: int = 6
    # SERVFAIL, REFUSED and unusable answers before one is believed, 1-50; also ends at `tries`.
    soft_tries: int = 4
    # Seconds before the first retry after such an answer, 0-1; doubles with each, up to 1.
    soft_delay: float = 0.05
    # UDP sockets per resolver, 1-64.
    sockets_per_resolver: int = 4
    # Ids drawn per socket, 100-60,000; it is replaced after about 0.86 times as many questions
    # at the default, because ids that repeat are left out.
    queries_per_socket: int = 20_000
    # Truncated answers followed up over TCP at once, 1-1,000, and seconds for each, 0.01-60.
    tcp_limit: int = 64
    tcp_timeout: float = 3.0
    # Whether to vary the case of letters, which a forger must then guess too.
    vary_case: bool = True
    # wire.A or wire.AAAA.
    qtype: int = wire.A

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "window": (1, 10_000),
            "burst": (1, 10_000),
            "timeout": (0.01, 60),
            "tries": (1, 50),
            "soft_tries": (1, 50),
            "soft_delay": (0, SOFT_DELAY_LIMIT),
            "sockets_per_resolver": (1, 64),
            "queries_per_socket": (100, 60_000),
            "tcp_limit": (1, 1000),
            "tcp_timeout": (0.01, 60),
        }
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(f"{field} is {value}, not in {low}-{high}")
        if self.qtype not in (wire.A, wire.AAAA):
            raise ValueError(f"qtype is {self.qtype}, neither A (1) nor AAAA (28)")


@dataclass(frozen=True, slots=True)
class ResolverStats:
    """Counts since the engine was opened; `answered` counts verdicts, not datagrams."""

    resolver: str
    suspect: bool
    sent: int
    answered: int
    timeouts: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment; counts since it was opened."""

    in_flight: int
    # Names handed to resolve() and not yet asked about.
    waiting: int
    sent: int
    answered: int
    timeouts: int
    retries: int
    tcp: int
    # Datagrams that answered no question of ours.
    stray: int
    resolvers: tuple[ResolverStats, ...]


class Call:
    """One resolve() in progress."""

    __slots__ = ("future", "left", "names", "next", "outcomes")

    def __init__(self, names: Sequence[str], future: "asyncio.Future[list[Outcome]]") -> None:
        self.names = names
        self.outcomes: list[Outcome] = [None] * len(names)  # type: ignore[list-item]
        self.next = 0
        self.left = len(names)
        self.future = future


class Query:
    """One name in flight. `call` is None once it is settled or abandoned.

    At any time it is in exactly one place: pending on a channel, in the queue of retries, or
    with a TCP task; besides, its earlier attempts are listed in `traces`.
    """

    __slots__ = (
        "attempts",
        "call",
        "channel",
        "heard",
        "index",
        "key",
        "last",
        "plain",
        "question",
        "queued",
        "sent_at",
        "started_at",
        "traces",
    )

    call: Call | None
    channel: Channel
    # How often each answer that is not final came, and the last such; set by odd().
    heard: dict[Verdict, int]
    last: dict[Verdict, Answer]
    traces: list[tuple[Channel, bytes]] | None

    def __init__(
        self, call: Call, index: int, question: bytes, now: int, channel: Channel, key: bytes
    ) -> None:
        self.call = call
        self.index = index
        self.question = question
        self.started_at = self.sent_at = now
        self.channel = channel
        self.key = key
        self.attempts = 1
        self.traces = None

    def odd(self) -> None:
        """Give a query that left the fast path the fields only such ones need."""
        if self.traces is None:
            self.traces = []
            self.heard = {}
            self.last = {}
            self.plain = self.queued = False

    def note(self, verdict: Verdict, answer: Answer) -> None:
        """Keep an answer that is not final."""
        self.odd()
        self.heard[verdict] = self.heard.get(verdict, 0) + 1
        self.last[verdict] = answer
        if answer.rcode in (FORMERR, NOTIMP, BADVERS):
            # A server that does not know EDNS says so; the next question goes without.
            self.plain = True


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
        random = random or SystemRandom()
        cases = wire.case_tables(random, CASE_TABLES) if settings.vary_case else [bytes(range(256))]
        self._upstreams = [
            Upstream(
                resolver,
                sockets=settings.sockets_per_resolver,
                queries_per_socket=settings.queries_per_socket,
                cases=cases,
                opened=self._listen,
            )
            for resolver in dict.fromkeys(resolvers)
        ]
        self._questions = wire.Questions(settings.qtype)
        self._timeout_ns = int(settings.timeout * 1e9)
        self._turn = 0
        # Calls with names still to be sent, and all in progress.
        self._calls: deque[Call] = deque()
        self._open_calls: set[Call] = set()
        self._in_flight = 0
        # Questions out and sent before `_mark`; the others are recent, and limited by `burst`.
        self._old = 0
        self._mark = 0
        # Names that wait for a retry.
        self._queued = 0
        self._burst = settings.burst * len(self._upstreams)
        self._retry_queue: list[tuple[int, int, Query]] = []
        self._sequence = count()
        self._over_tcp: dict[Query, asyncio.Task[None]] = {}
        # Includes tasks whose name was settled otherwise and that are on their way out.
        self._tasks: set[asyncio.Task[None]] = set()
        self._tcp_slots = asyncio.Semaphore(settings.tcp_limit)
        self._ticker: asyncio.TimerHandle | None = None
        # Set while the kernel takes no more.
        self._blocked = False
        # Set while more retries are due than may be sent at once.
        self._resuming = False
        self._retries = self._tcp = self._stray = 0
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
        if self._ticker is not None:
            self._ticker.cancel()
        for channel in self._channels():
            self._shut(channel)
        self._calls.clear()
        for call in self._open_calls:
            if not call.future.done():
                call.future.set_exception(EngineClosed("the engine was closed"))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._loop = None

    async def resolve(self, names: Sequence[str]) -> list[Outcome]:
        """One outcome per name, in the order of `names`, which are normalised ASCII.

        Calls at once share the window, the earlier served first. A cancelled call abandons its
        names and disturbs no other. Raises EngineClosed.
        """
        if self._loop is None:
            raise EngineClosed("the engine is not open")
        if not names:
            return []
        call = Call(names, self._loop.create_future())
        self._calls.append(call)
        self._open_calls.add(call)
        self._fill()
        if self._ticker is None:
            self._ticker = self._loop.call_later(TICK, self._tick)
        try:
            return await call.future
        finally:
            self._open_calls.discard(call)
            if call.left:
                self._abandon(call)

    def stats(self) -> EngineStats:
        """Cheap enough to ask for every second."""
        upstreams = self._upstreams
        return EngineStats(
            in_flight=self._in_flight,
            waiting=sum(len(call.names) - call.next for call in self._calls),
            sent=sum(upstream.sent for upstream in upstreams),
            answered=sum(upstream.answered for upstream in upstreams),
            timeouts=sum(upstream.timeouts for upstream in upstreams),
            retries=self._retries,
            tcp=self._tcp,
            stray=self._stray,
            resolvers=tuple(
                ResolverStats(it.label, it.suspect, it.sent, it.answered, it.timeouts)
                for it in upstreams
            ),
        )

    # Sending

    def _fill(self) -> None:
        """Send new names while the window has room."""
        calls = self._calls
        if self._retry_queue:
            self._send_due()
        while calls and not self._blocked:
            room = min(self._settings.window - self._in_flight, self._room())
            if room <= 0:
                return
            call = calls[0]
            now = time.monotonic_ns()
            upstream = self._pick(now, None)
            burst = min(1 if upstream.suspect else BURST, room)
            last = min(call.next + burst, len(call.names))
            self._send_names(call, last, upstream.channel(now))
            if call.next == len(call.names):
                calls.popleft()
                if not call.left:
                    self._finish(call)

    def _room(self) -> int:
        """Questions that may be sent without too many recent ones being out."""
        recent = self._in_flight - self._old - self._queued - len(self._over_tcp)
        return self._burst - recent

    def _send_names(self, call: Call, last: int, channel: Channel) -> None:
        # This loop and the one in _drain run once per name. They are flat because a call of a
        # function costs 0.1 us, and a name 9 us altogether.
        names = call.names
        suffixes = self._questions.suffixes
        suffix_of = self._questions.suffix
        header, tail = wire.HEADER, wire.OPT_RECORD
        ids = channel.ids
        pending = channel.pending
        next_case = channel.next_case
        send = channel.send
        clock = time.monotonic_ns
        sent = 0
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
                call.outcomes[index] = Outcome(name, Verdict.ERROR, -1, (), (), -1, "", 0, 0, False)
                call.left -= 1
                continue
            question = question.translate(next_case())
            key = ids.pop()
            pending[key] = Query(call, index, question, clock(), channel, key)
            try:
                send(key + header + question + tail)
            except OSError as error:
                if self._send_failed(channel, error):
                    del pending[key]
                    last = index
                    break
            sent += 1
        call.next = last
        channel.upstream.sent += sent
        self._in_flight += sent

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

    def _pick(self, now: int, avoid: Upstream | None) -> Upstream:
        """An upstream that answers, in turn, other than `avoid` where there is one.

        Now and then a suspect gets one name, so that it can show it has recovered.
        """
        upstreams = self._upstreams
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

    def _send_due(self) -> None:
        """Repeat questions whose time has come, a few at a time: a burst would be lost again."""
        queue = self._retry_queue
        now = time.monotonic_ns()
        limit = BURST
        while queue and queue[0][0] <= now and not self._blocked and self._room() > 0:
            query = heapq.heappop(queue)[2]
            if query.call is None:
                continue
            self._send_again(query, now)
            limit -= 1
            if not limit:
                if not self._resuming:
                    self._resuming = True
                    self._opened_loop().call_later(RETRY_PAUSE, self._resume)
                return

    def _resume(self) -> None:
        self._resuming = False
        if self._loop is not None:
            self._fill()

    def _send_again(self, query: Query, now: int) -> None:
        """The next attempt, through another upstream if one is well."""
        upstream = self._pick(now, query.channel.upstream)
        channel = upstream.channel(now)
        query.queued = False
        self._queued -= 1
        query.channel = channel
        query.key = key = channel.ids.pop()
        query.attempts += 1
        query.sent_at = now
        channel.pending[key] = query
        upstream.sent += 1
        self._retries += 1
        header, tail = (wire.HEADER_PLAIN, b"") if query.plain else (wire.HEADER, wire.OPT_RECORD)
        try:
            channel.send(key + header + query.question + tail)
        except OSError as error:
            self._send_failed(channel, error)

    # Receiving

    def _drain(self, channel: Channel) -> None:
        recv = channel.recv
        pending = channel.pending
        quick = wire.QUICK.get
        addresses_at = wire.addresses_at
        clock = time.monotonic_ns
        label = channel.upstream.label
        resolved, absent = Verdict.RESOLVED, Verdict.NXDOMAIN
        settled = old = 0
        mark = self._mark
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
                self._late(channel, key, datagram)
                continue
            question = query.question
            records = quick(datagram[2:8])
            if records is None or not datagram.startswith(question, 12):
                self._odd(channel, query, datagram)
                continue
            call = query.call
            assert call is not None
            if records:
                found = addresses_at(datagram, 12 + len(question), records)
                if found is None:
                    self._odd(channel, query, datagram)
                    continue
                addresses, ttl = found
                verdict, rcode = resolved, 0
            else:
                addresses, ttl, verdict, rcode = (), -1, absent, 3
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
                    False,
                ),
            )
            query.call = None
            if query.sent_at <= mark:
                old += 1
            if query.traces:
                self._forget(query)
            settled += 1
            call.left -= 1
            if not call.left:
                self._finish(call)
        if settled:
            self._in_flight -= settled
            self._old -= old
            channel.upstream.exact += settled
            self._credit(channel.upstream, settled)
        self._fill()

    def _credit(self, upstream: Upstream, settled: int) -> None:
        upstream.answered += settled
        upstream.silent = 0
        upstream.suspect = False

    def _late(self, channel: Channel, key: bytes, datagram: bytes) -> None:
        query = channel.late.get(key)
        if query is None:
            self._stray += 1
        else:
            self._odd(channel, query, datagram)

    def _odd(self, channel: Channel, query: Query, datagram: bytes) -> None:
        """Anything but the ordinary answer to the live attempt."""
        upstream = channel.upstream
        query.odd()
        echo = wire.echo_of(datagram, query.question)
        if echo is wire.Echo.FOREIGN:
            self._stray += 1
            return
        if echo is wire.Echo.ABSENT:
            # Too easily forged to decide anything; the attempt goes on waiting.
            self._hint(query, Answer(datagram[3] & 0x0F, False, (), (), -1, False, False))
            return
        if echo is wire.Echo.FOLDED and not upstream.folds_case:
            # Over TCP it cannot be forged; beyond the limit it waits, and its next attempt may
            # find the resolver known to fold.
            upstream.folded += 1
            if len(self._over_tcp) < self._settings.tcp_limit:
                self._ask_over_tcp(channel.upstream, query)
            return
        if echo is wire.Echo.SAME:
            upstream.exact += 1
        try:
            answer = wire.read(datagram, query.question, self._settings.qtype)
        except wire.Malformed:
            self._hint(query, NO_ANSWER._replace(rcode=datagram[3] & 0x0F))
            return
        if answer.truncated:
            self._ask_over_tcp(upstream, query)
            return
        self._weigh(query, answer, upstream)

    def _hint(self, query: Query, answer: Answer) -> None:
        """Keep an answer too poor to act on: it counts if nothing better comes."""
        refused = answer.rcode == REFUSED
        query.note(Verdict.REFUSED if refused else Verdict.ERROR, answer)

    def _weigh(
        self, query: Query, answer: Answer, upstream: Upstream, *, tcp: bool = False
    ) -> None:
        """Settle the name if the answer ends the search, else ask again, later each time."""
        verdict = judge(answer)
        if is_final(verdict):
            self._settle(query, verdict, answer, upstream.label, tcp=tcp)
            self._credit(upstream, 1)
            return
        upstream.silent = 0
        upstream.suspect = False
        query.note(verdict, answer)
        soft = sum(query.heard.values())
        if soft >= self._settings.soft_tries:
            self._give_up(query, upstream, tcp=tcp)
        elif tcp or self._let_go(query):
            delay = self._settings.soft_delay * 2.0 ** (soft - 1)
            self._retry(query, min(delay, SOFT_DELAY_LIMIT))

    def _withdraw(self, query: Query) -> bool:
        """Take the live attempt out, if there is one."""
        if query.channel.pending.pop(query.key, None) is None:
            return False
        if query.sent_at <= self._mark:
            self._old -= 1
        return True

    def _let_go(self, query: Query) -> bool:
        """End the live attempt, if there is one; an answer to it still counts."""
        if not self._withdraw(query):
            return False
        query.odd()
        query.channel.late[query.key] = query
        assert query.traces is not None
        query.traces.append((query.channel, query.key))
        return True

    def _retry(self, query: Query, delay: float) -> None:
        """Ask again after `delay` seconds, or settle if all tries are spent."""
        if query.attempts >= self._settings.tries:
            self._give_up(query, query.channel.upstream, tcp=False)
            return
        due = time.monotonic_ns() + int(delay * 1e9)
        query.queued = True
        self._queued += 1
        heapq.heappush(self._retry_queue, (due, next(self._sequence), query))

    def _give_up(self, query: Query, upstream: Upstream, *, tcp: bool) -> None:
        verdict = conclude(query.heard)
        answer = query.last.get(verdict, NO_ANSWER)
        self._settle(query, verdict, answer, upstream.label, tcp=tcp)

    def _settle(
        self, query: Query, verdict: Verdict, answer: Answer, resolver: str, *, tcp: bool
    ) -> None:
        call = query.call
        assert call is not None
        call.outcomes[query.index] = Outcome(
            call.names[query.index],
            verdict,
            answer.rcode,
            answer.addresses,
            answer.chain,
            answer.ttl,
            resolver,
            query.attempts,
            (time.monotonic_ns() - query.started_at) // 1000,
            tcp,
        )
        self._drop(query)
        call.left -= 1
        if not call.left:
            self._finish(call)

    def _drop(self, query: Query) -> None:
        """Take a name out of flight, wherever it is."""
        query.call = None
        self._in_flight -= 1
        self._withdraw(query)
        if query.traces is not None and query.queued:
            self._queued -= 1
        self._forget(query)
        task = self._over_tcp.pop(query, None)
        if task is not None:
            task.cancel()

    def _forget(self, query: Query) -> None:
        for channel, key in query.traces or ():
            channel.late.pop(key, None)

    def _finish(self, call: Call) -> None:
        if not call.future.done():
            call.future.set_result(call.outcomes)

    def _abandon(self, call: Call) -> None:
        """Free what a cancelled call holds. Walks the window: rare, so names need no list."""
        with suppress(ValueError):
            self._calls.remove(call)
        held = {query for query in self._over_tcp if query.call is call}
        held.update(query for _, _, query in self._retry_queue if query.call is call)
        for channel in self._channels():
            held.update(query for query in channel.pending.values() if query.call is call)
        for query in held:
            self._drop(query)
        self._fill()

    # Time

    def _tick(self) -> None:
        """Time out attempts, send what is due, judge upstreams; stops when nothing is left."""
        now = time.monotonic_ns()
        for upstream in self._upstreams:
            overdue = sum(
                self._time_out(channel, now - self._timeout_ns)
                for channel in (*upstream.channels, *upstream.retired)
            )
            upstream.timeouts += overdue
            upstream.silent += overdue
            if upstream.silent >= upstream.SILENT_LIMIT:
                upstream.suspect = True
            upstream.learn_case()
            self._close_retired(upstream, now)
        self._age(now)
        self._fill()
        busy = self._in_flight or self._calls
        self._ticker = self._opened_loop().call_later(TICK, self._tick) if busy else None

    def _age(self, now: int) -> None:
        """Move the mark on and count anew what lies before it."""
        well = sum(not upstream.suspect for upstream in self._upstreams)
        self._burst = self._settings.burst * (well or len(self._upstreams))
        self._mark = mark = now - RECENT_NS
        self._old = 0
        for channel in self._channels():
            for query in channel.pending.values():
                if query.sent_at > mark:
                    break
                self._old += 1

    def _time_out(self, channel: Channel, sent_before: int) -> int:
        """End the attempts sent before that time, in nanoseconds. How many there were."""
        overdue = []
        for query in channel.pending.values():
            if query.sent_at > sent_before:
                break
            overdue.append(query)
        for query in overdue:
            self._let_go(query)
            self._retry(query, 0)
        return len(overdue)

    def _refused(self, upstream: Upstream) -> None:
        """The host says that nobody listens: what waits there goes elsewhere at once.

        Only if there is an elsewhere; a lone resolver may be restarting, and has its time.
        """
        if upstream.suspect or all(it.suspect or it is upstream for it in self._upstreams):
            return
        upstream.suspect = True
        self._opened_loop().call_soon(self._hand_over, upstream)

    def _hand_over(self, upstream: Upstream) -> None:
        for channel in (*upstream.channels, *upstream.retired):
            self._time_out(channel, time.monotonic_ns())

    # TCP

    def _ask_over_tcp(self, upstream: Upstream, query: Query) -> None:
        """Put the live attempt's question again over TCP. Without a live one, a retry is due."""
        if not self._let_go(query):
            return
        task = self._opened_loop().create_task(self._tcp_attempt(upstream, query))
        self._over_tcp[query] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tcp_attempt(self, upstream: Upstream, query: Query) -> None:
        settings = self._settings
        key = os.urandom(2)
        answer = NO_ANSWER
        self._tcp += 1
        try:
            async with self._tcp_slots, asyncio.timeout(settings.tcp_timeout):
                packet = key + wire.HEADER + query.question + wire.OPT_RECORD
                response = await _exchange(upstream.resolver, packet)
            echo = wire.echo_of(response, query.question)
            if response[:2] == key and echo in (wire.Echo.SAME, wire.Echo.FOLDED):
                answer = wire.read(response, query.question, settings.qtype)
        except (OSError, EOFError, TimeoutError, wire.Malformed):
            # No usable answer; NO_ANSWER says so.
            pass
        del self._over_tcp[query]
        self._weigh(query, answer, upstream, tcp=True)
        self._fill()

    # Sockets

    def _listen(self, channel: Channel) -> None:
        assert channel.sock is not None
        self._opened_loop().add_reader(channel.sock.fileno(), self._drain, channel)

    def _shut(self, channel: Channel) -> None:
        if channel.sock is not None:
            self._opened_loop().remove_reader(channel.sock.fileno())
            channel.sock.close()

    def _close_retired(self, upstream: Upstream, now: int) -> None:
        """Close replaced sockets that nothing waits on, or only very late answers."""
        for channel in upstream.retired[:]:
            patience = now - channel.retired_at > 4 * self._timeout_ns
            if not channel.pending and (patience or not channel.late):
                upstream.retired.remove(channel)
                self._shut(channel)

    def _channels(self) -> list[Channel]:
        return [it for up in self._upstreams for it in (*up.channels, *up.retired)]

    def _opened_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None
        return self._loop


async def _exchange(resolver: Resolver, packet: bytes) -> bytes:
    """One question and its answer over a TCP connection of its own."""
    reader, writer = await asyncio.open_connection(resolver.host, resolver.port)
    try:
        writer.write(len(packet).to_bytes(2, "big") + packet)
        length = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(length)
    finally:
        writer.close()
