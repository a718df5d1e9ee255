"""Times counted by size, so that figures of many processes and minutes can be added up."""

import math
from collections.abc import Sequence
from itertools import accumulate

# Entry i, counted from 1 as PostgreSQL does, holds times of under 1.1^i * 100 us and not under
# those of the entry before: a time is known within a tenth.
_FIRST_US = 100.0
_GROWTH = math.log(1.1)
# The last one takes all that is longer: two minutes.
LENGTH = 147


def entry_of(us: int) -> int:
    """Index, from 0, of the entry that counts a time of so many microseconds."""
    if us < _FIRST_US:
        return 0
    return min(int(math.log(us / _FIRST_US) / _GROWTH), LENGTH - 1)


def quantile_us(counts: Sequence[int], share: float) -> int:
    """Microseconds that `share` of the times took at most; no more than a tenth too long."""
    wanted = math.ceil(sum(counts) * share)
    for index, counted in enumerate(accumulate(counts)):
        if counted >= wanted:
            return round(_FIRST_US * math.exp(_GROWTH * (index + 1)))
    return 0


def added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Both together; the shorter one counts as if filled with zeros."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    total = list(longer)
    for index, number in enumerate(shorter):
        total[index] += number
    return total
