"""Phases, statuses and what may follow what. Pure: facts come in as arguments, decisions go out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from uuid import UUID

from services.chassis.errors import (
    EarlierPhaseUnfinished,
    PhaseNotConfigured,
    TransitionNotAllowed,
)


class Phase(IntEnum):
    """The steps of a campaign, in order. Numbers are those of the proto enum."""

    DOMAIN_GENERATION = 1
    DNS_VALIDATION = 2
    HTTP_VALIDATION = 3
    CONTENT_ANALYSIS = 4
    LEAD_EXTRACTION = 5


class Status(StrEnum):
    """Where a phase stands. Names are those of the proto enum."""

    NOT_STARTED = "NOT_STARTED"
    CONFIGURED = "CONFIGURED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"


class Action(StrEnum):
    """What a caller can do to a phase. Names are those of the proto enum."""

    START = "START"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    CANCEL = "CANCEL"


class Mode(StrEnum):
    """Who starts the next phase."""

    STEP_BY_STEP = "STEP_BY_STEP"
    FULL_SEQUENCE = "FULL_SEQUENCE"


# The one table. What the suite itself does (complete, fail) is not an action of a caller: it
# follows from the ledger.
TRANSITIONS: dict[tuple[Status, Action], Status] = {
    (Status.CONFIGURED, Action.START): Status.RUNNING,
    (Status.RUNNING, Action.PAUSE): Status.PAUSED,
    (Status.PAUSED, Action.RESUME): Status.RUNNING,
    (Status.NOT_STARTED, Action.CANCEL): Status.CANCELLED,
    (Status.CONFIGURED, Action.CANCEL): Status.CANCELLED,
    (Status.RUNNING, Action.CANCEL): Status.CANCELLED,
    (Status.PAUSED, Action.CANCEL): Status.CANCELLED,
}

# A later phase may start after these.
PASSED = frozenset({Status.COMPLETED, Status.SKIPPED})
# The campaign ends with the first phase in one of these.
ENDED = frozenset({Status.FAILED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class PhaseState:
    """One phase of one campaign."""

    phase: Phase
    status: Status
    run: int = 0
    name_count: int = 0
    settled_count: int = 0
    start_time: datetime | None = None
    end_time: datetime | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign as its rows say. `phases` runs from the initial to the final phase."""

    id: UUID
    no: int
    name: str
    mode: Mode
    phases: tuple[PhaseState, ...]
    configuration: bytes
    name_count: int
    revision: int
    create_time: datetime
    update_time: datetime

    @property
    def current(self) -> PhaseState:
        """The first phase that is neither completed nor skipped, or the last one when all are."""
        return next((p for p in self.phases if p.status not in PASSED), self.phases[-1])

    @property
    def is_finished(self) -> bool:
        """Whether nothing can happen any more without a caller's retry or rerun."""
        return self.current.status in PASSED | ENDED

    def state(self, phase: Phase) -> PhaseState:
        """The state of one phase. Raises PhaseNotConfigured when the campaign does not have it."""
        for state in self.phases:
            if state.phase == phase:
                return state
        raise PhaseNotConfigured(
            f"{phase.name} is not a phase of this campaign", campaign_id=self.id, phase=phase.name
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A change of one phase's status that the table allows."""

    phase: Phase
    from_status: Status
    to_status: Status


def step(campaign: Campaign, action: Action, phase: Phase | None = None) -> Step:
    """Check that `action` may be done to `phase` (default: the current one) and say what it leads
    to.

    Only the current phase takes actions. Raises EarlierPhaseUnfinished, PhaseNotConfigured or
    TransitionNotAllowed.
    """
    state = campaign.current if phase is None else campaign.state(phase)
    if action is Action.START:
        _require_ready(campaign, state)
    to_status = TRANSITIONS.get((state.status, action))
    if to_status is None or state.phase != campaign.current.phase:
        allowed = ", ".join(a.value for p, a, _ in available(campaign) if p == state.phase)
        raise TransitionNotAllowed(
            f"{action} is not possible: {state.phase.name} is {state.status}",
            campaign_id=campaign.id,
            phase=state.phase.name,
            status=state.status,
            action=action,
            allowed=allowed,
        )
    return Step(state.phase, state.status, to_status)


def available(campaign: Campaign) -> Iterator[tuple[Phase, Action, Status]]:
    """What a caller may do now: only ever to the current phase, the ones before it are over."""
    state = campaign.current
    for (status, action), to_status in TRANSITIONS.items():
        if status == state.status:
            yield state.phase, action, to_status


def next_start(campaign: Campaign) -> Phase | None:
    """The phase that starts by itself now: in FULL_SEQUENCE, after another was completed."""
    state = campaign.current
    if campaign.mode is Mode.FULL_SEQUENCE and state.status is Status.CONFIGURED:
        return state.phase
    return None


def _require_ready(campaign: Campaign, state: PhaseState) -> None:
    for earlier in campaign.phases:
        if earlier.phase < state.phase and earlier.status not in PASSED:
            raise EarlierPhaseUnfinished(
                f"{earlier.phase.name} is {earlier.status}; {state.phase.name} comes after it",
                campaign_id=campaign.id,
                phase=state.phase.name,
                blocking_phase=earlier.phase.name,
            )
    if state.status is Status.NOT_STARTED:
        raise PhaseNotConfigured(
            f"{state.phase.name} has no configuration",
            campaign_id=campaign.id,
            phase=state.phase.name,
        )
