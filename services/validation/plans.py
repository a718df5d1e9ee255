"""Plans from messages: whom a campaign, a persona or a call asks, how, and what."""

from collections.abc import Sequence

from domainflow.campaign.v1 import campaign_pb2
from services.validation.dns.plan import Plan
from services.validation.dns.resolvers import Resolver, system_resolvers
from services.validation.dns.settings import EngineSettings


def plan_of(dns: campaign_pb2.DnsConfiguration) -> Plan:
    """The plan of a campaign; what it leaves open takes the defaults."""
    defaults = EngineSettings()
    settings = EngineSettings(
        window=dns.window or defaults.window,
        timeout=dns.timeout.ToTimedelta().total_seconds() or defaults.timeout,
        tries=dns.attempt_limit or defaults.tries,
    )
    return Plan(resolvers_of(dns.resolvers), settings)


def resolvers_of(texts: Sequence[str]) -> tuple[Resolver, ...]:
    """The resolvers written so; none means those of this machine."""
    return tuple(Resolver.parse(text) for text in texts) or system_resolvers()
