"""What contacts are made of: where one was seen on a page, and how sure that makes us. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from services.chassis.domain_name import NotADomainName, normalise
from services.validation.dns.suffixes import registrable

# Characters of a snippet, and of a value.
MAX_SNIPPET = 200
MAX_VALUE = 500
# Characters of the text, links, and pieces of structured data that are looked at.
MAX_TEXT = 1_000_000
MAX_LINKS = 5_000
MAX_NODES = 5_000

# Joiners, marks of direction and soft hyphens: put into addresses so that programs miss them.
_INVISIBLE = "\u00ad\u034f\u061c\u180e\ufeff" + "".join(
    chr(code) for first, last in ((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2069))
    for code in range(first, last + 1)
)  # fmt: skip
# What tables and messages cannot hold: control characters and halves of surrogate pairs.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_SPACES = re.compile(r"\s+")
# The same character in other clothes: of full width, not breaking. One for one; and the one letter
# that would grow in lower case.
_PLAIN = dict.fromkeys(_INVISIBLE, "") | dict(
    zip(
        "＠﹫．。＋－（）０１２３４５６７８９\u0130\u00a0\u2007\u2009\u202f\u2010\u2011",  # noqa: RUF001
        "@@..+-()0123456789I    --",
        strict=True,
    )
)


class ContactKind(IntEnum):
    """The numbers are those of domainflow.validation.v1.ContactKind."""

    EMAIL = 1
    PHONE = 2
    COMPANY = 3
    SOCIAL = 4


class Found(StrEnum):
    """How a contact was found."""

    # schema.org, as JSON-LD or microdata.
    STRUCTURED = "structured"
    # mailto:, tel:, or a link to a profile.
    LINK = "link"
    # Cloudflare's e-mail protection.
    PROTECTED = "protected"
    TEXT = "text"
    # Written so that programs miss it: "info [at] example [dot] com".
    DISGUISED = "disguised"
    # Written backwards and turned round by the style.
    REVERSED = "reversed"
    COPYRIGHT = "copyright"
    IMPRINT = "imprint"
    SITE_NAME = "site_name"
    TITLE = "title"


@dataclass(frozen=True, slots=True)
class Contact:
    """A way to reach somebody, and where it was found."""

    kind: ContactKind
    # E-mail: normal form. Phone: E.164, digits alone where the country is not known. Company: name.
    # Social: canonical URL of the profile. At most MAX_VALUE characters.
    value: str
    source_url: str
    # Text around it in one line, at most MAX_SNIPPET characters.
    snippet: str
    found: Found
    # How sure it is that this reaches the site's owner, from 0 to 1, two decimals.
    confidence: float


@dataclass(frozen=True, slots=True)
class ContactPage:
    """A page as far as contacts are looked for in it. Everything may be hostile."""

    url: str
    # Visible text, character references decoded, a line feed between blocks.
    text: str = ""
    # Target as it stands in the page, and the link's text.
    links: Sequence[tuple[str, str]] = ()
    # schema.org objects as JSON-LD has them, or as the microdata of HTML does ("type",
    # "properties").
    items: Sequence[Mapping[str, Any]] = ()
    title: str = ""
    # og:site_name.
    site_name: str = ""
    # BCP 47; empty when the page does not say.
    language: str = ""
    # ISO 3166 code of two letters, where somebody knows; empty otherwise.
    country: str = ""
    # Values of data-cfemail in order of the page.
    protected: Sequence[str] = ()


class Sighting(NamedTuple):
    """One find, before finds of the same are put together."""

    kind: ContactKind
    value: str
    found: Found
    confidence: float
    # Where in the text; -1: `context` is what stands around it.
    start: int = -1
    end: int = -1
    context: str = ""


class Owner(NamedTuple):
    """Whom a page belongs to, as far as its URL tells."""

    # Registrable domain; empty where the host is no name below a suffix.
    domain: str
    # The domain's first label without hyphens, such as "muellerbau".
    label: str
    # Top-level domain in A-labels.
    tld: str


def owner_of(url: str) -> Owner:
    """Of any URL; all fields are empty for what is none."""
    try:
        host = normalise(urlsplit(url).hostname or "")
    except (NotADomainName, ValueError):
        return Owner("", "", "")
    domain = registrable(host)
    return Owner(domain, domain.partition(".")[0].replace("-", ""), host.rpartition(".")[2])


def readable(text: str) -> str:
    """The text as it is searched: cut to MAX_TEXT, without invisible characters, with ordinary
    digits, dots, at signs, spaces and hyphens."""
    text = text[:MAX_TEXT]
    if text.isascii():
        return text
    # Few of them occur on one page: str.replace for each is forty times as fast as str.translate,
    # and looking for each alone three times as fast as a regular expression for them all.
    for each, plain in _PLAIN.items():
        if each in text:
            text = text.replace(each, plain)
    return text


def lowered(text: str) -> str:
    """Lower case with the same offsets: of what `readable` returns, no letter grows."""
    return text.lower()


def clean(text: str, limit: int = MAX_SNIPPET) -> str:
    """One line of storable text, at most `limit` characters."""
    # Cut first: what is thrown away need not be cleaned. Runs of spaces may make it shorter.
    text = text[: limit * 4]
    if "  " in text or not text.isprintable():
        text = _SPACES.sub(" ", _UNSTORABLE.sub(" ", text))
    return text.strip()[:limit].rstrip()


def snippet(text: str, start: int, end: int) -> str:
    """What stands around text[start:end], cut at spaces where it can be."""
    room = max(MAX_SNIPPET - (end - start), 0) // 2
    first, last = max(start - room, 0), end + room
    before, after = text[first:start], text[end:last]
    if first > 0 and " " in before:
        before = before[before.index(" ") :]
    if last < len(text) and " " in after:
        after = after[: after.rindex(" ")]
    return clean(before + text[start:end] + after)


def rounded(confidence: float) -> float:
    """Within 0.01 to 0.99, two decimals: nothing here is certain."""
    return round(min(max(confidence, 0.01), 0.99), 2)
