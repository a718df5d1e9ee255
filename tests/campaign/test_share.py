"""What fair shares, rate limits and queue depths promise, whatever the figures."""

from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from services.campaign.share import (
    BURST_SECONDS,
    MOST_NAMES,
    WEIGHTS,
    Bucket,
    Candidate,
    Throughput,
    Turns,
    choose,
    depth,
)

sizes = st.lists(st.integers(1, 5_000), max_size=30)
candidates = st.lists(
    st.builds(
        Candidate,
        weight=st.sampled_from(sorted(WEIGHTS.values())),
        in_flight=st.integers(0, 50_000),
        chunks=sizes,
        tokens=st.one_of(st.just(float("inf")), st.floats(-5_000, 5_000)),
    ),
    max_size=12,
)
rooms = st.integers(-100, 100_000)


def granted(lines: list[Candidate], chosen: list[int]) -> list[list[int]]:
    """The names of each one's chunks that were chosen."""
    return [list(line.chunks[: chosen.count(i)]) for i, line in enumerate(lines)]


@given(candidates, rooms)
def test_the_room_is_filled_and_overrun_by_the_last_chunk_only(
    lines: list[Candidate], room: int
) -> None:
    chosen = choose(lines, room)
    given_out = granted(lines, chosen)
    assert [len(each) for each in given_out] == [chosen.count(i) for i in range(len(lines))]
    names = sum(map(sum, given_out))
    if chosen:
        last = given_out[chosen[-1]][-1]
        assert names - last < room
    if names < room:
        for line, each in zip(lines, given_out, strict=True):
            assert len(each) == len(line.chunks) or line.tokens - sum(each) < 0


@given(candidates, rooms)
def test_a_rate_limit_is_overrun_by_the_last_chunk_only(lines: list[Candidate], room: int) -> None:
    for line, each in zip(lines, granted(lines, choose(lines, room)), strict=True):
        if each:
            assert line.tokens - sum(each[:-1]) >= 0


@given(candidates, rooms)
def test_nobody_gets_a_chunk_while_another_has_less_for_its_weight(
    lines: list[Candidate], room: int
) -> None:
    lines = [replace(line, tokens=float("inf")) for line in lines]
    given_out = granted(lines, choose(lines, room))

    def level(i: int, chunks: list[int]) -> float:
        return (lines[i].in_flight + sum(chunks)) / lines[i].weight

    for i, j in combinations(range(len(lines)), 2):
        for one, other in ((i, j), (j, i)):
            wants_more = len(given_out[other]) < len(lines[other].chunks)
            if given_out[one] and wants_more:
                assert level(one, given_out[one][:-1]) <= level(other, given_out[other])


@given(st.integers(1, 20), st.integers(100, 2_000))
def test_equal_chunks_are_shared_out_in_proportion_to_the_weights(turns: int, size: int) -> None:
    lines = [Candidate(weight, 0, [size] * 1_000) for weight in WEIGHTS.values()]
    room = turns * size * sum(WEIGHTS.values())
    chosen = choose(lines, room)
    assert [chosen.count(i) for i in range(3)] == [turns * w for w in WEIGHTS.values()]


def test_a_newcomer_goes_before_whoever_has_much() -> None:
    large, small = Candidate(4, 100_000, [2_000] * 50), Candidate(1, 0, [250] * 4)
    assert choose([large, small], 1_000) == [1, 1, 1, 1]


@given(st.lists(st.sampled_from(sorted(WEIGHTS.values())), min_size=20, max_size=60))
def test_more_campaigns_than_chunks_in_flight_take_turns(weights: list[int]) -> None:
    """There is room for a single chunk, which is done before the next one goes."""
    turns: Turns[int] = Turns()
    rounds = 3 * sum(weights)
    given_out = [0] * len(weights)
    for _ in range(rounds):
        turns.keep(range(len(weights)))
        lines = [
            Candidate(weight, 0, [100], served=turns.served(i)) for i, weight in enumerate(weights)
        ]
        (i,) = choose(lines, 1)
        turns.take(i, 100, weights[i])
        given_out[i] += 1
    for count, weight in zip(given_out, weights, strict=True):
        assert abs(count - 3 * weight) <= 1


