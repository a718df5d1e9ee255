"""What is stored under a name, as campaigns take it: copied, or its version noted, once, so that a
later change of it changes no campaign.

It is written by the validation service; here it is only read.
"""

import asyncio
from collections.abc import Iterable, Sequence
from uuid import UUID

import asyncpg

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import dns_settings_pb2, http_settings_pb2, keyword_pb2, scoring_pb2
from services.campaign.configuration import check_dns, check_http
from services.chassis.errors import (
    DnsPersonaNotFound,
    FieldViolation,
    InvalidFields,
    ResourceNotFound,
)
from services.chassis.http_settings import Network
from services.chassis.matching.choice import compile_choice
from services.chassis.postgres import Connection

_KEYWORDS = "configuration.http.keywords"


async def with_named(
    connection: Connection, configuration: bytes, allowed: Sequence[Network] | None
) -> bytes:
    """A configuration, or a part of one, as a caller gives it, with what its parts name: settings
    of personas and profiles, versions of keyword sets. What only the suite writes is dropped first.

    Ten thousand rules take a second to compile: nothing that others wait for may be locked.
    `allowed`: networks that HTTP settings may name. Raises DnsPersonaNotFound, ResourceNotFound,
    and InvalidFields where what is stored does not go with what is given beside it.
    """
    message = campaign_pb2.CampaignConfiguration.FromString(configuration)
    if message.HasField("dns"):
        await _take_dns_persona(connection, message.dns)
    if message.HasField("http"):
        await _take_http_persona(connection, message.http, allowed)
        await _take_keyword_sets(connection, message.http)
    if message.HasField("analysis"):
        await _take_scoring_profile(connection, message.analysis)
    return message.SerializeToString()


async def _take_dns_persona(connection: Connection, dns: campaign_pb2.DnsConfiguration) -> None:
    if not dns.dns_persona_id:
        return
    settings = await connection.fetchval(
        "SELECT settings FROM dns_personas WHERE id = $1", UUID(dns.dns_persona_id)
    )
    if settings is None:
        raise DnsPersonaNotFound(dns.dns_persona_id)
    dns.settings.CopyFrom(dns_settings_pb2.DnsSettings.FromString(settings))
    _require_none(check_dns(dns, "configuration.dns"))


async def _take_http_persona(
    connection: Connection,
    http: campaign_pb2.HttpConfiguration,
    allowed: Sequence[Network] | None,
) -> None:
    if http.http_persona_id:
        row = await _named(connection, "http_persona", http.http_persona_id)
        http.settings.CopyFrom(http_settings_pb2.HttpSettings.FromString(row["body"]))
        # Saved by a service that may have been started to allow other networks.
        _require_none(check_http(http, "configuration.http", allowed))
    if http.settings.proxy_pool_id:
        await _named(connection, "proxy_pool", http.settings.proxy_pool_id)


async def _take_keyword_sets(connection: Connection, http: campaign_pb2.HttpConfiguration) -> None:
    """Note the present versions of the sets, and see that all rules together can be looked for."""
    http.ClearField("keyword_set_versions")
    choice = http.keywords
    sets = []
    for set_id in choice.keyword_set_ids:
        row = await _named(connection, "keyword_set", set_id)
        sets.append(keyword_pb2.KeywordSet.FromString(row["body"]))
        http.keyword_set_versions.add(keyword_set_id=set_id, version=row["version"])
    if sets or choice.rules or choice.keywords:
        await asyncio.to_thread(compile_choice, choice, sets, _KEYWORDS)


async def _take_scoring_profile(
    connection: Connection, analysis: campaign_pb2.AnalysisConfiguration
) -> None:
    analysis.ClearField("scoring_profile_version")
    if analysis.scoring_profile_id:
        row = await _named(connection, "scoring_profile", analysis.scoring_profile_id)
        analysis.settings.CopyFrom(scoring_pb2.ScoringSettings.FromString(row["body"]))
        analysis.scoring_profile_version = row["version"]


async def _named(connection: Connection, resource: str, resource_id: str) -> asyncpg.Record:
    """Body and version of what is stored under an id, in a table that is called as many of them."""
    row = await connection.fetchrow(
        f"SELECT body, version FROM {resource}s WHERE id = $1", UUID(resource_id)
    )
    if row is None:
        raise ResourceNotFound(resource, resource_id)
    return row


def _require_none(violations: Iterable[FieldViolation]) -> None:
    if found := tuple(violations):
        raise InvalidFields(found)
