"""Which settled chunks are looked at when a resolver turns out to lie; time is an argument."""

from services.validation.withdrawals import LINGER, MEMORY, Withdrawals

Chunks = Withdrawals[str, int]


def test_what_was_checked_by_the_same_plan_since_the_last_good_canary_is_looked_at() -> None:
    it = Chunks()
    it.checked("plan", 1, now=9)
    it.checked("plan", 2, now=11)
    it.checked("another", 3, now=12)
    assert it.due(20) == []
    it.lied("plan", "liar", "why", since=10, now=20)

    ((lie, chunks),) = it.due(20)

    assert (lie.resolver, lie.reason, chunks) == ("liar", "why", [2])


def test_what_is_seen_to_is_not_looked_at_again() -> None:
    it = Chunks()
    it.checked("plan", 1, now=1)
    it.checked("plan", 2, now=1)
    it.lied("plan", "liar", "why", since=0, now=2)
    ((lie, _),) = it.due(2)

    it.handled(lie, [1])

    ((_, chunks),) = it.due(3)
    assert chunks == [2]


def test_chunks_that_are_stored_a_little_later_are_found_too() -> None:
    it = Chunks()
    it.lied("plan", "liar", "why", since=0, now=2)
    assert it.is_waiting(2)
    it.checked("plan", 1, now=3)

    ((_, chunks),) = it.due(2 + LINGER)
    assert chunks == [1]
    assert not it.is_waiting(3 + LINGER)
    assert it.due(3 + LINGER) == []


def test_memory_is_bounded() -> None:
    it = Chunks()
    for number in range(MEMORY + 5):
        it.checked("plan", number, now=number)
    it.lied("plan", "liar", "why", since=float("-inf"), now=MEMORY)

    ((_, chunks),) = it.due(MEMORY)
    assert chunks == list(range(5, MEMORY + 5))
