"""What follows on a failed attempt."""

from hypothesis import given
from hypothesis import strategies as st

from services.validation.failure import (
    FAILURE_LIMIT,
    LONGEST_DELAY,
    GiveUp,
    Retry,
    Split,
    after_failure,
    is_suspect,
)


def test_a_chunk_is_tried_again_with_a_growing_delay_before_it_is_split() -> None:
    assert [after_failure(count, 100) for count in (1, 2, 3, 4)] == [
        Retry(0.5),
        Retry(1.0),
        Split(),
        Split(),
    ]


def test_a_single_name_is_given_up_after_its_last_attempt() -> None:
    assert [after_failure(count, 1) for count in (1, 2, 3)] == [Retry(0.5), Retry(1.0), GiveUp()]


@given(count=st.integers(1, 10_000), names=st.integers(1, 5000))
def test_what_is_wrong_for_every_name_buries_none(count: int, names: int) -> None:
    follows = after_failure(count, names, names_blamed=False)
    assert isinstance(follows, Retry)
    assert 0 < follows.delay <= LONGEST_DELAY


@given(names=st.integers(1, 5000))
def test_any_poison_name_is_alone_after_few_attempts(names: int) -> None:
    """The chunk with the poison name fails each time; halves keep its failures."""
    failures, attempts = 0, 0
    while True:
        failures, attempts = failures + 1, attempts + 1
        match after_failure(failures, names):
            case Split():
                # The larger half has it.
                names -= names // 2
            case GiveUp():
                break
    assert names == 1
    assert attempts <= FAILURE_LIMIT + 13


def test_a_chunk_that_lost_two_workers_is_suspected() -> None:
    assert [is_suspect(count) for count in (0, 1, 2, 3)] == [False, False, True, True]
