"""Where keys stand in the order of scores."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from services.query.ranks import MOST, STEP, ScoreRanks

KEYS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 500, 999, MOST]), st.integers(0, 400)),
    max_size=300,
    unique_by=lambda key: key[1],
).map(sorted)


def ranks_of(keys: list[tuple[int, int]]) -> ScoreRanks:
    scores = [score for score, _ in keys]
    counts = [(score, scores.count(score)) for score in set(scores)]
    return ScoreRanks.made(counts, [position for _, position in keys[::STEP]])


@given(KEYS, st.sampled_from([0, 1, 3, 500, MOST]), st.integers(-1, 402))
def test_a_key_stands_among_few_ranks_whether_it_is_there_or_not(
    keys: list[tuple[int, int]], score: int, position: int
) -> None:
    around = ranks_of(keys).around(score, position)
    assert around.start <= bisect_left(keys, (score, position)) <= around.stop
    assert len(around) <= STEP


@given(KEYS)
def test_what_is_packed_is_opened_and_knows_the_score_at_each_rank(
    keys: list[tuple[int, int]],
) -> None:
    found = ScoreRanks.open(ranks_of(keys).pack())
    assert found.count == len(keys)
    assert list(found.scores(range(len(keys)))) == [score for score, _ in keys]
    between = [score for score, _ in keys if 1 <= score <= 500]
    assert list(found.scores(found.between(1, 500))) == between
