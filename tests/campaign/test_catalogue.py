"""Lists in every order, changed settings, the archive and copies, through a real port."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub as Stub
from services.campaign.campaign import PASSED, Action, Mode, Priority, Status
from services.campaign.filter import Condition, parse_filter, parse_order
from services.campaign.store import Store
from services.chassis.postgres import Pool
from tests.campaign.filters import COUNTS, NAMES, TIMES, conditions, meets, said
from tests.campaigns import (
    DNS,
    act,
    create,
    from_pattern,
    from_upload,
    generating,
    history,
    kinds,
    new_campaign,
)
from tests.refusals import refused

ORDERS = [
    f"{f}{way}"
    for f in ("create_time", "update_time", "name", "name_count")
    for way in ("", " desc")
]
NEWEST = parse_order("")


async def fill(pool: Pool, count: int) -> None:
    """Campaigns of every kind, drawn from few values, so that many are equal in each of them."""
    draw = random.Random(count)
    for _ in range(count):
        statuses = [draw.choice(list(Status)) for _ in range(draw.randint(1, 5))]
        current = next((n for n, s in enumerate(statuses) if s not in PASSED), len(statuses) - 1)
        no = await pool.fetchval(
            """INSERT INTO campaigns (id, name, mode, initial_phase, final_phase, configuration,
                   name_count, create_time, update_time, priority, current_phase, status)
               VALUES ($1, $2, $3, 1, $4, '', $5, $6, $7, $8, $9, $10) RETURNING no""",
            uuid4(),
            draw.choice(NAMES),
            draw.choice(list(Mode)),
            len(statuses),
            draw.choice(COUNTS),
            draw.choice(TIMES),
            draw.choice(TIMES),
            draw.choice(list(Priority)),
            current + 1,
            statuses[current],
        )
        await pool.executemany(
            "INSERT INTO phases (campaign_no, phase, status) VALUES ($1, $2, $3)",
            [(no, phase, status) for phase, status in enumerate(statuses, 1)],
        )


async def listed(campaigns: Stub, **asked: Any) -> list[pb.Campaign]:
    """Every page of a list, one after the other."""
    found: list[pb.Campaign] = []
    while True:
        page = await campaigns.ListCampaigns(rpc.ListCampaignsRequest(**asked))
        assert len(page.campaigns) <= (asked.get("page_size") or 50)
        found += page.campaigns
        if not page.next_page_token:
            return found
        asked["page_token"] = page.next_page_token


def ids(campaigns: list[pb.Campaign]) -> list[str]:
    return [campaign.campaign_id for campaign in campaigns]


# Lists.


# One database for all examples: they read the same campaigns.
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=conditions)
async def test_filter_finds_what_it_says(store: Store, pool: Pool, condition: Condition) -> None:
    if not await pool.fetchval("SELECT count(*) FROM campaigns"):
        await fill(pool, 60)
    every = await store.catalogue.page(None, NEWEST, None, 1000)
    assert len(every) == 60

    found = await store.catalogue.page(parse_filter(said(condition)), NEWEST, None, 1000)

    assert found == [campaign for campaign in every if meets(campaign, condition)]


async def test_walk_through_pages_meets_each_campaign_once_in_order(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    await fill(pool, 40)
    every = await store.catalogue.page(None, NEWEST, None, 1000)

    for order_by, size in itertools.product(ORDERS, (1, 7, 40, 1000)):
        field, _, way = order_by.partition(" ")
        wanted = sorted(every, key=lambda c: (getattr(c, field), c.no), reverse=way == "desc")
        found = await listed(campaigns, order_by=order_by, page_size=size)
        assert ids(found) == [str(campaign.id) for campaign in wanted]


async def test_filtered_walk_meets_each_campaign_once(campaigns: Stub, pool: Pool) -> None:
    await fill(pool, 60)
    text = "NOT status = RUNNING AND name_count >= 1000"

    found = await listed(campaigns, filter=text, order_by="name", page_size=3)

    assert ids(found) == ids(await listed(campaigns, filter=text, order_by="name"))
    assert len(found) > 6


async def test_lists_leave_configurations_out(campaigns: Stub, store: Store) -> None:
    await create(store)

    (campaign,) = await listed(campaigns)

    assert not campaign.HasField("configuration")
    assert campaign.phases
    assert campaign.etag


async def test_page_token_of_other_arguments_is_refused(campaigns: Stub, store: Store) -> None:
    for _ in range(3):
        await create(store)
    asked = {"filter": "name = test", "order_by": "name", "page_size": 1}
    page = await campaigns.ListCampaigns(rpc.ListCampaignsRequest(**asked))
    asked["page_token"] = page.next_page_token

    for changed in (
        {"filter": "name = Test"},
        {"order_by": "name desc"},
        {"show_archived": True},
        {"show_deleted": True},
        {"page_token": page.next_page_token[:-1]},
        {"page_token": "nonsense"},
    ):
        refusal = await refused(
            campaigns.ListCampaigns(rpc.ListCampaignsRequest(**(asked | changed)))
        )
        assert (refusal.reason, refusal.fields) == ("INVALID_TOKEN", {"page_token"})
    # The size of pages may change on the way.
    assert len(await listed(campaigns, **(asked | {"page_size": 9}))) == 2


async def test_bad_filter_and_bad_order_are_named_at_once(campaigns: Stub) -> None:
    request = rpc.ListCampaignsRequest(filter="status = RUNING", order_by="colour")

    refusal = await refused(campaigns.ListCampaigns(request))

    assert (refusal.reason, refusal.fields) == ("INVALID_FIELDS", {"filter", "order_by"})
    assert "at character 10" in refusal.message


async def test_walk_goes_on_though_its_last_campaign_has_changed_or_gone(
    campaigns: Stub, store: Store
) -> None:
    made = [await create(store) for _ in range(4)]
    asked = {"order_by": "name_count", "page_size": 2}
    page = await campaigns.ListCampaigns(rpc.ListCampaignsRequest(**asked))
    await campaigns.ArchiveCampaign(
        rpc.ArchiveCampaignRequest(campaign_id=page.campaigns[-1].campaign_id)
    )

    rest = await listed(campaigns, page_token=page.next_page_token, **asked)

    assert ids(rest) == [str(campaign.id) for campaign in made[2:]]


# Settings.


def update(campaign_id: object, **changed: Any) -> rpc.UpdateCampaignRequest:
    return rpc.UpdateCampaignRequest(campaign_id=str(campaign_id), **changed)


async def test_update_changes_what_is_given_and_tells_it(campaigns: Stub, store: Store) -> None:
    before = await create(store)

    answer = await campaigns.UpdateCampaign(
        update(
            before.id, name="new", priority=pb.PRIORITY_HIGH, name_rate_limit=500, reason="urgent"
        )
    )

    after = answer.campaign
    assert (after.name, after.priority, after.name_rate_limit) == ("new", pb.PRIORITY_HIGH, 500)
    assert after.mode == pb.CAMPAIGN_MODE_STEP_BY_STEP
    assert after.etag != before.etag
    assert after.configuration == from_pattern()
    event = (await history(store, before.no))[-1].campaign_updated
    assert list(event.fields) == ["name", "priority", "name_rate_limit"]
    assert (event.actor, event.reason) == ("caller", "urgent")
    assert after.revision == 2
    read = await campaigns.GetCampaign(rpc.GetCampaignRequest(campaign_id=str(before.id)))
    assert read.campaign == after


async def test_update_to_what_is_there_changes_nothing(campaigns: Stub, store: Store) -> None:
    before = await create(store)

    await campaigns.UpdateCampaign(
        update(before.id, name="test", name_rate_limit=0, priority=pb.PRIORITY_NORMAL)
    )

    assert await store.get(before.id) == before


async def test_rate_limit_is_taken_away_by_zero(campaigns: Stub, store: Store) -> None:
    campaign = await create(store)
    await campaigns.UpdateCampaign(update(campaign.id, name_rate_limit=9))

    answer = await campaigns.UpdateCampaign(update(campaign.id, name_rate_limit=0))

    assert answer.campaign.name_rate_limit == 0
    (*_, event) = await history(store, campaign.no)
    assert list(event.campaign_updated.fields) == ["name_rate_limit"]


async def test_update_in_trial_changes_nothing(campaigns: Stub, store: Store) -> None:
    before = await create(store)
    request = update(before.id, name="new", validate_only=True, request_id=str(uuid4()))

    answer = await campaigns.UpdateCampaign(request)

    assert answer.campaign.name == "new"
    assert await store.get(before.id) == before


async def test_running_campaign_can_be_updated(campaigns: Stub, store: Store) -> None:
    running = await generating(store)

    answer = await campaigns.UpdateCampaign(update(running.campaign_id, priority=pb.PRIORITY_LOW))

    assert answer.campaign.status == pb.PHASE_STATUS_RUNNING
    assert (await store.get(running.campaign_id)).priority is Priority.LOW


async def test_stale_etag_aborts_the_update(campaigns: Stub, store: Store) -> None:
    before = await create(store)
    answer = await campaigns.UpdateCampaign(update(before.id, name="second", etag=before.etag))

    refusal = await refused(
        campaigns.UpdateCampaign(update(before.id, name="third", etag=before.etag))
    )

    assert (refusal.code, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert refusal.metadata["etag"] == answer.campaign.etag
    assert (await store.get(before.id)).name == "second"


async def test_of_updates_with_one_etag_one_takes_effect(campaigns: Stub, store: Store) -> None:
    before = await create(store)

    answers = await asyncio.gather(
        *(
            campaigns.UpdateCampaign(update(before.id, name=f"name {n}", etag=before.etag))
            for n in range(8)
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(answer, rpc.UpdateCampaignResponse) for answer in answers) == 1
    assert (await store.get(before.id)).version == before.version + 1


async def test_repeated_update_has_one_effect_and_one_answer(campaigns: Stub, store: Store) -> None:
    before = await create(store)
    request = update(before.id, name="new", request_id=str(uuid4()))

    answers = await asyncio.gather(*(campaigns.UpdateCampaign(request) for _ in range(8)))

    assert all(answer == answers[0] for answer in answers)
    assert await kinds(store, before.no) == ["campaign_created", "campaign_updated"]
    request.name = "other"
    assert (await refused(campaigns.UpdateCampaign(request))).reason == "REQUEST_ID_REUSED"


BAD_SETTINGS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"name"}),
    ({"name": ""}, {"name"}),
    ({"name": "  "}, {"name"}),
    ({"name": "n" * 201}, {"name"}),
    ({"name_rate_limit": -1}, {"name_rate_limit"}),
    ({"name_rate_limit": 1_000_001}, {"name_rate_limit"}),
    ({"mode": 9, "priority": 9}, {"mode", "priority"}),
]


async def test_bad_settings_are_named(campaigns: Stub) -> None:
    for changed, fields in BAD_SETTINGS:
        refusal = await refused(campaigns.UpdateCampaign(update(uuid4(), **changed)))

        assert (refusal.reason, refusal.fields) == ("INVALID_FIELDS", fields)


async def test_full_sequence_needs_every_later_phase_configured(
    campaigns: Stub, store: Store
) -> None:
    configuration = from_upload()
    configuration.ClearField("dns")
    new = new_campaign(configuration)
    new.phases[DNS] = False
    campaign = await create(store, new)
    asked = update(campaign.id, mode=pb.CAMPAIGN_MODE_FULL_SEQUENCE)

    refusal = await refused(campaigns.UpdateCampaign(asked))

    assert refusal.reason == "PHASE_NOT_CONFIGURED"
    assert refusal.metadata["phase"] == "DNS_VALIDATION"
    request = rpc.ConfigurePhaseRequest(campaign_id=str(campaign.id), phase=pb.PHASE_DNS_VALIDATION)
    request.configuration.dns.window = 7
    await campaigns.ConfigurePhase(request)
    answer = await campaigns.UpdateCampaign(asked)
    assert answer.campaign.mode == pb.CAMPAIGN_MODE_FULL_SEQUENCE


# The archive.


def archive(campaign_id: object, **more: Any) -> rpc.ArchiveCampaignRequest:
    return rpc.ArchiveCampaignRequest(campaign_id=str(campaign_id), **more)


async def test_archived_campaign_is_listed_only_when_asked_for(
    campaigns: Stub, store: Store
) -> None:
    away, here = await create(store), await create(store)

    answer = await campaigns.ArchiveCampaign(archive(away.id, reason="old"))

    assert answer.campaign.HasField("archive_time")
    assert ids(await listed(campaigns)) == [str(here.id)]
    shown = await listed(campaigns, show_archived=True)
    assert ids(shown) == [str(here.id), str(away.id)]
    assert shown[1].archive_time == answer.campaign.archive_time
    event = (await history(store, away.no))[-1].campaign_updated
    assert (list(event.fields), event.reason) == (["archive_time"], "old")

    back = await campaigns.UnarchiveCampaign(rpc.UnarchiveCampaignRequest(campaign_id=str(away.id)))

    assert not back.campaign.HasField("archive_time")
    assert ids(await listed(campaigns)) == [str(here.id), str(away.id)]


async def test_archiving_and_unarchiving_twice_changes_nothing_more(
    campaigns: Stub, store: Store
) -> None:
    campaign = await create(store)
    back = rpc.UnarchiveCampaignRequest(campaign_id=str(campaign.id))
    await campaigns.UnarchiveCampaign(back)
    assert await store.get(campaign.id) == campaign
    first = await campaigns.ArchiveCampaign(archive(campaign.id))

    second = await campaigns.ArchiveCampaign(archive(campaign.id))

    assert second.campaign == first.campaign
    assert await kinds(store, campaign.no) == ["campaign_created", "campaign_updated"]


async def test_running_or_paused_campaign_is_not_archived(campaigns: Stub, store: Store) -> None:
    running = await generating(store)
    for _ in range(2):
        refusal = await refused(campaigns.ArchiveCampaign(archive(running.campaign_id)))

        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "CAMPAIGN_ACTIVE")
        assert refusal.metadata["phase"] == "DOMAIN_GENERATION"
        if (await store.get(running.campaign_id)).current.status is Status.RUNNING:
            await act(store, running.campaign_id, Action.PAUSE)
    await act(store, running.campaign_id, Action.CANCEL)
    await campaigns.ArchiveCampaign(archive(running.campaign_id))


def mutations(campaigns: Stub, campaign_id: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every call that changes a campaign, such that only the campaign's state is against it."""
    which = {"campaign_id": campaign_id}
    dns = {**which, "phase": pb.PHASE_DNS_VALIDATION}
    configuration = pb.CampaignConfiguration(dns=pb.DnsConfiguration(window=7))
    return {
        "start": lambda: campaigns.StartCampaign(rpc.StartCampaignRequest(**which)),
        "pause": lambda: campaigns.PauseCampaign(rpc.PauseCampaignRequest(**which)),
        "resume": lambda: campaigns.ResumeCampaign(rpc.ResumeCampaignRequest(**which)),
        "cancel": lambda: campaigns.CancelCampaign(rpc.CancelCampaignRequest(**which)),
        "retry": lambda: campaigns.RetryCampaign(rpc.RetryCampaignRequest(**which)),
        "skip": lambda: campaigns.SkipPhase(rpc.SkipPhaseRequest(**dns)),
        "rerun": lambda: campaigns.RerunPhase(rpc.RerunPhaseRequest(**dns)),
        "transition": lambda: campaigns.TransitionCampaign(
            rpc.TransitionCampaignRequest(target_phase=pb.PHASE_DOMAIN_GENERATION, **which)
        ),
        "configure": lambda: campaigns.ConfigurePhase(
            rpc.ConfigurePhaseRequest(configuration=configuration, **dns)
        ),
        "update": lambda: campaigns.UpdateCampaign(update(campaign_id, name="new")),
        "redrive": lambda: campaigns.RedriveDeadLetters(rpc.RedriveDeadLettersRequest(**dns)),
        "discard": lambda: campaigns.DiscardDeadLetters(rpc.DiscardDeadLettersRequest(**dns)),
        "delete": lambda: campaigns.DeleteCampaign(rpc.DeleteCampaignRequest(force=True, **which)),
    }


