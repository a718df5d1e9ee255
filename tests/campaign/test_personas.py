"""Campaigns take a persona's settings once: later changes of it change no campaign."""

from uuid import UUID, uuid4

import pytest

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1.campaign_service_pb2 import (
    ConfigurePhaseRequest,
    CreateCampaignRequest,
    DuplicateCampaignRequest,
    GetCampaignRequest,
)
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub
from domainflow.validation.v1.dns_settings_pb2 import DnsResolver, DnsSettings, SecondOpinion
from services.chassis.postgres import Pool
from tests.campaigns import from_pattern
from tests.refusals import refused

Stub = CampaignServiceStub
SETTINGS = DnsSettings(resolvers=[DnsResolver(address="192.0.2.1", weight=3)], attempt_limit=2)


@pytest.fixture
async def persona(pool: Pool) -> str:
    return await store_persona(pool, SETTINGS)


async def store_persona(pool: Pool, settings: DnsSettings) -> str:
    """As the validation service would."""
    persona_id = uuid4()
    await pool.execute(
        "INSERT INTO dns_personas (id, name, description, settings) VALUES ($1, $2, '', $3)",
        persona_id,
        str(persona_id),
        settings.SerializeToString(),
    )
    return str(persona_id)


async def create(campaigns: Stub, dns: pb.DnsConfiguration) -> pb.Campaign:
    request = CreateCampaignRequest(name="test", configuration=from_pattern(dns=dns))
    return (await campaigns.CreateCampaign(request)).campaign


async def test_a_campaign_keeps_the_settings_its_persona_had(
    campaigns: Stub, pool: Pool, persona: str
) -> None:
    made = await create(campaigns, pb.DnsConfiguration(dns_persona_id=persona, window=7))
    await pool.execute("DELETE FROM dns_personas")

    answer = await campaigns.GetCampaign(GetCampaignRequest(campaign_id=made.campaign_id))

    assert answer.campaign == made
    assert made.configuration.dns == pb.DnsConfiguration(
        dns_persona_id=persona, settings=SETTINGS, window=7
    )


async def test_a_phase_is_configured_with_a_persona(campaigns: Stub, persona: str) -> None:
    made = await create(campaigns, pb.DnsConfiguration())
    dns = pb.DnsConfiguration(dns_persona_id=persona)
    request = ConfigurePhaseRequest(
        campaign_id=made.campaign_id,
        phase=pb.PHASE_DNS_VALIDATION,
        configuration=pb.CampaignConfiguration(dns=dns),
    )

    configured = (await campaigns.ConfigurePhase(request)).campaign

    assert configured.configuration.dns.settings == SETTINGS
    assert configured.configuration.dns.dns_persona_id == persona


async def test_a_copy_has_the_settings_of_its_original(
    campaigns: Stub, pool: Pool, persona: str
) -> None:
    made = await create(campaigns, pb.DnsConfiguration(dns_persona_id=persona))
    await pool.execute("UPDATE dns_personas SET settings = ''")

    request = DuplicateCampaignRequest(campaign_id=made.campaign_id)
    copy = (await campaigns.DuplicateCampaign(request)).campaign

    assert copy.configuration.dns == made.configuration.dns


async def test_configuring_another_phase_leaves_the_settings(
    campaigns: Stub, pool: Pool, persona: str
) -> None:
    made = await create(campaigns, pb.DnsConfiguration(dns_persona_id=persona))
    await pool.execute("DELETE FROM dns_personas")
    generation = from_pattern(length=1).generation
    request = ConfigurePhaseRequest(
        campaign_id=made.campaign_id,
        phase=pb.PHASE_DOMAIN_GENERATION,
        configuration=pb.CampaignConfiguration(generation=generation),
    )

    configured = (await campaigns.ConfigurePhase(request)).campaign

    assert configured.configuration.dns == made.configuration.dns


async def test_a_persona_that_is_not_there_is_told_and_nothing_is_created(
    campaigns: Stub, pool: Pool
) -> None:
    unknown = str(UUID(int=1))

    refusal = await refused(create(campaigns, pb.DnsConfiguration(dns_persona_id=unknown)))

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "DNS_PERSONA_NOT_FOUND")
    assert refusal.metadata == {"dns_persona_id": unknown}
    assert await pool.fetchval("SELECT count(*) FROM campaigns") == 0


async def test_settings_are_checked_field_by_field(campaigns: Stub) -> None:
    dns = pb.DnsConfiguration(
        dns_persona_id=str(uuid4()),
        settings=DnsSettings(resolvers=[DnsResolver(address="x", weight=-1)], window=10_001),
    )

    refusal = await refused(create(campaigns, dns))

    assert refusal.fields == {
        "configuration.dns.dns_persona_id",
        "configuration.dns.settings.resolvers[0].address",
        "configuration.dns.settings.resolvers[0].weight",
        "configuration.dns.settings.window",
    }


async def test_what_does_not_go_with_a_persona_is_refused_once_it_is_known(
    campaigns: Stub, pool: Pool
) -> None:
    settings = DnsSettings(
        resolvers=[DnsResolver(address="192.0.2.1"), DnsResolver(address="192.0.3.1")],
        second_opinion=SecondOpinion(policy=SecondOpinion.POLICY_ALL),
    )
    persona = await store_persona(pool, settings)

    alone = pb.DnsConfiguration(dns_persona_id=persona, resolvers=["192.0.2.1"])
    refusal = await refused(create(campaigns, alone))

    assert refusal.fields == {"configuration.dns.settings.second_opinion.policy"}
    assert await pool.fetchval("SELECT count(*) FROM campaigns") == 0
