"""What the web server of every name in the sandbox does: again a keyed hash, known in O(1).

Pure. Only names that have IPv4 addresses have a web server; `truth.py` says which these are.

- Both ports of a name, for TLS and for plain HTTP, come to the same end in whatever order they are
  tried, except those that say so (PLAIN_ONLY, HTTPS_ONLY) and except certificates: a name whose
  certificate is wrong sends whoever asks in plain to TLS.
- All names below one wildcard are one site: the same behaviour and, but for their name, the same
  page. Names that exist because their top-level domain is a wildcard are parked.
- "www." of a name that is MOVED_TO_WWW is that name's page, whatever its own hash says.
- A page that is cut short has its keywords in the first 4 KB, and no contacts.
"""

from bisect import bisect_right
from dataclasses import dataclass, fields
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

from .truth import TLD_WILDCARDS, WILDCARD, Mix, World, hash_bounds
from .web_content import TEMPLATES, Page, own_page, shared_page, template_page
from .web_text import DEFAULT_PAGES, FOR_SALE, LOGIN, PARKED, SOFT_404, UNDER_CONSTRUCTION


class Web(IntEnum):
    """What comes of asking for a name's page."""

    # A page of the name's own. All from LIMITED_AT_FIRST on that have a page have such a one.
    PAGE = 0
    PARKED = 1
    FOR_SALE = 2
    UNDER_CONSTRUCTION = 3
    LOGIN = 4
    # Status 200, and text that says there is nothing.
    SOFT_404 = 5
    # The page of many names.
    TEMPLATE = 6
    NOT_FOUND = 7
    GONE = 8
    UNAUTHORIZED = 9
    FORBIDDEN = 10
    # Status 429 for ever.
    RATE_LIMITED = 11
    # 429 with Retry-After, and a page for whoever comes after that.
    LIMITED_AT_FIRST = 12
    LEGAL_REASONS = 13
    SERVER_ERROR = 14
    # 503 with Retry-After, and a page for whoever comes after that.
    BUSY_AT_FIRST = 15
    # A status that nobody allows, or a redirect that does not say where to.
    ODD_STATUS = 16
    # To "www." before the name, where that resolves; where not, a page.
    MOVED_TO_WWW = 17
    # One to five redirects, then a page.
    CHAIN = 18
    # Redirects in a circle.
    LOOP = 19
    # Redirects without end, each to another path.
    ENDLESS_CHAIN = 20
    # To an address that is not a public one.
    MOVED_PRIVATE = 21
    # To a name that does not exist, whatever the port.
    MOVED_NOWHERE = 22
    # To a port where nobody listens. A name by itself cannot refuse: one listener serves them all.
    REFUSED = 23
    # The connection is reset after the request, or in the middle of the headers.
    RESET = 24
    # The connection is accepted, the request read, and nothing comes.
    MUTE = 25
    # A page whose first 4 KB come at once, and then a byte now and then without end.
    DRIP = 26
    # A page without end.
    ENDLESS = 27
    # A page that is a gigabyte once decoded, of one megabyte.
    GZIP_BOMB = 28
    # One that is 16 GB once decoded, of 30 KB. Whoever takes neither coding gets ENDLESS.
    BROTLI_BOMB = 29
    # Headers of 16 MB before the page.
    HEADER_FLOOD = 30
    EXPIRED = 31
    SELF_SIGNED = 32
    WRONG_HOST = 33
    # Nobody answers the ClientHello; nor the request in plain.
    TLS_STALL = 34
    # The ClientHello is answered by an alert, protocol version, as where there is TLS 1.0 only; or
    # by a reset.
    TLS_REFUSED = 35
    # Plain only; the other port resets, answers in plain, or knows no such name.
    PLAIN_ONLY = 36
    # TLS only; the other port resets.
    HTTPS_ONLY = 37
    # Something else speaks there, within TLS, too.
    NOT_HTTP = 38
    # robots.txt forbids the page, which is served nevertheless.
    ROBOTS = 39
    # The connection ends orderly before the page does.
    CUT = 40


