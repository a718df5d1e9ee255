"""CampaignService through a real port: what it refuses, and that a refusal changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1.campaign_service_pb2 import (
    CancelCampaignRequest,
    CreateCampaignRequest,
    GetCampaignPhasesRequest,
    GetCampaignRequest,
    GetReceiptRequest,
    GetUploadRequest,
    ListCampaignsRequest,
    PauseCampaignRequest,
    ResumeCampaignRequest,
    StartCampaignRequest,
    TransitionCampaignRequest,
    UploadNamesRequest,
)
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub
from services.campaign.campaign import Phase
from services.campaign.generation import generate
from services.campaign.store import Store
from services.chassis.postgres import Pool
from tests.campaigns import from_pattern, from_upload, generating, new_campaign
from tests.refusals import Refusal, refused

TABLES = ("campaigns", "phases", "events", "chunks", "uploads", "requests")
Stub = CampaignServiceStub


async def contents(pool: Pool) -> dict[str, list[Any]]:
    """Every row of the tables that the service writes."""
    return {
        table: await pool.fetch(f"SELECT t::text FROM {table} AS t ORDER BY 1") for table in TABLES
    }


def create_request(**changed: Any) -> CreateCampaignRequest:
    whole: dict[str, Any] = {"name": "test", "configuration": from_pattern()}
    return CreateCampaignRequest(**(whole | changed))


async def created(campaigns: Stub, **changed: Any) -> pb.Campaign:
    return (await campaigns.CreateCampaign(create_request(**changed))).campaign


def with_pattern(**changed: Any) -> dict[str, Any]:
    configuration = from_pattern()
    source = configuration.generation.pattern
    for name, value in changed.items():
        source.ClearField(name)  # type: ignore[arg-type]
        if isinstance(value, list):
            getattr(source, name).extend(value)
        else:
            setattr(source, name, value)
    return {"configuration": configuration}


def without_dns() -> pb.CampaignConfiguration:
    configuration = from_pattern()
    configuration.ClearField("dns")
    return configuration


PATTERN = "configuration.generation.pattern."


# Creating.


async def test_a_new_campaign_is_told_in_full(campaigns: Stub) -> None:
    campaign = await created(campaigns, name="first", mode=pb.CAMPAIGN_MODE_FULL_SEQUENCE)

    assert campaign.name == "first"
    assert campaign.mode == pb.CAMPAIGN_MODE_FULL_SEQUENCE
    assert campaign.current_phase == campaign.initial_phase == pb.PHASE_DOMAIN_GENERATION
    assert campaign.final_phase == pb.PHASE_DNS_VALIDATION
    assert campaign.status == pb.PHASE_STATUS_CONFIGURED
    assert (campaign.revision, campaign.etag) == (1, '"1"')
    assert campaign.configuration == from_pattern()
    answer = await campaigns.GetCampaign(GetCampaignRequest(campaign_id=campaign.campaign_id))
    assert answer.campaign == campaign


async def test_a_campaign_without_dns_ends_with_generation(campaigns: Stub) -> None:
    campaign = await created(campaigns, configuration=without_dns())

    assert [state.phase for state in campaign.phases] == [pb.PHASE_DOMAIN_GENERATION]


# What is changed in a good request, and the fields that are then refused.
BAD_FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"name": ""}, {"name"}),
    ({"name": " \t"}, {"name"}),
    ({"name": "n" * 201}, {"name"}),
    ({"name": "n\0"}, {"name"}),
    ({"request_id": "no uuid"}, {"request_id"}),
    ({"mode": 9}, {"mode"}),
    ({"initial_phase": pb.PHASE_DNS_VALIDATION}, {"initial_phase"}),
    ({"final_phase": 77}, {"final_phase"}),
    ({"configuration": None}, {"configuration", "configuration.generation"}),
    (with_pattern(type=0), {PATTERN + "type"}),
    (with_pattern(type=9), {PATTERN + "type"}),
    (with_pattern(prefix_length=-1), {PATTERN + "prefix_length"}),
    (with_pattern(prefix_length=2**31 - 1), {PATTERN + "prefix_length"}),
    (with_pattern(character_set=""), {PATTERN + "character_set"}),
    (with_pattern(constant="x" * 62), {PATTERN + "constant"}),
    (with_pattern(tlds=[]), {PATTERN + "tlds"}),
    (with_pattern(tlds=["com"]), {PATTERN + "tlds[0]"}),
    (with_pattern(first_offset=9), {PATTERN + "first_offset"}),
    (with_pattern(first_offset=-1), {PATTERN + "first_offset"}),
    (with_pattern(first_offset=5, name_count=5), {PATTERN + "name_count"}),
    (with_pattern(prefix_length=60), {PATTERN + "name_count"}),
    (
        {"mode": 2, "final_phase": pb.PHASE_DNS_VALIDATION, "configuration": without_dns()},
        {"configuration.dns"},
    ),
    (
        {"mode": 2, "final_phase": pb.PHASE_LEAD_EXTRACTION},
        {"configuration.http", "configuration.analysis", "configuration.lead"},
    ),
    (
        {"configuration": from_upload(pb.DnsConfiguration(resolvers=["1.1.1.1:0", "x"]))},
        {"configuration.dns.resolvers[0]", "configuration.dns.resolvers[1]"},
    ),
    (
        {"configuration": from_upload(pb.DnsConfiguration(chunk_size=7, window=-1))},
        {"configuration.dns.chunk_size", "configuration.dns.window"},
    ),
]


async def test_bad_fields_are_named_and_nothing_is_created(campaigns: Stub, pool: Pool) -> None:
    for changed, fields in BAD_FIELDS:
        refusal = await refused(campaigns.CreateCampaign(create_request(**changed)))

        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
        assert refusal.fields == fields

    assert not any((await contents(pool)).values())


async def test_every_bad_field_is_named_at_once(campaigns: Stub) -> None:
    changed = with_pattern(prefix_length=-1, character_set="", tlds=["com", ".b", "."])
    changed["configuration"].dns.resolvers.append("nowhere")

    refusal = await refused(campaigns.CreateCampaign(create_request(name="", **changed)))

    assert refusal.fields == {
        "name",
        PATTERN + "prefix_length",
        PATTERN + "character_set",
        PATTERN + "tlds[0]",
        PATTERN + "tlds[2]",
        "configuration.dns.resolvers[0]",
    }


async def test_a_thousand_bad_fields_are_still_a_readable_refusal(campaigns: Stub) -> None:
    changed = with_pattern(tlds=[f"ü{number}" * 10 for number in range(1000)])

    refusal = await refused(campaigns.CreateCampaign(create_request(**changed)))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    assert PATTERN + "tlds[0]" in refusal.fields


async def test_fields_beyond_their_limit_are_not_examined_one_by_one(campaigns: Stub) -> None:
    changed = with_pattern(tlds=[f".a{number:x}" for number in range(300_000)])

    refusal = await refused(campaigns.CreateCampaign(create_request(**changed)))

    assert refusal.fields == {PATTERN + "tlds"}


# Answers to repeated requests.


async def test_a_request_id_makes_one_campaign_however_often(campaigns: Stub, pool: Pool) -> None:
    request = create_request(request_id=str(uuid4()))

    answers = await asyncio.gather(*(campaigns.CreateCampaign(request) for _ in range(10)))

    assert all(answer == answers[0] for answer in answers)
    assert await pool.fetchval("SELECT count(*) FROM campaigns") == 1


async def test_a_request_id_of_another_body_is_refused(campaigns: Stub, pool: Pool) -> None:
    request_id = str(uuid4())
    await created(campaigns, request_id=request_id)
    before = await contents(pool)

    refusal = await refused(
        campaigns.CreateCampaign(create_request(name="other", request_id=request_id))
    )

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
    assert refusal.metadata == {"request_id": request_id}
    assert await contents(pool) == before


async def test_a_request_id_of_another_method_is_refused(campaigns: Stub) -> None:
    request_id = str(uuid4())
    campaign_id = (await created(campaigns)).campaign_id
    ids = {"campaign_id": campaign_id, "request_id": request_id}
    await campaigns.StartCampaign(StartCampaignRequest(**ids))

    refusal = await refused(campaigns.PauseCampaign(PauseCampaignRequest(**ids)))

    assert refusal.reason == "REQUEST_ID_REUSED"


# Transitions.


async def test_a_campaign_goes_through_its_transitions(campaigns: Stub) -> None:
    campaign = await created(campaigns)
    which = {"campaign_id": campaign.campaign_id}

    started = await campaigns.StartCampaign(StartCampaignRequest(**which))
    paused = await campaigns.PauseCampaign(PauseCampaignRequest(**which))
    resumed = await campaigns.ResumeCampaign(ResumeCampaignRequest(**which))
    cancelled = await campaigns.CancelCampaign(CancelCampaignRequest(**which))

    told = [answer.campaign for answer in (started, paused, resumed, cancelled)]
    assert [campaign.status for campaign in told] == [
        pb.PHASE_STATUS_RUNNING,
        pb.PHASE_STATUS_PAUSED,
        pb.PHASE_STATUS_RUNNING,
        pb.PHASE_STATUS_CANCELLED,
    ]
    assert len({campaign.etag for campaign in told}) == 4
    assert not told[0].HasField("configuration")


async def test_a_transition_that_is_not_allowed_says_what_is(campaigns: Stub, pool: Pool) -> None:
    campaign_id = (await created(campaigns)).campaign_id
    before = await contents(pool)

    request = PauseCampaignRequest(campaign_id=campaign_id, request_id=str(uuid4()))
    refusal = await refused(campaigns.PauseCampaign(request))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")
    assert refusal.metadata == {
        "campaign_id": campaign_id,
        "phase": "DOMAIN_GENERATION",
        "status": "CONFIGURED",
        "action": "PAUSE",
        "allowed": "CONFIGURE, START, CANCEL",
    }
    assert await contents(pool) == before


async def test_a_transition_to_a_later_phase_waits_for_the_earlier(campaigns: Stub) -> None:
    campaign_id = (await created(campaigns)).campaign_id

    request = TransitionCampaignRequest(
        campaign_id=campaign_id, target_phase=pb.PHASE_DNS_VALIDATION
    )
    refusal = await refused(campaigns.TransitionCampaign(request))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "EARLIER_PHASE_UNFINISHED")
    assert refusal.metadata["blocking_phase"] == "DOMAIN_GENERATION"


async def test_a_transition_to_no_phase_is_refused(campaigns: Stub) -> None:
    campaign_id = (await created(campaigns)).campaign_id

    for phase in (0, 9):
        request = TransitionCampaignRequest(campaign_id=campaign_id, target_phase=phase)  # type: ignore[arg-type]
        refusal = await refused(campaigns.TransitionCampaign(request))

        assert refusal.fields == {"target_phase"}


async def test_the_phases_tell_what_can_be_done_now(campaigns: Stub) -> None:
    campaign_id = (await created(campaigns)).campaign_id

    answer = await campaigns.GetCampaignPhases(GetCampaignPhasesRequest(campaign_id=campaign_id))

    assert (answer.current_phase, answer.status) == (
        pb.PHASE_DOMAIN_GENERATION,
        pb.PHASE_STATUS_CONFIGURED,
    )
    generation, dns = pb.PHASE_DOMAIN_GENERATION, pb.PHASE_DNS_VALIDATION
    assert [(t.phase, t.action, t.to_status) for t in answer.available_transitions] == [
        (generation, pb.PHASE_ACTION_CONFIGURE, pb.PHASE_STATUS_CONFIGURED),
        (generation, pb.PHASE_ACTION_START, pb.PHASE_STATUS_RUNNING),
        (generation, pb.PHASE_ACTION_CANCEL, pb.PHASE_STATUS_CANCELLED),
        (dns, pb.PHASE_ACTION_CONFIGURE, pb.PHASE_STATUS_CONFIGURED),
        (dns, pb.PHASE_ACTION_SKIP, pb.PHASE_STATUS_SKIPPED),
    ]


async def test_an_unknown_campaign_is_not_found(campaigns: Stub) -> None:
    unknown = str(uuid4())
    calls: list[tuple[Any, Any]] = [
        (campaigns.GetCampaign, GetCampaignRequest),
        (campaigns.GetCampaignPhases, GetCampaignPhasesRequest),
        (campaigns.GetReceipt, GetReceiptRequest),
        (campaigns.GetUpload, GetUploadRequest),
        (campaigns.StartCampaign, StartCampaignRequest),
        (campaigns.CancelCampaign, CancelCampaignRequest),
    ]

    for method, request_type in calls:
        refusal = await refused(method(request_type(campaign_id=unknown)))
        malformed = await refused(method(request_type(campaign_id="7")))

        assert (refusal.code, refusal.reason) == ("NOT_FOUND", "CAMPAIGN_NOT_FOUND")
        assert refusal.metadata == {"campaign_id": unknown}
        assert malformed.fields == {"campaign_id"}


# Lists.


async def test_pages_hold_every_campaign_once_newest_first(campaigns: Stub) -> None:
    made = [(await created(campaigns)).campaign_id for _ in range(5)]

    for page_size in (1, 2, 5, 6, 5000):
        listed, token = [], ""
        while True:
            request = ListCampaignsRequest(page_size=page_size, page_token=token)
            page = await campaigns.ListCampaigns(request)
            assert len(page.campaigns) <= page_size
            assert not any(campaign.HasField("configuration") for campaign in page.campaigns)
            listed += [campaign.campaign_id for campaign in page.campaigns]
            if not (token := page.next_page_token):
                break

        assert listed == made[::-1]


async def test_damaged_page_tokens_are_refused(campaigns: Stub) -> None:
    for token in ("x", "AAAA", "é", "A" * 10_000):
        refusal = await refused(campaigns.ListCampaigns(ListCampaignsRequest(page_token=token)))

        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_TOKEN")
        assert refusal.metadata == {"field": "page_token"}


async def test_a_reason_that_events_have_no_room_for_is_refused(campaigns: Stub) -> None:
    refusal = await refused(
        campaigns.StartCampaign(
            StartCampaignRequest(
                campaign_id=(await created(campaigns)).campaign_id, reason="ü" * 251
            )
        )
    )

    assert refusal.fields == {"reason"}


async def test_a_negative_page_size_is_refused(campaigns: Stub) -> None:
    refusal = await refused(campaigns.ListCampaigns(ListCampaignsRequest(page_size=-1)))

    assert refusal.fields == {"page_size"}


# Uploads.


async def started_upload(campaigns: Stub) -> str:
    campaign_id = (await created(campaigns, configuration=from_upload())).campaign_id
    await campaigns.StartCampaign(StartCampaignRequest(campaign_id=campaign_id))
    return campaign_id


async def send(campaigns: Stub, *parts: UploadNamesRequest) -> Any:
    async def stream() -> AsyncIterator[UploadNamesRequest]:
        for part in parts:
            yield part

    return await campaigns.UploadNames(stream())


def part(ids: dict[str, str], offset: int, *lines: str, finish: bool = False) -> UploadNamesRequest:
    return UploadNamesRequest(**ids, offset=offset, lines=lines, finish=finish)


@pytest.fixture
async def ids(campaigns: Stub) -> dict[str, str]:
    return {"campaign_id": await started_upload(campaigns), "upload_id": str(uuid4())}


async def test_an_upload_is_normalised_and_counted(
    campaigns: Stub, pool: Pool, ids: dict[str, str]
) -> None:
    answer = await send(
        campaigns,
        part(ids, 0, "A.com", "bücher.de.", "no name", "a.com"),
        UploadNamesRequest(offset=4, lines=["a.com", " c.com\r", ""], finish=True),
    )

    upload = answer.upload
    assert (upload.next_offset, upload.accepted_count) == (7, 3)
    assert (upload.duplicate_count, upload.rejected_count, upload.finished) == (2, 2, True)
    assert [(line.offset, line.line) for line in answer.rejected_lines] == [(2, "no name"), (6, "")]
    rows = await pool.fetch("SELECT position, name FROM domains ORDER BY position")
    assert [tuple(row) for row in rows] == [(0, "a.com"), (1, "xn--bcher-kva.de"), (2, "c.com")]


async def test_a_broken_upload_goes_on_where_it_was(campaigns: Stub, ids: dict[str, str]) -> None:
    async def broken() -> AsyncIterator[UploadNamesRequest]:
        yield part(ids, 0, "a.com", "b.com")
        yield part(ids, 2, "c.com")
        raise ConnectionError

    with pytest.raises((ConnectionError, asyncio.CancelledError)):
        await campaigns.UploadNames(broken())
    upload = (await campaigns.GetUpload(GetUploadRequest(campaign_id=ids["campaign_id"]))).upload
    rest = ["a.com", "b.com", "c.com", "d.com"][upload.next_offset :]
    answer = await send(campaigns, part(ids, upload.next_offset, *rest, finish=True))

    assert (answer.upload.accepted_count, answer.upload.next_offset) == (4, 4)
    assert answer.upload.finished


async def test_stored_lines_and_gaps_tell_where_to_go_on(
    campaigns: Stub, ids: dict[str, str]
) -> None:
    await send(campaigns, part(ids, 0, "a.com", "b.com"))

    stored = await refused(send(campaigns, part(ids, 0, "a.com")))
    gap = await refused(send(campaigns, part(ids, 5, "f.com")))

    assert (stored.code, stored.reason) == ("ALREADY_EXISTS", "UPLOAD_OFFSET_STORED")
    assert (gap.code, gap.reason) == ("OUT_OF_RANGE", "UPLOAD_OFFSET_GAP")
    assert stored.metadata == gap.metadata == {**ids, "next_offset": "2"}


async def test_another_upload_is_refused(campaigns: Stub, ids: dict[str, str]) -> None:
    await send(campaigns, part(ids, 0, "a.com"))

    refusal = await refused(send(campaigns, part(ids | {"upload_id": str(uuid4())}, 0, "b.com")))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "UPLOAD_CLOSED")
    assert refusal.metadata == ids


async def test_a_finished_upload_takes_no_more(campaigns: Stub, ids: dict[str, str]) -> None:
    await send(campaigns, part(ids, 0, "a.com", finish=True))

    refusal = await refused(send(campaigns, part(ids, 1, "b.com")))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "UPLOAD_CLOSED")


async def test_an_upload_into_a_pattern_campaign_is_refused(campaigns: Stub) -> None:
    campaign_id = (await created(campaigns)).campaign_id
    await campaigns.StartCampaign(StartCampaignRequest(campaign_id=campaign_id))
    ids = {"campaign_id": campaign_id, "upload_id": str(uuid4())}

    refusal = await refused(send(campaigns, part(ids, 0, "a.com")))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "WRONG_NAME_SOURCE")
    assert refusal.metadata == {"campaign_id": campaign_id, "source": "pattern"}


async def test_an_upload_into_a_campaign_that_does_not_run_is_refused(campaigns: Stub) -> None:
    campaign_id = (await created(campaigns, configuration=from_upload())).campaign_id
    ids = {"campaign_id": campaign_id, "upload_id": str(uuid4())}

    refusal = await refused(send(campaigns, part(ids, 0, "a.com")))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")
    assert refusal.metadata["status"] == "CONFIGURED"


async def test_an_upload_says_where_it_belongs(campaigns: Stub, ids: dict[str, str]) -> None:
    nothing = await refused(send(campaigns))
    nowhere = await refused(send(campaigns, UploadNamesRequest(lines=["a.com"])))
    unknown = await refused(send(campaigns, part(ids | {"campaign_id": str(uuid4())}, 0)))
    too_many = await refused(send(campaigns, part(ids, 0, *["a.com"] * 10_001)))

    assert nothing.fields == {"campaign_id"}
    assert nowhere.fields == {"campaign_id", "upload_id"}
    assert unknown.reason == "CAMPAIGN_NOT_FOUND"
    assert too_many.fields == {"lines"}


async def test_a_campaign_without_upload_has_none(campaigns: Stub, ids: dict[str, str]) -> None:
    answer = await campaigns.GetUpload(GetUploadRequest(campaign_id=ids["campaign_id"]))

    assert not answer.HasField("upload")


async def test_at_most_a_hundred_rejected_lines_come_back(
    campaigns: Stub, ids: dict[str, str]
) -> None:
    answer = await send(
        campaigns, part(ids, 0, *["_" * 999] * 80), part(ids, 80, *["_" * 999] * 80)
    )

    assert answer.upload.rejected_count == 160
    assert [line.offset for line in answer.rejected_lines] == list(range(100))
    assert {len(line.line) for line in answer.rejected_lines} == {300}


# Receipts.


async def test_a_receipt_of_an_open_upload_adds_up(campaigns: Stub, ids: dict[str, str]) -> None:
    await send(campaigns, part(ids, 0, "a.com", "b.com", "b.com", "?"))

    answer = await campaigns.GetReceipt(GetReceiptRequest(campaign_id=ids["campaign_id"]))

    generation = answer.receipt.phases[0]
    assert (generation.name_count, generation.unsettled_count) == (2, 0)
    assert [(o.outcome, o.count) for o in generation.outcomes] == [("GENERATED", 2)]
    assert (generation.duplicate_count, generation.rejected_count) == (1, 1)
    assert generation.content_sha256 == ""
    assert not answer.receipt.balanced


async def test_a_receipt_of_a_new_campaign_is_not_balanced(campaigns: Stub) -> None:
    campaign_id = (await created(campaigns)).campaign_id

    receipt = (await campaigns.GetReceipt(GetReceiptRequest(campaign_id=campaign_id))).receipt

    assert [phase.phase for phase in receipt.phases] == [1, 2]
    assert not receipt.balanced
    assert not receipt.phases[0].HasField("elapsed")


async def test_the_digest_of_equal_campaigns_is_equal(campaigns: Stub, store: Store) -> None:
    digests = []
    for _ in range(2):
        configuration = from_pattern()
        configuration.ClearField("dns")
        running = await generating(
            store, new_campaign(configuration, phases=[Phase.DOMAIN_GENERATION])
        )
        assert await generate(store, running)
        assert await store.ledger.complete(running)
        request = GetReceiptRequest(campaign_id=str(running.campaign_id))
        receipt = (await campaigns.GetReceipt(request)).receipt
        assert receipt.balanced
        digests.append(receipt.phases[0].content_sha256)

    assert digests[0] == digests[1]
    assert len(digests[0]) == 64


async def test_refusals_of_one_kind_read_alike(campaigns: Stub) -> None:
    refusal: Refusal = await refused(
        campaigns.StartCampaign(StartCampaignRequest(reason="r" * 501))
    )

    assert refusal.fields == {"campaign_id", "reason"}
    assert refusal.retry_after is None
