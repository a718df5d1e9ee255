import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domainflow.validation.v1 import analysis_pb2
from services.validation.content.features import Features, Flag
from services.validation.content.scoring import (
    DEFAULT_PROFILE,
    PageWarning,
    ScoringProfile,
    Weights,
    explain,
    rescore,
    score,
    warnings_of,
)
from tests.validation.content.test_features import VECTORS

NOW = 1_790_000_000
DAY = 86_400
# 3 hits per KB, all keywords, in the title, of today, long enough.
BEST = Features(
    hit_count=150, unique_count=5, byte_size=51_200, fetch_time=NOW, flags=int(Flag.TITLE_HIT)
)


def score_of(**changes: int) -> int:
    return score(replace(BEST, **changes), DEFAULT_PROFILE, now=NOW)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1_000),
        # Density: 1.5 of 3 hits per KB.
        ({"hit_count": 75}, 825),
        ({"hit_count": 3_000}, 1_000),
        # Coverage: 2 of 5 keywords.
        ({"unique_count": 2}, 850),
        # 10,240 bytes of 50,000, density full.
        ({"hit_count": 30, "byte_size": 10_240}, 920),
        # Without a size the density is the coverage.
        ({"unique_count": 2, "byte_size": 0}, 540),
        ({"flags": 0}, 900),
        # Freshness: 1 up to a day, 0.7 before 7 days, 0.4 before 30, then 0.
        ({"fetch_time": NOW - DAY}, 1_000),
        ({"fetch_time": NOW - DAY - 1}, 970),
        ({"fetch_time": NOW - 7 * DAY + 1}, 970),
        ({"fetch_time": NOW - 7 * DAY}, 940),
        ({"fetch_time": NOW - 30 * DAY + 1}, 940),
        ({"fetch_time": NOW - 30 * DAY}, 900),
        ({"fetch_time": 0}, 900),
        # What the page says counts before when it was fetched.
        ({"modified_time": NOW - 20 * DAY}, 940),
        # Parked: no tenth for being none, and half of the rest while it is not sure.
        ({"flags": int(Flag.TITLE_HIT | Flag.PARKED), "parked_confidence": 500}, 450),
        ({"flags": int(Flag.TITLE_HIT | Flag.PARKED), "parked_confidence": 899}, 450),
        ({"flags": int(Flag.TITLE_HIT | Flag.PARKED), "parked_confidence": 900}, 900),
        ({"parked_confidence": 500}, 1_000),
        ({"hit_count": 0, "unique_count": 0, "flags": 0}, 300),
    ],
)
def test_the_default_profile_scores_as_its_users_know(
    changes: dict[str, int], expected: int
) -> None:
    assert score_of(**changes) == expected


def test_an_empty_vector_scores_only_for_not_being_parked() -> None:
    assert score(Features(), DEFAULT_PROFILE, now=NOW) == 100


def test_weights_count_by_their_proportion() -> None:
    weights = Weights(7, 5, 2, 2, 2, 2, 0)

    assert score(replace(BEST, unique_count=2), ScoringProfile(weights=weights), now=NOW) == 850


def test_tf_lite_counts_when_a_profile_asks_for_it() -> None:
    only = ScoringProfile(weights=Weights(0, 0, 0, 0, 0, 0, 1))
    vector = Features(hit_count=1, unique_count=1, byte_size=2_048)

    assert score(vector, only, now=NOW) == round(0.5 * math.log(2) * 1_000)
    assert score(BEST, only, now=NOW) == 1_000


@given(
    VECTORS.map(lambda it: replace(it, fetch_time=abs(it.fetch_time) % (2 * NOW), modified_time=0)),
    st.lists(st.floats(0, 10), min_size=7, max_size=7).filter(lambda it: sum(it) > 0.01),
    st.floats(0, 1),
)
def test_the_breakdown_adds_up_to_the_score(
    vector: Features, weights: list[float], factor: float
) -> None:
    profile = ScoringProfile(weights=Weights(*weights), parked_penalty_factor=factor, version=3)

    breakdown = explain(vector, profile, now=NOW)

    total = sum(it.contribution for it in breakdown.components)
    for penalty in breakdown.penalties:
        total *= penalty.factor
    assert abs(total * 1_000 - breakdown.score) <= 0.500_001
    assert 0 <= breakdown.score <= 1_000
    assert all(0 <= it.normalised <= 1 for it in breakdown.components)
    assert all(it.contribution == it.normalised * it.weight for it in breakdown.components)
    assert abs(sum(it.weight for it in breakdown.components) - 1) < 1e-9
    assert breakdown.profile_version == 3
    assert rescore([vector.to_tuple()] * 2, profile, now=NOW) == [breakdown.score] * 2


def test_the_breakdown_names_every_component_and_penalty() -> None:
    vector = replace(BEST, hit_count=75, flags=int(Flag.PARKED), parked_confidence=450)

    breakdown = explain(vector, DEFAULT_PROFILE, now=NOW + 2 * DAY)

    assert [(it.name, it.raw, it.normalised) for it in breakdown.components] == [
        ("keyword_density", 1.5, 0.5),
        ("unique_keyword_coverage", 5, 1.0),
        ("non_parked", 0.0, 0.0),
        ("content_length_quality", 51_200, 1.0),
        ("title_keyword", 0.0, 0.0),
        ("freshness", 2.0, 0.7),
        ("tf_lite", 1.5 * math.log1p(5), 1.0),
    ]
    assert [(it.name, it.factor) for it in breakdown.penalties] == [("parked", 0.5)]


def test_warnings_begin_above_their_limits() -> None:
    odd = Features(
        stuffing_penalty=1, repetition_index=301, anchor_share=401, flags=int(Flag.TRUNCATED)
    )

    assert warnings_of(odd, DEFAULT_PROFILE) == tuple(PageWarning)
    assert warnings_of(Features(repetition_index=300, anchor_share=400), DEFAULT_PROFILE) == ()


def test_warnings_have_the_numbers_of_the_contract() -> None:
    numbers = {f"PAGE_WARNING_{it.name}": it.value for it in PageWarning}

    assert {**numbers, "PAGE_WARNING_UNSPECIFIED": 0} == dict(analysis_pb2.PageWarning.items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": Weights(0, 0, 0, 0, 0, 0, 0)},
        {"weights": Weights(keyword_density=-1)},
        {"weights": Weights(keyword_density=math.nan)},
        {"parked_penalty_factor": 1.1},
        {"parked_penalty_below": -0.1},
        {"full_density": 0},
        {"fresh_days": (7, 1, 30)},
    ],
)
def test_a_profile_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ScoringProfile(**wrong)  # type: ignore[arg-type]
