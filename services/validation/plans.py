"""Plans from messages: whom a campaign, a persona or a call asks, how, and what."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import dns_settings_pb2 as pb
from services.chassis.dns_settings import (
    DEFAULT_LANE_MAX_DELAY,
    endpoint_of,
    normalise_canary,
    transport_of,
)
from services.chassis.endpoint import parse_endpoint
from services.validation.dns import wire
from services.validation.dns.plan import (
    CANARIES,
    Canary,
    CanaryKind,
    Delegations,
    Examination,
    OpinionPolicy,
    Plan,
)
from services.validation.dns.resolvers import Resolver, Transport, system_resolvers
from services.validation.dns.settings import EngineSettings, Lane, Strategy
from services.validation.dns.verdict import Verdict

_DEFAULTS = EngineSettings()
_REASONS = {
    pb.RetryLane.REASON_TIMEOUT: Verdict.TIMEOUT,
    pb.RetryLane.REASON_SERVFAIL: Verdict.SERVFAIL,
    pb.RetryLane.REASON_REFUSED: Verdict.REFUSED,
    pb.RetryLane.REASON_ERROR: Verdict.ERROR,
}


def plan_of(dns: campaign_pb2.DnsConfiguration) -> Plan:
    """The plan of a campaign; what it leaves open takes the defaults.

    Equal configurations get the same object while it is remembered: a worker asks once per chunk,
    and a thousand resolvers take milliseconds to read.
    """
    system = () if dns.resolvers else _system_of(dns.settings.resolvers)
    return _plan_of(dns.SerializeToString(deterministic=True), system)


def plan_of_settings(settings: pb.DnsSettings, base: EngineSettings = _DEFAULTS) -> Plan:
    """The plan of settings; `base` has what they cannot say, and their defaults."""
    return _planned(settings, _system_of(settings.resolvers), base)


def resolvers_of(texts: Sequence[str]) -> tuple[Resolver, ...]:
    """The resolvers written so; none means those of this machine."""
    return tuple(dict.fromkeys(Resolver.parse(text) for text in texts)) or system_resolvers()


@lru_cache(maxsize=256)
def _plan_of(configuration: bytes, system: tuple[Resolver, ...]) -> Plan:
    dns = campaign_pb2.DnsConfiguration.FromString(configuration)
    settings = dns.settings
    if dns.resolvers:
        del settings.resolvers[:]
        settings.resolvers.extend(pb.DnsResolver(address=text) for text in dns.resolvers)
    if dns.HasField("timeout"):
        settings.timeout.CopyFrom(dns.timeout)
    settings.attempt_limit = dns.attempt_limit or settings.attempt_limit
    settings.window = dns.window or settings.window
    return _planned(settings, system, _DEFAULTS)


def _system_of(resolvers: Iterable[pb.DnsResolver]) -> tuple[Resolver, ...]:
    """The machine's resolvers where they are meant: read anew, for they change with its network."""
    named = False
    for resolver in resolvers:
        if resolver.transport == pb.DNS_TRANSPORT_SYSTEM:
            return system_resolvers()
        named = True
    return () if named else system_resolvers()


def _planned(settings: pb.DnsSettings, system: tuple[Resolver, ...], base: EngineSettings) -> Plan:
    found: dict[str, Resolver] = {}
    for each in settings.resolvers or [pb.DnsResolver(transport=pb.DNS_TRANSPORT_SYSTEM)]:
        for resolver in _resolvers_of(each, system):
            # The machine's may be among the named ones, too.
            found.setdefault(str(resolver), resolver)
    engine = replace(
        base,
        window=settings.window or base.window,
        timeout=_seconds(settings.timeout) or base.timeout,
        tries=settings.attempt_limit or base.tries,
        strategy=Strategy(settings.strategy or base.strategy),
        lanes=tuple(_lanes_of(settings, base)),
        rate_limit=settings.rate_limit,
        in_flight_limit=settings.in_flight_limit,
    )
    return Plan(tuple(found.values()), engine, _examination_of(settings))


def _resolvers_of(resolver: pb.DnsResolver, system: tuple[Resolver, ...]) -> Iterator[Resolver]:
    if resolver.transport == pb.DNS_TRANSPORT_SYSTEM:
        addresses = [(each.host, each.port) for each in system]
        transport = Transport.UDP
    else:
        addresses = [endpoint_of(resolver)]
        transport = Transport(transport_of(resolver))
    for host, port in addresses:
        yield Resolver(
            host,
            port,
            transport,
            url=resolver.url,
            tls_name=resolver.tls_name,
            ca_pem=resolver.ca_pem,
            operated_by=resolver.operator,
            weight=resolver.weight or 1,
            rate_limit=resolver.rate_limit,
            in_flight_limit=resolver.in_flight_limit,
        )


def _lanes_of(settings: pb.DnsSettings, base: EngineSettings) -> Iterator[Lane]:
    tries = settings.attempt_limit or base.tries
    for lane in settings.retry_lanes:
        reason = _REASONS[lane.reason]
        is_mute = reason is Verdict.TIMEOUT
        limit = _seconds(lane.max_delay) if lane.HasField("max_delay") else DEFAULT_LANE_MAX_DELAY
        default = 0.0 if is_mute else min(base.soft_delay, limit)
        yield Lane(
            reason,
            tries=lane.attempt_limit or (tries if is_mute else min(base.soft_tries, tries)),
            delay=_seconds(lane.delay) if lane.HasField("delay") else default,
            max_delay=limit,
        )


def _examination_of(settings: pb.DnsSettings) -> Examination:
    defaults = Examination()
    types = [int(qtype) for qtype in settings.record_types] or [wire.A]
    # The first one decides about the name: an address.
    qtypes = [qtype for qtype in (wire.A, wire.AAAA) if qtype in types]
    qtypes += [qtype for qtype in types if qtype not in qtypes]
    canaries = tuple(
        Canary(CanaryKind(canary.kind), normalise_canary(canary.name))
        for canary in settings.canaries
    )
    return Examination(
        qtypes=tuple(qtypes),
        opinion=OpinionPolicy(settings.second_opinion.policy),
        positive_percent=settings.second_opinion.positive_percent or defaults.positive_percent,
        wildcards=not settings.wildcard_detection.disabled,
        wildcard_probes=settings.wildcard_detection.probe_limit or defaults.wildcard_probes,
        delegations=_delegations_of(settings.authority),
        canaries=() if settings.canaries_disabled else canaries or CANARIES,
        canary_period=_seconds(settings.canary_period) or defaults.canary_period,
    )


def _delegations_of(authority: pb.AuthoritySettings) -> Delegations | None:
    if authority.disabled:
        return None
    defaults = Delegations()
    return Delegations(
        tuple(parse_endpoint(text, default_port=53) for text in authority.root_servers)
        or defaults.root_servers,
        authority.port or defaults.port,
    )


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
