"""Rates, the time left, and the endpoint that keeps a phase waiting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.campaign.estimate import (
    MAX_REPEAT_SHARE,
    Endpoint,
    Pace,
    Sample,
    Window,
    remaining,
    worst,
)

shares = st.floats(0, MAX_REPEAT_SHARE)
rates = st.floats(0.1, 1e6)
paces = st.builds(Pace, rates, shares, shares)
counts = st.integers(1, 10**9)
delays = st.floats(0, 60)


@given(counts, paces, delays)
def test_the_time_left_is_never_negative_nor_shorter_than_a_delay(
    left: int, pace: Pace, delay: float
) -> None:
    estimate = remaining(left, pace, delay)

    assert estimate is not None
    assert estimate >= delay >= 0


@given(counts, counts, paces, delays)
def test_more_names_take_longer(few: int, more: int, pace: Pace, delay: float) -> None:
    short, long = remaining(few, pace, delay), remaining(few + more, pace, delay)

    assert short is not None
    assert long is not None
    assert short <= long


@given(counts, rates, shares, shares, shares, delays)
def test_more_work_in_vain_takes_longer(
    left: int, rate: float, now: float, one: float, other: float, delay: float
) -> None:
    less, more = sorted((one, other))
    short = remaining(left, Pace(rate, now, less), delay)
    long = remaining(left, Pace(rate, now, more), delay)

    assert short is not None
    assert long is not None
    assert short <= long


@given(counts, rates, shares)
def test_what_is_repeated_as_ever_is_in_the_rate_already(
    left: int, rate: float, share: float
) -> None:
    estimate = remaining(left, Pace(rate, share, share), 0)

    assert estimate == pytest.approx(left / rate)


def test_work_in_vain_of_the_last_minute_counts_although_it_is_quiet_now() -> None:
    assert remaining(1_000, Pace(100, 0, 0.5), 0) == pytest.approx(20)


@given(shares, shares, delays)
def test_nothing_is_said_at_a_standstill(now: float, lately: float, delay: float) -> None:
    assert remaining(5, Pace(0, now, lately), delay) is None
    assert remaining(0, Pace(0, now, lately), delay) == 0


steps = st.lists(
    st.tuples(st.floats(0.05, 20), st.integers(0, 5000), st.integers(0, 3), st.integers(0, 3)),
    min_size=1,
    max_size=100,
)


@given(steps)
def test_a_pace_is_always_within_what_was_counted(
    grown: list[tuple[float, int, int, int]],
) -> None:
    window, time, names, chunks, repeats, fastest = Window(), 0.0, 0, 0, 0, 0.0
    for elapsed, more_names, more_chunks, more_repeats in grown:
        time, names = time + elapsed, names + more_names
        chunks, repeats = chunks + more_chunks, repeats + more_repeats
        pace = window.pace(Sample(time, names, chunks, repeats))
        fastest = max(fastest, more_names / elapsed)

        assert 0 <= pace.names_per_second <= fastest * (1 + 1e-9)
        assert 0 <= pace.repeat_share_now <= MAX_REPEAT_SHARE
        assert 0 <= pace.repeat_share_lately <= MAX_REPEAT_SHARE


def test_the_rate_is_that_of_the_last_seconds() -> None:
    window = Window()
    for second in range(60):
        window.pace(Sample(second, second * 10, 0, 0))
    for second in range(60, 80):
        pace = window.pace(Sample(second, 600 + (second - 60) * 500, 0, 0))

    assert pace.names_per_second == pytest.approx(500)


def test_a_cleared_window_begins_anew() -> None:
    window = Window()
    window.pace(Sample(0, 0, 0, 0))
    window.clear()

    assert window.pace(Sample(5, 1_000, 9, 1)) == Pace(0, 0, 0)


def test_the_worst_endpoint_is_the_one_that_costs_most() -> None:
    quick = Endpoint("192.0.2.1:53", 100, 0.0, 0.010)
    slow = Endpoint("192.0.2.2:53", 100, 0.0, 0.300)
    lossy = Endpoint("192.0.2.3:53", 100, 0.5, 0.010)
    mute = Endpoint("192.0.2.4:53", 100, 1.0, 0.0)

    assert worst([]) is None
    assert worst([quick, slow]) == slow
    assert worst([quick, slow, lossy]) == lossy
    assert worst([mute, slow, lossy]) == mute


def test_workers_that_use_one_endpoint_are_taken_together() -> None:
    busy = Endpoint("192.0.2.1:53", 900, 0.0, 0.100)
    idle = Endpoint("192.0.2.1:53", 100, 0.5, 0.200)

    found = worst([busy, idle])

    assert found is not None
    assert (found.name, found.questions_per_second) == ("192.0.2.1:53", 1000)
    assert found.loss == pytest.approx(0.05)
    # 900 answers in 100 ms, 50 in 200.
    assert found.latency == pytest.approx(0.1053, abs=1e-4)


def test_whoever_is_looked_at_rarely_has_the_rate_since_the_last_look() -> None:
    window = Window()
    window.pace(Sample(0, 0, 0, 0))
    window.pace(Sample(60, 600, 3, 3))

    pace = window.pace(Sample(100, 1_000, 7, 5))

    assert pace == Pace(10, pytest.approx(2 / 6), pytest.approx(2 / 6))