# The numbers of domainflow.validation.v1.HttpVerdict, which the sandbox does not import.
OK, TIMEOUT, CONNECTION_REFUSED, CONNECTION_RESET, UNREACHABLE = 1, 2, 3, 4, 5
TLS_HANDSHAKE, TLS_CERTIFICATE = 6, 7
NOT_FOUND, GONE, UNAUTHORIZED, FORBIDDEN, RATE_LIMITED = 9, 10, 11, 12, 13
LEGAL_REASONS, SERVER_ERROR, STATUS_NOT_ALLOWED = 14, 15, 16
TOO_MANY_REDIRECTS, ADDRESS_NOT_ALLOWED, EXCLUDED, PROTOCOL_ERROR = 17, 18, 19, 20

# Of those that do not come to a page.
VERDICTS = {
    Web.NOT_FOUND: NOT_FOUND,
    Web.GONE: GONE,
    Web.UNAUTHORIZED: UNAUTHORIZED,
    Web.FORBIDDEN: FORBIDDEN,
    Web.RATE_LIMITED: RATE_LIMITED,
    Web.LEGAL_REASONS: LEGAL_REASONS,
    Web.SERVER_ERROR: SERVER_ERROR,
    Web.ODD_STATUS: STATUS_NOT_ALLOWED,
    Web.LOOP: TOO_MANY_REDIRECTS,
    Web.ENDLESS_CHAIN: TOO_MANY_REDIRECTS,
    Web.MOVED_PRIVATE: ADDRESS_NOT_ALLOWED,
    Web.MOVED_NOWHERE: UNREACHABLE,
    Web.REFUSED: CONNECTION_REFUSED,
    Web.RESET: CONNECTION_RESET,
    Web.MUTE: TIMEOUT,
    Web.HEADER_FLOOD: PROTOCOL_ERROR,
    Web.TLS_STALL: TIMEOUT,
    Web.TLS_REFUSED: TLS_HANDSHAKE,
    Web.NOT_HTTP: PROTOCOL_ERROR,
}
_FIRST_VERDICTS = {Web.LIMITED_AT_FIRST: RATE_LIMITED, Web.BUSY_AT_FIRST: SERVER_ERROR}
BAD_CERTIFICATES = frozenset({Web.EXPIRED, Web.SELF_SIGNED, Web.WRONG_HOST})
# Their pages have no end, or end early.
TRUNCATED = frozenset({Web.DRIP, Web.ENDLESS, Web.GZIP_BOMB, Web.BROTLI_BOMB, Web.CUT})
_STATUSES = {
    Web.NOT_FOUND: (404,),
    Web.GONE: (410,),
    Web.UNAUTHORIZED: (401,),
    Web.FORBIDDEN: (403,),
    Web.RATE_LIMITED: (429,),
    Web.LEGAL_REASONS: (451,),
    Web.SERVER_ERROR: (500, 502, 503, 504, 520, 530),
    Web.ODD_STATUS: (402, 405, 406, 418, 421, 999, 302),
    Web.CHAIN: (301, 302, 303, 307, 308),
    Web.MOVED_TO_WWW: (301, 302, 307, 308),
    Web.LOOP: (301, 302, 307),
    Web.ENDLESS_CHAIN: (302, 307),
    Web.MOVED_PRIVATE: (301, 302, 303, 307, 308),
    Web.MOVED_NOWHERE: (301, 302),
    Web.REFUSED: (301, 302),
    Web.LIMITED_AT_FIRST: (429,),
    Web.BUSY_AT_FIRST: (503,),
}
# Behaviours whose pages are of many names.
SHARED = {
    Web.PARKED: PARKED,
    Web.FOR_SALE: FOR_SALE,
    Web.UNDER_CONSTRUCTION: UNDER_CONSTRUCTION,
    Web.LOGIN: LOGIN,
    Web.SOFT_404: SOFT_404,
}
# Retry-After of those that never stop limiting; "" for none.
ENDLESS_WAITS = ("", "86400", "nonsense", "-1")
# Where MOVED_PRIVATE leads. The last is a name of the sandbox that has a private address.
PRIVATE_HOSTS = (
    "169.254.169.254", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "127.0.0.1",
    "0.0.0.0", "[::1]", "[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "[fe80::1]", "[fd00::1]", "a.root-servers.sandbox",
)  # fmt: skip
# Does not exist: its first label is too long.
NOWHERE = "moved-to-another-place-entirely.example"