async def upload(campaigns: Stub, campaign_id: str) -> Any:
    part = rpc.UploadNamesRequest(campaign_id=campaign_id, upload_id=str(uuid4()), lines=["a.com"])
    return await campaigns.UploadNames(iter([part]))


async def test_archived_campaign_takes_no_other_change(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    campaign = await create(store, new_campaign(from_upload()))
    await campaigns.ArchiveCampaign(archive(campaign.id))
    before = await store.get(campaign.id)

    for what, call in mutations(campaigns, str(campaign.id)).items():
        # What was put away may be deleted as it is.
        if what != "delete":
            assert (await refused(call())).reason == "CAMPAIGN_ARCHIVED", what
    refusal = await refused(upload(campaigns, str(campaign.id)))

    assert refusal.code == "FAILED_PRECONDITION"
    assert await store.get(campaign.id) == before
    answer = await campaigns.GetCampaignPhases(
        rpc.GetCampaignPhasesRequest(campaign_id=str(campaign.id))
    )
    assert not answer.available_transitions


async def test_campaign_that_is_being_deleted_takes_no_change(
    campaigns: Stub, store: Store
) -> None:
    campaign = await create(store, new_campaign(from_upload()))
    await campaigns.DeleteCampaign(rpc.DeleteCampaignRequest(campaign_id=str(campaign.id)))
    before = await store.get(campaign.id)
    which = {"campaign_id": str(campaign.id)}
    calls = {
        **mutations(campaigns, str(campaign.id)),
        "archive": lambda: campaigns.ArchiveCampaign(archive(campaign.id)),
        "unarchive": lambda: campaigns.UnarchiveCampaign(rpc.UnarchiveCampaignRequest(**which)),
        "duplicate": lambda: campaigns.DuplicateCampaign(rpc.DuplicateCampaignRequest(**which)),
    }

    for what, call in calls.items():
        assert (await refused(call())).reason == "CAMPAIGN_DELETED", what
    assert (await refused(upload(campaigns, str(campaign.id)))).code == "FAILED_PRECONDITION"

    assert await store.get(campaign.id) == before


# Copies.


async def test_copy_is_like_the_original_and_has_all_before_it(
    campaigns: Stub, store: Store
) -> None:
    configuration = from_pattern(dns=pb.DnsConfiguration(window=7), name_count=5)
    configuration.generation.pattern.overlap_allowed = True
    request = rpc.CreateCampaignRequest(
        name="first",
        configuration=configuration,
        mode=pb.CAMPAIGN_MODE_FULL_SEQUENCE,
        priority=pb.PRIORITY_HIGH,
        name_rate_limit=50,
    )
    original = (await campaigns.CreateCampaign(request)).campaign
    await act(store, UUID(original.campaign_id), Action.START)

    answer = await campaigns.DuplicateCampaign(
        rpc.DuplicateCampaignRequest(campaign_id=original.campaign_id)
    )

    copy = answer.campaign
    assert copy.campaign_id != original.campaign_id
    assert copy.name == "first (copy)"
    assert copy.mode == pb.CAMPAIGN_MODE_FULL_SEQUENCE
    assert (copy.priority, copy.name_rate_limit) == (pb.PRIORITY_HIGH, 50)
    assert [(state.phase, state.status, state.run) for state in copy.phases] == [
        (pb.PHASE_DOMAIN_GENERATION, pb.PHASE_STATUS_CONFIGURED, 0),
        (pb.PHASE_DNS_VALIDATION, pb.PHASE_STATUS_CONFIGURED, 0),
    ]
    pattern = configuration.generation.pattern
    pattern.ClearField("first_offset")
    pattern.overlap_allowed = False
    assert copy.configuration == configuration
    assert copy.revision == 1


async def test_copy_asks_for_no_more_names_than_the_original(campaigns: Stub) -> None:
    # All from there on: 5 of 10,000,000,000.
    configuration = from_pattern(
        length=10, characters="0123456789", first_offset=10**10 - 5, overlap_allowed=False
    )
    request = rpc.CreateCampaignRequest(name="the end", configuration=configuration)
    original = (await campaigns.CreateCampaign(request)).campaign

    answer = await campaigns.DuplicateCampaign(
        rpc.DuplicateCampaignRequest(campaign_id=original.campaign_id)
    )

    pattern = answer.campaign.configuration.generation.pattern
    assert (pattern.HasField("first_offset"), pattern.name_count) == (False, 5)


async def test_copy_keeps_phases_without_configuration(campaigns: Stub, store: Store) -> None:
    configuration = from_upload()
    configuration.ClearField("dns")
    new = new_campaign(configuration)
    new.phases[DNS] = False
    original = await create(store, new)
    await campaigns.ArchiveCampaign(archive(original.id))

    answer = await campaigns.DuplicateCampaign(
        rpc.DuplicateCampaignRequest(campaign_id=str(original.id), name="second")
    )

    assert answer.campaign.name == "second"
    assert not answer.campaign.HasField("archive_time")
    assert [state.status for state in answer.campaign.phases] == [
        pb.PHASE_STATUS_CONFIGURED,
        pb.PHASE_STATUS_NOT_STARTED,
    ]


async def test_name_of_a_copy_is_shortened_to_fit(campaigns: Stub) -> None:
    request = rpc.CreateCampaignRequest(name="ü" * 200, configuration=from_upload())
    original = (await campaigns.CreateCampaign(request)).campaign

    answer = await campaigns.DuplicateCampaign(
        rpc.DuplicateCampaignRequest(campaign_id=original.campaign_id)
    )

    assert answer.campaign.name == "ü" * 193 + " (copy)"


async def test_repeated_copying_makes_one_and_a_trial_none(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    original = await create(store)
    request = rpc.DuplicateCampaignRequest(
        campaign_id=str(original.id), request_id=str(uuid4()), validate_only=True
    )
    await campaigns.DuplicateCampaign(request)
    assert await pool.fetchval("SELECT count(*) FROM campaigns") == 1
    request.validate_only = False

    answers = await asyncio.gather(*(campaigns.DuplicateCampaign(request) for _ in range(5)))

    assert all(answer == answers[0] for answer in answers)
    assert await pool.fetchval("SELECT count(*) FROM campaigns") == 2


async def test_bad_name_of_a_copy_is_refused(campaigns: Stub) -> None:
    for name in ("  ", "n\0", "n" * 201):
        request = rpc.DuplicateCampaignRequest(campaign_id=str(uuid4()), name=name)

        assert (await refused(campaigns.DuplicateCampaign(request))).fields == {"name"}


async def test_unknown_campaign_is_not_found(campaigns: Stub) -> None:
    which = {"campaign_id": str(uuid4())}

    for call in (
        campaigns.UpdateCampaign(update(uuid4(), name="new")),
        campaigns.ArchiveCampaign(rpc.ArchiveCampaignRequest(**which)),
        campaigns.UnarchiveCampaign(rpc.UnarchiveCampaignRequest(**which)),
        campaigns.DuplicateCampaign(rpc.DuplicateCampaignRequest(**which)),
        campaigns.DeleteCampaign(rpc.DeleteCampaignRequest(**which)),
    ):
        assert (await refused(call)).reason == "CAMPAIGN_NOT_FOUND"