def test_a_newcomer_has_no_more_to_come_than_the_least_served() -> None:
    turns: Turns[str] = Turns()
    turns.keep(["old", "older"])
    turns.take("old", 10_000, 2)
    turns.take("older", 60_000, 4)
    turns.keep(["old", "older", "new"])
    assert [turns.served(key) for key in ("old", "older", "new")] == [5_000, 15_000, 5_000]
    turns.keep(["new"])
    turns.keep(["new", "old"])
    assert turns.served("old") == 5_000


@given(
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.integers(0, 64),
    st.integers(0, 5_000),
    st.integers(0, 10_000),
)
def test_the_depth_grows_with_the_throughput_within_its_limits(
    one: float, other: float, workers: int, names: int, least: int
) -> None:
    slow, fast = sorted((one, other))
    assert depth(slow, workers, names, least) <= depth(fast, workers, names, least) <= MOST_NAMES
    assert depth(slow, workers, names, least) >= min(least, MOST_NAMES)
    assert depth(slow, workers, names, least) >= min(2 * workers * names, MOST_NAMES)


@given(st.integers(10, 100_000), st.lists(st.floats(0.02, 0.5), min_size=60, max_size=60))
def test_the_throughput_is_that_of_the_workers(rate: int, gaps: list[float]) -> None:
    throughput = Throughput()
    now, waiting = 0.0, 10_000_000
    throughput.put(waiting)
    throughput.look(now, waiting)
    for gap in gaps * 4:
        now += gap
        waiting -= int(rate * gap)
        throughput.look(now, waiting)
    assert abs(throughput.rate - rate) <= 0.25 * rate + 50


def test_an_idle_queue_tells_nothing_of_its_workers() -> None:
    throughput = Throughput()
    throughput.look(0, 1_000)
    throughput.look(1, 0)
    known = throughput.rate
    for now in range(2, 100):
        throughput.look(now, 0)
    assert throughput.rate == known > 0


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.floats(0.01, 3), st.integers(1, 5_000)), min_size=1, max_size=60),
)
def test_no_more_goes_out_than_the_limit_and_one_chunk(
    limit: int, rounds: list[tuple[float, int]]
) -> None:
    bucket, out, now = Bucket(0.0, 0), 0, 0.0
    largest = max(names for _, names in rounds)
    for gap, names in rounds:
        now += gap
        bucket.look(now, limit, out)
        assert bucket.tokens <= limit * BURST_SECONDS
        while bucket.tokens >= 0:
            bucket.take(names)
            out += names
        assert out <= limit * now + largest + 1e-6


@given(st.integers(50, 10_000), st.integers(1, 5_000))
def test_a_limit_is_used_to_the_full(limit: int, names: int) -> None:
    bucket, out, now = Bucket(0.0, 0), 0, 0.0
    for _ in range(1_000):
        now += 0.1
        bucket.look(now, limit, out)
        while bucket.tokens >= 0:
            bucket.take(names)
            out += names
    assert out >= limit * now - names


@given(st.integers(1, 5_000))
def test_what_another_dispatcher_handed_out_is_charged_too(names: int) -> None:
    bucket = Bucket(0.0, 1_000)
    bucket.look(0.0, 100, 1_000 + names)
    assert bucket.tokens == -names
    # Taken back: what goes out again counts again.
    bucket.look(0.0, 100, 1_000)
    bucket.look(0.0, 100, 1_000 + names)
    assert bucket.tokens == -2 * names


def test_a_changed_limit_counts_from_the_next_look_on() -> None:
    bucket = Bucket(0.0, 0)
    bucket.take(2_000)
    bucket.look(1.0, 10, 2_000)
    assert bucket.tokens == -1_990
    bucket.look(2.0, 100_000, 2_000)
    assert bucket.tokens == 98_010
    bucket.look(3.0, 10, 2_000)
    assert bucket.tokens == 10
