"""Personas as campaigns take them: copied once, so that a later change of one changes no campaign.

They are written by the validation service; here they are only read.
"""

from uuid import UUID

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import dns_settings_pb2
from services.campaign.configuration import check_dns
from services.chassis.errors import DnsPersonaNotFound, InvalidFields
from services.chassis.postgres import Connection


async def with_persona(connection: Connection, configuration: bytes) -> bytes:
    """The configuration with the settings of the persona that it names, unless it has them.

    Raises DnsPersonaNotFound, and InvalidFields where the settings do not go with what is given
    beside them.
    """
    message = campaign_pb2.CampaignConfiguration.FromString(configuration)
    dns = message.dns
    if not dns.dns_persona_id or dns.HasField("settings"):
        return configuration
    settings = await connection.fetchval(
        "SELECT settings FROM dns_personas WHERE id = $1", UUID(dns.dns_persona_id)
    )
    if settings is None:
        raise DnsPersonaNotFound(dns.dns_persona_id)
    dns.settings.CopyFrom(dns_settings_pb2.DnsSettings.FromString(settings))
    if violations := tuple(check_dns(dns, "configuration.dns")):
        raise InvalidFields(violations)
    return message.SerializeToString()
