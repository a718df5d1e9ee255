"""Random commands through the real service and tables, against the table of transitions."""

import itertools
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub as Stub
from services.campaign.campaign import TRANSITIONS, Action, Mode, Phase, Status
from services.campaign.store import Store
from tests.campaigns import answer as store_answer
from tests.campaigns import from_upload, history, new_campaign
from tests.refusals import refused

GENERATION, DNS = Phase.DOMAIN_GENERATION, Phase.DNS_VALIDATION
# Every mutation of a phase: its method, its request, and whether it names its phase.
COMMANDS: dict[Action, tuple[str, Any]] = {
    Action.CONFIGURE: ("ConfigurePhase", rpc.ConfigurePhaseRequest),
    Action.START: ("StartCampaign", rpc.StartCampaignRequest),
    Action.PAUSE: ("PauseCampaign", rpc.PauseCampaignRequest),
    Action.RESUME: ("ResumeCampaign", rpc.ResumeCampaignRequest),
    Action.CANCEL: ("CancelCampaign", rpc.CancelCampaignRequest),
    Action.RETRY: ("RetryCampaign", rpc.RetryCampaignRequest),
    Action.SKIP: ("SkipPhase", rpc.SkipPhaseRequest),
    Action.RERUN: ("RerunPhase", rpc.RerunPhaseRequest),
}


@dataclass(frozen=True)
class Expected:
    """What the model says of a phase."""

    status: str = "CONFIGURED"
    run: int = 0
    result_run: int = 0

    def after(self, action: Action) -> "Expected | None":
        """What the phase becomes, looking at nothing but itself; None when that is refused."""
        to_status = TRANSITIONS.get((Status(self.status), action))
        if to_status is None:
            return None
        run = self.run + (action in {Action.START, Action.RERUN})
        shown = run if action is Action.COMPLETE or not self.result_run else self.result_run
        return Expected(to_status, run, shown)


def model_after(phases: list[Expected], action: Action, index: int) -> list[Expected] | None:
    """The campaign of two phases after a command; None when it is refused."""
    over = {"COMPLETED", "SKIPPED"}
    here = next((i for i, phase in enumerate(phases) if phase.status not in over), 1)
    changed = phases[index].after(action)
    steered = action not in {Action.CONFIGURE, Action.SKIP, Action.RERUN}
    if changed is None or (steered and index != here):
        return None
    generation_began = index == 0 and phases[0].run > 0
    if action is Action.CONFIGURE and generation_began:
        return None
    if index == 0 and (action is Action.RERUN or (action is Action.SKIP and not generation_began)):
        return None
    if index == 1 and changed.run > phases[1].run and phases[0].status not in over:
        return None
    return [changed if i == index else phase for i, phase in enumerate(phases)]


moves = st.lists(
    st.tuples(st.sampled_from([*COMMANDS, Action.COMPLETE, Action.FAIL]), st.integers(0, 1)),
    min_size=4,
    max_size=14,
)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(walk=moves)
async def test_random_commands_do_what_the_table_says(
    campaigns: Stub, store: Store, walk: list[tuple[Action, int]]
) -> None:
    new = new_campaign(from_upload())
    await store.create(new, None, store_answer)
    model = [Expected(), Expected()]
    changes = 0

    for action, index in walk:
        then = model_after(model, action, index)
        done = await perform(campaigns, store, new.id, action, Phase(index + 1))
        assert done == (then is not None), f"{action} of {index} in {model}"
        if then is not None:
            moved = then[index].status != model[index].status or then[index].run != model[index].run
            changes += moved
            model = then
        campaign = await store.get(new.id)
        assert [Expected(p.status, p.run, p.result_run) for p in campaign.phases] == model
        listed = (await campaigns.ListCampaigns(rpc.ListCampaignsRequest(page_size=1))).campaigns[0]
        assert (listed.current_phase, listed.status) == (
            campaign.current.phase,
            pb.PhaseStatus.Value(f"PHASE_STATUS_{campaign.current.status}"),
        )

    events = await history(store, campaign.no)
    told = [event.phase_changed for event in events if event.WhichOneof("kind") == "phase_changed"]
    assert len(told) == changes
    for phase in (1, 2):
        chain = [change for change in told if change.phase == phase]
        for before, after in itertools.pairwise(chain):
            assert before.to_status == after.from_status


