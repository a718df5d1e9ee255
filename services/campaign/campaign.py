"""Phases, statuses and what may follow what. Pure: facts come in as arguments, decisions go out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from uuid import UUID

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
    """What can be done to a phase. Names of the callers' actions are those of the proto enum."""

    CONFIGURE = "CONFIGURE"
    START = "START"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    CANCEL = "CANCEL"
    RETRY = "RETRY"
    SKIP = "SKIP"
    RERUN = "RERUN"
    # Not a caller's: these follow from the ledger, and from what becomes of dead letters.
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"
    REDRIVE = "REDRIVE"


class Mode(StrEnum):
    """Who starts the next phase."""

    STEP_BY_STEP = "STEP_BY_STEP"
    FULL_SEQUENCE = "FULL_SEQUENCE"


class Priority(StrEnum):
    """How much of the workers a campaign gets. Names are those of the proto enum."""

    HIGH = "HIGH"
    NORMAL = "NORMAL"
    LOW = "LOW"


_NOT_STARTED, _CONFIGURED, _RUNNING, _PAUSED = (
    Status.NOT_STARTED,
    Status.CONFIGURED,
    Status.RUNNING,
    Status.PAUSED,
)
_COMPLETED, _FAILED, _SKIPPED, _CANCELLED = (
    Status.COMPLETED,
    Status.FAILED,
    Status.SKIPPED,
    Status.CANCELLED,
)
# The one table: what may be done to a phase in which status, and where it leads. `step` adds which
# phase it may be done to.
TRANSITIONS: dict[tuple[Status, Action], Status] = {
    (_NOT_STARTED, Action.CONFIGURE): _CONFIGURED,
    (_NOT_STARTED, Action.SKIP): _SKIPPED,
    (_NOT_STARTED, Action.CANCEL): _CANCELLED,
    (_CONFIGURED, Action.CONFIGURE): _CONFIGURED,
    (_CONFIGURED, Action.START): _RUNNING,
    (_CONFIGURED, Action.SKIP): _SKIPPED,
    (_CONFIGURED, Action.CANCEL): _CANCELLED,
    (_RUNNING, Action.PAUSE): _PAUSED,
    (_RUNNING, Action.CANCEL): _CANCELLED,
    (_RUNNING, Action.COMPLETE): _COMPLETED,
    (_RUNNING, Action.FAIL): _FAILED,
    (_RUNNING, Action.REDRIVE): _RUNNING,
    (_PAUSED, Action.CONFIGURE): _PAUSED,
    (_PAUSED, Action.RESUME): _RUNNING,
    (_PAUSED, Action.CANCEL): _CANCELLED,
    (_PAUSED, Action.REDRIVE): _PAUSED,
    # For the run to come; what is settled was settled with the configuration before.
    (_COMPLETED, Action.CONFIGURE): _COMPLETED,
    (_COMPLETED, Action.RERUN): _RUNNING,
    (_COMPLETED, Action.REDRIVE): _RUNNING,
    (_FAILED, Action.CONFIGURE): _FAILED,
    (_FAILED, Action.RETRY): _RUNNING,
    (_FAILED, Action.RERUN): _RUNNING,
    (_FAILED, Action.SKIP): _SKIPPED,
    (_FAILED, Action.CANCEL): _CANCELLED,
    (_SKIPPED, Action.CONFIGURE): _SKIPPED,
    (_SKIPPED, Action.RERUN): _RUNNING,
    (_CANCELLED, Action.CONFIGURE): _CANCELLED,
    (_CANCELLED, Action.RERUN): _RUNNING,
}

