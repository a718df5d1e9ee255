"""The rules by which a pool's size is decided."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.pool import (
    Bounds,
    Decision,
    History,
    PoolLoad,
    Rules,
    Size,
    decide,
)

GB = 1 << 30
RULES = Rules()
# A machine of eight cores that is well and has nothing to do.
WELL = PoolLoad(
    backlog=0,
    cores=8,
    busy_cores=2.0,
    process_cores=0.9,
    memory_total=16 * GB,
    memory_free=8 * GB,
    process_memory=100 << 20,
)
BUSY = replace(
    WELL,
    backlog=1_200_000,
    names_per_second=30_000,
    questions_per_second=31_000,
    loss=0.004,
    latency_us=12_345,
    chunks_in_hand=20,
)
TOP = RULES.task_top

shares = st.floats(0, 1)
loads = st.builds(
    PoolLoad,
    backlog=st.integers(0, 10_000_000),
    names_per_second=st.just(0.0) | st.floats(0.1, 1e6),
    questions_per_second=st.just(0.0) | st.floats(0.1, 1e6),
    loss=shares,
    latency_us=st.integers(0, 5_000_000),
    cores=st.integers(1, 64),
    busy_cores=st.floats(0, 64),
    process_cores=st.floats(0, 4),
    memory_total=st.integers(0, 64 * GB),
    memory_free=st.integers(0, 64 * GB),
    process_memory=st.integers(0, 4 * GB),
    chunks_in_hand=st.integers(0, 12_000),
)
sizes = st.builds(Size, st.integers(0, 80), st.integers(0, 20_000))
bounds = st.tuples(st.integers(1, 64), st.integers(1, 64)).map(
    lambda pair: Bounds(min(pair), max(pair))
)
histories = st.builds(
    History,
    long=st.integers(0, 20),
    idle=st.integers(0, 20),
    lossy=st.integers(0, 5),
    at_floor=st.integers(0, 5),
    first_loss=shares,
    own_loss=shares,
)


def rounds(load: PoolLoad, count: int, size: Size, limits: Bounds | None = None) -> list[Decision]:
    """Decisions of rounds that all measure the same."""
    made: list[Decision] = []
    history = History()
    for _ in range(count):
        made.append(decide(load, size, limits or Bounds(1, 8), history))
        size, history = made[-1].size, made[-1].history
    return made


def changes(made: list[Decision]) -> list[str]:
    return [decision.reason for decision in made if decision.reason]


@given(loads, sizes, bounds, histories)
def test_bounds_always_hold(load: PoolLoad, size: Size, limits: Bounds, history: History) -> None:
    # The first round mends what is out of bounds, one figure at a time.
    for _ in range(3):
        decision = decide(load, size, limits, history)
        size, history = decision.size, decision.history

    assert limits.min_process_count <= size.process_count <= limits.max_process_count
    assert RULES.task_floor <= size.task_limit <= RULES.task_top


@given(loads, sizes, bounds, histories)
def test_every_change_has_a_reason_and_nothing_else_has(
    load: PoolLoad, size: Size, limits: Bounds, history: History
) -> None:
    decision = decide(load, size, limits, history)

    assert bool(decision.reason) == (decision.size != size)
    assert decision.reason.isprintable()
    assert len(decision.reason) < 300
    if decision.reason:
        assert f"-> {decision.size.process_count}" in decision.reason or (
            f"-> {decision.size.task_limit:,}" in decision.reason
        )


@given(loads, sizes, bounds, histories, st.integers(0, 10_000_000))
def test_more_names_never_make_fewer_processes(
    load: PoolLoad, size: Size, limits: Bounds, history: History, more: int
) -> None:
    larger = replace(load, backlog=load.backlog + more)

    with_less = decide(load, size, limits, history).size
    with_more = decide(larger, size, limits, history).size

    assert with_more.process_count >= with_less.process_count


@given(loads, sizes, bounds)
def test_constant_load_settles_and_never_turns_back(
    load: PoolLoad, size: Size, limits: Bounds
) -> None:
    size = decide(load, size, limits).size
    size = decide(load, size, limits).size
    made = rounds(load, 200, size, limits)

    counts = [size.process_count, *(decision.size.process_count for decision in made)]
    assert counts == sorted(counts) or counts == sorted(counts, reverse=True)
    # The task limit may go down once and come back once, when the loss is not for the load.
    tasks = [size.task_limit, *(decision.size.task_limit for decision in made)]
    lowest = min(tasks)
    below = tasks.index(lowest)
    assert tasks[: below + 1] == sorted(tasks[: below + 1], reverse=True)
    assert tasks[below:] == sorted(tasks[below:])


@given(loads, sizes, bounds, histories)
def test_nothing_grows_while_loss_is_above_its_limit(
    load: PoolLoad, size: Size, limits: Bounds, history: History
) -> None:
    load = replace(load, loss=max(load.loss, 0.21), questions_per_second=1_000)
    history = replace(history, own_loss=0.0, at_floor=0)
    size = replace(size, process_count=max(size.process_count, limits.min_process_count))
    size = replace(size, task_limit=max(size.task_limit, RULES.task_floor))

    decided = decide(load, size, limits, history).size

    assert decided.process_count <= size.process_count
    assert decided.task_limit <= size.task_limit


def test_a_long_backlog_adds_processes_and_says_why() -> None:
    made = rounds(BUSY, 2, Size(2, TOP))

    assert [decision.size.process_count for decision in made] == [2, 4]
    assert made[1].reason == (
        "2 -> 4 processes: 1.2M names wait, 40 s at 30,000/s; 25% of 8 cores in use,"
        " 8.0 GB memory free, loss 0.4%, answers in 12.3 ms"
    )


def test_no_more_processes_are_added_than_the_names_call_for() -> None:
    load = replace(BUSY, backlog=320_000)

    assert rounds(load, 2, Size(4, TOP))[1].size.process_count == 5


@pytest.mark.parametrize(
    "load",
    [
        replace(BUSY, busy_cores=6.5),
        replace(BUSY, memory_free=int(0.85 * GB)),
        replace(BUSY, backlog=290_000),
        replace(BUSY, names_per_second=0),
    ],
    ids=["cores are in use", "memory is in use", "names last long enough", "nothing is settled"],
)
def test_nothing_is_added_when(load: PoolLoad) -> None:
    assert changes(rounds(load, 10, Size(2, TOP))) == []


def test_idle_processes_end_slowly_one_after_the_other() -> None:
    idle = replace(WELL, process_cores=0.01)

    made = rounds(idle, 14, Size(3, TOP))

    counts = [decision.size.process_count for decision in made]
    assert counts == [3] * 5 + [2] * 6 + [1] * 3
    assert changes(made)[0] == (
        "3 -> 2 processes: 0 names wait, and 3 processes keep 0.0 cores busy, 6 rounds in a row"
    )


def test_one_busy_round_begins_the_count_of_idle_ones_anew() -> None:
    idle = replace(WELL, process_cores=0.01)
    history = rounds(idle, 5, Size(2, TOP))[-1].history

    busy = decide(BUSY, Size(2, TOP), Bounds(1, 2), history)
    after = decide(idle, Size(2, TOP), Bounds(1, 2), busy.history)

    assert after.size.process_count == 2


def test_short_memory_ends_processes_at_once() -> None:
    short = replace(BUSY, memory_free=GB // 2, process_memory=200 << 20)

    decision = decide(short, Size(6, TOP), Bounds(1, 8))

    assert decision.size == Size(4, TOP)
    assert decision.reason == (
        "6 -> 4 processes: 512 MB of 16.0 GB memory are free, less than the 5% that are kept"
    )


def test_short_memory_takes_chunks_where_no_process_may_end() -> None:
    short = replace(BUSY, memory_free=GB // 2)

    made = rounds(short, 4, Size(1, TOP))

    assert [decision.size for decision in made] == [Size(1, 10), Size(1, 8), Size(1, 8), Size(1, 8)]


def test_loss_halves_what_is_in_hand_down_to_the_floor() -> None:
    lossy = replace(BUSY, loss=0.31, chunks_in_hand=40)

    made = rounds(lossy, 7, Size(2, TOP))

    assert [decision.size.task_limit for decision in made] == [TOP, 20, 20, 10, 10, 8, 8]
    assert {decision.size.process_count for decision in made} == {2}
    assert made[1].reason == (
        "task limit 10,000 -> 20: 31.0% of 31,000 questions/s stay unanswered, more than 20%;"
        " up to 40 chunks in hand"
    )


def test_the_task_limit_comes_back_in_steps_while_chunks_come_near_it() -> None:
    size, history = Size(2, 8), History(first_loss=0.3)
    seen = []
    for in_hand in (8, 16, 10):
        load = replace(WELL, loss=0.01, chunks_in_hand=in_hand)
        decision = decide(load, size, Bounds(1, 8), history)
        size, history = decision.size, decision.history
        seen.append(decision.reason)

    assert seen == [
        "task limit 8 -> 16: 1.0% of the questions stay unanswered",
        "task limit 16 -> 24: 1.0% of the questions stay unanswered",
        "task limit 24 -> 10,000: 1.0% of the questions stay unanswered,"
        " and no process has more than 10 chunks in hand",
    ]


def test_loss_that_is_not_for_the_load_is_put_up_with() -> None:
    lossy = replace(BUSY, loss=0.4, chunks_in_hand=8)

    made = rounds(lossy, 30, Size(2, TOP))

    assert made[-1].size == Size(8, TOP)
    assert any("it is not for the load" in reason for reason in changes(made))
    worse = replace(lossy, loss=0.7)
    after = decide(worse, made[-1].size, Bounds(1, 8), made[-1].history)
    after = decide(worse, after.size, Bounds(1, 8), after.history)
    assert after.size.task_limit < TOP


def test_a_few_lost_questions_of_a_quiet_pool_change_nothing() -> None:
    quiet = replace(WELL, questions_per_second=50, loss=1.0)

    assert changes(rounds(quiet, 5, Size(1, TOP))) == []


def test_bounds_that_were_changed_are_kept_at_once() -> None:
    assert decide(WELL, Size(5, TOP), Bounds(1, 3)).reason == (
        "5 -> 3 processes: 1 to 3 are asked for"
    )
    assert decide(WELL, Size(1, TOP), Bounds(2, 3)).size.process_count == 2
    with pytest.raises(ValueError, match="no range"):
        Bounds(3, 2)


@given(st.integers(1_000, 5_000_000), st.integers(1_000, 50_000), st.integers(1, 16))
def test_a_campaign_makes_the_pool_grow_and_then_shrink_once(
    names: int, rate: int, most: int
) -> None:
    size, history, left, counts = Size(1, TOP), History(), float(names), [1]
    while left > 0 or counts[-1] > 1:
        working = left > 0
        load = replace(
            WELL,
            backlog=int(left),
            names_per_second=size.process_count * rate if working else 0,
            questions_per_second=size.process_count * rate if working else 0,
            process_cores=0.9 if working else 0.0,
            busy_cores=size.process_count * 0.9 * working,
            cores=32,
        )
        decision = decide(load, size, Bounds(1, most), history)
        size, history = decision.size, decision.history
        counts.append(size.process_count)
        left -= size.process_count * rate * 5

    top = counts.index(max(counts))
    assert counts[: top + 1] == sorted(counts[: top + 1])
    assert counts[top:] == sorted(counts[top:], reverse=True)
    assert size == Size(1, TOP)
