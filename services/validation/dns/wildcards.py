"""Names that resolve through a wildcard of their parent, told apart while results flow.

A parent is asked about once, when the first of its children resolves, and remembered.
"""

import asyncio
import os
import time
from base64 import b32encode
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from services.validation.dns import wire
from services.validation.dns.engine import Engine
from services.validation.dns.parents import Finding, Inquiry, Parent, Question
from services.validation.dns.plan import Plan
from services.validation.dns.stats import ResolverState
from services.validation.dns.suffixes import registrable
from services.validation.dns.upstream import Route
from services.validation.dns.verdict import Evidence, Outcome, Verdict

# Seconds for which what was found out about a parent holds, and where questions stayed unanswered.
LIFE = 3600.0
UNANSWERED_LIFE = 30.0
# Parents remembered at least, the latest used; at most twice as many: some 200 bytes for one
# without a wildcard, some kilobytes for one with.
ORDINARY_PARENTS = 100_000
STRANGE_PARENTS = 10_000
# Random names a resolver may give addresses before that is called lying.
INVENTIONS = 3

T = TypeVar("T")
V = TypeVar("V")
_Key = tuple[str, int]


class Recent(Generic[V]):
    """The entries used last: at least `size` of them, at most twice as many."""

    __slots__ = ("_old", "_size", "young")

    def __init__(self, size: int) -> None:
        self._size = size
        # May be read directly, for speed: what is not here may still be found by `get`.
        self.young: dict[object, V] = {}
        self._old: dict[object, V] = {}

    def get(self, key: object) -> V | None:
        value = self.young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: object, value: V) -> None:
        if len(self.young) >= self._size and key not in self.young:
            self._old, self.young = self.young, {}
        self.young[key] = value

    def pop(self, key: object) -> None:
        self.young.pop(key, None)
        self._old.pop(key, None)

    def __len__(self) -> int:
        return len(self.young) + len(self._old)


