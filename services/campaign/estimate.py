"""How fast a phase is, how long it will take, and who keeps it waiting. Pure: time is an
argument."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

# Rates are taken over this many seconds, the share of repeated work over three times as many.
RATE_WINDOW = 10.0
REPEAT_WINDOW = 30.0
# Seconds between two samples that are kept.
SAMPLE_PERIOD = 0.5
# Nothing is said to have to be done more than 20 times over.
MAX_REPEAT_SHARE = 0.95
# What an unanswered question costs, seconds: weighs losses against slowness.
QUESTION_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts since the run began to be followed; none of them ever decreases."""

    time: float
    settled_names: int
    settled_chunks: int
    # Attempts at chunks that ended without settling them.
    repeated_chunks: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed over the last seconds. Shares are of chunk attempts, 0 to 1."""

    names_per_second: float
    repeat_share_now: float
    repeat_share_lately: float


@dataclass(slots=True)
class Window:
    """The samples of one run that a pace is taken from."""

    _samples: deque[Sample] = field(default_factory=deque)

    def pace(self, sample: Sample) -> Pace:
        """The pace up to this sample, which is the newest."""
        # The last one stays, however old: with many campaigns to look at, turns come rarely.
        while len(self._samples) > 1 and self._samples[0].time < sample.time - REPEAT_WINDOW:
            self._samples.popleft()
        lately = self._samples[0] if self._samples else sample
        last = self._samples[-1] if self._samples else sample
        now = next((s for s in self._samples if s.time >= sample.time - RATE_WINDOW), last)
        if not self._samples or sample.time >= self._samples[-1].time + SAMPLE_PERIOD:
            self._samples.append(sample)
        elapsed = sample.time - now.time
        names = sample.settled_names - now.settled_names
        return Pace(
            names_per_second=names / elapsed if elapsed > 0 else 0.0,
            repeat_share_now=_repeat_share(now, sample),
            repeat_share_lately=_repeat_share(lately, sample),
        )

    def clear(self) -> None:
        """Begin anew: what lies before says nothing of what comes."""
        self._samples.clear()


def _repeat_share(since: Sample, until: Sample) -> float:
    repeated = until.repeated_chunks - since.repeated_chunks
    attempts = repeated + until.settled_chunks - since.settled_chunks
    return min(repeated / attempts, MAX_REPEAT_SHARE) if attempts > 0 else 0.0


def remaining(names_left: int, pace: Pace, longest_delay: float) -> float | None:
    """Seconds until all names are settled, or None while nothing can be said.

    Names are tried at the present rate, settled ones and those of attempts in vain together; as
    large a share of the tries to come is in vain as was lately. Nothing ends before the chunk that
    waits longest (`longest_delay`, seconds) has been tried again.
    """
    if names_left <= 0:
        return 0.0
    if pace.names_per_second <= 0:
        return None
    tried_per_second = pace.names_per_second / (1 - pace.repeat_share_now)
    tries_left = names_left / (1 - pace.repeat_share_lately)
    return max(tries_left / tried_per_second, longest_delay)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one worker measured of a resolver or host. Loss is 0 to 1; latency in seconds, 0 while
    unknown."""

    name: str
    questions_per_second: float
    loss: float
    latency: float


def worst(endpoints: Iterable[Endpoint]) -> Endpoint | None:
    """The endpoint that an answer takes longest from, counting in what its losses cost; several
    workers' measurements of one are taken together."""
    merged: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        merged.setdefault(endpoint.name, []).append(endpoint)
    return max(map(_together, merged.values()), key=lambda e: (_cost(e), e.name), default=None)


def _together(measured: list[Endpoint]) -> Endpoint:
    weights = [max(each.questions_per_second, 1e-9) for each in measured]
    loss = sum(w * e.loss for w, e in zip(weights, measured, strict=True)) / sum(weights)
    # Only answers have a latency.
    answers = [
        w * (1 - e.loss) if e.latency > 0 else 0.0 for w, e in zip(weights, measured, strict=True)
    ]
    answered = sum(answers)
    latency = (
        sum(a * e.latency for a, e in zip(answers, measured, strict=True)) / answered
        if answered
        else 0.0
    )
    return Endpoint(measured[0].name, sum(e.questions_per_second for e in measured), loss, latency)


def _cost(endpoint: Endpoint) -> float:
    answered = max(1 - endpoint.loss, 1e-3)
    return endpoint.latency + QUESTION_TIMEOUT * endpoint.loss / answered
