"""Leases and delays by a clock of the test's own."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.campaign.leases import (
    LEASE,
    LONGEST_GAP,
    OVERTAKEN,
    TASK_AGE,
    Delays,
    Leases,
    Sighting,
    Stillness,
)

gaps = st.lists(st.floats(0, 5), min_size=1, max_size=30)


def claim(key: str, mark: object, attempt: int = 1) -> Sighting[str]:
    return Sighting(key, "dns", attempt, claimed=True, mark=mark, worker="w")


def task(key: str, mark: object = 0, subject: str = "dns") -> Sighting[str]:
    return Sighting(key, subject, 0, claimed=False, mark=mark)


def keys(sightings: Sequence[Sighting[str]]) -> list[str]:
    return [each.key for each in sightings]


def look_for(leases: Leases[str], seconds: int, *sightings: Sighting[str], begin: int = 0) -> None:
    """Look once a second, and at the end of the last one."""
    for now in range(begin, begin + seconds + 1):
        leases.look(now, sightings)


@given(gaps)
def test_only_watched_time_counts(elapsed: list[float]) -> None:
    stillness: Stillness[str] = Stillness()
    now = 1000.0
    stillness.look(now, {"a": 1})
    for gap in elapsed:
        now += gap
        stillness.look(now, {"a": 1, "later": now})
    assert abs(stillness.age("a") - sum(min(gap, LONGEST_GAP) for gap in elapsed)) < 1e-6
    assert stillness.age("never seen") == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("xy")), min_size=1, max_size=30))
def test_a_change_begins_anew(looks: list[tuple[float, str]]) -> None:
    stillness: Stillness[str] = Stillness()
    now = 0.0
    for gap, mark in looks:
        now += gap
        stillness.look(now, {"a": mark})
    unchanged = 0.0
    for (_, before), (gap, mark) in pairwise(looks):
        unchanged = unchanged + gap if mark == before else 0.0
    assert abs(stillness.age("a") - unchanged) < 1e-6


def test_a_clock_that_seems_to_go_back_costs_nothing() -> None:
    stillness: Stillness[str] = Stillness()
    for now in (10.0, 5.0, 6.0):
        stillness.look(now, {"a": 1})
    assert stillness.age("a") == 1


def test_what_went_and_came_back_is_new() -> None:
    stillness: Stillness[str] = Stillness()
    for now, marks in enumerate(({"a": 1}, {"a": 1}, {}, {"a": 1})):
        stillness.look(now, marks)
    assert stillness.age("a") == 0


def test_a_claim_is_lost_once_nobody_has_held_it_for_the_whole_lease() -> None:
    leases: Leases[str] = Leases()
    for now in range(int(LEASE)):
        leases.look(now, [claim("held", now), claim("left", 0)])
        assert leases.lost_claims() == []
    leases.look(LEASE, [claim("held", LEASE), claim("left", 0)])
    assert keys(leases.lost_claims()) == ["left"]


def test_a_stored_time_that_jumps_is_only_a_change() -> None:
    leases: Leases[str] = Leases()
    for now in range(100):
        step = 3600 if 30 <= now < 60 else -3600 if now >= 60 else 0
        leases.look(now, [claim("held", now + 15 + step)])
        assert leases.lost_claims() == []


def test_another_attempt_has_a_lease_of_its_own() -> None:
    leases: Leases[str] = Leases()
    look_for(leases, 10, claim("a", 0))
    look_for(leases, 10, claim("a", 0, attempt=2), begin=11)
    assert leases.lost_claims() == []


def test_an_outage_costs_no_claim() -> None:
    leases: Leases[str] = Leases()
    leases.look(0, [claim("a", 0)])
    leases.look(10 * LEASE, [claim("a", 0)])
    assert leases.lost_claims() == []


def test_a_task_is_lost_when_the_queue_has_fewer_than_nobody_has_claimed() -> None:
    leases: Leases[str] = Leases()
    look_for(leases, int(TASK_AGE), task("a"), task("b"), claim("c", 0))
    assert leases.lost_tasks({"dns": 2}) == []
    assert keys(leases.lost_tasks({"dns": 1})) == ["a", "b"]
    assert keys(leases.lost_tasks({})) == ["a", "b"]


def test_a_task_that_has_just_been_published_is_not_lost() -> None:
    leases: Leases[str] = Leases()
    look_for(leases, 1, task("old"))
    look_for(leases, 1, task("old"), task("new"), begin=2)
    assert keys(leases.lost_tasks({})) == ["old"]


def test_the_tasks_of_one_pool_do_not_hide_behind_those_of_another() -> None:
    leases: Leases[str] = Leases()
    look_for(leases, 3, task("a"), task("b", subject="http"))
    assert keys(leases.lost_tasks({"dns": 100, "http": 0})) == ["b"]


def test_a_task_that_was_overtaken_is_lost_whatever_the_queue_holds() -> None:
    leases: Leases[str] = Leases()
    plenty = {"dns": 1000}
    now = 0
    for now in range(int(OVERTAKEN) + 1):
        leases.look(now, [task("lost"), claim(f"{now}", now)])
        assert leases.lost_tasks(plenty) == []
    leases.look(now + 1, [task("lost"), claim("later", 0)])
    leases.look(now + 2, [task("lost"), claim("latest", 0)])
    assert keys(leases.lost_tasks(plenty)) == ["lost"]


def test_a_queue_that_nobody_takes_from_loses_nothing() -> None:
    leases: Leases[str] = Leases()
    look_for(leases, 1000, task("a"), task("b"), claim("slow", 0))
    assert leases.lost_tasks({"dns": 3}) == []


@given(st.integers(-1_000_000, 1_000_000), st.integers(1, 100_000), st.integers(0, 100))
def test_a_delay_is_waited_out_once_and_never_longer_than_it_can_be(
    left: int, longest: int, began: int
) -> None:
    delays: Delays[str] = Delays()
    wait = min(max(left, 0), longest)
    assert delays.look(began, {"a": ("mark", left, longest)}) == (["a"] if wait == 0 else [])
    # What the database's clock says later does not matter any more.
    assert delays.look(began + wait * 0.9, {"a": ("mark", 1e6, longest)}) == (
        ["a"] if wait == 0 else []
    )
    assert delays.look(began + wait + 0.001, {"a": ("mark", 1e6, longest)}) == ["a"]
    assert delays.look(began + wait + 1000, {}) == []


def test_a_delay_that_was_set_anew_is_waited_out_anew() -> None:
    delays: Delays[str] = Delays()
    delays.look(0, {"a": (1, 10.0, 60.0)})
    assert delays.look(11, {"a": (2, 10.0, 60.0)}) == []
    assert delays.look(21, {"a": (2, 0.0, 60.0)}) == ["a"]


def test_tasks_that_may_pass_others_do_not_make_them_lost() -> None:
    leases: Leases[str] = Leases()
    ordinary = task("ordinary")
    look_for(leases, 12, ordinary)
    passing = task("small", subject="dns.express")
    look_for(leases, 1, ordinary, passing, begin=12)
    taken = Sighting("small", "dns.express", 1, claimed=True, mark=1, worker="w")
    look_for(leases, 2, ordinary, taken, begin=13)

    assert leases.lost_tasks({"dns": 1, "dns.express": 1}) == []