class Wildcards:
    """Judges names that resolve. One event loop only."""

    def __init__(
        self, engine: Engine, plan: Plan, on_lie: Callable[[str], object] | None = None
    ) -> None:
        """`on_lie` is told the label of a resolver that alone gives random names addresses.

        Not of one that seldom does: others may be made to deny some domains.
        """
        self._engine = engine
        self._probes = plan.examination.wildcard_probes
        self._on_lie = on_lie
        operator_of = {str(it): it.operator for it in plan.resolvers}
        self._operator_of = operator_of if len(set(operator_of.values())) > 1 else {}
        # Parent without a wildcard -> until when that holds.
        self._ordinary: Recent[float] = Recent(ORDINARY_PARENTS)
        self._ordinary_v6: Recent[float] = Recent(ORDINARY_PARENTS)
        # All others that were asked about.
        self._parents: Recent[tuple[Parent, float]] = Recent(STRANGE_PARENTS)
        # What random names got from each resolver: no such name, and an address where another
        # operator denied it.
        self._denials: Counter[str] = Counter()
        self._inventions: Counter[str] = Counter()
        # Those being asked about right now.
        self._busy: dict[_Key, asyncio.Future[None]] = {}

    async def judge(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """`outcomes` in their order, those that only a wildcard made resolve as WILDCARD.

        A parent without a wildcard costs at most ORDINARY_PROBES questions, as few as its names
        begin differently. One with a wildcard costs at most `wildcard_probes` for each first
        character among its children; one to learn whether existence can be proven and one about
        whose wildcard it is; and one for each child that the wildcard would explain, two where its
        answers keep varying. Another operator is asked again where a question stayed unanswered
        and where a wildcard shows for the first time. Raises
        EngineClosed.
        """
        judged = list(outcomes)
        # Once per name: a parent that is known to be ordinary must cost next to nothing.
        now = time.monotonic()
        known, known_v6 = self._ordinary.young, self._ordinary_v6.young
        resolved = Verdict.RESOLVED
        todo: dict[_Key, list[int]] = {}
        for index, outcome in enumerate(judged):
            if outcome[1] is not resolved or not outcome[3]:
                continue
            parent = outcome[0].partition(".")[2]
            if ":" in outcome[3][0]:
                if known_v6.get(parent, 0.0) < now:
                    todo.setdefault((parent, wire.AAAA), []).append(index)
            elif known.get(parent, 0.0) < now:
                todo.setdefault((parent, wire.A), []).append(index)
        todo.pop(("", wire.A), None)
        todo.pop(("", wire.AAAA), None)
        while todo:
            free = {key: places for key, places in todo.items() if key not in self._busy}
            if free:
                await self._examine(free, judged)
                todo = {key: places for key, places in todo.items() if key not in free}
            else:
                await asyncio.wait([self._busy[next(iter(todo))]])
        return judged

    async def _examine(self, todo: dict[_Key, list[int]], judged: list[Outcome]) -> None:
        """Put what is found out about children of parents nobody else asks about into `judged`."""
        now = time.monotonic()
        work: list[tuple[_Key, Parent, list[int]]] = []
        for key, places in todo.items():
            if (self._table(key).get(key[0]) or 0.0) < now:
                work.append((key, self._parent(key, now), places))
        if not work:
            return
        loop = asyncio.get_running_loop()
        for key, _, _ in work:
            self._busy[key] = loop.create_future()
        try:
            await self._inquire(
                [parent.learn([judged[it] for it in places]) for _, parent, places in work]
            )
            for key, parent, _ in work:
                self._remember(key, parent)
        finally:
            for key, _, _ in work:
                self._busy.pop(key).set_result(None)
        found = await self._inquire(
            [parent.judge([judged[it] for it in places]) for _, parent, places in work]
        )
        await self._place(
            [
                (parent, judged[place])
                for (key, parent, places), findings in zip(work, found, strict=True)
                for place, finding in zip(places, findings, strict=True)
                if finding is not None and finding.wildcard and not parent.placed
            ]
        )
        for (_, parent, places), findings in zip(work, found, strict=True):
            for place, finding in zip(places, findings, strict=True):
                if finding is not None:
                    judged[place] = _with(judged[place], parent, finding)

    async def _place(self, children: list[tuple[Parent, Outcome]]) -> None:
        """Find out whether it is the registry's wildcard that answers for these parents.

        It answers for what is below names that are not registered, too.
        """
        domains: dict[Parent, Outcome] = {}
        for parent, child in children:
            domain = registrable(parent.name)
            if domain and parent not in domains:
                domains[parent] = child._replace(name=domain, evidence=None)
            parent.placed = True
        judged = await self.judge(list(domains.values()))
        for parent, outcome in zip(domains, judged, strict=True):
            if outcome.verdict is Verdict.WILDCARD and outcome.evidence is not None:
                parent.above = outcome.evidence.wildcard

    def _table(self, key: _Key) -> Recent[float]:
        return self._ordinary if key[1] == wire.A else self._ordinary_v6

    def _parent(self, key: _Key, now: float) -> Parent:
        entry = self._parents.get(key)
        if entry is not None and entry[1] >= now:
            return entry[0]
        return Parent(*key, self._probes, self._operator_of, random_label)

    def _remember(self, key: _Key, parent: Parent) -> None:
        now = time.monotonic()
        self._denials.update(parent.denials)
        for resolver in parent.inventions:
            self._inventions[resolver] += 1
            alone = self._inventions[resolver]
            if self._on_lie and alone >= INVENTIONS and alone > self._denials[resolver]:
                self._on_lie(resolver)
        parent.denials.clear()
        parent.inventions.clear()
        if parent.ordinary:
            self._parents.pop(key)
            self._table(key).put(key[0], now + LIFE)
            return
        entry = self._parents.get(key)
        until = entry[1] if entry is not None and entry[0] is parent else now + LIFE
        if parent.unknown:
            until = min(until, now + UNANSWERED_LIFE)
        self._parents.put(key, (parent, until))

    async def _inquire(self, inquiries: Iterable[Inquiry[T]]) -> list[T]:
        """The inquiries' results: what they want to know next is asked for all at once."""
        results: dict[int, T] = {}
        waiting: dict[int, tuple[Inquiry[T], list[Question]]] = {}
        for number, inquiry in enumerate(inquiries):
            try:
                waiting[number] = inquiry, next(inquiry)
            except StopIteration as end:
                results[number] = end.value
        while waiting:
            answers = iter(await self._ask([it for _, wanted in waiting.values() for it in wanted]))
            for number, (inquiry, wanted) in list(waiting.items()):
                try:
                    wanted = inquiry.send([next(answers) for _ in wanted])
                    waiting[number] = inquiry, wanted
                except StopIteration as end:
                    results[number] = end.value
                    del waiting[number]
        return [results[number] for number in sorted(results)]

    async def _ask(self, questions: Sequence[Question]) -> list[Outcome]:
        """Their answers, in this order: one call of the engine for all that go the same way."""
        calls: dict[tuple[int, str], list[int]] = {}
        for place, question in enumerate(questions):
            calls.setdefault((question.qtype, question.avoid), []).append(place)
        answers = await asyncio.gather(
            *(
                self._resolve([questions[place].name for place in places], qtype, avoid)
                for (qtype, avoid), places in calls.items()
            )
        )
        by_place: dict[int, Outcome] = {}
        for places, heard in zip(calls.values(), answers, strict=True):
            by_place.update(zip(places, heard, strict=True))
        return [by_place[place] for place in range(len(questions))]

    async def _resolve(self, names: list[str], qtype: int, avoid: str) -> list[Outcome]:
        if not avoid:
            return await self._engine.resolve(names, qtype=qtype)
        if not any(
            it.state is ResolverState.ADMITTED and it.operator != avoid
            for it in self._engine.stats().resolvers
        ):
            # Waiting for them in vain would hold up whole chunks.
            return [
                Outcome(name, Verdict.TIMEOUT, -1, (), (), -1, "", 0, 0, False) for name in names
            ]
        return await self._engine.resolve(names, qtype=qtype, route=Route(avoid_operator=avoid))


def random_label(first: str) -> str:
    """26 letters and digits that nobody has registered, beginning with `first`."""
    return first + b32encode(os.urandom(16))[1:26].decode("ascii").lower()


def _with(outcome: Outcome, parent: Parent, finding: Finding) -> Outcome:
    evidence = outcome.evidence or Evidence()
    if finding.reason in evidence.reason:
        # Judged before.
        return outcome
    reason = f"{evidence.reason}; {finding.reason}" if evidence.reason else finding.reason
    if not finding.wildcard:
        return outcome._replace(evidence=replace(evidence, reason=reason))
    proof = parent.proof()
    return outcome._replace(
        verdict=Verdict.WILDCARD,
        evidence=replace(evidence, reason=f"{reason} {proof.parent}", wildcard=proof),
    )
