"""What becomes of a name without an ordinary answer: it is believed or asked about again."""

import asyncio
from collections.abc import Callable

from services.validation.dns import tcp, wire
from services.validation.dns.flight import Flight
from services.validation.dns.query import Query
from services.validation.dns.settings import SOFT_DELAY_LIMIT, EngineSettings
from services.validation.dns.upstream import Channel, Upstream
from services.validation.dns.verdict import (
    NO_ANSWER,
    REFUSED,
    Answer,
    Verdict,
    agree,
    conclude,
    is_final,
    judge,
)


class FollowUp:
    """Settles, queues or asks over TCP what the engine's fast path leaves.

    `resume` is called when a name has moved on outside the engine's own callbacks.
    """

    def __init__(
        self, flight: Flight, settings: EngineSettings, resume: Callable[[], None]
    ) -> None:
        # Questions asked over TCP, and datagrams that answered no question of ours.
        self.over_tcp = self.stray = 0
        self._flight = flight
        self._settings = settings
        self._resume = resume
        # Includes tasks whose name was settled otherwise and that are on their way out.
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(settings.tcp_limit)

    async def close(self) -> None:
        """End all TCP tasks; their names are the caller's to settle."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def read_late(self, channel: Channel, datagram: bytes) -> None:
        """Read a datagram that no live attempt on `channel` waits for."""
        query = channel.late.get(datagram[:2])
        if query is None:
            self.stray += 1
        else:
            self.read(channel, query, datagram)

    def read(self, channel: Channel, query: Query, datagram: bytes) -> None:
        """Read anything but the ordinary answer to the live attempt."""
        upstream = channel.upstream
        query.odd()
        echo = wire.echo_of(datagram, query.question)
        if echo is wire.Echo.FOREIGN:
            self.stray += 1
            return
        if echo is wire.Echo.ABSENT:
            # Too easily forged to decide anything; the attempt goes on waiting.
            self._hint(query, datagram)
            return
        if echo is wire.Echo.FOLDED and not upstream.folds_case:
            # Over TCP it cannot be forged; beyond the limit it waits, and its next attempt may
            # find the resolver known to fold.
            upstream.folded += 1
            if len(self._flight.over_tcp) < self._settings.tcp_limit:
                self._ask_over_tcp(upstream, query)
            return
        if echo is wire.Echo.SAME:
            upstream.exact += 1
        try:
            answer = wire.read(datagram, query.question, query.qtype())
        except wire.Malformed:
            self._hint(query, datagram)
            return
        if answer.truncated:
            self._ask_over_tcp(upstream, query)
            return
        # What is answered is over: a copy of the answer must not count as another.
        live = self._flight.answered(query, channel, datagram[:2])
        self._weigh(query, answer, upstream, live=live, tcp=False)

    def time_out(self, channel: Channel, sent_before: int) -> int:
        """End the attempts sent before that time, in nanoseconds. How many there were."""
        overdue = []
        for query in channel.pending.values():
            if query.sent_at > sent_before:
                break
            overdue.append(query)
        for query in overdue:
            self._flight.let_go(query)
            self._ask_again(query, 0)
        return len(overdue)

    def _hint(self, query: Query, datagram: bytes) -> None:
        """Keep an answer too poor to act on: it counts if nothing better comes."""
        rcode = datagram[3] & 0x0F
        verdict = Verdict.REFUSED if rcode == REFUSED else Verdict.ERROR
        query.note(verdict, NO_ANSWER._replace(rcode=rcode))

    def _weigh(
        self, query: Query, answer: Answer, upstream: Upstream, *, live: bool, tcp: bool
    ) -> None:
        """Settle the name if the answer ends the search, else ask again, later each time.

        Unless the answer was to the `live` attempt, another is out or due, and has its time.
        """
        verdict = judge(answer)
        if is_final(verdict):
            self._flight.settle(query, verdict, answer, upstream.label, tcp=tcp)
            upstream.credit(1)
            return
        if answer is not NO_ANSWER:
            upstream.hear()
        query.note(verdict, answer)
        soft = sum(query.heard.values())
        if soft >= self._settings.soft_tries and agree(query.heard):
            self._give_up(query, upstream, tcp=tcp)
        elif live:
            delay = self._settings.soft_delay * 2.0 ** (soft - 1)
            self._ask_again(query, min(delay, SOFT_DELAY_LIMIT))

    def _ask_again(self, query: Query, delay: float) -> None:
        """Ask again after `delay` seconds, or settle if all tries are spent."""
        if query.attempts >= self._settings.tries:
            self._give_up(query, query.channel.upstream, tcp=False)
        else:
            self._flight.ask_later(query, delay)

    def _give_up(self, query: Query, upstream: Upstream, *, tcp: bool) -> None:
        verdict = conclude(query.heard)
        answer = query.last.get(verdict, NO_ANSWER)
        self._flight.settle(query, verdict, answer, upstream.label, tcp=tcp)

    def _ask_over_tcp(self, upstream: Upstream, query: Query) -> None:
        """Put the live attempt's question again over TCP. Without a live one, a retry is due."""
        if not self._flight.let_go(query):
            return
        task = asyncio.get_running_loop().create_task(self._tcp_attempt(upstream, query))
        self._flight.over_tcp[query] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tcp_attempt(self, upstream: Upstream, query: Query) -> None:
        settings = self._settings
        answer = NO_ANSWER
        self.over_tcp += 1
        try:
            async with self._slots, asyncio.timeout(settings.tcp_timeout):
                header, tail = query.framing()
                answer = await tcp.ask(
                    upstream.resolver, header, query.question, query.qtype(), tail=tail
                )
        except TimeoutError:
            # No usable answer; NO_ANSWER says so.
            pass
        del self._flight.over_tcp[query]
        self._weigh(query, answer, upstream, live=True, tcp=True)
        self._resume()
