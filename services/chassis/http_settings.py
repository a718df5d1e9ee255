"""What an HTTP persona says: who asks, how, how patiently and within which limits. Pure."""

import re
from dataclasses import dataclass, field, fields
from enum import IntEnum

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


class TlsVersion(IntEnum):
    """Versions a persona may ask for at least; the numbers are those on the wire (RFC 8446)."""

    TLS_1_0 = 0x0301
    TLS_1_1 = 0x0302
    TLS_1_2 = 0x0303
    TLS_1_3 = 0x0304


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
