"""Reads, locks and changes campaign rows on a connection that somebody else holds.

Lock order everywhere: the campaign's turn, phases, patterns, chunks, campaigns; at the commit a
trigger takes the totals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from domainflow.campaign.v1 import event_pb2
from services.campaign.allotment import Allotment
from services.campaign.campaign import (
    PASSED,
    Action,
    Campaign,
    Deletion,
    Mode,
    Phase,
    PhaseState,
    Priority,
    Status,
    Step,
    next_start,
    steps,
)
from services.campaign.configuration import asked_names, configured_phases
from services.campaign.events import finished, names_reserved, phase_changed
from services.campaign.ranges import give_back_names, take_names
from services.chassis.errors import CampaignNotFound
from services.chassis.postgres import Connection

# Entries of chunks.outcome_counts that a phase may use.
MAX_OUTCOMES = 24


PHASE_COLUMNS = (
    "phase, status, run, result_run, name_count, missing_count, start_time, end_time, failure"
)


CAMPAIGN_COLUMNS = (
    "id, no, name, mode, initial_phase, final_phase, configuration, name_count, revision,"
    " create_time, update_time, version, priority, name_rate_limit, archive_time, delete_time"
)


@dataclass(frozen=True, slots=True)
class RunningPhase:
    """A phase that the dispatcher has to move on."""

    campaign_id: UUID
    campaign_no: int
    phase: Phase
    run: int
    name_count: int
    planned: bool
    campaign_name_count: int
    configuration: bytes


@dataclass(frozen=True, slots=True)
class Tally:
    """What the ledger says about one run of a phase. `outcomes[i]` counts outcome number i + 1."""

    outcomes: Sequence[int]
    settled_count: int
    chunks_in_flight: int
    retry_count: int
    # Names that were given up and not handed out again.
    dead_letter_count: int


RUNNING_PHASES = """SELECT k.id, k.no, p.phase, p.run, p.name_count, p.planned, p.status,
        k.name_count AS campaign_name_count, k.configuration
    FROM phases p JOIN campaigns k ON k.no = p.campaign_no"""


def to_running_phase(row: asyncpg.Record) -> RunningPhase:
    return RunningPhase(
        campaign_id=row["id"],
        campaign_no=row["no"],
        phase=Phase(row["phase"]),
        run=row["run"],
        name_count=row["name_count"],
        planned=row["planned"],
        campaign_name_count=row["campaign_name_count"],
        configuration=row["configuration"],
    )


async def read_campaign(connection: Connection, condition: str, argument: object) -> Campaign:
    campaigns = await read_campaigns(connection, condition, argument)
    if not campaigns:
        raise LookupError(argument)
    return campaigns[0]


async def get_campaign(connection: Connection, campaign_id: UUID) -> Campaign:
    try:
        return await read_campaign(connection, "id = $1", campaign_id)
    except LookupError:
        raise CampaignNotFound(campaign_id) from None


async def read_tally(connection: Connection, campaign_no: int, phase: int, run: int) -> Tally:
    sums = ", ".join(f"sum(outcome_counts[{i}])" for i in range(1, MAX_OUTCOMES + 1))
    row = await connection.fetchrow(
        f"""SELECT {sums}, sum(name_count) FILTER (WHERE state = 'done'),
                count(*) FILTER (WHERE state = 'queued'),
                sum(greatest(attempt - 1 - park_count, 0)),
                (SELECT count(*) FROM dead_letters
                 WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND state <> 'REDRIVEN')
            FROM chunks WHERE campaign_no = $1 AND phase = $2 AND run = $3""",
        campaign_no,
        phase,
        run,
    )
    assert row is not None
    values = [int(value or 0) for value in row.values()]
    return Tally(values[:MAX_OUTCOMES], *values[MAX_OUTCOMES:])


async def read_campaigns(
    connection: Connection, condition: str, *arguments: object
) -> list[Campaign]:
    """Return the campaigns that `condition` selects, with their phases."""
    rows = await connection.fetch(
        f"SELECT {CAMPAIGN_COLUMNS} FROM campaigns WHERE {condition}", *arguments
    )
    # A completed phase has settled all its names; the ledger is summed for the others only.
    phase_rows = await connection.fetch(
        f"""SELECT campaign_no, {PHASE_COLUMNS},
                CASE WHEN status = 'COMPLETED' THEN name_count ELSE (
                    SELECT coalesce(sum(c.name_count), 0) FROM chunks c
                    WHERE c.campaign_no = phases.campaign_no AND c.phase = phases.phase
                      AND c.run = phases.run AND c.state = 'done') END AS settled_count
            FROM phases WHERE campaign_no = ANY($1) ORDER BY campaign_no, phase""",
        [row["no"] for row in rows],
    )
    deletions = await _read_deletions(
        connection, [row["no"] for row in rows if row["delete_time"] is not None]
    )
    stored = {row["no"]: row["name_count"] for row in rows}
    phases: dict[int, list[PhaseState]] = {}
    for row in phase_rows:
        phase, name_count = Phase(row["phase"]), row["name_count"]
        if phase is Phase.DOMAIN_GENERATION:
            # How many names an open upload will have is not known: at least those that are stored.
            name_count = max(name_count, stored[row["campaign_no"]])
        state = PhaseState(
            phase=phase,
            status=Status(row["status"]),
            run=row["run"],
            name_count=name_count,
            settled_count=int(row["settled_count"]),
            start_time=row["start_time"],
            end_time=row["end_time"],
            failure=row["failure"],
            result_run=row["result_run"],
            missing_count=row["missing_count"],
        )
        phases.setdefault(row["campaign_no"], []).append(state)
    return [
        Campaign(
            id=row["id"],
            no=row["no"],
            name=row["name"],
            mode=Mode(row["mode"]),
            phases=tuple(phases[row["no"]]),
            configuration=row["configuration"],
            name_count=row["name_count"],
            revision=row["revision"],
            create_time=row["create_time"],
            update_time=row["update_time"],
            configured=configured_phases(row["configuration"]),
            version=row["version"],
            priority=Priority(row["priority"]),
            name_rate_limit=row["name_rate_limit"],
            archive_time=row["archive_time"],
            delete_time=row["delete_time"],
            deletion=deletions.get(row["no"]),
        )
        for row in rows
    ]


async def _read_deletions(connection: Connection, numbers: Sequence[int]) -> dict[int, Deletion]:
    """How far the deletions of these campaigns are, by number."""
    if not numbers:
        return {}
    rows = await connection.fetch(
        """SELECT campaign_no, row_count, deleted_count FROM deletions
           WHERE campaign_no = ANY($1)""",
        numbers,
    )
    return {row[0]: Deletion(row[1], row[2]) for row in rows}


async def lock_campaign(
    connection: Connection, condition: str, argument: object
) -> Campaign | None:
    """Lock the campaign's phases, so that transitions take turns, and read it."""
    found = await connection.fetchrow(
        f"SELECT k.no, take_turn(k.no) FROM campaigns k WHERE {condition}", argument
    )
    if found is None:
        return None
    # A second statement: what was committed while the first one waited is to be seen.
    rows = await connection.fetch(
        "SELECT FROM phases WHERE campaign_no = $1 ORDER BY phase FOR UPDATE", found["no"]
    )
    return await read_campaign(connection, "no = $1", found["no"]) if rows else None


