"""Bookkeeping of one resolve() call, and of one name while it is in flight."""

import asyncio
from collections.abc import Sequence

from services.validation.dns import wire
from services.validation.dns.upstream import Channel, Route
from services.validation.dns.verdict import BADVERS, FORMERR, NOTIMP, Answer, Outcome, Verdict


class Call:
    """One resolve() in progress."""

    __slots__ = (
        "future",
        "header",
        "header_plain",
        "left",
        "names",
        "next",
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

    def finish(self) -> None:
        """Hand the outcomes over, unless the caller has gone."""
        if not self.future.done():
            self.future.set_result(self.outcomes)


class Query:
    """One name in flight. `call` is None once it is settled or abandoned.

    Earlier attempts that an answer may still come to are listed in `traces`.
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

    def forget(self) -> None:
        """No longer expect answers to earlier attempts."""
        for channel, key in self.traces or ():
            channel.late.pop(key, None)
