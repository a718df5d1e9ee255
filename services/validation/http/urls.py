"""URLs that may be asked for: http and https, a host that is a name or a canonical address, no
credentials. One parser for what is checked and what is connected to. Pure."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from yarl import URL

DEFAULT_PORTS = {"http": 80, "https": 443}
ROBOTS = "/robots.txt"
_PLAIN = frozenset(("/", ROBOTS))
# Bytes of path and query of a redirect.
MAX_REDIRECT_PATH = 2000
# Characters of a URL before it is parsed: parsing and IDNA take time that grows with it.
MAX_URL = 4096
_LABELS = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?\Z")
# What the URL standard reads as an IPv4 address: the last label is a number in some base.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?\Z")


class BadUrl(ValueError):
    """The text is no URL that may be asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask whom."""

    # Without credentials and fragment, and its text.
    url: URL
    text: str
    scheme: str
    # A name in A-labels, lower case, without the trailing dot; or an address without brackets.
    host: str
    port: int
    # Whether the host is an address.
    literal: bool


def of_name(scheme: str, name: str, port: int, path: str = "/") -> Target:
    """The page of a name, as stored (see services.chassis.domain_name). Raises BadUrl."""
    shown = name if port == DEFAULT_PORTS[scheme] else f"{name}:{port}"
    text = f"{scheme}://{shown}{path}"
    if path not in _PLAIN or len(name) > 253 or not _LABELS.match(name) or _NUMERIC.match(name):
        return parse(text)
    # What every fetch begins with: nothing of it is left to escape or to check.
    url = URL.build(scheme=scheme, host=name, port=port, path=path, encoded=True)
    return Target(url, text, scheme, name, port, False)


def robots_of(page: Target) -> Target:
    """The robots.txt of a page's origin."""
    if page.literal or page.url.raw_host != page.host:
        return parse(str(page.url.with_path(ROBOTS)))
    return of_name(page.scheme, page.host, page.port, ROBOTS)


def parse(text: str) -> Target:
    """Raises BadUrl."""
    if len(text) > MAX_URL:
        raise BadUrl(f"the URL has {len(text)} characters, more than {MAX_URL}")
    try:
        url = URL(text)
    except ValueError as error:
        raise BadUrl(f"no URL: {error}") from None
    return _checked(url)


def redirected(base: URL, location: str) -> Target:
    """Where a Location header leads, as the parser of the response gave it. Raises BadUrl."""
    location = _as_text(location).strip()
    if len(location) > MAX_URL:
        raise BadUrl(f"the redirect's URL has {len(location)} characters, more than {MAX_URL}")
    try:
        target = _checked(base.join(URL(location)))
    except BadUrl:
        raise
    except ValueError as error:
        raise BadUrl(f"redirected to no URL: {error}") from None
    if (size := len(target.url.raw_path_qs)) > MAX_REDIRECT_PATH:
        raise BadUrl(f"the redirect's path has {size} bytes, more than {MAX_REDIRECT_PATH}")
    return target


def _checked(url: URL) -> Target:
    if url.scheme not in DEFAULT_PORTS:
        raise BadUrl(f"the scheme is {url.scheme[:20]!r}, neither http nor https")
    try:
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise BadUrl(f"no URL: {error}") from None
    if not host:
        raise BadUrl("the URL has no host")
    if "%" in host:
        raise BadUrl("the address names a zone")
    if not port:
        raise BadUrl("the port is 0")
    literal = _is_literal(host)
    if not literal:
        if _NUMERIC.match(host):
            raise BadUrl(f"{host[:100]!r} is no address in its canonical form")
        if len(host.rstrip(".")) > 253 or not _LABELS.match(host):
            raise BadUrl(f"{host[:100]!r} is no name of a host")
    if url.raw_user is not None or url.raw_password is not None:
        # They would be sent to whoever a redirect names.
        url = url.with_user(None)
    if url.raw_fragment:
        url = url.with_fragment(None)
    return Target(url, str(url), url.scheme, host.rstrip("."), port, literal)


def _is_literal(host: str) -> bool:
    # Most hosts are names: tell them without an exception.
    if ":" not in host and not host[-1:].isdigit():
        return False
    try:
        ip_address(host)
    except ValueError:
        # No name holds a colon: something like an IPv6 address is judged, and refused, as one.
        return ":" in host
    return True


def _as_text(header: str) -> str:
    """Bytes of a header that are no UTF-8 come as surrogates: read them as browsers do."""
    try:
        header.encode()
    except UnicodeEncodeError:
        return header.encode("utf-8", "surrogateescape").decode("latin-1")
    return header
