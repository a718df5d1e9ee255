"""DnsSettings as a caller may give them: what the contract's own rules cannot say, and how a
resolver is read and written.

Campaigns copy settings and validation carries them out: both have to mean the same by them.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from cryptography.x509 import load_pem_x509_certificates
from google.protobuf.duration_pb2 import Duration

from domainflow.validation.v1 import dns_pb2
from domainflow.validation.v1 import dns_settings_pb2 as pb
from services.chassis.domain_name import NotADomainName, explain_label, normalise
from services.chassis.endpoint import BadEndpoint, operator_of, parse_endpoint, written
from services.chassis.errors import FieldViolation

MAX_RESOLVERS = 1000
# Of DnsSettings and RetryLane, seconds.
DEFAULT_LANE_MAX_DELAY = 1.0

_HTTPS = {pb.DNS_TRANSPORT_HTTPS, pb.DNS_TRANSPORT_HTTPS_JSON}
_ENCRYPTED = {pb.DNS_TRANSPORT_TLS, *_HTTPS}
_PORTS = {
    pb.DNS_TRANSPORT_TLS: 853,
    pb.DNS_TRANSPORT_HTTPS: 443,
    pb.DNS_TRANSPORT_HTTPS_JSON: 443,
}
_SCHEMES = {pb.DNS_TRANSPORT_TCP: "tcp://", pb.DNS_TRANSPORT_TLS: "tls://"}
_ADDRESS_TYPES = {dns_pb2.RECORD_TYPE_A, dns_pb2.RECORD_TYPE_AAAA}
# What every opinion but NONE, and the one that the suite chooses, needs.
_OPERATORS_NEEDED = 2
_SYSTEM = "the machine's"
# Printable ASCII: what urlsplit would drop in silence must not pass.
_URL = re.compile(r"[!-~]+\Z")


def transport_of(resolver: pb.DnsResolver) -> int:
    """The transport, the default where it is left open."""
    return resolver.transport or pb.DNS_TRANSPORT_UDP


def endpoint_of(resolver: pb.DnsResolver) -> tuple[str, int]:
    """Where to connect. Raises BadEndpoint, for SYSTEM too."""
    return parse_endpoint(resolver.address, default_port=_PORTS.get(resolver.transport, 53))


def label_of(resolver: pb.DnsResolver) -> str | None:
    """The resolver as results and reports call it; None for one that depends on the machine.

    Raises BadEndpoint.
    """
    if resolver.transport == pb.DNS_TRANSPORT_SYSTEM:
        return None
    where = written(*endpoint_of(resolver))
    if resolver.url:
        return f"{resolver.url}#{where}"
    return _SCHEMES.get(resolver.transport, "") + where


def normalise_canary(name: str) -> str:
    """The name of a canary as it is asked for; "*" may be its first label.

    Raises NotADomainName.
    """
    if name.startswith("*."):
        return "*" + normalise("x" + name[1:])[1:]
    return normalise(name)


def check_settings(
    settings: pb.DnsSettings,
    path: str,
    *,
    resolvers: Sequence[str] = (),
) -> Iterator[FieldViolation]:
    """What is wrong with settings that stand at `path`. Bears what breaks the contract's rules.

    `resolvers`, where there are any, take the place of those in the settings.
    """
    for index, resolver in enumerate(settings.resolvers[:MAX_RESOLVERS]):
        yield from _check_resolver(resolver, f"{path}.resolvers[{index}]")
    yield from _check_repeated(settings, path)
    types = settings.record_types
    if types and not _ADDRESS_TYPES.intersection(types):
        yield FieldViolation(f"{path}.record_types", "need A or AAAA among them")
    yield from _check_opinion(settings, path, resolvers)
    yield from _check_lanes(settings, path)
    for index, text in enumerate(settings.authority.root_servers):
        try:
            parse_endpoint(text, default_port=53)
        except BadEndpoint as problem:
            yield FieldViolation(f"{path}.authority.root_servers[{index}]", str(problem))
    yield from _check_canaries(settings, path)


def is_pem(text: str) -> bool:
    """Whether it holds certificates that can be read."""
    try:
        return bool(load_pem_x509_certificates(text.encode()))
    except ValueError:
        return False


def seconds(duration: Duration) -> float:
    """Seconds of a duration, also of one that is longer than the contract admits."""
    return duration.seconds + duration.nanos / 1e9


def _check_resolver(resolver: pb.DnsResolver, path: str) -> Iterator[FieldViolation]:
    transport = transport_of(resolver)
    if transport == pb.DNS_TRANSPORT_SYSTEM:
        if resolver.address:
            yield FieldViolation(f"{path}.address", "has to be empty: the machine knows it")
    else:
        try:
            endpoint_of(resolver)
        except BadEndpoint as problem:
            description = str(problem) if resolver.address else "is required"
            yield FieldViolation(f"{path}.address", description)
    if transport in _HTTPS:
        if problem_with_url := _problem_with_url(resolver.url):
            yield FieldViolation(f"{path}.url", problem_with_url)
    elif resolver.url:
        yield FieldViolation(f"{path}.url", "is for HTTPS and HTTPS_JSON only")
    if resolver.tls_name:
        if transport not in _ENCRYPTED:
            yield FieldViolation(f"{path}.tls_name", "is for TLS and HTTPS only")
        elif not _is_host(resolver.tls_name):
            yield FieldViolation(f"{path}.tls_name", "is neither a host name nor an address")
    if resolver.ca_pem:
        if transport not in _ENCRYPTED:
            yield FieldViolation(f"{path}.ca_pem", "is for TLS and HTTPS only")
        elif not is_pem(resolver.ca_pem):
            yield FieldViolation(f"{path}.ca_pem", "holds no certificates in PEM that can be read")
    if "\0" in resolver.operator:
        yield FieldViolation(f"{path}.operator", "has a NUL character")


def _problem_with_url(url: str) -> str:
    """What is wrong with the address of a DNS server over HTTPS; empty when nothing is."""
    if not url:
        return "is required"
    if not _URL.match(url):
        return "has characters other than printable ASCII"
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as problem:
        return f"is no URL: {problem}"
    if parts.scheme != "https":
        return "does not begin with https://"
    if not _is_host(host) or port == 0:
        return "has no host that is a name or an address"
    if not parts.path.strip("/"):
        return "has no path, such as /dns-query"
    if "@" in parts.netloc or "?" in url or "#" in url or "{" in url:
        return "has more than host, port and path"
    return ""


def _is_host(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        name = text.lower().removesuffix(".")
        return len(name) <= 253 and not any(explain_label(each) for each in name.split("."))
    return True


def _check_repeated(settings: pb.DnsSettings, path: str) -> Iterator[FieldViolation]:
    seen: dict[str | None, int] = {}
    for index, resolver in enumerate(settings.resolvers[:MAX_RESOLVERS]):
        try:
            first = seen.setdefault(label_of(resolver), index)
        except BadEndpoint:
            continue
        if first != index:
            yield FieldViolation(f"{path}.resolvers[{index}]", f"is the same as resolvers[{first}]")


def _check_opinion(
    settings: pb.DnsSettings, path: str, resolvers: Sequence[str]
) -> Iterator[FieldViolation]:
    policy = settings.second_opinion.policy
    if policy <= pb.SecondOpinion.POLICY_NONE:
        return
    operators = set(_operators(settings, resolvers))
    if len(operators) < _OPERATORS_NEEDED:
        yield FieldViolation(
            f"{path}.second_opinion.policy",
            "needs resolvers of two operators; "
            + (f"these are all of one, {operators.pop()}" if operators else "none is known"),
        )


def _operators(settings: pb.DnsSettings, resolvers: Sequence[str]) -> Iterator[str]:
    """Who operates the resolvers, as far as it can be told before anybody is asked: those of the
    machine, whichever they are, count as one."""
    given = [pb.DnsResolver(address=text) for text in resolvers] or settings.resolvers
    for resolver in given:
        if resolver.operator:
            yield resolver.operator
        elif resolver.transport == pb.DNS_TRANSPORT_SYSTEM:
            yield _SYSTEM
        else:
            try:
                yield operator_of(endpoint_of(resolver)[0])
            except BadEndpoint:
                continue


def _check_lanes(settings: pb.DnsSettings, path: str) -> Iterator[FieldViolation]:
    seen: dict[int, int] = {}
    for index, lane in enumerate(settings.retry_lanes):
        at = f"{path}.retry_lanes[{index}]"
        first = seen.setdefault(lane.reason, index)
        if first != index:
            yield FieldViolation(f"{at}.reason", f"is that of retry_lanes[{first}] already")
        limit = seconds(lane.max_delay) if lane.HasField("max_delay") else DEFAULT_LANE_MAX_DELAY
        if seconds(lane.delay) > limit:
            yield FieldViolation(f"{at}.delay", f"is more than max_delay, {limit:g} s")


def _check_canaries(settings: pb.DnsSettings, path: str) -> Iterator[FieldViolation]:
    seen: dict[tuple[int, str], int] = {}
    for index, canary in enumerate(settings.canaries):
        at = f"{path}.canaries[{index}]"
        try:
            name = normalise_canary(canary.name)
        except NotADomainName as problem:
            yield FieldViolation(f"{at}.name", str(problem))
            continue
        first = seen.setdefault((canary.kind, name), index)
        if first != index:
            yield FieldViolation(at, f"is the same as canaries[{first}]")