async def lock_existing(connection: Connection, campaign_id: UUID) -> Campaign:
    """As `lock_campaign`. Raises CampaignNotFound."""
    campaign = await lock_campaign(connection, "k.id = $1", campaign_id)
    if campaign is None:
        raise CampaignNotFound(campaign_id)
    return campaign


async def act(
    connection: Connection,
    campaign: Campaign,
    action: Action,
    phase: Phase | None = None,
    *,
    actor: str,
    reason: str,
) -> Campaign:
    """Do `action` to a locked campaign and write what follows from it. Returns it afterwards.

    In FULL_SEQUENCE the next phase starts in the same transaction. Generation takes its names of
    the pattern when it starts, and gives back those that it has not made when it is cancelled or
    left out after a failure. Raises what campaign.steps raises, NamesReserved, and InvalidFields
    for a pattern that is not accepted any more; then nothing was written.
    """
    before = campaign
    first, *more = steps(campaign, action, phase)
    taken = await _move_range(connection, campaign, first)
    await _write_step(connection, campaign.no, first, actor, reason)
    if taken is not None:
        await _announce_range(connection, campaign.no, taken)
    for each in more:
        await _write_step(connection, campaign.no, each, actor, f"{first.phase.name} runs again")
    campaign = await read_campaign(connection, "no = $1", campaign.no)
    goes_on = action is Action.COMPLETE or first.from_status is Status.FAILED
    following = next_start(campaign) if goes_on and first.to_status in PASSED else None
    if following is not None:
        # Not what a caller's start asks for, a configuration of every phase to come: one that was
        # put in since would fail the phase that is complete. The sequence stops before it.
        start = Step(following, Status.CONFIGURED, Status.RUNNING, new_run=True)
        await _write_step(connection, campaign.no, start, "dispatcher", "next phase")
        campaign = await read_campaign(connection, "no = $1", campaign.no)
    return await touch(connection, before, campaign)


