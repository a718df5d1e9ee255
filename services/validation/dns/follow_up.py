"""What becomes of a name without an ordinary answer: it is believed or asked about again."""

import asyncio
import time
from collections.abc import Callable

from services.validation.dns import tcp, wire
from services.validation.dns.flight import Flight
from services.validation.dns.lanes import Lanes, account, last_word
from services.validation.dns.query import Call, Query
from services.validation.dns.settings import EngineSettings
from services.validation.dns.upstream import Channel, Upstream, Upstreams
from services.validation.dns.verdict import (
    DNSSEC_ERRORS,
    NO_ANSWER,
    REFUSED,
    Answer,
    Evidence,
    Opinion,
    Verdict,
    is_final,
    judge,
)

# Of so many resolvers what they said is kept.
OPINIONS = 10
# Answers over which the share of lost packets is taken.
LOSS_SAMPLE = 1000


class FollowUp:
    """Settles, queues or asks over TCP what the engine's fast path leaves.

    `resume` is called when a name has moved on outside the engine's own callbacks.
    """

    def __init__(
        self,
        flight: Flight,
        upstreams: Upstreams,
        settings: EngineSettings,
        resume: Callable[[], None],
    ) -> None:
        # Questions asked over TCP, and datagrams that answered no question of ours.
        self.over_tcp = self.stray = 0
        self._flight = flight
        self._upstreams = upstreams
        self._lanes = Lanes(settings)
        self._settings = settings
        self._timeout_ns = int(settings.timeout * 1e9)
        self._resume = resume
        # Questions without an answer about names that got one by and by, since `_answered` names
        # were; and the share of such among all questions before that.
        self._lost = self._answered = 0
        self._loss = 0.0
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
            self._hint(channel, query, datagram)
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
            self._hint(channel, query, datagram)
            return
        if answer.truncated:
            self._ask_over_tcp(upstream, query)
            return
        key = datagram[:2]
        sent_at = query.sent(channel, key)
        # What is answered is over: a copy of the answer must not count as another.
        live = self._flight.answered(query, channel, key)
        if not live:
            query.note_late(upstream)
        self._weigh(query, answer, upstream, sent_at, live=live, tcp=False)

    def time_out(self, channel: Channel, sent_before: int) -> int:
        """End the attempts sent before that time, in nanoseconds. How many there were."""
        overdue = []
        for query in channel.pending.values():
            if query.sent_at > sent_before:
                break
            overdue.append(query)
        for query in overdue:
            self._flight.let_go(query)
            verdict, rcode = Verdict.TIMEOUT, -1
            if query.hint is not None and query.hint[0] == query.key:
                rcode = query.hint[1]
                # Whatever it says of the name, NXDOMAIN for one, it may be forged.
                verdict = Verdict.REFUSED if rcode == REFUSED else Verdict.ERROR
            query.note(channel.upstream, verdict, NO_ANSWER._replace(rcode=rcode))
            self._consider(query, verdict, channel.upstream, tcp=False)
        return len(overdue)

    def explain(self, query: Query, call: Call, upstream: Upstream) -> None:
        """Finish with a name that the engine's fast path has settled after other attempts."""
        query.forget()
        self._count_lost(query)
        if any(verdict is not Verdict.TIMEOUT for _, verdict in query.said):
            outcome = call.outcomes[query.index]
            answer = NO_ANSWER._replace(rcode=outcome.rcode, addresses=outcome.addresses)
            evidence = _evidence(query, outcome.verdict, answer, upstream)
            call.outcomes[query.index] = outcome._replace(evidence=evidence)

    def _hint(self, channel: Channel, query: Query, datagram: bytes) -> None:
        """Keep an answer too poor to act on: it counts if nothing better comes to this attempt."""
        if channel.pending.get(datagram[:2]) is query:
            query.hint = datagram[:2], datagram[3] & 0x0F

    def _weigh(
        self,
        query: Query,
        answer: Answer,
        upstream: Upstream,
        sent_at: int,
        *,
        live: bool,
        tcp: bool,
    ) -> None:
        """Settle the name if the answer ends the search, else ask again as its lane says.

        Unless the answer was to the `live` attempt, another is out or due, and has its time.
        """
        verdict = judge(answer)
        if is_final(verdict):
            self._settle(query, verdict, answer, upstream, tcp=tcp)
            upstream.credit(1)
            return
        if answer is not NO_ANSWER:
            upstream.hear()
        if verdict is Verdict.SERVFAIL:
            upstream.servfail += 1
        elif verdict is Verdict.REFUSED:
            upstream.refused += 1
        duration = (time.monotonic_ns() - sent_at) // 1000 if sent_at else -1
        query.note(upstream, verdict, answer, duration)
        if live:
            self._consider(query, verdict, upstream, tcp=tcp)
        else:
            proved = self._proved(query)
            if proved is not None:
                self._conclude(query, proved, upstream, tcp=tcp)

    def _consider(self, query: Query, reason: Verdict, upstream: Upstream, *, tcp: bool) -> None:
        """After an attempt that ended for that reason: conclude, or ask again."""
        verdict = self._proved(query)
        if verdict is None and query.attempts >= self._lanes.limit:
            verdict = last_word(query.heard())
        if verdict is None:
            times = sum(said.count for (_, it), said in query.said.items() if it is reason)
            self._flight.ask_later(query, self._lanes.delay(reason, times))
        else:
            self._conclude(query, verdict, upstream, tcp=tcp)

    def _proved(self, query: Query) -> Verdict | None:
        """The verdict that what was said so far proves."""
        heard = query.heard()
        if not self._lanes.may_be_mute(heard):
            return self._lanes.believe(heard, mute=0, usable=0)
        # Of the silent, those count that answer others.
        assert query.call is not None
        first_ended = query.started_at + self._timeout_ns
        if self._upstreams.fell_silent(query.call.route, first_ended):
            # Says nothing about the name. It goes on for as long as any may be asked about.
            return None
        relied_on = self._upstreams.relied_on(query.call.route)
        mute = [
            said
            for (it, verdict), said in query.said.items()
            if verdict is Verdict.TIMEOUT and it in relied_on
        ]
        heard[Verdict.TIMEOUT] = sum(said.count for said in mute)
        return self._lanes.believe(
            heard, mute=len(mute), usable=len(relied_on), loss=self._current_loss()
        )

    def _count_lost(self, query: Query) -> None:
        """A name is answered: that earlier attempts were not was no silence of its own."""
        for (_, verdict), said in query.said.items():
            if verdict is Verdict.TIMEOUT:
                self._lost += said.count

    def _current_loss(self) -> float:
        """Share of questions that the path loses, 0-1, of the last thousand names or so."""
        answered = sum(upstream.answered for upstream in self._upstreams.all) - self._answered
        sample = answered + self._lost
        share = self._lost / sample if sample else 0.0
        loss = max(self._loss, share) if sample >= LOSS_SAMPLE // 10 else self._loss
        if answered >= LOSS_SAMPLE:
            self._answered += answered
            self._lost = 0
            self._loss = share
        return loss

    def _conclude(self, query: Query, verdict: Verdict, upstream: Upstream, *, tcp: bool) -> None:
        """Settle a name that has no final answer."""
        answer = NO_ANSWER
        for (said_by, it), said in query.said.items():
            if it is verdict:
                upstream, answer = said_by, said.answer
        self._settle(query, verdict, answer, upstream, tcp=tcp)

    def _settle(
        self, query: Query, verdict: Verdict, answer: Answer, upstream: Upstream, *, tcp: bool
    ) -> None:
        """Settle a name, with what else was said of it."""
        evidence = None
        if query.traces is not None and is_final(verdict):
            self._count_lost(query)
        if query.traces is not None and (
            not is_final(verdict) or any(it is not Verdict.TIMEOUT for _, it in query.said)
        ):
            evidence = _evidence(query, verdict, answer, upstream)
        tcp = tcp or (upstream.connected and answer.rcode >= 0)
        self._flight.settle(query, verdict, answer, upstream.label, tcp=tcp, evidence=evidence)

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
        self._weigh(query, answer, upstream, query.sent_at, live=True, tcp=True)
        self._resume()


def _evidence(query: Query, verdict: Verdict, answer: Answer, upstream: Upstream) -> Evidence:
    """What was said of a name that is settled so by an answer of `upstream`."""
    said = list(query.said.items())
    final = is_final(verdict)
    room = OPINIONS - final
    if len(said) > room:
        said.sort(key=lambda item: (item[0][1] is not verdict, -item[1].count))
        del said[room:]
    opinions = [
        Opinion(
            it.label,
            it.operator,
            opinion,
            what.answer.rcode,
            what.answer.addresses,
            what.count,
            what.duration_us,
            what.answer.ede,
        )
        for (it, opinion), what in said
    ]
    heard = query.heard()
    if final:
        opinions.append(
            Opinion(upstream.label, upstream.operator, verdict, answer.rcode, answer.addresses)
        )
        heard[verdict] = 1
    # Those about signatures first.
    errors = sorted(
        (what.answer.ede for what in query.said.values() if what.answer.ede >= 0),
        key=lambda ede: ede not in DNSSEC_ERRORS,
    )
    return Evidence(opinions=tuple(opinions), reason=account(heard, *errors[:1]))
