"""Builds the bodies of events. Campaign id, revision and time are columns and filled in on the way
out."""

from collections.abc import Sequence
from datetime import timedelta

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from services.campaign.campaign import Phase, Status


def proto_status(status: Status) -> campaign_pb2.PhaseStatus.ValueType:
    """The proto value of a status."""
    return campaign_pb2.PhaseStatus.Value(f"PHASE_STATUS_{status}")


def proto_phase(phase: int) -> campaign_pb2.Phase.ValueType:
    """The proto value of a phase; the numbers are the same."""
    return campaign_pb2.Phase.ValueType(phase)


def outcome_counts(outcomes: Sequence[tuple[str, int]]) -> list[campaign_pb2.OutcomeCount]:
    """Named outcomes that occurred at least once."""
    return [campaign_pb2.OutcomeCount(outcome=name, count=n) for name, n in outcomes if n]


def phase_changed(
    phase: Phase, from_status: Status, to_status: Status, run: int, actor: str, reason: str
) -> event_pb2.Event:
    """A phase changed its status."""
    return event_pb2.Event(
        phase_changed=event_pb2.PhaseChanged(
            phase=proto_phase(phase),
            from_status=proto_status(from_status),
            to_status=proto_status(to_status),
            run=run,
            actor=actor,
            reason=reason,
        )
    )


def chunk_settled(
    phase: int,
    run: int,
    first_position: int,
    name_count: int,
    attempt: int,
    outcomes: Sequence[tuple[str, int]],
    duration: timedelta | None = None,
) -> event_pb2.Event:
    """A chunk's names were settled."""
    settled = event_pb2.ChunkSettled(
        phase=proto_phase(phase),
        run=run,
        first_position=first_position,
        name_count=name_count,
        attempt=attempt,
        outcomes=outcome_counts(outcomes),
    )
    if duration is not None:
        settled.duration.FromTimedelta(duration)
    return event_pb2.Event(chunk_settled=settled)


def chunk_retried(
    phase: int, run: int, first_position: int, attempt: int, cause: str
) -> event_pb2.Event:
    """A chunk has to be tried again."""
    return event_pb2.Event(
        chunk_retried=event_pb2.ChunkRetried(
            phase=proto_phase(phase),
            run=run,
            first_position=first_position,
            attempt=attempt,
            cause=cause,
        )
    )


def campaign_updated(fields: Sequence[str], actor: str, reason: str) -> event_pb2.Event:
    """The campaign's settings changed. `fields` are paths in Campaign."""
    return event_pb2.Event(
        campaign_updated=event_pb2.CampaignUpdated(fields=fields, actor=actor, reason=reason)
    )


def dead_letters_resolved(
    phase: Phase, run: int, state: str, count: int, actor: str, reason: str
) -> event_pb2.Event:
    """Dead letters were redriven or discarded; `state` says which."""
    return event_pb2.Event(
        dead_letters_resolved=event_pb2.DeadLettersResolved(
            phase=proto_phase(phase),
            run=run,
            state=campaign_pb2.DeadLetterState.Value(f"DEAD_LETTER_STATE_{state}"),
            count=count,
            actor=actor,
            reason=reason,
        )
    )


def chunk_size_decided(
    phase: int, run: int, size: int, previous_size: int, reason: str
) -> event_pb2.Event:
    """The size of the chunks to come was decided."""
    return event_pb2.Event(
        chunk_size_decided=event_pb2.ChunkSizeDecided(
            phase=proto_phase(phase),
            run=run,
            chunk_size=size,
            previous_chunk_size=previous_size,
            reason=reason,
        )
    )


def names_reserved(first_offset: int, name_count: int, missing_count: int) -> event_pb2.Event:
    """Generation took its range of the pattern."""
    return event_pb2.Event(
        names_reserved=event_pb2.NamesReserved(
            first_offset=first_offset, name_count=name_count, missing_count=missing_count
        )
    )


def deletion_started(actor: str, reason: str) -> event_pb2.Event:
    """The campaign's deletion began."""
    return event_pb2.Event(deletion_started=event_pb2.DeletionStarted(actor=actor, reason=reason))


def finished(status: Status) -> event_pb2.Event:
    """The final phase is over."""
    return event_pb2.Event(
        campaign_finished=event_pb2.CampaignFinished(status=proto_status(status))
    )
