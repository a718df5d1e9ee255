"""Who gets the workers next: fair shares by weight, rate limits, how much waits. Pure."""

import heapq
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from math import exp
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

# Of two campaigns that both have enough to do, one of weight 4 has four times as many names with
# the workers as one of weight 1.
WEIGHTS = {"HIGH": 4, "NORMAL": 2, "LOW": 1}

# What waits on a pool's queue, in seconds of its throughput: enough that no worker runs dry between
# two rounds, little enough that a newcomer, a priority or a pause is felt at once.
DEPTH_SECONDS = 0.2
MOST_NAMES = 200_000
CHUNKS_PER_WORKER = 2
# The chunks of a campaign with so many names at most go past the queue, whoever waits there: who
# has little to do is not kept waiting by those that have much. Not those of a large campaign, or
# what has few names in flight for its priority would get more than its share.
EXPRESS_NAMES = 5_000
# Over this many seconds the throughput is averaged.
SMOOTHING = 1.0
# The most that a campaign saves up of its rate limit, s.
BURST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A campaign that could have more names with the workers."""

    weight: int
    # Names queued or claimed.
    in_flight: int
    # Names of its next chunks, in order.
    chunks: Sequence[int]
    # Names that its rate limit lets go now. The chunk that uses them up is still granted, and
    # leaves a debt: one larger than the limit could never go otherwise.
    tokens: float = float("inf")
    # What it was given so far for its weight, as `Turns` says.
    served: float = 0.0


def choose(candidates: Sequence[Candidate], room: int) -> list[int]:
    """Share `room` names of queue out: whose next chunk goes first, second, and so on.

    Always that of the campaign with the fewest names in flight for its weight; of equal ones, as
    where there are more campaigns than chunks in flight, the one that was given least for its
    weight. The last chunk may be larger than the room that is left.
    """
    in_flight = [each.in_flight for each in candidates]
    tokens = [each.tokens for each in candidates]
    taken = [0] * len(candidates)
    chosen: list[int] = []

    def may_have_more(i: int) -> bool:
        return taken[i] < len(candidates[i].chunks) and tokens[i] >= 0

    def place(i: int) -> tuple[float, float, int]:
        weight = candidates[i].weight
        given = in_flight[i] - candidates[i].in_flight
        return in_flight[i] / weight, candidates[i].served + given / weight, i

    line = [place(i) for i in range(len(candidates)) if may_have_more(i)]
    heapq.heapify(line)
    while line and room > 0:
        *_, i = heapq.heappop(line)
        names = candidates[i].chunks[taken[i]]
        taken[i] += 1
        in_flight[i] += names
        tokens[i] -= names
        room -= names
        chosen.append(i)
        if may_have_more(i):
            heapq.heappush(line, place(i))
    return chosen


def is_small(name_count: int) -> bool:
    """Whether a campaign's chunks go past those of others."""
    return name_count <= EXPRESS_NAMES


class Turns(Generic[Key]):
    """What each campaign was given for its weight. A newcomer begins where the least served is."""

    def __init__(self) -> None:
        self._served: dict[Key, float] = {}

    def keep(self, keys: Collection[Key]) -> None:
        """Know these campaigns, and no others."""
        before = self._served
        least = min((before[key] for key in keys if key in before), default=0.0)
        self._served = {key: before.get(key, least) for key in keys}

    def served(self, key: Key) -> float:
        """Names for one of weight 1."""
        return self._served[key]

    def take(self, key: Key, names: int, weight: int) -> None:
        """So many names were given to a campaign."""
        self._served[key] += names / weight


def depth(throughput: float, workers: int, chunk_names: float, least: int) -> int:
    """Names that should wait on a pool's queue, whose workers take `throughput` names a second.

    At least two usual chunks for each worker, and `least`, which is for the time before anything
    is measured.
    """
    enough = max(DEPTH_SECONDS * throughput, CHUNKS_PER_WORKER * workers * chunk_names, least)
    return int(min(enough, MOST_NAMES))


class Throughput:
    """Names a second that the workers take from a queue, by what was put on it and what is left."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._expected = 0
        self._looked: float | None = None

    def look(self, now: float, waiting: int) -> None:
        """Take note of how many names wait at `now`. A queue that was empty tells nothing."""
        if self._looked is not None and now > self._looked and self._expected:
            elapsed = now - self._looked
            taken = max(self._expected - waiting, 0)
            self.rate += (taken / elapsed - self.rate) * (1 - exp(-elapsed / SMOOTHING))
        self._looked, self._expected = now, waiting

    def put(self, names: int) -> None:
        """So many names were put on the queue since."""
        self._expected += names


class Bucket:
    """How much of its rate limit a campaign has left.

    It is charged for what the ledger says has gone out, whoever handed that out: several
    dispatchers keep one limit together. `out` is the number of names that have left the ledger's
    ready part so far; a chunk that comes back and goes out again is charged again.
    """

    def __init__(self, now: float, out: int) -> None:
        self.tokens = 0.0
        self._looked = now
        self._out = out

    def look(self, now: float, limit: int, out: int) -> None:
        """Fill it up at `limit` names a second, and charge what went out since the last look."""
        self.tokens += max(now - self._looked, 0.0) * limit - max(out - self._out, 0)
        self.tokens = min(self.tokens, limit * BURST_SECONDS)
        self._looked, self._out = now, out

    def take(self, names: int) -> None:
        """Charge what goes out now, which the next look is told of again."""
        self.tokens -= names
        self._out += names