async def _move_range(connection: Connection, campaign: Campaign, step: Step) -> Allotment | None:
    """Take or give back names of the pattern as a step of generation demands. Returns what was
    taken."""
    if step.phase is not Phase.DOMAIN_GENERATION:
        return None
    if step.to_status in {Status.CANCELLED, Status.SKIPPED}:
        await give_back_names(connection, campaign.id, campaign.name_count)
    asked = asked_names(campaign.configuration) if step.new_run else None
    return await take_names(connection, campaign.id, asked) if asked else None


async def _announce_range(connection: Connection, no: int, taken: Allotment) -> None:
    await connection.execute(
        """UPDATE phases SET name_count = $3, missing_count = $4
           WHERE campaign_no = $1 AND phase = $2""",
        no,
        Phase.DOMAIN_GENERATION,
        taken.name_count,
        taken.missing_count,
    )
    event = names_reserved(taken.first_offset, taken.name_count, taken.missing_count)
    await append_event(connection, no, event)


async def touch(connection: Connection, before: Campaign, after: Campaign) -> Campaign:
    """Enter into the campaign's own row what changed, and append the event of its end if this is
    it. Returns it as it then is."""
    current = after.current
    await connection.execute(
        """UPDATE campaigns SET version = version + 1, update_time = now(), current_phase = $2,
               status = $3
           WHERE no = $1""",
        after.no,
        current.phase,
        current.status,
    )
    ended_so = before.is_finished and before.current.status is current.status
    if after.is_finished and not ended_so:
        await append_event(connection, after.no, finished(current.status))
    return await read_campaign(connection, "no = $1", after.no)


async def _write_step(
    connection: Connection, no: int, change: Step, actor: str, reason: str
) -> None:
    """Write one step: status, what leaves the queue with it, its event."""
    phase, to_status = change.phase, change.to_status
    if change.from_status is to_status and not change.new_run:
        return
    over = to_status in {*PASSED, Status.CANCELLED, Status.FAILED}
    run = await connection.fetchval(
        """UPDATE phases SET status = $3,
               run = run + $4::int,
               result_run = CASE WHEN $5 OR result_run = 0 THEN run + $4::int ELSE result_run END,
               planned = planned AND $4::int = 0,
               name_count = CASE WHEN $4::int = 1 THEN 0 ELSE name_count END,
               failure = CASE WHEN $7 THEN '' ELSE failure END,
               start_time = CASE WHEN $4::int = 1 THEN now() ELSE start_time END,
               end_time = CASE WHEN $6 THEN now() WHEN $7 THEN NULL ELSE end_time END
           WHERE campaign_no = $1 AND phase = $2 RETURNING run""",
        no,
        phase,
        to_status,
        int(change.new_run),
        to_status is Status.COMPLETED,
        over,
        to_status is Status.RUNNING,
    )
    if to_status is not Status.RUNNING:
        # What is on the queue or in a worker's hands comes back; late results meet a chunk that is
        # not theirs any more.
        await connection.execute(
            """UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL,
                   lease_expire_time = NULL
               WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND state = 'queued'""",
            no,
            phase,
            run,
        )
    event = phase_changed(phase, change.from_status, to_status, run, actor, reason)
    await append_event(connection, no, event)


async def append_event(connection: Connection, campaign_no: int, event: event_pb2.Event) -> None:
    await connection.execute("SELECT append_event($1, $2)", campaign_no, event.SerializeToString())


async def share_phase(connection: Connection, running: RunningPhase) -> bool:
    """Whether the run still runs; a pause or cancel then waits for this transaction."""
    await connection.execute("SELECT share_turn($1)", running.campaign_no)
    return await _lock_phase(connection, running, "FOR SHARE")


async def take_phase(connection: Connection, running: RunningPhase) -> bool:
    """As `share_phase`, for who goes on to change the row: two sharers would wait for each
    other."""
    await connection.execute("SELECT take_turn($1)", running.campaign_no)
    return await _lock_phase(connection, running, "FOR UPDATE")


async def _lock_phase(connection: Connection, running: RunningPhase, strength: str) -> bool:
    found = await connection.fetchval(
        f"""SELECT 1 FROM phases WHERE campaign_no = $1 AND phase = $2 AND run = $3
               AND status = 'RUNNING' {strength}""",
        running.campaign_no,
        running.phase,
        running.run,
    )
    return found is not None
