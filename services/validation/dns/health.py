"""What one process makes of each resolver it asks: score, quarantine, readmission. Pure.

Times are seconds of the caller's monotonic clock.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

from services.validation.dns.plan import Canary, CanaryKind
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.stats import ResolverState
from services.validation.dns.verdict import Outcome, Verdict, is_final

# Failures in a row of one canary before a resolver is quarantined, and rounds in a row in which it
# passes all of them before it is readmitted.
FAILURES, PASSES = 2, 2
_MAX_BACKOFF, _BACKOFF_STEPS = 1800.0, 60


class Finding(Enum):
    """What an answer to a canary says of the resolver."""

    PASSED = "passed"
    FAILED = "failed"
    # It gave an address for a name that does not exist.
    LIED = "lied"
    # It gave no answer, which says nothing: packets get lost, and the engine knows who is mute.
    UNHEARD = "unheard"


@dataclass(frozen=True, slots=True)
class Rules:
    """When a resolver is quarantined, and for how long."""

    # Seconds; doubles each time, up to max_backoff.
    backoff: float = 30.0
    max_backoff: float = _MAX_BACKOFF
    # Seconds after a readmission until an earlier quarantine is forgotten.
    good_behaviour: float = 3600.0
    # So many wrong answers among the latest second opinions, says the authority; of those that are
    # told of at once all count, and as large a share of them has to be wrong.
    wrong_limit: int = 3
    opinions_kept: int = 50
    # Share of the best resolver's score below which it is not worth asking, and questions before
    # that is judged.
    floor: float = 0.3
    samples: int = 200

    @classmethod
    def of(cls, canary_period: float) -> "Rules":
        """Back-off from one period to 60 of them, 30 minutes at most, and as often 120 of good
        behaviour: with the default period 30 s, 30 min and 1 h."""
        longest = max(canary_period, min(_BACKOFF_STEPS * canary_period, _MAX_BACKOFF))
        return cls(canary_period, longest, 2 * longest)


@dataclass(frozen=True, slots=True)
class Checked:
    """One answer to one canary."""

    # The resolver's label.
    resolver: str
    canary: Canary
    # The name that was asked about.
    name: str
    finding: Finding
    # What was said, in words.
    answer: str


@dataclass(frozen=True, slots=True)
class CanaryRecord:
    """How a canary was answered the last time, and when."""

    kind: CanaryKind
    name: str
    passed: bool
    answer: str
    at: float


@dataclass(frozen=True, slots=True)
class Change:
    """A resolver is quarantined or readmitted."""

    resolver: Resolver
    state: ResolverState
    previous: ResolverState
    reason: str
    # When it is tried again; None when it is admitted.
    retry_at: float | None = None
    # For a liar: when it last was known to tell the truth, -inf if never. None: it is no liar.
    lied_since: float | None = None


@dataclass(slots=True)
class Share:
    """How often something went well, the latest thousands of times; begins well."""

    LIMIT = 2000
    good: float = 0.0
    bad: float = 0.0

    def add(self, good: float, bad: float) -> None:
        self.good += good
        self.bad += bad
        if self.good + self.bad > self.LIMIT:
            self.good /= 2
            self.bad /= 2

    @property
    def count(self) -> float:
        return self.good + self.bad

    @property
    def value(self) -> float:
        # Two that went well on trust: one failure of one says little.
        return (self.good + 2) / (self.count + 2)


@dataclass(slots=True)
class Health:
    """What is known of one resolver."""

    resolver: Resolver
    rules: Rules
    state: ResolverState = ResolverState.ADMITTED
    reason: str = ""
    # Of a quarantined one.
    retry_at: float = 0.0
    readmitted_at: float = 0.0
    # How often it was quarantined lately.
    level: int = 0
    # Rounds in a row in which a quarantined one passed everything.
    passes: int = 0
    # When it last said rightly that a name does not exist; -inf if never.
    truthful_at: float = float("-inf")
    validates: bool = False
    agreed: int = 0
    disagreed: int = 0
    wrong: int = 0
    answers: Share = field(default_factory=Share)
    canaries: Share = field(default_factory=Share)
    opinions: Share = field(default_factory=Share)
    records: dict[Canary, CanaryRecord] = field(default_factory=dict)
    # Failures in a row.
    failures: dict[Canary, int] = field(default_factory=dict)
    # What counts of the round in progress.
    findings: list[Finding] = field(default_factory=list)
    # The latest opinions: how many at once, and, if the authority said it was wrong, when.
    recent: deque[tuple[int, float | None]] = field(default_factory=deque)
    counted: tuple[int, int] = (0, 0)

    @property
    def score(self) -> float:
        """From 0, useless, to 1: shares of answers in time, of canaries passed and of opinions not
        found wrong, multiplied."""
        return self.answers.value * self.canaries.value * self.opinions.value

    @property
    def is_quarantined(self) -> bool:
        return self.state is ResolverState.QUARANTINED

    @property
    def is_in_doubt(self) -> bool:
        """Whether one more round decides."""
        if self.is_quarantined:
            return 0 < self.passes < PASSES
        return any(0 < failures < FAILURES for failures in self.failures.values())

    def quarantine(self, reason: str, now: float, lied_since: float | None = None) -> Change:
        self._back_off(now)
        self.passes = 0
        self.failures.clear()
        previous, self.state, self.reason = self.state, ResolverState.QUARANTINED, reason
        return Change(self.resolver, self.state, previous, reason, self.retry_at, lied_since)

    def stay(self, now: float) -> None:
        """Remain in quarantine for longer."""
        self._back_off(now)
        self.passes = 0

    def admit(self, reason: str, now: float) -> Change:
        self.readmitted_at = now
        self.recent.clear()
        self.answers, self.canaries, self.opinions = Share(), Share(), Share()
        previous, self.state, self.reason = self.state, ResolverState.ADMITTED, reason
        return Change(self.resolver, self.state, previous, reason)

    def _back_off(self, now: float) -> None:
        rules = self.rules
        self.retry_at = now + min(rules.backoff * 2.0**self.level, rules.max_backoff)
        # More would not change the time any more.
        self.level = min(self.level + 1, 20)


class Roster:
    """The resolvers of one plan, and what becomes of them.

    A canary that none of them passes says nothing of any: the name may have changed, or there may
    be no way to it. For the same reason the last one admitted is never quarantined: there would be
    nobody else to ask.
    """

    def __init__(self, resolvers: Sequence[Resolver], rules: Rules, *, canaries: bool) -> None:
        self.healths = {str(it): Health(it, rules) for it in dict.fromkeys(resolvers)}
        self._rules = rules
        # Whether there are any to pass.
        self._canaries = canaries

    # Canaries

    def due(self, now: float) -> list[Resolver]:
        """Whom to ask canaries now; begins a round."""
        asked = [it for it in self.healths.values() if not it.is_quarantined or it.retry_at <= now]
        for health in asked:
            health.findings.clear()
        return [health.resolver for health in asked]

    def checked(self, results: Sequence[Checked], asked_at: float, now: float) -> list[Change]:
        """Take the answers of all that were asked to some of a round's canaries, asked then."""
        changes = []
        passable = {it.canary for it in results if it.finding is Finding.PASSED}
        for result in results:
            health = self.healths[result.resolver]
            if result.finding is not Finding.UNHEARD or result.canary not in health.records:
                health.records[result.canary] = CanaryRecord(
                    result.canary.kind,
                    result.name,
                    result.finding is Finding.PASSED,
                    result.answer,
                    now,
                )
            if result.canary.kind is CanaryKind.BOGUS:
                if result.finding is not Finding.UNHEARD:
                    health.validates = result.finding is Finding.PASSED
            elif result.canary in passable:
                change = self._count(health, result, asked_at, now)
                if change is not None:
                    changes.append(change)
            elif result.finding is not Finding.UNHEARD and not health.is_quarantined:
                name = result.name
                health.reason = f"no resolver passed the canary {name}, which is disregarded"
        return changes

    def concluded(self, asked: Collection[Resolver], now: float) -> list[Change]:
        """Readmit who has passed everything twice; to be called when a round is over."""
        changes = []
        for health in (self.healths[str(resolver)] for resolver in asked):
            if not health.is_quarantined:
                if health.level and now - health.readmitted_at > self._rules.good_behaviour:
                    health.level = 0
            elif health.retry_at > now:
                # Since this round.
                continue
            elif not self._canaries:
                changes.append(health.admit("the back-off is over", now))
            elif any(finding is not Finding.PASSED for finding in health.findings):
                health.stay(now)
            elif health.findings:
                health.passes += 1
                if health.passes >= PASSES:
                    why = f"passed all canaries {PASSES} times in a row"
                    changes.append(health.admit(why, now))
        return changes

    def wait(self, period: float, now: float) -> float:
        """Seconds until the next round: a period, a tenth of it when one more round decides, and
        no longer than until a back-off is over."""
        waits = [period]
        for health in self.healths.values():
            if health.is_in_doubt:
                waits.append(period / 10)
            elif health.is_quarantined and health.retry_at > now:
                waits.append(max(health.retry_at - now, period / 10))
        return min(waits)

    def _count(self, health: Health, result: Checked, asked_at: float, now: float) -> Change | None:
        canary, finding = result.canary, result.finding
        if (
            finding is Finding.UNHEARD
            and canary.kind is CanaryKind.TRUNCATED
            and Finding.PASSED in health.findings
        ):
            # It answers, but not over a connection.
            finding = Finding.FAILED
        health.findings.append(finding)
        if finding is Finding.UNHEARD:
            return None
        if finding is Finding.PASSED:
            health.canaries.add(1, 0)
            health.failures.pop(canary, None)
            if canary.kind is CanaryKind.NXDOMAIN:
                health.truthful_at = asked_at
            return None
        health.canaries.add(0, 1)
        told = f"said {result.answer} of {result.name}"
        if health.is_quarantined:
            health.reason = told
            return None
        if finding is Finding.LIED:
            why = f"{told}, which does not exist"
            return self._quarantine(health, why, now, lied_since=health.truthful_at)
        failures = health.failures[canary] = health.failures.get(canary, 0) + 1
        if failures < FAILURES:
            return None
        return self._quarantine(health, f"{told}, a canary, {failures} times in a row", now)

    # Opinions

    def agreed(self, label: str, times: int = 1) -> None:
        """Another operator's resolver said the same. An unknown label, here and below, is nobody's
        and counts for nothing."""
        health = self.healths.get(label)
        if health is None:
            return
        health.agreed += times
        self._heard(health, times)

    def disagreed(self, label: str) -> None:
        """Another operator's resolver said otherwise; nobody knows yet who is right."""
        if label in self.healths:
            self.healths[label].disagreed += 1

    def wrong(self, label: str, now: float) -> Change | None:
        """The authority says it was wrong."""
        health = self.healths.get(label)
        if health is None:
            return None
        health.wrong += 1
        self._heard(health, 1, now)
        found_at = [at for _, at in health.recent if at is not None]
        found = len(found_at)
        latest = sum(times for times, _ in health.recent)
        least = self._rules.wrong_limit * max(1.0, latest / self._rules.opinions_kept)
        if health.is_quarantined or found < least:
            return None
        why = f"wrong {found} times of the latest {latest}, says the authority"
        # One that passes canaries between wrong answers knows them: they prove nothing of it.
        blind = found_at[0] < health.truthful_at
        lied_since = float("-inf") if blind else health.truthful_at
        return self._quarantine(health, why, now, lied_since)

    def _heard(self, health: Health, times: int, wrong_at: float | None = None) -> None:
        kept = self._rules.opinions_kept
        wrong = wrong_at is not None
        health.opinions.add(0 if wrong else times, times if wrong else 0)
        health.recent.append((times, wrong_at))
        latest = sum(times for times, _ in health.recent)
        while latest - health.recent[0][0] >= kept:
            latest -= health.recent.popleft()[0]

    # Score

    def measured(self, label: str, answered: int, timeouts: int, *, suspect: bool) -> None:
        """Take an engine's counts since it was opened.

        What a suspect does not answer is left out: the engine asks it next to nothing, and sees at
        once when it is back.
        """
        health = self.healths[label]
        before, health.counted = health.counted, (answered, timeouts)
        if not suspect:
            health.answers.add(max(0, answered - before[0]), max(0, timeouts - before[1]))

    def review(self, now: float) -> list[Change]:
        """Quarantine who is far worse than the best. Names that nobody has an answer for make all
        resolvers look alike, and cost none of them its place."""
        rules = self._rules
        admitted = [it for it in self.healths.values() if not it.is_quarantined]
        best = max((it.score for it in admitted), default=0.0)
        changes = []
        for health in admitted:
            if health.answers.count < rules.samples or health.score >= rules.floor * best:
                continue
            why = f"score {health.score:.2f}, the best has {best:.2f}"
            change = self._quarantine(health, why, now)
            if change is not None:
                changes.append(change)
        return changes

    def _quarantine(
        self, health: Health, reason: str, now: float, lied_since: float | None = None
    ) -> Change | None:
        if all(it.is_quarantined or it is health for it in self.healths.values()):
            health.reason = f"{reason}; but there is no other"
            return None
        return health.quarantine(reason, now, lied_since)


