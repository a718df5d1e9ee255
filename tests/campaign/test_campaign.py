"""What may follow what."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.campaign.campaign import (
    CALLERS_ACTIONS,
    ENDED,
    PASSED,
    Action,
    Campaign,
    Mode,
    Phase,
    PhaseState,
    Status,
    Step,
    available,
    next_start,
    require_etag,
    steps,
)
from services.chassis.errors import (
    CampaignActive,
    CampaignArchived,
    CampaignDeleted,
    ConfigurationFixed,
    EarlierPhaseUnfinished,
    EtagMismatch,
    FailedPrecondition,
    LaterPhaseStarted,
    PhaseNotConfigured,
    TransitionNotAllowed,
)

# Written out a second time on purpose: what users were promised, not what the code says.
ALLOWED = {
    ("NOT_STARTED", "CONFIGURE"): "CONFIGURED",
    ("CONFIGURED", "CONFIGURE"): "CONFIGURED",
    ("PAUSED", "CONFIGURE"): "PAUSED",
    ("COMPLETED", "CONFIGURE"): "COMPLETED",
    ("FAILED", "CONFIGURE"): "FAILED",
    ("SKIPPED", "CONFIGURE"): "SKIPPED",
    ("CANCELLED", "CONFIGURE"): "CANCELLED",
    ("CONFIGURED", "START"): "RUNNING",
    ("RUNNING", "PAUSE"): "PAUSED",
    ("PAUSED", "RESUME"): "RUNNING",
    ("NOT_STARTED", "CANCEL"): "CANCELLED",
    ("CONFIGURED", "CANCEL"): "CANCELLED",
    ("RUNNING", "CANCEL"): "CANCELLED",
    ("PAUSED", "CANCEL"): "CANCELLED",
    ("FAILED", "CANCEL"): "CANCELLED",
    ("FAILED", "RETRY"): "RUNNING",
    ("NOT_STARTED", "SKIP"): "SKIPPED",
    ("CONFIGURED", "SKIP"): "SKIPPED",
    ("FAILED", "SKIP"): "SKIPPED",
    ("COMPLETED", "RERUN"): "RUNNING",
    ("FAILED", "RERUN"): "RUNNING",
    ("SKIPPED", "RERUN"): "RUNNING",
    ("CANCELLED", "RERUN"): "RUNNING",
    ("RUNNING", "COMPLETE"): "COMPLETED",
    ("RUNNING", "FAIL"): "FAILED",
    ("RUNNING", "REDRIVE"): "RUNNING",
    ("PAUSED", "REDRIVE"): "PAUSED",
    ("COMPLETED", "REDRIVE"): "RUNNING",
}
GENERATION, DNS, HTTP = Phase.DOMAIN_GENERATION, Phase.DNS_VALIDATION, Phase.HTTP_VALIDATION
OVER = {"COMPLETED", "SKIPPED"}
FULL = Mode.FULL_SEQUENCE


def campaign(
    *statuses: Status, mode: Mode = Mode.STEP_BY_STEP, configured: set[Phase] | None = None
) -> Campaign:
    """Phases in these statuses, with configurations unless they are NOT_STARTED."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    states = [PhaseState(Phase(n), status) for n, status in enumerate(statuses, 1)]
    with_one = {state.phase for state in states if state.status is not Status.NOT_STARTED}
    return Campaign(
        id=UUID(int=1),
        no=1,
        name="test",
        mode=mode,
        phases=tuple(states),
        configuration=b"",
        name_count=0,
        revision=1,
        create_time=moment,
        update_time=moment,
        configured=frozenset(with_one if configured is None else configured),
    )