async def perform(
    campaigns: Stub, store: Store, campaign_id: UUID, action: Action, phase: Phase
) -> bool:
    """Whether it was done: by a call, or by the suite itself for what follows from the ledger."""
    if action in COMMANDS:
        method, request_type = COMMANDS[action]
        request = request_type(campaign_id=str(campaign_id), phase=phase, request_id=str(uuid4()))
        if action is Action.CONFIGURE:
            part = from_upload()
            part.ClearField("dns" if phase is GENERATION else "generation")
            request.configuration.CopyFrom(part)
        try:
            await getattr(campaigns, method)(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return False
        return True
    state = (await store.get(campaign_id)).state(phase)
    if state.status is not Status.RUNNING:
        return False
    running = await store.names.running_phase(campaign_id, phase)
    if action is Action.COMPLETE:
        return await store.ledger.complete(running)
    await store.ledger.fail(running, "the model says so")
    return True


async def finish(campaigns: Stub, store: Store, campaign_id: UUID, *phases: Phase) -> None:
    for phase in phases:
        await campaigns.StartCampaign(rpc.StartCampaignRequest(campaign_id=str(campaign_id)))
        assert await store.ledger.complete(await store.names.running_phase(campaign_id, phase))


async def test_a_campaign_goes_on_to_a_phase_that_is_configured_later(
    campaigns: Stub, store: Store
) -> None:
    new = replace(new_campaign(from_upload()), phases={GENERATION: True})
    await store.create(new, None, store_answer)
    await finish(campaigns, store, new.id, GENERATION)
    assert (await store.get(new.id)).is_finished

    request = rpc.ConfigurePhaseRequest(campaign_id=str(new.id), phase=pb.PHASE_DNS_VALIDATION)
    request.configuration.dns.window = 77
    answer = await campaigns.ConfigurePhase(request)

    assert answer.campaign.final_phase == pb.PHASE_DNS_VALIDATION
    assert answer.campaign.status == pb.PHASE_STATUS_CONFIGURED
    assert answer.campaign.configuration.dns.window == 77
    events = await history(store, (await store.get(new.id)).no)
    assert events[-1].campaign_updated.fields == ["configuration.dns", "final_phase"]
    await finish(campaigns, store, new.id, DNS)
    assert (await store.get(new.id)).is_finished


async def test_configuring_in_trial_changes_nothing(campaigns: Stub, store: Store) -> None:
    new = new_campaign(from_upload())
    await store.create(new, None, store_answer)
    before = await store.get(new.id)
    request_id = str(uuid4())

    request = rpc.ConfigurePhaseRequest(
        campaign_id=str(new.id),
        phase=pb.PHASE_DNS_VALIDATION,
        etag=before.etag,
        validate_only=True,
        request_id=request_id,
    )
    request.configuration.dns.window = 77
    answer = await campaigns.ConfigurePhase(request)

    assert answer.campaign.configuration.dns.window == 77
    assert await store.get(new.id) == before
    request.validate_only = False
    await campaigns.ConfigurePhase(request)
    assert (await store.get(new.id)).version > before.version


async def test_a_stale_etag_aborts_the_configuration(campaigns: Stub, store: Store) -> None:
    new = new_campaign(from_upload())
    await store.create(new, None, store_answer)
    etag = (await store.get(new.id)).etag
    await campaigns.StartCampaign(rpc.StartCampaignRequest(campaign_id=str(new.id)))
    present = await store.get(new.id)

    request = rpc.ConfigurePhaseRequest(
        campaign_id=str(new.id), phase=pb.PHASE_DNS_VALIDATION, etag=etag
    )
    request.configuration.dns.window = 77
    refusal = await refused(campaigns.ConfigurePhase(request))

    assert (refusal.code, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert refusal.metadata == {"campaign_id": str(new.id), "etag": present.etag}
    assert await store.get(new.id) == present


@pytest.mark.parametrize(
    ("phase", "part", "fields"),
    [
        (pb.PHASE_DNS_VALIDATION, "generation", {"configuration.dns", "configuration.generation"}),
        (pb.PHASE_HTTP_VALIDATION, "dns", {"configuration.dns", "configuration.http"}),
        (pb.PHASE_UNSPECIFIED, "dns", {"phase"}),
        (9, "dns", {"phase"}),
    ],
)
async def test_a_configuration_for_another_phase_is_refused(
    campaigns: Stub, phase: Any, part: str, fields: set[str]
) -> None:
    request = rpc.ConfigurePhaseRequest(campaign_id=str(uuid4()), phase=phase)
    if part == "dns":
        request.configuration.dns.window = 1
    else:
        request.configuration.generation.upload.SetInParent()

    refusal = await refused(campaigns.ConfigurePhase(request))

    assert refusal.fields == fields


async def test_a_trial_creation_stores_nothing(campaigns: Stub) -> None:
    request = rpc.CreateCampaignRequest(
        name="trial", configuration=from_upload(), validate_only=True, request_id=str(uuid4())
    )

    answer = await campaigns.CreateCampaign(request)

    assert answer.campaign.status == pb.PHASE_STATUS_CONFIGURED
    refusal = await refused(
        campaigns.GetCampaign(rpc.GetCampaignRequest(campaign_id=answer.campaign.campaign_id))
    )
    assert refusal.reason == "CAMPAIGN_NOT_FOUND"


async def test_a_skipped_failure_lets_a_full_sequence_go_on(campaigns: Stub, store: Store) -> None:
    new = new_campaign(from_upload(), mode=Mode.FULL_SEQUENCE)
    await store.create(new, None, store_answer)
    which = str(new.id)
    await campaigns.StartCampaign(rpc.StartCampaignRequest(campaign_id=which))
    await store.ledger.fail(await store.names.running_phase(new.id, GENERATION), "disk full")

    skipped = await campaigns.SkipPhase(
        rpc.SkipPhaseRequest(campaign_id=which, phase=pb.PHASE_DOMAIN_GENERATION, reason="enough")
    )

    assert skipped.campaign.current_phase == pb.PHASE_DNS_VALIDATION
    assert skipped.campaign.status == pb.PHASE_STATUS_RUNNING
    events = await history(store, (await store.get(new.id)).no)
    assert [e.phase_changed.reason for e in events[-2:]] == ["enough", "next phase"]


async def test_a_retry_goes_on_in_the_same_run(campaigns: Stub, store: Store) -> None:
    new = new_campaign(from_upload())
    await store.create(new, None, store_answer)
    which = str(new.id)
    await campaigns.StartCampaign(rpc.StartCampaignRequest(campaign_id=which))
    await store.ledger.fail(await store.names.running_phase(new.id, GENERATION), "disk full")

    failed = (await campaigns.GetCampaign(rpc.GetCampaignRequest(campaign_id=which))).campaign
    retried = (await campaigns.RetryCampaign(rpc.RetryCampaignRequest(campaign_id=which))).campaign

    assert failed.phases[0].failure == "disk full"
    assert failed.phases[0].HasField("end_time")
    assert retried.phases[0].run == 1
    assert retried.phases[0].failure == ""
    assert not retried.phases[0].HasField("end_time")
