"""Campaigns as protobuf messages."""

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2
from services.campaign.campaign import Campaign, PhaseState
from services.campaign.dead_letters import DeadLetter, LetterState
from services.campaign.events import proto_phase, proto_status
from services.campaign.preview import Preview


def campaign_to_pb(campaign: Campaign, *, full: bool) -> campaign_pb2.Campaign:
    """The campaign; with its configuration when `full`."""
    message = campaign_pb2.Campaign(
        campaign_id=str(campaign.id),
        name=campaign.name,
        mode=campaign_pb2.CampaignMode.Value(f"CAMPAIGN_MODE_{campaign.mode}"),
        initial_phase=proto_phase(campaign.phases[0].phase),
        final_phase=proto_phase(campaign.phases[-1].phase),
        current_phase=proto_phase(campaign.current.phase),
        status=proto_status(campaign.current.status),
        phases=[phase_to_pb(state) for state in campaign.phases],
        name_count=campaign.name_count,
        etag=campaign.etag,
        revision=campaign.revision,
        priority=campaign_pb2.Priority.Value(f"PRIORITY_{campaign.priority}"),
        name_rate_limit=campaign.name_rate_limit,
    )
    if campaign.archive_time is not None:
        message.archive_time.FromDatetime(campaign.archive_time)
    if campaign.delete_time is not None:
        message.deletion.request_time.FromDatetime(campaign.delete_time)
    if campaign.deletion is not None:
        message.deletion.row_count = campaign.deletion.row_count
        message.deletion.deleted_count = campaign.deletion.deleted_count
    message.create_time.FromDatetime(campaign.create_time)
    message.update_time.FromDatetime(campaign.update_time)
    if full:
        message.configuration.ParseFromString(campaign.configuration)
    return message


def preview_to_pb(preview: Preview) -> campaign_service_pb2.PreviewPatternResponse:
    """What a pattern would give a campaign that starts now."""
    message = campaign_service_pb2.PreviewPatternResponse(
        combination_count=preview.combination_count,
        exact_combination_count=preview.exact_combination_count,
        next_free_offset=preview.next_free_offset,
        free_count=preview.free_count,
        first_offset=preview.allotment.first_offset,
        name_count=preview.allotment.name_count,
        missing_count=preview.allotment.missing_count,
        exhaustion_warning=preview.exhaustion_warning,
        campaign_count=preview.campaign_count,
        sample=preview.sample,
        last_name=preview.last_name,
        storage_bytes=preview.storage_bytes,
        measured=preview.measured,
    )
    message.generation_duration.FromTimedelta(preview.generation_duration)
    message.dns_duration.FromTimedelta(preview.dns_duration)
    return message


def phase_to_pb(state: PhaseState) -> campaign_pb2.PhaseState:
    """One phase of the campaign."""
    message = campaign_pb2.PhaseState(
        phase=proto_phase(state.phase),
        status=proto_status(state.status),
        run=state.run,
        name_count=state.name_count,
        settled_count=state.settled_count,
        failure=state.failure,
        result_run=state.result_run,
        missing_count=state.missing_count,
    )
    if state.start_time is not None:
        message.start_time.FromDatetime(state.start_time)
    if state.end_time is not None:
        message.end_time.FromDatetime(state.end_time)
    return message


def letter_state(state: campaign_pb2.DeadLetterState.ValueType) -> LetterState | None:
    """None for UNSPECIFIED."""
    if not state:
        return None
    name = campaign_pb2.DeadLetterState.Name(state)
    return LetterState(name.removeprefix("DEAD_LETTER_STATE_"))


def dead_letter_to_pb(letter: DeadLetter) -> campaign_pb2.DeadLetter:
    """A name that was given up."""
    message = campaign_pb2.DeadLetter(
        campaign_id=str(letter.campaign_id),
        phase=proto_phase(letter.place.phase),
        run=letter.place.run,
        position=letter.place.position,
        name=letter.name,
        cause=letter.cause,
        failure_count=letter.failure_count,
        state=campaign_pb2.DeadLetterState.Value(f"DEAD_LETTER_STATE_{letter.state}"),
        resolve_reason=letter.resolve_reason,
    )
    message.create_time.FromDatetime(letter.create_time)
    if letter.resolve_time is not None:
        message.resolve_time.FromDatetime(letter.resolve_time)
    return message