@dataclass(frozen=True, slots=True)
class WebMix:
    """Weights of the behaviours, in their order; only their proportions count.

    The defaults add up to 100: per cent of the names that have a web server.
    """

    page: float = 50.0
    parked: float = 8.0
    for_sale: float = 2.0
    under_construction: float = 1.5
    login: float = 1.5
    soft_404: float = 1.5
    template: float = 5.0
    not_found: float = 2.5
    gone: float = 0.4
    unauthorized: float = 0.5
    forbidden: float = 3.0
    rate_limited: float = 0.3
    limited_at_first: float = 1.0
    legal_reasons: float = 0.2
    server_error: float = 1.5
    busy_at_first: float = 0.4
    odd_status: float = 0.6
    moved_to_www: float = 6.0
    chain: float = 1.5
    loop: float = 0.4
    endless_chain: float = 0.2
    moved_private: float = 0.4
    moved_nowhere: float = 0.4
    refused: float = 1.0
    reset: float = 1.0
    # This one and DRIP and TLS_STALL cost their asker all time-outs of all tries.
    mute: float = 0.3
    drip: float = 0.1
    endless: float = 0.2
    gzip_bomb: float = 0.1
    brotli_bomb: float = 0.1
    header_flood: float = 0.2
    expired: float = 0.7
    self_signed: float = 0.6
    wrong_host: float = 0.6
    tls_stall: float = 0.1
    tls_refused: float = 0.4
    plain_only: float = 3.0
    https_only: float = 1.5
    not_http: float = 0.3
    robots: float = 0.7
    cut: float = 0.3

    def bounds(self) -> tuple[int, ...]:
        """Upper bounds of the behaviours in a 32-bit hash, in the order of Web.

        Raises ValueError for weights that make no sense.
        """
        return hash_bounds([getattr(self, field.name) for field in fields(self)])


@dataclass(frozen=True, slots=True)
class Fetching:
    """How the fetcher goes about it, as far as verdicts depend on it."""

    # Whether a page behind a wrong certificate counts.
    verify: bool = False
    # Whether robots.txt is asked for and followed.
    robots: bool = True
    # Whether it comes again when Retry-After is over.
    retry: bool = True
    # Whether the port where nobody listens is one of its ports: tried last, and allowed.
    closed_port: bool = True


DEFAULT = Fetching()