def step(one: Campaign, action: Action, phase: Phase | None = None) -> Step:
    return steps(one, action, phase)[0]


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("status", Status)
def test_the_table_allows_what_was_promised_and_nothing_else(
    status: Status, action: Action
) -> None:
    # The last of two, so that it is the current one in every status.
    one = campaign(Status.COMPLETED, status)
    to_status = ALLOWED.get((status, action))

    if to_status is None:
        with pytest.raises((TransitionNotAllowed, PhaseNotConfigured)):
            step(one, action, DNS)
    else:
        assert step(one, action, DNS).to_status == to_status
    offered = (DNS, action, to_status) in list(available(one))
    assert offered == (to_status is not None and action not in {"COMPLETE", "FAIL", "REDRIVE"})


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("action", [Action.RERUN, Action.REDRIVE])
def test_names_are_made_once(status: Status, action: Action) -> None:
    with pytest.raises(TransitionNotAllowed):
        steps(campaign(status), action)


def test_generation_is_left_out_after_a_failure_only() -> None:
    assert step(campaign(Status.FAILED), Action.SKIP).to_status is Status.SKIPPED
    with pytest.raises(TransitionNotAllowed):
        steps(campaign(Status.CONFIGURED), Action.SKIP)


def test_the_configuration_of_generation_is_fixed_once_it_began() -> None:
    begun = campaign(Status.PAUSED)
    begun = replace(begun, phases=(replace(begun.phases[0], run=1),))

    with pytest.raises(ConfigurationFixed):
        steps(begun, Action.CONFIGURE)
    assert (GENERATION, Action.CONFIGURE, Status.PAUSED) not in list(available(begun))


def test_a_rerun_sends_later_phases_back() -> None:
    one = campaign(
        *map(Status, ["COMPLETED", "COMPLETED", "COMPLETED", "CANCELLED", "SKIPPED"]),
        configured={GENERATION, DNS, HTTP},
    )

    taken = steps(one, Action.RERUN, DNS)

    assert taken == [
        Step(DNS, Status.COMPLETED, Status.RUNNING, new_run=True),
        Step(HTTP, Status.COMPLETED, Status.CONFIGURED),
        Step(Phase.CONTENT_ANALYSIS, Status.CANCELLED, Status.NOT_STARTED),
    ]


@pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED])
def test_nothing_is_run_again_while_another_phase_is_active(status: Status) -> None:
    one = campaign(Status.COMPLETED, Status.COMPLETED, status)

    with pytest.raises(CampaignActive) as refusal:
        steps(one, Action.RERUN, DNS)

    assert refusal.value.metadata["phase"] == "HTTP_VALIDATION"


def test_a_skipped_phase_without_configuration_is_not_run_again() -> None:
    with pytest.raises(PhaseNotConfigured):
        steps(campaign(Status.COMPLETED, Status.SKIPPED, configured=set()), Action.RERUN, DNS)


@pytest.mark.parametrize("later", Status)
def test_dead_letters_are_redriven_until_their_results_are_used(later: Status) -> None:
    one = campaign(Status.COMPLETED, Status.COMPLETED, later)

    if later in {"RUNNING", "PAUSED", "COMPLETED", "FAILED"}:
        with pytest.raises(LaterPhaseStarted):
            steps(one, Action.REDRIVE, DNS)
    else:
        assert step(one, Action.REDRIVE, DNS) == Step(DNS, Status.COMPLETED, Status.RUNNING)


@pytest.mark.parametrize("action", Action)
def test_archived_and_deleted_campaigns_take_nothing(action: Action) -> None:
    one = campaign(Status.COMPLETED, Status.CONFIGURED)
    put_away = replace(one, archive_time=one.create_time)
    going = replace(one, delete_time=one.create_time)

    with pytest.raises(CampaignArchived):
        steps(put_away, action)
    with pytest.raises(CampaignDeleted):
        steps(going, action)
    assert not list(available(put_away))
    assert not list(available(going))


def test_a_full_sequence_does_not_start_towards_a_phase_without_configuration() -> None:
    one = campaign(*map(Status, ["CONFIGURED", "CONFIGURED", "NOT_STARTED"]), mode=FULL)

    with pytest.raises(PhaseNotConfigured, match="HTTP_VALIDATION"):
        steps(one, Action.START)


