"""Which settled chunks are looked at when a resolver turns out to lie; time is an argument."""

from services.validation.withdrawals import LINGER, MEMORY, Withdrawals

Chunks = Withdrawals[str, int]


def test_what_was_checked_by_the_same_plan_since_the_last_good_canary_is_looked_at() -> None:
    it = Chunks()
    it.checked("plan", 1, now=9)
    it.checked("plan", 2, now=11)
    it.checked("another", 3, now=12)
    assert it.due() == []
    it.lied("plan", "liar", "why", since=10, now=20)

    ((lie, chunks),) = it.due()

    assert (lie.resolver, lie.reason, chunks) == ("liar", "why", [2])


def test_what_is_seen_to_is_not_looked_at_again() -> None:
    it = Chunks()
    it.checked("plan", 1, now=1)
    it.checked("plan", 2, now=1)
    it.lied("plan", "liar", "why", since=0, now=2)
    ((lie, _),) = it.due()

    it.handled(lie, [1])

    ((_, chunks),) = it.due()
    assert chunks == [2]


def test_chunks_that_are_stored_a_little_later_are_found_too() -> None:
    it = Chunks()
    it.lied("plan", "liar", "why", since=0, now=2)
    assert it.is_waiting(2)
    it.checked("plan", 1, now=3)
    # Who asked after that had no liar to ask.
    it.checked("plan", 2, now=3 + LINGER)

    ((lie, chunks),) = it.due()
    assert chunks == [1]
    it.handled(lie, chunks)
    assert it.is_waiting(2 + LINGER)
    assert not it.is_waiting(3 + LINGER)
    assert it.due() == []


def test_a_lie_is_kept_for_as_long_as_nobody_could_see_to_it() -> None:
    it = Chunks()
    it.checked("plan", 1, now=1)
    it.lied("plan", "liar", "why", since=0, now=2)

    assert it.is_waiting(2 + 100 * LINGER)
    ((lie, chunks),) = it.due()
    assert chunks == [1]
    it.handled(lie, chunks)
    assert not it.is_waiting(2 + 100 * LINGER)


def test_a_check_at_a_limited_rate_is_waited_for_however_long_it_takes() -> None:
    it = Chunks()
    number = it.begun("plan", now=1)
    another = it.begun("another", now=1)
    it.lied("plan", "liar", "why", since=0, now=2)
    later = it.begun("plan", now=3)

    assert it.is_waiting(10 * LINGER)
    it.ended(number, now=10 * LINGER)
    it.checked("plan", 1, now=10 * LINGER)
    it.ended(later, now=20 * LINGER)
    it.checked("plan", 2, now=20 * LINGER)
    it.ended(another, now=20 * LINGER)

    ((lie, chunks),) = it.due()
    assert chunks == [1]
    it.handled(lie, chunks)
    assert it.is_waiting(11 * LINGER)
    assert not it.is_waiting(11 * LINGER + 1)


def test_memory_is_bounded() -> None:
    it = Chunks()
    for number in range(MEMORY + 5):
        it.checked("plan", number, now=number)
    it.lied("plan", "liar", "why", since=float("-inf"), now=MEMORY)

    ((_, chunks),) = it.due()
    assert chunks == list(range(5, MEMORY + 5))
