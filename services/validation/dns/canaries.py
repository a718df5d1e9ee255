"""Asks the resolvers of a plan what is known already, before they are used and as long as they are.

A round costs each resolver one question per canary. Nobody waits for it but whoever comes first,
or comes when the latest round is older than the period.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from random import SystemRandom
from string import ascii_lowercase, digits

from services.validation.dns.engine import Engine, EngineClosed
from services.validation.dns.health import (
    Change,
    Checked,
    Health,
    Roster,
    Rules,
    finding,
    told,
)
from services.validation.dns.plan import Canary, CanaryKind, Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.stats import ResolverState
from services.validation.dns.upstream import Route

log = logging.getLogger(__name__)

# Of a label that nobody has registered; ordinary names do not come near.
RANDOM_LABEL = 28
# Seconds to wait for an answer at most: whoever has names to ask about waits, too.
MAX_PATIENCE = 5.0
# Those that are answered at once, and that tell a liar. The others take a resolver that does well
# a second: bogus names are looked up again and again, and a connection may have to time out.
_PROMPT = frozenset({CanaryKind.GOOD, CanaryKind.NXDOMAIN})

_random = SystemRandom()


class Canaries:
    """The watch over one engine's resolvers. Close it before the engine.

    `listeners` hear of every quarantine and readmission, after the engine.
    """

    def __init__(self, plan: Plan, engine: Engine) -> None:
        examination = plan.examination
        self.listeners: list[Callable[[Change], None]] = []
        # Names that wait until the resolvers have been asked.
        self.held = 0
        self._engine = engine
        self._canaries = examination.canaries
        self._period = examination.canary_period
        self._roster = Roster(plan.resolvers, Rules.of(self._period), canaries=bool(self._canaries))
        settings = plan.engine
        # One question, and another should that get lost; with a connection, should it need one.
        self._patience = min(2 * settings.timeout, MAX_PATIENCE)
        self._long_patience = self._patience + 2 * settings.tcp_timeout
        self._users = 0
        self._begun_at = float("-inf")
        self._wake = asyncio.Event()
        # Whether a round was due that nobody needed then.
        self._overdue = False
        # Set while what is known is no older than a period.
        self._fresh = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def in_use(self, names: int = 0) -> AsyncIterator[None]:
        """Keep the resolvers under watch; begins when they have been asked lately.

        That takes twice the time-out of a question and MAX_PATIENCE at most, and only when nobody
        used them and a period has passed. Meanwhile so many `names` are held up.
        """
        self._users += 1
        if self._overdue:
            self._wake.set()
        try:
            if self._canaries:
                self.held += names
                try:
                    await self._be_fresh()
                finally:
                    self.held -= names
            yield
        finally:
            self._users -= 1

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    @property
    def healths(self) -> Collection[Health]:
        """What is known of each resolver. Not to be changed."""
        return self._roster.healths.values()

    def agreed(self, resolver: str, times: int = 1) -> None:
        """Another operator's resolver said the same as this one, given by its label."""
        self._roster.agreed(resolver, times)

    def disagreed(self, resolver: str) -> None:
        """Another operator's resolver said otherwise."""
        self._roster.disagreed(resolver)

    def wrong(self, resolver: str) -> None:
        """The authority says that it was wrong; not to be called for who was right."""
        change = self._roster.wrong(resolver, time.monotonic())
        if change is not None:
            self._begin()
            self._apply([change])

    def measure(self) -> None:
        """Take what the engine has counted into the scores."""
        for it in self._engine.stats().resolvers:
            self._roster.measured(it.resolver, it.answered, it.timeouts, suspect=it.suspect)

    async def _be_fresh(self) -> None:
        # Rounds that follow one another while names are asked about keep nobody waiting.
        if self._users == 1 and time.monotonic() - self._begun_at > self._period:
            self._fresh.clear()
            self._wake.set()
        if not self._begin().done():
            await self._fresh.wait()

    def _begin(self) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        return self._task

    async def _watch(self) -> None:
        while True:
            # Whoever woke us is content with the round that begins now.
            self._wake.clear()
            try:
                await self._round()
            except EngineClosed:
                return
            except Exception:
                log.exception("a round of canaries failed")
            finally:
                self._fresh.set()
            await self._rest()

    async def _rest(self) -> None:
        """Until the next round is due and somebody uses the resolvers, or does so again."""
        wait: float | None = self._roster.wait(self._period, time.monotonic())
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                if self._users:
                    return
                self._overdue, wait = True, None
            else:
                self._wake.clear()
                self._overdue = False
                return

    async def _round(self) -> None:
        begun_at = time.monotonic()
        asked = self._roster.due(begun_at)
        names = {canary: _name(canary) for canary in self._canaries}
        prompt = [it for it in self._canaries if it.kind in _PROMPT]
        others = [it for it in self._canaries if it.kind not in _PROMPT]
        late = [(it, canary) for it in asked for canary in others]
        # At once with the others, that the whole round takes no longer than the slowest.
        slow = asyncio.create_task(self._ask_all(late, names, self._long_patience))
        try:
            early = [(it, canary) for it in asked for canary in prompt]
            self._check(await self._ask_all(early, names, self._patience), begun_at)
            self._begun_at = begun_at
            self._fresh.set()
            self._check(await slow, begun_at)
        finally:
            if not slow.done():
                slow.cancel()
                await asyncio.wait([slow])
        now = time.monotonic()
        self._apply(self._roster.concluded(asked, now))
        self.measure()
        self._apply(self._roster.review(now))

    async def _ask_all(
        self,
        questions: Iterable[tuple[Resolver, Canary]],
        names: dict[Canary, str],
        patience: float,
    ) -> list[Checked]:
        # Whoever is known to be mute is not waited for again.
        mute = {it.resolver for it in self._engine.stats().resolvers if it.suspect}
        return list(
            await asyncio.gather(
                *(
                    self._ask(
                        it, canary, names[canary], patience / 8 if str(it) in mute else patience
                    )
                    for it, canary in questions
                )
            )
        )

    async def _ask(self, resolver: Resolver, canary: Canary, name: str, patience: float) -> Checked:
        outcome = unchecked = None
        route = Route(resolver=resolver)
        try:
            async with asyncio.timeout(patience):
                (outcome,) = await self._engine.resolve([name], route=route)
                if canary.kind is CanaryKind.BOGUS:
                    (unchecked,) = await self._engine.resolve(
                        [name], route=route, checking_disabled=True
                    )
        except TimeoutError:
            pass
        said = finding(canary.kind, resolver.transport, outcome, unchecked)
        return Checked(str(resolver), canary, name, said, told(outcome))

    def _check(self, results: list[Checked], begun_at: float) -> None:
        self._apply(self._roster.checked(results, begun_at, time.monotonic()))

    def _apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.state is ResolverState.QUARANTINED:
                self._engine.quarantine(change.resolver)
                log.warning("%s is quarantined: %s", change.resolver, change.reason)
            else:
                self._engine.admit(change.resolver)
                log.info("%s is readmitted: %s", change.resolver, change.reason)
            for listener in self.listeners:
                listener(change)


def _name(canary: Canary) -> str:
    first, _, parent = canary.name.partition(".")
    if first != "*":
        return canary.name
    label = "".join(_random.choices(ascii_lowercase + digits, k=RANDOM_LABEL))
    return f"{label}.{parent}" if parent else label