def test_an_etag_is_for_what_it_was_read_from() -> None:
    one = campaign(Status.CONFIGURED)

    require_etag(one, "")
    require_etag(one, one.etag)
    with pytest.raises(EtagMismatch):
        require_etag(replace(one, version=2), one.etag)


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


@pytest.mark.parametrize("action", ["PAUSE", "RESUME", "CANCEL", "RETRY", "COMPLETE", "FAIL"])
@pytest.mark.parametrize("status", Status)
def test_only_the_current_phase_is_steered(status: Status, action: str) -> None:
    with pytest.raises(TransitionNotAllowed):
        step(campaign(Status.RUNNING, status), Action(action), DNS)


@pytest.mark.parametrize("status", [Status.NOT_STARTED, Status.CONFIGURED])
def test_later_phases_are_prepared_while_an_earlier_one_runs(status: Status) -> None:
    one = campaign(Status.RUNNING, status)

    assert step(one, Action.CONFIGURE, DNS).to_status is Status.CONFIGURED
    assert step(one, Action.SKIP, DNS).to_status is Status.SKIPPED


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_only_new_work_wakes_an_ended_campaign(ended: Status) -> None:
    over = campaign(Status.COMPLETED, ended, *[Status.CONFIGURED] * 3)

    assert over.is_finished
    offered = {action for phase, action, _ in available(over) if phase is DNS}
    more = {"RETRY", "SKIP", "CANCEL"} if ended is Status.FAILED else set()
    assert offered == {"CONFIGURE", "RERUN", *more}


def test_a_campaign_is_over_when_its_last_phase_is() -> None:
    over = campaign(Status.COMPLETED, Status.SKIPPED)

    assert over.is_finished
    assert over.current.phase is DNS


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


# A model of its own: statuses in a list, rules in words.
def expected(model: list[str], action: str, index: int) -> list[str] | None:
    """The statuses afterwards; None when the action is refused."""
    here = next((i for i, s in enumerate(model) if s not in OVER), len(model) - 1)
    to_status = ALLOWED.get((model[index], action))
    anywhere = action in {"CONFIGURE", "SKIP", "RERUN", "REDRIVE"}
    if to_status is None or (index != here and not anywhere):
        return None
    if index == 0 and (
        action in {"RERUN", "REDRIVE"} or (action, model[0]) == ("SKIP", "CONFIGURED")
    ):
        return None
    if action in {"START", "RERUN"} and any(status not in OVER for status in model[:index]):
        return None
    after = list(model)
    after[index] = to_status
    if action == "RERUN":
        if {"RUNNING", "PAUSED"} & set(model):
            return None
        for later in range(index + 1, len(model)):
            if model[later] in {"COMPLETED", "FAILED", "CANCELLED"}:
                after[later] = "CONFIGURED"
    used = {"RUNNING", "PAUSED", "COMPLETED", "FAILED"} & set(model[index + 1 :])
    return None if action == "REDRIVE" and used else after


walks = st.lists(st.tuples(st.sampled_from(Action), st.integers(0, 4)), max_size=40)


@given(st.integers(1, 5), walks)
def test_random_walks_agree_with_a_small_model(length: int, walk: list[tuple[Action, int]]) -> None:
    model = ["CONFIGURED"] * length
    walked = campaign(*map(Status, model))

    for action, place in walk:
        index = place % length
        after = expected(model, action, index)
        try:
            taken = steps(walked, action, Phase(index + 1))
        except FailedPrecondition:
            assert after is None, f"{action} of {index} in {model}"
            continue
        assert after is not None, f"{action} of {index} in {model}"
        for each in taken:
            assert model[each.phase - 1] == each.from_status
            model[each.phase - 1] = each.to_status
        assert model == after
        walked = campaign(*map(Status, model), configured=set(Phase))
        assert sum(status in {"RUNNING", "PAUSED"} for status in model) <= 1
        offered = {(int(p) - 1, a): s for p, a, s in available(walked)}
        for other in range(length):
            for possible in CALLERS_ACTIONS:
                then = expected(model, possible, other)
                told = offered.get((other, possible))
                assert told == (None if then is None else then[other])
