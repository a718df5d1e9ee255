"""HTTP, analysis and leads are configured field by field, and keep what they were given."""

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.campaign.v1.campaign_service_pb2_grpc import (
    CampaignServiceStub,
    add_CampaignServiceServicer_to_server,
)
from domainflow.validation.v1.http_settings_pb2 import HttpSettings
from domainflow.validation.v1.keyword_pb2 import (
    KeywordChoice,
    KeywordRule,
    KeywordSet,
    KeywordSetVersion,
)
from domainflow.validation.v1.lead_pb2 import LeadThresholds
from domainflow.validation.v1.scoring_pb2 import ScoringSettings, ScoringWeights
from services.campaign.configuration import rules_of
from services.campaign.service import CampaignService
from services.campaign.store import Store
from services.chassis.http_settings import networks_of
from services.chassis.postgres import Pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from tests.campaigns import from_pattern
from tests.refusals import refused

Stub = CampaignServiceStub
MISSING = str(UUID(int=7))
HTTP = "configuration.http"


async def stored(pool: Pool, table: str, body: Any, version: int = 1) -> str:
    """As the validation service stores it."""
    thing_id = uuid4()
    await pool.execute(
        f"INSERT INTO {table} (id, name, description, body, version) VALUES ($1, $2, '', $3, $4)",
        thing_id,
        str(thing_id),
        body.SerializeToString(),
        version,
    )
    return str(thing_id)


def asked(
    http: pb.HttpConfiguration | None = None,
    analysis: pb.AnalysisConfiguration | None = None,
    lead: pb.LeadConfiguration | None = None,
) -> pb.CampaignConfiguration:
    configuration = from_pattern()
    configuration.http.CopyFrom(http or pb.HttpConfiguration())
    configuration.analysis.CopyFrom(analysis or pb.AnalysisConfiguration())
    configuration.lead.CopyFrom(lead or pb.LeadConfiguration())
    return configuration


async def create(campaigns: Stub, configuration: pb.CampaignConfiguration) -> pb.Campaign:
    request = rpc.CreateCampaignRequest(
        name="test", configuration=configuration, mode=pb.CAMPAIGN_MODE_FULL_SEQUENCE
    )
    return (await campaigns.CreateCampaign(request)).campaign


async def configure(
    campaigns: Stub, campaign: pb.Campaign, phase: pb.Phase, **part: Any
) -> pb.CampaignConfiguration:
    request = rpc.ConfigurePhaseRequest(
        campaign_id=campaign.campaign_id,
        phase=phase,
        configuration=pb.CampaignConfiguration(**part),
    )
    return (await campaigns.ConfigurePhase(request)).campaign.configuration


def rules(*names: str) -> list[KeywordRule]:
    return [KeywordRule(name=name, pattern=f"{name} pattern") for name in names]


async def test_a_sequence_goes_through_all_phases_with_every_default(campaigns: Stub) -> None:
    campaign = await create(campaigns, asked())

    assert campaign.final_phase == pb.PHASE_LEAD_EXTRACTION
    assert [state.phase for state in campaign.phases] == [1, 2, 3, 4, 5]
    assert {state.status for state in campaign.phases} == {pb.PHASE_STATUS_CONFIGURED}
    assert campaign.configuration == asked()


async def test_what_is_named_is_copied_and_versions_are_noted(campaigns: Stub, pool: Pool) -> None:
    persona = await stored(pool, "http_personas", HttpSettings(user_agent="test/1 (x@y.example)"))
    profile = await stored(
        pool, "scoring_profiles", ScoringSettings(weights=ScoringWeights(title_keyword=1)), 4
    )
    one = await stored(pool, "keyword_sets", KeywordSet(rules=rules("a", "b")), 2)
    two = await stored(pool, "keyword_sets", KeywordSet(rules=rules("c"), expression="NOT c"), 3)

    made = await create(
        campaigns,
        asked(
            pb.HttpConfiguration(
                http_persona_id=persona,
                keywords=KeywordChoice(keyword_set_ids=[two, one], keywords=["blue"]),
                # Only the suite says which versions these are.
                keyword_set_versions=[KeywordSetVersion(keyword_set_id=one, version=77)],
            ),
            pb.AnalysisConfiguration(scoring_profile_id=profile, scoring_profile_version=99),
        ),
    )
    for table in ("http_personas", "keyword_sets", "scoring_profiles"):
        await pool.execute(f"UPDATE {table} SET body = '', version = version + 10")
    kept = await configure(campaigns, made, pb.PHASE_LEAD_EXTRACTION, lead=pb.LeadConfiguration())
    copy_request = rpc.DuplicateCampaignRequest(campaign_id=made.campaign_id)
    copy = (await campaigns.DuplicateCampaign(copy_request)).campaign

    http, analysis = made.configuration.http, made.configuration.analysis
    assert http.settings.user_agent == "test/1 (x@y.example)"
    assert [(it.keyword_set_id, it.version) for it in http.keyword_set_versions] == [
        (two, 3),
        (one, 2),
    ]
    assert analysis.settings.weights.title_keyword == 1
    assert analysis.scoring_profile_version == 4
    assert kept.http == copy.configuration.http == http
    assert kept.analysis == copy.configuration.analysis == analysis

    again = await configure(
        campaigns,
        made,
        pb.PHASE_HTTP_VALIDATION,
        http=pb.HttpConfiguration(keywords=KeywordChoice(keyword_set_ids=[one])),
    )
    assert [it.version for it in again.http.keyword_set_versions] == [12]


