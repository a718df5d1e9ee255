"""What an HTTP persona says: who asks, how, how patiently and within which limits; and how a caller
may say it.

Campaigns copy settings and validation carries them out: both have to mean the same by them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from domainflow.validation.v1 import http_settings_pb2 as pb
from services.chassis.dns_settings import is_pem, seconds
from services.chassis.errors import FieldViolation

Network = IPv4Network | IPv6Network

# Who to write to about these requests. Installations set their own.
DEFAULT_CONTACT = "https://domainflow.example/bot"
PRODUCT = "domainflow"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?\Z")
_LANGUAGES = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*,;=. -]*\Z")
# Framing, routing and what has a setting of its own.
_RESERVED_HEADERS = frozenset(
    (
        "accept-encoding",
        "accept-language",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    )
)


# Of an HttpRetryLane that leaves them out: attempts, seconds before the first repetition, at most.
LANE_DEFAULTS: dict[int, tuple[int, float, float]] = {
    pb.HttpRetryLane.REASON_RATE_LIMITED: (4, 30.0, 900.0),
    pb.HttpRetryLane.REASON_TIMEOUT: (2, 60.0, 600.0),
    pb.HttpRetryLane.REASON_TLS: (2, 60.0, 600.0),
    pb.HttpRetryLane.REASON_RESET: (3, 20.0, 600.0),
    pb.HttpRetryLane.REASON_SERVER_ERROR: (2, 60.0, 600.0),
}
# Where the message calls a field of HttpSettings otherwise.
_PROTO_NAMES = {
    "max_redirects": "redirect_limit",
    "enforce_certificates": "certificates_enforced",
    "host_concurrency": "host_in_flight_limit",
    "address_concurrency": "address_in_flight_limit",
    "host_rate": "host_rate_limit",
    "address_rate": "address_rate_limit",
}


class TlsVersion(IntEnum):
    """Versions a persona may ask for at least; the numbers are those on the wire (RFC 8446)."""

    TLS_1_0 = 0x0301
    TLS_1_1 = 0x0302
    TLS_1_2 = 0x0303
    TLS_1_3 = 0x0304


_TLS_VERSIONS: dict[int, TlsVersion] = {
    pb.TLS_VERSION_1_0: TlsVersion.TLS_1_0,
    pb.TLS_VERSION_1_1: TlsVersion.TLS_1_1,
    pb.TLS_VERSION_1_2: TlsVersion.TLS_1_2,
    pb.TLS_VERSION_1_3: TlsVersion.TLS_1_3,
}


class BadSettings(ValueError):
    """Settings out of their limits. `problems`: field -> what is wrong with it, for every one."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name} {problem}" for name, problem in problems.items()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How pages are asked for. Raises BadSettings."""

    # Who asks: product, version, and where to complain. At most 500 visible characters. Honest by
    # default; the product (before the first "/") is also the name that robots.txt is read for.
    user_agent: str = f"{PRODUCT}/0.1 (+{DEFAULT_CONTACT})"
    # Other headers of every request, at most 50; none of framing, cookies or the fields below.
    headers: tuple[tuple[str, str], ...] = (
        ("Accept", "text/html,application/xhtml+xml,text/plain;q=0.9,*/*;q=0.1"),
    )
    # Accept-Language; empty: not sent. Pages in other languages than one's own are evidence too.
    accept_language: str = "en,*;q=0.5"
    # Asked in this order until one answers in HTTP: "https", "http".
    schemes: tuple[str, ...] = ("https", "http")
    # Asked in this order, 1-10 of each scheme. Redirects may lead to these only.
    https_ports: tuple[int, ...] = (443,)
    http_ports: tuple[int, ...] = (80,)
    # Redirects followed (301, 302, 303, 307, 308), 0-20. Ten, as Let's Encrypt; browsers take 20.
    max_redirects: int = 10
    # Statuses whose page is read, 100-599; others give their own verdict and no page.
    allowed_statuses: frozenset[int] = frozenset(range(200, 300))
    # The lowest version spoken. RFC 8996 forbids those below 1.2.
    tls_floor: TlsVersion = TlsVersion.TLS_1_2
    # Whether a certificate that is not valid ends the fetch. By default that is only recorded:
    # the page behind it is looked at, nothing is entrusted to it.
    enforce_certificates: bool = False
    # Seconds. To a connection with TLS, per host asked: 0.05-60.
    connect_timeout: float = 5.0
    # From then to the end of the response's headers: 0.05-120.
    first_byte_timeout: float = 10.0
    # Of the whole fetch with both schemes, redirects and robots.txt; waiting for one's turn at a
    # busy host does not count. 0.1-300, and no less than either of the two.
    total_timeout: float = 20.0
    # Decoded bytes of a page that are read, 1,024-16,777,216. Nine front pages in ten are smaller
    # than 256 KiB, what a page is about stands at its beginning, and a thousand pages at once stay
    # at 256 MiB.
    body_limit: int = 256 * 1024
    # Bytes of a response's headers, 1,024-262,144.
    header_limit: int = 64 * 1024
    # Whether cookies set by a redirect are sent along it; they never outlive the fetch.
    cookies: bool = True
    # Whether a connection is kept for the next request to the same host.
    keep_alive: bool = True
    # Whether robots.txt (RFC 9309) is asked for and obeyed.
    respect_robots: bool = True
    # Requests at once to one host name, 1-1,000, and to one address that may serve many names.
    host_concurrency: int = 4
    address_concurrency: int = 32
    # Requests a second to one host name, and to one address, up to 10,000; 0: no limit.
    host_rate: float = 0.0
    address_rate: float = 0.0
    # The product of the user agent, lower case: derived.
    robots_token: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise BadSettings(problems)
        token = re.split(r"[/\s]", self.user_agent, maxsplit=1)[0].lower()
        object.__setattr__(self, "robots_token", token)

    @property
    def ports(self) -> frozenset[int]:
        """All ports that may be connected to."""
        return frozenset(self.https_ports + self.http_ports)

    def ports_of(self, scheme: str) -> tuple[int, ...]:
        return self.https_ports if scheme == "https" else self.http_ports


_LIMITS: dict[str, tuple[float, float]] = {
    "max_redirects": (0, 20),
    "connect_timeout": (0.05, 60),
    "first_byte_timeout": (0.05, 120),
    "total_timeout": (0.1, 300),
    "body_limit": (1024, 16 * 1024 * 1024),
    "header_limit": (1024, 256 * 1024),
    "host_concurrency": (1, 1000),
    "address_concurrency": (1, 1000),
    "host_rate": (0, 10_000),
    "address_rate": (0, 10_000),
}


def _problems(settings: HttpSettings) -> dict[str, str]:
    problems: dict[str, str] = {}
    for name, (low, high) in _LIMITS.items():
        value = getattr(settings, name)
        # Not "<" or ">": NaN is in no range.
        if not low <= value <= high:
            problems[name] = f"is {value}, not in {low:g}-{high:g}"
    longest = max(settings.connect_timeout, settings.first_byte_timeout)
    clocks = {"connect_timeout", "first_byte_timeout", "total_timeout"}
    if clocks.isdisjoint(problems) and settings.total_timeout < longest:
        problems["total_timeout"] = f"is {settings.total_timeout:g}, less than another clock"
    agent = settings.user_agent
    if not agent or len(agent) > 500 or not _VALUE.match(agent):
        problems["user_agent"] = "is not 1-500 visible ASCII characters"
    languages = settings.accept_language
    if languages and (len(languages) > 200 or not _LANGUAGES.match(languages)):
        problems["accept_language"] = "is no list of languages of at most 200 characters"
    schemes = settings.schemes
    if not schemes or len(set(schemes)) < len(schemes) or not {"https", "http"}.issuperset(schemes):
        problems["schemes"] = 'is not made of "https" and "http", each at most once'
    for name in ("https_ports", "http_ports"):
        ports = getattr(settings, name)
        if not 1 <= len(ports) <= 10 or len(set(ports)) < len(ports):
            problems[name] = "has not 1-10 different ports"
        elif bad := [port for port in ports if not 1 <= port <= 65535]:
            problems[name] = f"has {bad[0]}, not in 1-65535"
    if not settings.allowed_statuses or not all(
        100 <= status <= 599 for status in settings.allowed_statuses
    ):
        problems["allowed_statuses"] = "is empty or has one not in 100-599"
    if problem := _header_problem(settings.headers):
        problems["headers"] = problem
    if settings.tls_floor not in tuple(TlsVersion):
        problems["tls_floor"] = f"is {settings.tls_floor}, no version of TLS"
    return problems


def _header_problem(headers: tuple[tuple[str, str], ...]) -> str:
    if len(headers) > 50:
        return f"has {len(headers)}, more than 50"
    for name, value in headers:
        if not _TOKEN.match(name):
            return f"has {name[:40]!r}, which is no name of a header"
        if name.lower() in _RESERVED_HEADERS:
            return f"has {name!r}, which is not free to set"
        if value and (len(value) > 2000 or not _VALUE.match(value)):
            return f"has a value of {name!r} that is not up to 2000 visible ASCII characters"
    return ""


FIELDS = tuple(f.name for f in fields(HttpSettings) if f.init)


def http_settings_of(settings: pb.HttpSettings) -> HttpSettings:
    """The settings of a message; what it leaves open takes the defaults. Raises BadSettings."""
    given: dict[str, Any] = {
        "user_agent": settings.user_agent,
        "accept_language": settings.accept_language,
        "schemes": tuple(settings.schemes),
        "https_ports": tuple(settings.https_ports),
        "http_ports": tuple(settings.http_ports),
        "allowed_statuses": frozenset(settings.allowed_statuses),
        "connect_timeout": seconds(settings.connect_timeout),
        "first_byte_timeout": seconds(settings.first_byte_timeout),
        "total_timeout": seconds(settings.total_timeout),
        "body_limit": settings.body_limit,
        "header_limit": settings.header_limit,
        "host_concurrency": settings.host_in_flight_limit,
        "address_concurrency": settings.address_in_flight_limit,
    }
    given = {name: value for name, value in given.items() if value}
    if settings.accept_language == "-":
        given["accept_language"] = ""
    if settings.headers:
        given["headers"] = tuple((it.name, it.value) for it in settings.headers if it.value)
    if settings.HasField("redirect_limit"):
        given["max_redirects"] = settings.redirect_limit
    if settings.tls_floor:
        # One of a later version is refused as what it is.
        given["tls_floor"] = _TLS_VERSIONS.get(settings.tls_floor, settings.tls_floor)
    return HttpSettings(
        enforce_certificates=settings.certificates_enforced,
        cookies=not settings.cookies_disabled,
        keep_alive=not settings.keep_alive_disabled,
        respect_robots=not settings.robots_ignored,
        host_rate=settings.host_rate_limit,
        address_rate=settings.address_rate_limit,
        **given,
    )


def lane_of(lane: pb.HttpRetryLane) -> tuple[int, float, float]:
    """Attempts, seconds before the first repetition and at most, with the defaults of its reason.

    Bears a reason of a later version.
    """
    tries, delay, max_delay = LANE_DEFAULTS.get(lane.reason, (1, 0.0, 0.0))
    return (
        lane.attempt_limit or tries,
        seconds(lane.delay) if lane.HasField("delay") else delay,
        seconds(lane.max_delay) if lane.HasField("max_delay") else max_delay,
    )


def check_http_settings(
    settings: pb.HttpSettings, path: str, allowed: Sequence[Network] | None = None
) -> Iterator[FieldViolation]:
    """What is wrong with settings that stand at `path`. Bears what breaks the contract's rules.

    `allowed`: networks that the service was started to allow (HTTP_ALLOWED_NETWORKS); None: that is
    checked elsewhere.
    """
    try:
        http_settings_of(settings)
    except BadSettings as bad:
        for name, problem in bad.problems.items():
            if name != "headers":
                yield FieldViolation(f"{path}.{_PROTO_NAMES.get(name, name)}", problem)
    for index, header in enumerate(settings.headers):
        if problem := _header_problem(((header.name, header.value),)):
            yield FieldViolation(f"{path}.headers[{index}]", problem)
    yield from _check_lanes(settings, path)
    for index, text in enumerate(settings.allowed_networks):
        if problem := _network_problem(text, allowed):
            yield FieldViolation(f"{path}.allowed_networks[{index}]", problem)
    if settings.ca_pem and not is_pem(settings.ca_pem):
        yield FieldViolation(f"{path}.ca_pem", "holds no certificates in PEM that can be read")


def networks_of(text: str) -> tuple[Network, ...]:
    """Networks of an environment variable such as HTTP_ALLOWED_NETWORKS, comma-separated; empty:
    none. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_within(network: Network, others: Sequence[Network]) -> bool:
    """Whether one of the others has every address of the network."""
    return any(
        network.version == other.version
        and int(other.network_address) <= int(network.network_address)
        and int(network.broadcast_address) <= int(other.broadcast_address)
        for other in others
    )


def _check_lanes(settings: pb.HttpSettings, path: str) -> Iterator[FieldViolation]:
    seen: dict[int, int] = {}
    for index, lane in enumerate(settings.retry_lanes):
        at = f"{path}.retry_lanes[{index}]"
        first = seen.setdefault(lane.reason, index)
        if first != index:
            yield FieldViolation(f"{at}.reason", f"is that of retry_lanes[{first}] already")
        _, delay, max_delay = lane_of(lane)
        if delay > max_delay:
            field = "delay" if lane.HasField("delay") else "max_delay"
            problem = f"delay is {delay:g} s, more than max_delay, {max_delay:g} s"
            yield FieldViolation(f"{at}.{field}", problem)


def _network_problem(text: str, allowed: Sequence[Network] | None) -> str:
    try:
        network = ip_network(text)
    except ValueError as problem:
        return f"is no network: {problem}"
    if allowed is not None and not is_within(network, allowed):
        return f"{network} is not within a network that the service was started to allow"
    return ""
