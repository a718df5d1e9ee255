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


def finished(status: Status) -> event_pb2.Event:
    """The final phase is over."""
    return event_pb2.Event(
        campaign_finished=event_pb2.CampaignFinished(status=proto_status(status))
    )