class WebTruth(NamedTuple):
    """What the web server of a name does, and what is on the page."""

    # In lower case, without a final dot.
    name: str
    behaviour: Web
    # All that the name's web server listens on. In 127.64.0.0/10, see `truth.py`.
    addresses: tuple[str, ...]
    # The registered domain.
    domain: str
    # Whether the name exists because of a wildcard.
    wild: bool
    # Chooses everything that is not said above.
    number: int

    def verdict(self, fetching: Fetching = DEFAULT) -> int:
        """A domainflow.validation.v1.HttpVerdict number."""
        behaviour = self.behaviour
        if behaviour is Web.ROBOTS and fetching.robots:
            return EXCLUDED
        if behaviour in BAD_CERTIFICATES and fetching.verify:
            return TLS_CERTIFICATE
        if not fetching.retry and behaviour in _FIRST_VERDICTS:
            return _FIRST_VERDICTS[behaviour]
        if behaviour is Web.REFUSED and not fetching.closed_port:
            return ADDRESS_NOT_ALLOWED
        if behaviour is Web.MOVED_NOWHERE and fetching.closed_port:
            # The name itself is there, on other ports, and that comes nearer.
            return CONNECTION_REFUSED
        return VERDICTS.get(behaviour, OK)

    @property
    def has_page(self) -> bool:
        """Whether a page comes, in whatever way."""
        return self.behaviour not in VERDICTS

    @property
    def truncated(self) -> bool:
        """Whether a limit, or the end of the connection, cuts the page."""
        return self.behaviour in TRUNCATED

    @property
    def parked(self) -> bool:
        return self.behaviour is Web.PARKED

    @property
    def kind(self) -> str:
        """What a page is called: a domainflow.validation.v1.PageKind without its prefix."""
        if self.behaviour is Web.TEMPLATE:
            return "DEFAULT_PAGE" if self.variant(TEMPLATES) < len(DEFAULT_PAGES) else "CONTENT"
        if self.behaviour is Web.SOFT_404:
            return "SOFT_NOT_FOUND"
        return self.behaviour.name if self.behaviour in SHARED else "CONTENT"

    @property
    def template(self) -> str:
        """Names of one template have the same page, but for their name; "" for a page of its own.

        Where there is no page: "".
        """
        shared = SHARED.get(self.behaviour)
        if shared:
            return f"{self.behaviour.name.lower()}-{self.variant(len(shared))}"
        if self.behaviour is Web.TEMPLATE:
            return f"template-{self.variant(TEMPLATES)}"
        return f"wildcard-{self.number >> 192:x}" if self.wild and self.has_page else ""

    def status(self, fetching: Fetching = DEFAULT) -> int:
        """Of the last response, 0 for none; where redirects lead too far, of the last of them."""
        behaviour = self.behaviour
        if self.verdict(fetching) in (EXCLUDED, TLS_CERTIFICATE) or (
            behaviour is Web.MOVED_NOWHERE and fetching.closed_port
        ):
            return 0
        if behaviour in _FIRST_VERDICTS:
            return 200 if fetching.retry else self.first_status
        return 200 if behaviour in (Web.CHAIN, Web.MOVED_TO_WWW) else self.first_status

    @property
    def first_status(self) -> int:
        """Of the first response, 0 when none comes."""
        statuses = _STATUSES.get(self.behaviour)
        if statuses:
            return statuses[self.variant(len(statuses))]
        return 200 if self.has_page else 0

    @property
    def scheme(self) -> str:
        """That of the page, for whoever tries https and then http."""
        return "http" if self.behaviour is Web.PLAIN_ONLY else "https"

    @property
    def landing(self) -> tuple[str, str]:
        """Host and path of the page, after redirects."""
        if self.behaviour is Web.MOVED_TO_WWW:
            return self.away, "/"
        return self.name, f"/hop/{self.hops}" if self.behaviour is Web.CHAIN else "/"

    @property
    def hops(self) -> int:
        """Redirects before the page."""
        if self.behaviour is Web.CHAIN:
            return 1 + self.variant(5)
        return int(self.behaviour is Web.MOVED_TO_WWW)

    @property
    def upgraded(self) -> bool:
        """Whether whoever asks in plain is sent to TLS."""
        if self.behaviour in BAD_CERTIFICATES or self.behaviour is Web.TLS_REFUSED:
            return True
        return self.behaviour is Web.PAGE and self.number >> 40 & 3 != 0

    @property
    def compressed(self) -> bool:
        """Whether the page comes as gzip to whoever takes that."""
        return self.behaviour is Web.PAGE and self.number >> 42 & 3 == 0

    @property
    def wait(self) -> int:
        """Seconds that those who are limited at first have to stay away; 0 for all others."""
        return 1 + (self.number >> 44 & 1) if self.behaviour in _FIRST_VERDICTS else 0

    @property
    def dated(self) -> bool:
        """Whether Retry-After is a date."""
        return self.number >> 46 & 3 == 0

    @property
    def away(self) -> str:
        """The host that MOVED_PRIVATE, MOVED_NOWHERE and MOVED_TO_WWW lead to; "" for others."""
        if self.behaviour is Web.MOVED_PRIVATE:
            return PRIVATE_HOSTS[(self.number >> 50 & 0xFF) % len(PRIVATE_HOSTS)]
        if self.behaviour is Web.MOVED_NOWHERE:
            return NOWHERE
        return f"www.{self.name}" if self.behaviour is Web.MOVED_TO_WWW else ""

    @property
    def robots(self) -> str:
        """The text of robots.txt; "" when there is none."""
        kind = self.number >> 48 & 3
        if self.behaviour is Web.ROBOTS:
            return "# Nobody, please.\nUser-agent: *\nDisallow: /\n"
        if kind == 0:
            return "User-agent: *\nDisallow: /admin/\nDisallow: /search?\n"
        return "User-agent: *\nAllow: /\n" if kind == 1 else ""

    @property
    def page(self) -> Page | None:
        """What is on the page; None without one."""
        if not self.has_page:
            return None
        shared = SHARED.get(self.behaviour)
        if shared:
            return shared_page(shared[self.variant(len(shared))], self.name)
        if self.behaviour is Web.TEMPLATE:
            return template_page(self.variant(TEMPLATES), self.name)
        return own_page(self.number >> 64, self.domain, cut=self.truncated)

    def variant(self, count: int) -> int:
        """Which of so many ways a behaviour has."""
        return (self.number >> 32 & 0xFF) % count