def finding(
    kind: CanaryKind, transport: Transport, outcome: Outcome | None, unchecked: Outcome | None
) -> Finding:
    """What the answer to a canary says; `unchecked` is what was said with checking disabled."""
    if outcome is None or outcome.verdict is Verdict.TIMEOUT:
        return Finding.UNHEARD
    verdict = outcome.verdict
    match kind:
        case CanaryKind.GOOD:
            passed = verdict is Verdict.RESOLVED
        case CanaryKind.NXDOMAIN:
            if verdict is Verdict.RESOLVED:
                return Finding.LIED
            passed = verdict is Verdict.NXDOMAIN
        case CanaryKind.BOGUS:
            # A resolver that cannot look the name up at all says SERVFAIL either way.
            refused = verdict in (Verdict.SERVFAIL, Verdict.BOGUS)
            passed = refused and unchecked is not None and is_final(unchecked.verdict)
        case CanaryKind.TRUNCATED:
            whole = outcome.tcp or transport is not Transport.UDP
            passed = verdict is Verdict.RESOLVED and whole
    return Finding.PASSED if passed else Finding.FAILED


def told(outcome: Outcome | None) -> str:
    """An answer to a canary in a few words."""
    if outcome is None:
        return "nothing"
    if outcome.verdict is Verdict.RESOLVED:
        over = " over TCP" if outcome.tcp else ""
        return ", ".join(outcome.addresses[:3]) + over
    return outcome.verdict.name
