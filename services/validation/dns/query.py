"""Bookkeeping of one resolve() call, and of one name while it is in flight."""

import asyncio
from collections.abc import Sequence

from services.validation.dns import wire
from services.validation.dns.upstream import Channel, Route, Upstream
from services.validation.dns.verdict import (
    BADVERS,
    DNSSEC_ERRORS,
    FORMERR,
    NO_ANSWER,
    NOTIMP,
    Answer,
    Outcome,
    Verdict,
)


class Call:
    """One resolve() in progress."""

    __slots__ = (
        "future",
        "header",
        "header_plain",
        "left",
        "names",
        "next",
        "number",
        "outcomes",
        "qtype",
        "questions",
        "quick",
        "route",
    )

    def __init__(
        self,
        names: Sequence[str],
        future: "asyncio.Future[list[Outcome]]",
        questions: wire.Questions,
        route: Route,
        *,
        checking_disabled: bool,
    ) -> None:
        self.names = names
        self.qtype = questions.qtype
        self.questions = questions
        # What recognises an ordinary answer by its first bytes.
        self.quick = (wire.QUICK if self.qtype == wire.A else wire.QUICK_ABSENT).get
        self.route = route
        self.header = wire.HEADER_UNCHECKED if checking_disabled else wire.HEADER
        self.header_plain = wire.HEADER_UNCHECKED_PLAIN if checking_disabled else wire.HEADER_PLAIN
        self.outcomes: list[Outcome] = [None] * len(names)  # type: ignore[list-item]
        self.next = 0
        self.left = len(names)
        self.future = future
        # Its place in line.
        self.number = 0

    def finish(self) -> None:
        """Hand the outcomes over, unless the caller has gone."""
        if not self.future.done():
            self.future.set_result(self.outcomes)


class Said:
    """What one resolver said of a name, how often, and the last such answer.

    One whose extended error is about signatures is kept instead of later ones.
    """

    __slots__ = ("answer", "count", "duration_us")

    def __init__(self) -> None:
        self.count = 0
        self.answer = NO_ANSWER
        self.duration_us = -1


class Query:
    """One name in flight. `call` is None once it is settled or abandoned.

    Earlier attempts that an answer may still come to are listed in `traces`, with the time they
    were sent.
    """

    __slots__ = (
        "asked",
        "attempts",
        "call",
        "channel",
        "hint",
        "index",
        "key",
        "plain",
        "question",
        "said",
        "sent_at",
        "started_at",
        "traces",
    )

    call: Call | None
    channel: Channel
    # Set by odd(). What came that is not final, silence included; whom earlier attempts asked; id
    # and response code of an answer that is too poor to end its attempt.
    said: dict[tuple[Upstream, Verdict], Said]
    asked: list[Upstream]
    hint: tuple[bytes, int] | None
    traces: list[tuple[Channel, bytes, int]] | None

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

    def qtype(self) -> int:
        """The type asked for; the query is not settled yet."""
        assert self.call is not None
        return self.call.qtype

    def may_move(self) -> bool:
        """Whether another resolver may be asked; not for what is settled."""
        return self.call is not None and self.call.route.resolver is None

    def framing(self) -> tuple[bytes, bytes]:
        """What stands before and after the question, after the id; not for a settled query."""
        assert self.call is not None
        if self.traces is not None and self.plain:
            return self.call.header_plain, b""
        return self.call.header, wire.OPT_RECORD

    def odd(self) -> None:
        """Give a query that left the fast path the fields only such ones need."""
        if self.traces is None:
            self.traces = []
            self.said = {}
            self.asked = []
            self.hint = None
            self.plain = False

    def note(
        self, upstream: Upstream, verdict: Verdict, answer: Answer, duration_us: int = -1
    ) -> None:
        """Keep an answer that is not final, or that none came."""
        said = self.said.get((upstream, verdict))
        if said is None:
            said = self.said[upstream, verdict] = Said()
        said.count += 1
        if said.answer.ede not in DNSSEC_ERRORS:
            said.answer = answer
        said.duration_us = duration_us
        if answer.rcode in (FORMERR, NOTIMP, BADVERS):
            # A server that does not know EDNS says so; the next question goes without.
            self.plain = True

    def note_late(self, upstream: Upstream) -> None:
        """An attempt that counted as mute has been answered after all."""
        said = self.said.get((upstream, Verdict.TIMEOUT))
        if said is not None:
            said.count -= 1
            if not said.count:
                del self.said[upstream, Verdict.TIMEOUT]

    def heard(self) -> dict[Verdict, int]:
        """How often each answer that is not final came, and none did."""
        heard: dict[Verdict, int] = {}
        for (_, verdict), said in self.said.items():
            heard[verdict] = heard.get(verdict, 0) + said.count
        return heard

    def sent(self, channel: Channel, key: bytes) -> int:
        """When an attempt was sent, in nanoseconds; 0 when it is not known any more."""
        if channel is self.channel and key == self.key:
            return self.sent_at
        return next((at for it, k, at in self.traces or () if it is channel and k == key), 0)

    def forget(self) -> None:
        """No longer expect answers to earlier attempts."""
        for channel, key, _ in self.traces or ():
            channel.late.pop(key, None)