class WebWorld:
    """The truth about every web server, for one seed. Raises ValueError for a senseless mix."""

    def __init__(self, seed: int, mix: Mix | None = None, web: WebMix | None = None) -> None:
        self._world = World(seed, mix or Mix())
        self._key = (seed % 2**64).to_bytes(8, "big")
        self._bounds = (web or WebMix()).bounds()

    def truth(self, name: str) -> WebTruth | None:
        """What is true of `name`, in any case, with or without a final dot.

        None without a web server: it has no IPv4 address, or is a server of the sandbox itself.
        """
        known = self._world.truth(name)
        if not known.addresses or known.addresses[0].startswith("127.0."):
            return None
        name = known.name
        wild = known.verdict == WILDCARD
        above = self._moved_here(name)
        if above is not None:
            return above._replace(name=name, behaviour=Web.PAGE, addresses=known.addresses)
        if wild and known.zone in TLD_WILDCARDS:
            number = self._hash(f"*.{known.zone}")
            return WebTruth(name, Web.PARKED, known.addresses, name, True, number)
        # No name begins with a space.
        number = self._hash(f" {known.number}" if wild else name)
        behaviour = _BEHAVIOURS[bisect_right(self._bounds, number & 0xFFFFFFFF, hi=_LAST)]
        if behaviour is Web.MOVED_TO_WWW and not self._can_move(name, wild):
            behaviour = Web.PAGE
        return WebTruth(name, behaviour, known.addresses, known.zone, wild, number)

    def _moved_here(self, name: str) -> WebTruth | None:
        """What is true of the name that has moved to this one."""
        label, _, above = name.partition(".")
        if label != "www" or "." not in above:
            return None
        found = self.truth(above)
        return found if found is not None and found.behaviour is Web.MOVED_TO_WWW else None

    def _can_move(self, name: str, wild: bool) -> bool:
        return not wild and bool(self._world.truth(f"www.{name}").addresses)

    def _hash(self, name: str) -> int:
        digest = blake2b(name.encode(), digest_size=32, key=self._key, person=b"web").digest()
        return int.from_bytes(digest, "big")


_BEHAVIOURS = tuple(Web)
_LAST = len(_BEHAVIOURS) - 1
