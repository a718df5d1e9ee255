"""When a run is worse than the kept one, and when the machine was only slower."""

from typing import Any

import pytest

from tests.load.comparison import Judgement, best_of, compare, kept, worsening


def measured(name: str, ratio: float | None, *, lower_is_better: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "value": 3.0,
        "unit": "ms",
        "ratio": ratio,
        "lower_is_better": lower_is_better,
    }


@pytest.mark.parametrize(
    ("before", "now", "lower_is_better", "judgement"),
    [
        (2.0, 2.0, True, Judgement.SAME),
        (2.0, 2.39, True, Judgement.SAME),
        (2.0, 2.41, True, Judgement.WORSE),
        (2.0, 1.68, True, Judgement.SAME),
        (2.0, 1.6, True, Judgement.BETTER),
        # Twice as fast as before, or a fifth slower: more is better here.
        (1.0, 2.0, False, Judgement.BETTER),
        (1.0, 0.84, False, Judgement.SAME),
        (1.0, 0.83, False, Judgement.WORSE),
    ],
)
def test_a_ratio_may_get_worse_by_a_fifth(
    before: float, now: float, lower_is_better: bool, judgement: Judgement
) -> None:
    before_ = kept([measured("it", before, lower_is_better=lower_is_better)])

    [finding] = compare(before_, [measured("it", now, lower_is_better=lower_is_better)])

    assert finding.judgement is judgement
    assert finding.fails == (judgement is Judgement.WORSE)


def test_seconds_alone_are_not_compared() -> None:
    slow_machine = {**measured("it", 2.0), "value": 300.0}

    [finding] = compare(kept([measured("it", 2.0)]), [slow_machine])

    assert finding.judgement is Judgement.SAME
    assert finding.change == 0


def test_what_is_not_measured_any_more_fails_and_what_is_new_does_not() -> None:
    findings = compare(kept([measured("old", 1.0)]), [measured("new", 1.0)])

    assert {each.name: (each.judgement, each.fails) for each in findings} == {
        "new": (Judgement.NEW, False),
        "old": (Judgement.GONE, True),
    }


def test_what_has_no_yardstick_is_neither_kept_nor_compared() -> None:
    assert kept([measured("it", None)]) == {}
    assert compare({}, [measured("it", None)]) == []


def test_of_two_runs_the_better_one_counts() -> None:
    assert best_of(measured("it", 2.0), measured("it", 1.0))["ratio"] == 1.0
    assert best_of(measured("it", 1.0), measured("it", 2.0))["ratio"] == 1.0
    more = {"lower_is_better": False}
    assert best_of(measured("it", 1.0, **more), measured("it", 2.0, **more))["ratio"] == 2.0
    assert best_of(measured("it", None), measured("it", 2.0))["ratio"] == 2.0


def test_a_ratio_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ratios"):
        worsening(0, 1, lower_is_better=True)