BAD: list[tuple[pb.CampaignConfiguration, set[str]]] = [
    (
        asked(
            pb.HttpConfiguration(
                http_persona_id=MISSING,
                settings=HttpSettings(redirect_limit=21, allowed_networks=["127.0.0.0/8"]),
                chunk_size=2_001,
            )
        ),
        {
            f"{HTTP}.http_persona_id",
            f"{HTTP}.settings.redirect_limit",
            f"{HTTP}.settings.allowed_networks[0]",
            f"{HTTP}.chunk_size",
        },
    ),
    (
        asked(pb.HttpConfiguration(keywords=KeywordChoice(expression="a OR b"))),
        {f"{HTTP}.keywords.expression"},
    ),
    (
        asked(
            analysis=pb.AnalysisConfiguration(
                scoring_profile_id=MISSING,
                settings=ScoringSettings(weights=ScoringWeights(freshness=-1)),
            )
        ),
        {
            "configuration.analysis.scoring_profile_id",
            "configuration.analysis.settings.weights.freshness",
        },
    ),
    (
        asked(
            lead=pb.LeadConfiguration(
                thresholds=LeadThresholds(match_score=0.2, low_score_grace=0.21)
            )
        ),
        {"configuration.lead.thresholds.low_score_grace"},
    ),
    (
        asked(
            lead=pb.LeadConfiguration(
                thresholds=LeadThresholds(match_score=0.01, min_content_bytes=7)
            )
        ),
        {
            "configuration.lead.thresholds.match_score",
            "configuration.lead.thresholds.min_content_bytes",
        },
    ),
    # Found when the rules are compiled.
    (
        asked(
            pb.HttpConfiguration(
                keywords=KeywordChoice(
                    rules=[KeywordRule(name="a", pattern="(", kind=2), *rules("b", "b")]
                )
            )
        ),
        {f"{HTTP}.keywords.rules[0].pattern", f"{HTTP}.keywords.rules[2].name"},
    ),
    (
        asked(pb.HttpConfiguration(keywords=KeywordChoice(rules=rules("a"), expression="a AND"))),
        {f"{HTTP}.keywords.expression"},
    ),
]


@pytest.mark.parametrize(("configuration", "fields"), BAD)
async def test_every_bad_field_is_named(
    campaigns: Stub, pool: Pool, configuration: pb.CampaignConfiguration, fields: set[str]
) -> None:
    refusal = await refused(create(campaigns, configuration))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    assert refusal.fields >= fields
    assert await pool.fetchval("SELECT count(*) FROM campaigns") == 0


@pytest.mark.parametrize(
    ("part", "resource"),
    [
        ({"http": pb.HttpConfiguration(http_persona_id=MISSING)}, "http_persona"),
        (
            {"http": pb.HttpConfiguration(keywords=KeywordChoice(keyword_set_ids=[MISSING]))},
            "keyword_set",
        ),
        (
            {"http": pb.HttpConfiguration(settings=HttpSettings(proxy_pool_id=MISSING))},
            "proxy_pool",
        ),
        ({"analysis": pb.AnalysisConfiguration(scoring_profile_id=MISSING)}, "scoring_profile"),
    ],
)
async def test_what_is_not_there_is_told(
    campaigns: Stub, part: dict[str, Any], resource: str
) -> None:
    made = await create(campaigns, asked())
    phase = pb.PHASE_HTTP_VALIDATION if "http" in part else pb.PHASE_CONTENT_ANALYSIS

    refusal = await refused(configure(campaigns, made, phase, **part))

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")
    assert refusal.metadata == {"resource": resource, "id": MISSING}
    present = await campaigns.GetCampaign(rpc.GetCampaignRequest(campaign_id=made.campaign_id))
    assert present.campaign == made


async def test_rules_of_different_sets_with_one_name_are_refused_once_they_are_known(
    campaigns: Stub, pool: Pool
) -> None:
    sets = [await stored(pool, "keyword_sets", KeywordSet(rules=rules("a"))) for _ in range(2)]
    choice = KeywordChoice(keyword_set_ids=sets)

    refusal = await refused(create(campaigns, asked(pb.HttpConfiguration(keywords=choice))))

    assert refusal.fields == {f"{HTTP}.keywords.keyword_set_ids[1]"}


async def test_networks_are_allowed_by_whoever_started_the_service(pool: Pool) -> None:
    networks = networks_of("127.0.0.0/8, 10.1.0.0/16")
    persona = await stored(pool, "http_personas", HttpSettings(allowed_networks=["10.2.0.0/16"]))
    server = grpc.aio.server(
        interceptors=[CallGuard(rules=rules_of(networks), max_calls=9, max_streams=9)]
    )
    service = CampaignService(
        store=Store(pool, allowed_networks=networks),
        hub=None,  # type: ignore[arg-type]  # nobody watches
        seal=Seal([b"k" * 32]),
        wake=lambda: None,
    )
    add_CampaignServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        campaigns = CampaignServiceStub(channel)
        settings = HttpSettings(allowed_networks=["127.0.0.1/32"])
        made = await create(campaigns, asked(pb.HttpConfiguration(settings=settings)))
        assert made.configuration.http.settings == settings
        refusal = await refused(
            create(campaigns, asked(pb.HttpConfiguration(http_persona_id=persona)))
        )
        assert refusal.fields == {f"{HTTP}.settings.allowed_networks[0]"}
    await server.stop(0)