CALLERS_ACTIONS = tuple(
    a for a in Action if a not in {Action.COMPLETE, Action.FAIL, Action.REDRIVE}
)
# Names are what everything else rests on: they are made once, and by something.
_NOT_FOR_GENERATION = frozenset(
    {
        (_NOT_STARTED, Action.SKIP),
        (_CONFIGURED, Action.SKIP),
        *((status, Action.RERUN) for status in Status),
        *((status, Action.REDRIVE) for status in Status),
    }
)
# Not only to the current phase: they change what is to come or what is over.
_ANYWHERE = frozenset({Action.CONFIGURE, Action.SKIP, Action.RERUN, Action.REDRIVE})
# What begins a new run.
_NEW_RUN = frozenset({Action.START, Action.RERUN})

# A later phase may start after these.
PASSED = frozenset({Status.COMPLETED, Status.SKIPPED})
# The campaign ends with the first phase in one of these.
ENDED = frozenset({Status.FAILED, Status.CANCELLED})
# Work is being done or waits to go on.
ACTIVE = frozenset({Status.RUNNING, Status.PAUSED})


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
    # The run whose results are shown; 0 before the first start.
    result_run: int = 0
    # Names asked for that the pattern did not have any more.
    missing_count: int = 0


@dataclass(frozen=True, slots=True)
class Deletion:
    """How far the deletion of a campaign is, in rows; how many there are is an estimate."""

    row_count: int
    deleted_count: int


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
    # The phases that have a configuration, whatever their status.
    configured: frozenset[Phase]
    version: int = 1
    priority: Priority = Priority.NORMAL
    # Names handed to the workers per second at most; 0: no limit.
    name_rate_limit: int = 0
    archive_time: datetime | None = None
    delete_time: datetime | None = None
    # Set while the campaign is being deleted.
    deletion: Deletion | None = None

    @property
    def etag(self) -> str:
        """Changes with everything but progress (AIP-154)."""
        return f'"{self.version}"'

    @property
    def active(self) -> PhaseState | None:
        """The phase that runs or is paused: there is one at most."""
        return next((p for p in self.phases if p.status in ACTIVE), None)

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
    new_run: bool = False


def steps(campaign: Campaign, action: Action, phase: Phase | None = None) -> list[Step]:
    """Check that `action` may be done to `phase` (default: the current one) and say what it leads
    to: the step asked for, then those that follow from it.

    Raises CampaignArchived, CampaignDeleted, CampaignActive, ConfigurationFixed,
    EarlierPhaseUnfinished, LaterPhaseStarted, PhaseNotConfigured or TransitionNotAllowed.
    """
    require_open(campaign)
    state = campaign.current if phase is None else campaign.state(phase)
    if action is Action.START:
        _require_ready(campaign, state)
    to_status = TRANSITIONS.get((state.status, action))
    misplaced = state.phase != campaign.current.phase and action not in _ANYWHERE
    if to_status is None or misplaced or _is_for_others(state, action):
        allowed = ", ".join(a.value for p, a, _ in available(campaign) if p == state.phase)
        raise TransitionNotAllowed(
            f"{action} is not possible: {state.phase.name} is {state.status}",
            campaign_id=campaign.id,
            phase=state.phase.name,
            status=state.status,
            action=action,
            allowed=allowed,
        )
    if action is Action.CONFIGURE and state.phase is Phase.DOMAIN_GENERATION and state.run:
        raise ConfigurationFixed(
            "generation has begun, and the names rest on its configuration",
            campaign_id=campaign.id,
            name_count=campaign.name_count,
        )
    if action is Action.RERUN:
        require_idle(campaign)
        _require_ready(campaign, state)
    if action is Action.REDRIVE:
        _require_unused(campaign, state)
    main = Step(state.phase, state.status, to_status, new_run=action in _NEW_RUN)
    return [main, *(_resets(campaign, state.phase) if action is Action.RERUN else ())]


def available(campaign: Campaign) -> Iterator[tuple[Phase, Action, Status]]:
    """What a caller may do now, phase by phase."""
    for state in campaign.phases:
        for action in CALLERS_ACTIONS:
            if (state.status, action) not in TRANSITIONS:
                continue
            # The refusal of what the table does not have would ask here again.
            if state.phase != campaign.current.phase and action not in _ANYWHERE:
                continue
            if _is_for_others(state, action):
                continue
            try:
                yield state.phase, action, steps(campaign, action, state.phase)[0].to_status
            except FailedPrecondition:
                continue


