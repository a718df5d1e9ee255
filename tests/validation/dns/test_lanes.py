"""What is asked again, how often and how late, and what is believed at last."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.dns.lanes import LIMIT, WITNESSES, Lanes, account, last_word
from services.validation.dns.settings import EngineSettings, Lane
from services.validation.dns.verdict import Verdict, is_final

TIMEOUT, SERVFAIL, REFUSED, ERROR = (
    Verdict.TIMEOUT,
    Verdict.SERVFAIL,
    Verdict.REFUSED,
    Verdict.ERROR,
)
LANES = Lanes(EngineSettings())


def believe(heard: dict[Verdict, int], lanes: Lanes = LANES) -> Verdict | None:
    return lanes.believe(heard, mute=3, usable=3)


def ask(lanes: Lanes, random: Random, truth: Verdict, loss: float, failures: float) -> Verdict:
    """The verdict on one name through resolvers that lose questions and fail in passing."""
    heard: Counter[Verdict] = Counter()
    for _ in range(lanes.limit):
        said = truth
        if truth is TIMEOUT or random.random() < loss:
            said = TIMEOUT
        elif random.random() < failures:
            said = SERVFAIL
        if is_final(said):
            return said
        heard[said] += 1
        verdict = believe(heard, lanes)
        if verdict is not None:
            return verdict
    return last_word(heard)


@pytest.mark.parametrize("truth", [Verdict.RESOLVED, SERVFAIL, REFUSED, ERROR, TIMEOUT])
@pytest.mark.parametrize(
    ("loss", "tries", "total"), [(0.05, 6, 20_000), (0.2, 13, 10_000), (0.6, 30, 2_000)]
)
def test_neither_loss_nor_passing_failures_change_a_verdict(truth, loss, tries, total):
    lanes = Lanes(EngineSettings(tries=tries, soft_tries=9))
    random = Random(f"{truth}{loss}")

    found = Counter(ask(lanes, random, truth, loss, 0.05) for _ in range(total))

    assert found == {truth: total}


def test_heavier_loss_than_the_budget_is_for_ends_in_silence_and_in_no_wrong_answer():
    # One budget for all reasons let 4% of these names end as SERVFAIL, by ties of few answers.
    lanes = Lanes(EngineSettings(tries=13, soft_tries=9))
    random = Random(1)

    found = Counter(ask(lanes, random, REFUSED, 0.8, 0.05) for _ in range(5_000))

    assert set(found) == {REFUSED, TIMEOUT}
    assert found[REFUSED] > 4_500


@pytest.mark.parametrize(
    ("heard", "verdict"),
    [
        ({TIMEOUT: 5}, None),
        ({TIMEOUT: 6}, TIMEOUT),
        # Silence spends nothing of the other lanes, and takes nothing away.
        ({TIMEOUT: 20, SERVFAIL: 1}, None),
        ({TIMEOUT: 20, SERVFAIL: 5}, None),
        ({TIMEOUT: 20, SERVFAIL: 6}, SERVFAIL),
        ({SERVFAIL: 6}, SERVFAIL),
        ({REFUSED: 6, SERVFAIL: 3}, REFUSED),
        ({REFUSED: 6, SERVFAIL: 4}, None),
        ({REFUSED: 8, SERVFAIL: 4}, REFUSED),
        ({REFUSED: 6, SERVFAIL: 2, ERROR: 2}, None),
        ({REFUSED: 5, SERVFAIL: 5, ERROR: 5}, None),
    ],
)
def test_an_answer_is_believed_that_came_often_and_clearly_oftener_than_others(heard, verdict):
    assert believe(heard) is verdict


@pytest.mark.parametrize(("usable", "needed"), [(1, 1), (2, 2), (3, WITNESSES), (50, WITNESSES)])
def test_silence_counts_once_several_resolvers_were_mute(usable, needed):
    assert LANES.believe({TIMEOUT: 20}, mute=needed - 1, usable=usable) is None
    assert LANES.believe({TIMEOUT: 20}, mute=needed, usable=usable) is TIMEOUT


@pytest.mark.parametrize(
    ("tries", "loss", "needed"),
    [(6, 0, 6), (6, 0.05, 6), (6, 0.2, 9), (6, 0.6, 28), (12, 0.2, 12), (1, 0.05, 1), (1, 0.5, 5)],
)
def test_where_many_packets_are_lost_silence_must_last_longer(tries, loss, needed):
    lanes = Lanes(EngineSettings(tries=tries))

    assert lanes.believe({TIMEOUT: needed - 1}, mute=3, usable=3, loss=loss) is None
    assert lanes.believe({TIMEOUT: needed}, mute=3, usable=3, loss=loss) is TIMEOUT


@pytest.mark.parametrize(
    ("heard", "verdict"),
    [
        ({TIMEOUT: 24}, TIMEOUT),
        ({}, TIMEOUT),
        ({TIMEOUT: 23, SERVFAIL: 1}, TIMEOUT),
        ({TIMEOUT: 22, SERVFAIL: 1, REFUSED: 1}, TIMEOUT),
        ({TIMEOUT: 20, SERVFAIL: 4}, SERVFAIL),
        ({TIMEOUT: 17, SERVFAIL: 3, REFUSED: 3}, TIMEOUT),
        ({SERVFAIL: 8, REFUSED: 9, ERROR: 7}, REFUSED),
        ({SERVFAIL: 9, REFUSED: 9}, SERVFAIL),
    ],
)
def test_what_is_not_proved_when_no_more_may_be_asked_is_not_claimed(heard, verdict):
    assert last_word(heard) is verdict


@given(st.lists(st.sampled_from([TIMEOUT, SERVFAIL, REFUSED, ERROR]), max_size=LIMIT))
def test_whatever_comes_the_verdict_is_something_that_was_heard_or_silence(fates):
    heard = Counter(fates)

    assert (believe(heard) or last_word(heard)) in {TIMEOUT, *fates}


def test_each_reason_has_its_own_delays():
    lane = Lane(REFUSED, 5, 0.2, 0.5)
    lanes = Lanes(EngineSettings(soft_delay=0.05, lanes=(lane,)))

    assert [lanes.delay(TIMEOUT, times) for times in (1, 2, 5)] == [0, 0, 0]
    assert [lanes.delay(TIMEOUT, times) for times in (6, 7, 20)] == [0.05, 0.1, 1]
    assert [lanes.delay(SERVFAIL, times) for times in (1, 2, 3, 20)] == [0.05, 0.1, 0.2, 1]
    assert [lanes.delay(REFUSED, times) for times in (1, 2, 3)] == [0.2, 0.4, 0.5]


def test_each_reason_has_its_own_budget():
    listed = (Lane(REFUSED, 2, 0, 0), Lane(TIMEOUT, 9, 0, 0))
    lanes = Lanes(EngineSettings(tries=4, soft_tries=6, lanes=listed))

    assert believe({REFUSED: 2}, lanes) is REFUSED
    assert believe({SERVFAIL: 3}, lanes) is None
    # Without a lane of its own a reason has no more than `tries`.
    assert believe({SERVFAIL: 4}, lanes) is SERVFAIL
    assert believe({TIMEOUT: 8}, lanes) is None
    assert lanes.limit == 2 + 9 + 4 + 4


def test_the_time_a_name_takes_at_most_is_that_of_all_lanes():
    lanes = Lanes(EngineSettings(timeout=2, tries=3, soft_delay=0.5))

    assert lanes.mute_time == 6
    assert lanes.longest == 6 + 3 * (6 + 0.5 + 1)


@pytest.mark.parametrize(
    ("reason", "tries", "delay", "message"),
    [
        (Verdict.NXDOMAIN, 1, 0, "no lane"),
        (TIMEOUT, 0, 0, "tries"),
        (TIMEOUT, 51, 0, "tries"),
        (TIMEOUT, 1, -1, "delay"),
        (TIMEOUT, 1, 61, "delay"),
    ],
)
def test_a_lane_out_of_its_limits_is_refused(reason, tries, delay, message):
    with pytest.raises(ValueError, match=message):
        Lane(reason, tries, delay, 1)


def test_what_was_heard_is_told_in_words():
    assert account({SERVFAIL: 6, TIMEOUT: 2}) == "SERVFAIL 6x, TIMEOUT 2x"
    assert account({SERVFAIL: 1}, 7) == "SERVFAIL 1x; extended error 7"
