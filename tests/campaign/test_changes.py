"""Grouping events into changes, and keeping the newest of them within bounds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.campaign.changes import Change, Recent, changes

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    revision: int
    create_time: datetime


def rows(sizes: list[int]) -> list[Row]:
    """Events of transactions of these sizes."""
    made: list[Row] = []
    for number, size in enumerate(sizes):
        time = EPOCH + timedelta(microseconds=number)
        made += [Row(len(made) + i + 1, time) for i in range(size)]
    return made


def change(no: int, first: int, last: int, size: int = 1) -> Change[str]:
    return Change(no, first, last, [f"{no}/{r}" for r in range(first, last + 1)], size)


def revisions(found: list[Change[str]] | None) -> list[tuple[int, int]] | None:
    return None if found is None else [(each.first, each.last) for each in found]


@given(st.lists(st.integers(1, 4), max_size=20))
def test_events_with_one_time_are_one_change(sizes: list[int]) -> None:
    grouped = list(changes(rows(sizes)))

    assert [len(group) for group in grouped] == sizes
    assert [row for group in grouped for row in group] == rows(sizes)


def test_whoever_keeps_up_is_given_what_came_since() -> None:
    recent: Recent[str] = Recent(100)
    recent.follow(7, 4)
    for first, last in ((5, 5), (6, 8), (9, 9)):
        recent.append(change(7, first, last))

    assert recent.newest(7) == 9
    assert revisions(recent.after(7, 9, 10)) == []
    assert revisions(recent.after(7, 5, 10)) == [(6, 8), (9, 9)]
    assert revisions(recent.after(7, 4, 2)) == [(5, 5), (6, 8)]


def test_what_is_not_kept_is_not_made_up() -> None:
    recent: Recent[str] = Recent(100)
    recent.follow(7, 4)
    recent.append(change(7, 5, 7))

    # Before it was followed; in the middle of a change; another campaign.
    assert recent.after(7, 3, 10) is None
    assert recent.after(7, 5, 10) is None
    assert recent.after(8, 0, 10) is None


def test_a_jump_leaves_nothing_from_before_it() -> None:
    recent: Recent[str] = Recent(100)
    recent.follow(7, 0)
    recent.append(change(7, 1, 1))
    recent.jump(7, 50)
    recent.append(change(7, 51, 51))

    assert recent.after(7, 0, 10) is None
    assert revisions(recent.after(7, 50, 10)) == [(51, 51)]
    assert recent.size == 1


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30), st.booleans()), max_size=60))
def test_memory_is_bounded_and_the_rest_is_the_newest(
    steps: list[tuple[int, int, bool]],
) -> None:
    recent: Recent[str] = Recent(100)
    told: dict[int, int] = {}
    for no, size, forgotten in steps:
        if forgotten:
            recent.forget(no)
            told.pop(no, None)
            assert recent.newest(no) is None
            continue
        recent.follow(no, 0)
        told[no] = told.get(no, 0) + 1
        recent.append(change(no, told[no], told[no], size))

        assert recent.size <= 100
        assert {each: recent.newest(each) for each in recent.followed} == told
        for each, newest in told.items():
            kept = [r for r in range(newest) if recent.after(each, r, 1000) is not None]
            # A run up to the newest, each of which gives all that came after it.
            assert kept == list(range(newest - len(kept), newest))
            for revision in kept:
                expected = [(r, r) for r in range(revision + 1, newest + 1)]
                assert revisions(recent.after(each, revision, 1000)) == expected