def next_start(campaign: Campaign) -> Phase | None:
    """The phase that starts by itself now: in FULL_SEQUENCE, after another was completed."""
    state = campaign.current
    if campaign.mode is Mode.FULL_SEQUENCE and state.status is Status.CONFIGURED:
        return state.phase
    return None


def require_open(campaign: Campaign) -> None:
    """Raise CampaignArchived or CampaignDeleted when the campaign takes no changes."""
    if campaign.delete_time is not None:
        raise CampaignDeleted("the campaign is being deleted", campaign_id=campaign.id)
    if campaign.archive_time is not None:
        raise CampaignArchived("the campaign is archived", campaign_id=campaign.id)


def require_etag(campaign: Campaign, etag: str) -> None:
    """Raise EtagMismatch when the campaign changed since `etag` was read; an empty one fits all."""
    if etag and etag != campaign.etag:
        raise EtagMismatch(
            "the campaign changed since its etag was read",
            campaign_id=campaign.id,
            etag=campaign.etag,
        )


def require_sequence(campaign: Campaign) -> None:
    """Raise PhaseNotConfigured when FULL_SEQUENCE would come to a phase without configuration."""
    for state in campaign.phases:
        if state.status is Status.NOT_STARTED:
            raise PhaseNotConfigured(
                f"{state.phase.name} has no configuration, and FULL_SEQUENCE goes through it",
                campaign_id=campaign.id,
                phase=state.phase.name,
            )


def _is_for_others(state: PhaseState, action: Action) -> bool:
    generation = state.phase is Phase.DOMAIN_GENERATION
    return generation and (state.status, action) in _NOT_FOR_GENERATION


def require_idle(campaign: Campaign) -> None:
    """Raise CampaignActive when a phase runs or is paused."""
    if (active := campaign.active) is not None:
        raise CampaignActive(
            f"{active.phase.name} is {active.status}; cancel it or let it end first",
            campaign_id=campaign.id,
            phase=active.phase.name,
            status=active.status,
        )


def _require_unused(campaign: Campaign, state: PhaseState) -> None:
    """Results that a later phase has read must not change under it."""
    for later in campaign.phases:
        if later.phase > state.phase and later.status in {*ACTIVE, Status.COMPLETED, Status.FAILED}:
            raise LaterPhaseStarted(
                f"{later.phase.name} is {later.status} and has used the results; rerun the phase",
                campaign_id=campaign.id,
                phase=state.phase.name,
                later_phase=later.phase.name,
            )


def _resets(campaign: Campaign, phase: Phase) -> Iterator[Step]:
    """What was done with the results of `phase` is to be done again after it."""
    for later in campaign.phases:
        if later.phase > phase and later.status in {*ENDED, Status.COMPLETED}:
            ready = later.phase in campaign.configured
            to_status = Status.CONFIGURED if ready else Status.NOT_STARTED
            yield Step(later.phase, later.status, to_status)


def _require_ready(campaign: Campaign, state: PhaseState) -> None:
    for earlier in campaign.phases:
        if earlier.phase < state.phase and earlier.status not in PASSED:
            raise EarlierPhaseUnfinished(
                f"{earlier.phase.name} is {earlier.status}; {state.phase.name} comes after it",
                campaign_id=campaign.id,
                phase=state.phase.name,
                blocking_phase=earlier.phase.name,
            )
    if state.phase not in campaign.configured:
        raise PhaseNotConfigured(
            f"{state.phase.name} has no configuration",
            campaign_id=campaign.id,
            phase=state.phase.name,
        )
    if campaign.mode is Mode.FULL_SEQUENCE:
        require_sequence(campaign)
