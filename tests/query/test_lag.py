"""How far a replica is behind: never understated, and no more overstated than it has to be."""

from hypothesis import given
from hypothesis import strategies as st

from services.query.lag import SAMPLES, Lag


def test_replica_that_has_replayed_all_is_as_far_behind_as_the_last_look_at_the_primary() -> None:
    lag = Lag()
    lag.primary_was_at(1.0, 1000)
    lag.primary_was_at(2.0, 1500)
    lag.replica_is_at(1500)
    assert (lag.behind(2.5), lag.size) == (0.5, 0)


def test_where_nothing_happens_nobody_falls_behind() -> None:
    lag = Lag()
    lag.primary_was_at(1.0, 1000)
    lag.replica_is_at(1000)
    for moment in range(2, 100):
        lag.primary_was_at(float(moment), 1000)
    assert lag.behind(99.5) == 0.5


def test_replica_that_stands_still_falls_behind_from_the_last_moment_that_it_shows() -> None:
    lag = Lag()
    for moment in range(10):
        lag.primary_was_at(float(moment), 1000 + 100 * moment)
        lag.replica_is_at(min(1000 + 100 * moment, 1350))
    assert (lag.behind(20.0), lag.size) == (17.0, 550)
    lag.replica_is_at(1900)
    assert (lag.behind(20.0), lag.size) == (11.0, 0)


def test_without_a_look_at_the_primary_nobody_knows() -> None:
    lag = Lag()
    lag.replica_is_at(1000)
    assert (lag.behind(5.0), lag.size) == (None, None)


def test_replica_that_was_behind_from_the_beginning_is_unknown_until_it_reaches_it() -> None:
    lag = Lag()
    lag.primary_was_at(1.0, 5000)
    lag.replica_is_at(2000)
    assert (lag.behind(2.0), lag.size) == (None, 3000)
    lag.replica_is_at(5000)
    assert lag.behind(2.0) == 1.0


def test_primary_that_cannot_be_asked_leaves_the_replica_older_by_the_second() -> None:
    lag = Lag()
    lag.primary_was_at(1.0, 1000)
    lag.replica_is_at(1000)
    lag.replica_is_at(1000)
    assert lag.behind(61.0) == 60.0


def test_primary_with_an_earlier_log_begins_anew() -> None:
    lag = Lag()
    lag.primary_was_at(1.0, 9000)
    lag.replica_is_at(9000)
    lag.primary_was_at(2.0, 4000)
    # What the replica had replayed was of another log.
    assert (lag.behind(3.0), lag.size) == (None, None)
    lag.replica_is_at(3000)
    assert lag.behind(3.0) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=3 * SAMPLES))
def test_lag_is_never_understated(steps: list[tuple[int, int]]) -> None:
    lag = Lag()
    written = [100]
    replayed = 100
    for moment, (more, caught) in enumerate(steps):
        written.append(written[-1] + more)
        lag.primary_was_at(float(moment), 64 * written[-1] + 48)
        replayed = min(replayed + caught, written[-1])
        lag.replica_is_at(64 * replayed + 48)
        # All that was written by then is what the replica shows.
        shown = max((m for m in range(moment + 1) if written[m + 1] <= replayed), default=None)
        behind = lag.behind(float(moment))
        if behind is not None:
            assert shown is not None
            assert behind >= moment - shown
        if len(steps) < SAMPLES:
            assert (behind is None) == (shown is None)
            assert behind is None or behind == moment - shown  # type: ignore[operator]


def test_replica_that_stands_still_for_long_costs_no_more_memory() -> None:
    lag = Lag()
    lag.primary_was_at(0.0, 48)
    lag.replica_is_at(48)
    for moment in range(1, 20 * SAMPLES):
        lag.primary_was_at(float(moment), 64 * moment + 48)
    assert lag.behind(20.0 * SAMPLES) == 20.0 * SAMPLES
    lag.replica_is_at(64 * 15 * SAMPLES + 48)
    behind = lag.behind(20.0 * SAMPLES)
    assert behind is not None
    assert 5 * SAMPLES <= behind <= 6 * SAMPLES
