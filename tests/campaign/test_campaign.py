"""What may follow what."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.campaign.campaign import (
    ENDED,
    PASSED,
    Action,
    Campaign,
    Mode,
    Phase,
    PhaseState,
    Status,
    available,
    next_start,
    step,
)
from services.chassis.errors import (
    EarlierPhaseUnfinished,
    FailedPrecondition,
    PhaseNotConfigured,
    TransitionNotAllowed,
)

# Written out a second time on purpose: what users were promised, not what the code says.
ALLOWED = {
    ("CONFIGURED", "START"): "RUNNING",
    ("RUNNING", "PAUSE"): "PAUSED",
    ("PAUSED", "RESUME"): "RUNNING",
    ("NOT_STARTED", "CANCEL"): "CANCELLED",
    ("CONFIGURED", "CANCEL"): "CANCELLED",
    ("RUNNING", "CANCEL"): "CANCELLED",
    ("PAUSED", "CANCEL"): "CANCELLED",
}


def campaign(*statuses: Status, mode: Mode = Mode.STEP_BY_STEP) -> Campaign:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Campaign(
        id=UUID(int=1),
        no=1,
        name="test",
        mode=mode,
        phases=tuple(PhaseState(Phase(n), status) for n, status in enumerate(statuses, 1)),
        configuration=b"",
        name_count=0,
        revision=1,
        create_time=moment,
        update_time=moment,
    )


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("status", Status)
def test_the_table_allows_what_was_promised_and_nothing_else(
    status: Status, action: Action
) -> None:
    one = campaign(status)
    to_status = ALLOWED.get((status, action))

    if to_status is None:
        with pytest.raises((TransitionNotAllowed, PhaseNotConfigured)):
            step(one, action)
    else:
        assert step(one, action).to_status == to_status
    assert (Phase.DOMAIN_GENERATION, action, to_status) in list(available(one)) or not to_status


def test_a_refused_step_says_what_is_allowed() -> None:
    with pytest.raises(TransitionNotAllowed) as refusal:
        step(campaign(Status.RUNNING), Action.RESUME)

    assert refusal.value.metadata == {
        "campaign_id": str(UUID(int=1)),
        "phase": "DOMAIN_GENERATION",
        "status": "RUNNING",
        "action": "RESUME",
        "allowed": "PAUSE, CANCEL",
    }


def test_a_phase_without_configuration_does_not_start() -> None:
    with pytest.raises(PhaseNotConfigured):
        step(campaign(Status.COMPLETED, Status.NOT_STARTED), Action.START)


def test_a_phase_that_the_campaign_does_not_have_is_refused() -> None:
    with pytest.raises(PhaseNotConfigured, match="LEAD_EXTRACTION"):
        step(campaign(Status.CONFIGURED), Action.START, Phase.LEAD_EXTRACTION)


@pytest.mark.parametrize("status", sorted(set(Status) - PASSED))
def test_a_later_phase_waits_for_the_ones_before_it(status: Status) -> None:
    with pytest.raises(EarlierPhaseUnfinished) as refusal:
        step(campaign(status, Status.CONFIGURED), Action.START, Phase.DNS_VALIDATION)

    assert refusal.value.metadata["blocking_phase"] == "DOMAIN_GENERATION"


@pytest.mark.parametrize("status", sorted(PASSED))
def test_a_later_phase_starts_when_the_ones_before_it_are_over(status: Status) -> None:
    allowed = step(campaign(status, Status.CONFIGURED), Action.START, Phase.DNS_VALIDATION)

    assert (allowed.phase, allowed.to_status) == (Phase.DNS_VALIDATION, Status.RUNNING)


@pytest.mark.parametrize("action", sorted(set(Action) - {Action.START}))
@pytest.mark.parametrize("status", Status)
def test_only_the_current_phase_takes_actions(status: Status, action: Action) -> None:
    with pytest.raises(TransitionNotAllowed):
        step(campaign(Status.RUNNING, status), action, Phase.DNS_VALIDATION)


@pytest.mark.parametrize("phase", [None, *Phase])
@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("ended", sorted(ENDED))
def test_an_ended_campaign_takes_nothing(
    ended: Status, action: Action, phase: Phase | None
) -> None:
    over = campaign(Status.COMPLETED, ended, *[Status.CONFIGURED] * 3)

    assert over.is_finished
    assert not list(available(over))
    with pytest.raises(FailedPrecondition):
        step(over, action, phase)


def test_a_completed_campaign_takes_nothing() -> None:
    over = campaign(Status.COMPLETED, Status.SKIPPED)

    assert over.is_finished
    assert over.current.phase is Phase.DNS_VALIDATION
    assert not list(available(over))


@pytest.mark.parametrize(
    ("mode", "statuses", "phase"),
    [
        (Mode.FULL_SEQUENCE, ["COMPLETED", "CONFIGURED"], Phase.DNS_VALIDATION),
        (Mode.FULL_SEQUENCE, ["SKIPPED", "COMPLETED", "CONFIGURED"], Phase.HTTP_VALIDATION),
        (Mode.FULL_SEQUENCE, ["COMPLETED", "NOT_STARTED"], None),
        (Mode.FULL_SEQUENCE, ["COMPLETED", "COMPLETED"], None),
        (Mode.FULL_SEQUENCE, ["COMPLETED", "RUNNING"], None),
        (Mode.FULL_SEQUENCE, ["FAILED", "CONFIGURED"], None),
        (Mode.FULL_SEQUENCE, ["CANCELLED", "CONFIGURED"], None),
        (Mode.STEP_BY_STEP, ["COMPLETED", "CONFIGURED"], None),
    ],
)
def test_only_a_full_sequence_starts_the_next_phase(
    mode: Mode, statuses: list[str], phase: Phase | None
) -> None:
    assert next_start(campaign(*map(Status, statuses), mode=mode)) == phase


moves = st.lists(st.sampled_from([*Action, "complete"]), max_size=30)
beginnings = st.lists(
    st.sampled_from([Status.CONFIGURED, Status.CONFIGURED, Status.NOT_STARTED, Status.SKIPPED]),
    min_size=1,
    max_size=5,
)


@given(beginnings, moves)
def test_random_walks_agree_with_a_small_model(beginning: list[Status], walk: list[str]) -> None:
    model = [str(status) for status in beginning]
    walked = campaign(*beginning)

    for move in walk:
        here = next((i for i, s in enumerate(model) if s not in {"COMPLETED", "SKIPPED"}), -1)
        if move == "complete":
            if model[here] != "RUNNING":
                continue
            model[here] = "COMPLETED"
        else:
            to_status = ALLOWED.get((model[here], move))
            offered = {action: status for _, action, status in available(walked)}
            assert offered.get(Action(move)) == to_status
            if to_status is None:
                with pytest.raises(FailedPrecondition):
                    step(walked, Action(move))
                continue
            taken = step(walked, Action(move))
            assert (taken.from_status, taken.to_status) == (model[here], to_status)
            model[here] = to_status
        walked = campaign(*map(Status, model))

    assert [state.status for state in walked.phases] == model
    assert walked.is_finished == (
        "CANCELLED" in model or all(s in {"COMPLETED", "SKIPPED"} for s in model)
    )
