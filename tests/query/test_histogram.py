"""Times by size: what is found again within a tenth."""

import math

from hypothesis import given
from hypothesis import strategies as st

from services.query.histogram import LENGTH, added, entry_of, quantile_us

times = st.lists(st.integers(100, 100_000_000), min_size=1, max_size=200)


def counted(microseconds: list[int]) -> list[int]:
    counts = [0] * LENGTH
    for us in microseconds:
        counts[entry_of(us)] += 1
    return counts


@given(times, st.sampled_from([0.5, 0.95, 1.0]))
def test_quantile_is_right_within_a_tenth(microseconds: list[int], share: float) -> None:
    true = sorted(microseconds)[math.ceil(len(microseconds) * share) - 1]
    assert true * 0.999 <= quantile_us(counted(microseconds), share) <= true * 1.101


@given(times, times)
def test_counts_of_both_are_counts_of_all(one: list[int], other: list[int]) -> None:
    assert added(counted(one), counted(other)) == counted(one + other)


def test_shorter_arrays_are_filled_with_zeros() -> None:
    assert added([1], [1, 2]) == added([1, 2], [1]) == [2, 2]


def test_whatever_is_too_short_or_too_long_has_an_entry() -> None:
    assert (entry_of(0), entry_of(10**12)) == (0, LENGTH - 1)


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile_us([], 0.95) == 0
