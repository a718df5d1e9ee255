"""For how long nothing has changed, told without anybody's clock but one that is never set.

Pure: what was seen, and when by a monotonic clock, come in as arguments. Stored times are marks
here: they are compared with each other for being the same, and with nothing else.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

# A claim that its worker, who holds it every second, has not changed for this long is lost, s.
LEASE = 15.0
# How long a task may be out before it may count as lost, s: it is published after its chunk was
# marked.
TASK_AGE = 2.0
# A task that those published this much later have overtaken is lost, s: the queue is in order but
# for what it delivers again after the workers' acknowledgement time of 6 s.
OVERTAKEN = 10.0
# Of the time between two looks at most this much counts, s.
LONGEST_GAP = 2.0
# The longest back-off after a failure, s; what is stored as longer was written before a clock was
# set.
LONGEST_DELAY = 60.0

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Sighting(Generic[Key]):
    """A chunk that is handed out, as it was seen once. `mark` changes with every sign of life."""

    key: Key
    # The subject its task is published on: first in, first out.
    subject: str
    attempt: int
    claimed: bool
    mark: object
    worker: str = ""


class Stillness(Generic[Key]):
    """For how long each of some things was seen without a change.

    Only watched time counts. While nobody looked, nobody can say that nothing happened: an outage
    of the database costs no worker its claims.
    """

    def __init__(self) -> None:
        self._looked: float | None = None
        # The time watched so far, and its value when each thing was first seen as it is.
        self.watched = 0.0
        self._since: dict[Key, tuple[object, float]] = {}

    def look(self, now: float, marks: Mapping[Key, object]) -> None:
        """Take note of how all things are at `now`; those that are not told of are forgotten."""
        if self._looked is not None:
            self.watched += min(max(now - self._looked, 0.0), LONGEST_GAP)
        self._looked = now
        before = self._since
        self._since = {}
        for key, mark in marks.items():
            known = before.get(key)
            unchanged = known is not None and known[0] == mark
            self._since[key] = known if known and unchanged else (mark, self.watched)

    def since(self, key: Key) -> float | None:
        """`watched` when the thing was first seen as it is; None for one that is not there."""
        known = self._since.get(key)
        return known[1] if known else None

    def age(self, key: Key) -> float:
        """Seconds it was seen unchanged; 0 for one that is not there."""
        known = self._since.get(key)
        return self.watched - known[1] if known else 0.0


class Leases(Generic[Key]):
    """Everything that is handed out, look by look: whose worker is gone, whose task is lost."""

    def __init__(self) -> None:
        self._stillness: Stillness[Key] = Stillness()
        self._sightings: dict[Key, Sighting[Key]] = {}
        # Per subject, the latest time at which a task was published that a worker has taken since.
        self._reached: dict[str, float] = {}

    def look(self, now: float, sightings: Iterable[Sighting[Key]]) -> None:
        """Take note of every chunk that is handed out at `now`."""
        before, self._sightings = self._sightings, {each.key: each for each in sightings}
        looked = self._stillness.watched
        published = {key: self._stillness.since(key) for key in before}
        for key, each in self._sightings.items():
            earlier = before.get(key)
            if not each.claimed or (earlier is not None and earlier.claimed):
                continue
            # One that came and was taken between two looks was published after the first of them.
            at = published.get(key)
            self._reached[each.subject] = max(
                self._reached.get(each.subject, 0.0), looked if at is None else at
            )
        marks = {each.key: (each.attempt, each.mark) for each in self._sightings.values()}
        self._stillness.look(now, marks)

    def lost_claims(self) -> list[Sighting[Key]]:
        """Claims that nobody has held for the whole lease."""
        return [
            each
            for each in self._sightings.values()
            if each.claimed and self._stillness.age(each.key) >= LEASE
        ]

    def lost_tasks(self, on_queue: Mapping[str, int]) -> list[Sighting[Key]]:
        """Chunks that nobody has claimed and whose task the queue has not got any more.

        `on_queue` counts the tasks of each subject, those in workers' hands included; it was taken
        before the last look, so that a shortage is real.
        """
        unclaimed: dict[str, list[Sighting[Key]]] = {}
        for each in self._sightings.values():
            if not each.claimed:
                unclaimed.setdefault(each.subject, []).append(each)
        lost = []
        for subject, waiting in unclaimed.items():
            short = on_queue.get(subject, 0) < len(waiting)
            lost += [each for each in waiting if self._is_lost(each, short)]
        return lost

    def _is_lost(self, each: Sighting[Key], short: bool) -> bool:
        if short and self._stillness.age(each.key) >= TASK_AGE:
            return True
        since = self._stillness.since(each.key)
        return since is not None and since + OVERTAKEN < self._reached.get(each.subject, 0.0)


class Delays(Generic[Key]):
    """Delays, waited out from when they were first seen."""

    def __init__(self) -> None:
        self._due: dict[Key, tuple[object, float]] = {}

    def look(self, now: float, delayed: Mapping[Key, tuple[object, float, float]]) -> list[Key]:
        """Return those whose time has come. `delayed` tells of each its mark, the seconds that are
        left, as far as the clocks agree, and the most that they can be."""
        before = self._due
        self._due = {}
        for key, (mark, left, longest) in delayed.items():
            known = before.get(key)
            if known is None or known[0] != mark:
                known = (mark, now + min(max(left, 0.0), longest))
            self._due[key] = known
        return [key for key, (_, due) in self._due.items() if due <= now]
