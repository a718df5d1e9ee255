"""Where a key stands in a copy for pages that is in order of score: its rank, counted from 0."""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Scores are thousandths.
MOST = 1_000
# Of so many ranks the position of the first one is kept: 4 bytes for 32 domains, 0.7 MB in memory
# for 5 million with a score. Whoever looks for a key reads up to so many domains more.
STEP = 32


@dataclass(frozen=True, slots=True)
class ScoreRanks:
    """The directory of such a copy.

    `firsts`: at which rank each score from 0 to MOST begins, and behind them how many domains there
    are. `marks`: the position of the domain at each rank that STEP divides.
    """

    firsts: Sequence[int]
    marks: Sequence[int]

    @classmethod
    def made(cls, counts: Sequence[tuple[int, int]], marks: Sequence[int]) -> "ScoreRanks":
        """Of how many domains there are by score."""
        by_score = dict(counts)
        firsts = [0]
        for score in range(MOST + 1):
            firsts.append(firsts[-1] + by_score.get(score, 0))
        return cls(firsts, marks)

    @property
    def count(self) -> int:
        return self.firsts[-1]

    def between(self, lowest: int, highest: int) -> range:
        """The ranks of these scores and of those between them."""
        return range(self.firsts[lowest], self.firsts[highest + 1])

    def around(self, score: int, position: int) -> range:
        """Of these ranks the first or another one, or the one behind them, is the first one at
        which there is this key or a larger one; at most STEP."""
        ranks = self.between(score, score)
        marks = -(-ranks.start // STEP), -(-ranks.stop // STEP)
        mark = bisect_left(self.marks, position, *marks)
        first = max(ranks.start, (mark - 1) * STEP)
        return range(first, min(ranks.stop, mark * STEP))

    def scores(self, ranks: range) -> Iterator[int]:
        """The score at each of these ranks, which ascend."""
        rank = ranks.start
        while rank < ranks.stop:
            score = bisect_right(self.firsts, rank) - 1
            past = min(self.firsts[score + 1], ranks.stop)
            for _ in range(past - rank):
                yield score
            rank = past

    def pack(self) -> bytes:
        """As a segment has it."""
        return _little(array("I", [*self.firsts, *self.marks])).tobytes()

    @classmethod
    def open(cls, payload: bytes) -> "ScoreRanks":
        numbers = array("I")
        numbers.frombytes(payload)
        numbers = _little(numbers)
        return cls(numbers[: MOST + 2], numbers[MOST + 2 :])


def _little(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
