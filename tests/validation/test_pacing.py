"""Names go out evenly, at whatever rate holds."""

from hypothesis import given
from hypothesis import strategies as st

from services.validation.pacing import CATCH_UP, SLICE, Pace


def test_without_a_limit_all_names_go_at_once() -> None:
    pace = Pace(0, 5.0)
    assert pace.take(5000, 5.0) == 5000
    assert pace.wait(5000) == 0


def test_names_go_out_in_slices_of_a_quarter_second() -> None:
    pace = Pace(400, 0.0)
    sent = [pace.take(1000, tick / 64) for tick in range(65)]
    assert [(tick, count) for tick, count in enumerate(sent) if count] == [
        (16, 100),
        (32, 100),
        (48, 100),
        (64, 100),
    ]


def test_the_rest_of_a_chunk_does_not_wait_for_a_whole_slice() -> None:
    pace = Pace(400, 0.0)
    assert pace.take(3, 0.01) == 3


def test_a_lifted_limit_lets_the_rest_go_and_a_new_one_begins_empty() -> None:
    pace = Pace(1, 0.0)
    assert pace.take(100, 0.5) == 0
    pace.rate = 0
    assert pace.take(100, 0.5) == 100
    pace.rate = 100
    assert pace.take(100, 0.5) == 0
    assert pace.take(100, 0.75) == 25


def test_a_clock_that_jumps_back_gives_nothing_away() -> None:
    pace = Pace(100, 100.0)
    assert pace.take(50, 50.0) == 0
    assert pace.take(50, 50.25) == 25


@given(rate=st.integers(1, 100_000), steps=st.lists(st.floats(0, 3), max_size=20))
def test_never_more_than_the_rate_and_a_short_delay_caught_up(
    rate: int, steps: list[float]
) -> None:
    pace, now, gone = Pace(rate, 0.0), 0.0, []
    for step in steps:
        now += step
        while count := pace.take(10**9, now):
            gone.append((now, count))
    for first, (begun, _) in enumerate(gone):
        names = 0
        for moment, count in gone[first:]:
            names += count
            assert names <= rate * (moment - begun + CATCH_UP) + 1 + 1e-6


@given(rate=st.integers(1, 100_000), wanted=st.integers(1, 100_000))
def test_whoever_waits_as_told_gets_something_within_a_second(rate: int, wanted: int) -> None:
    pace, now = Pace(rate, 0.0), 0.0
    while not pace.take(wanted, now):
        assert 0 < pace.wait(wanted) <= SLICE
        now += pace.wait(wanted)
        assert now < 1.5
