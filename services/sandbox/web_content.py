"""What the pages of the sandbox say, drawn from a number. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from .web_text import (
    BRANDS,
    DEFAULT_PAGES,
    LANGUAGE_SHARES,
    LANGUAGES,
    TRADES,
    Charset,
    Declared,
    Language,
)

# The numbers of domainflow.validation.v1.ContactKind, which the sandbox does not import.
EMAIL, PHONE, COMPANY, SOCIAL = 1, 2, 3, 4
TEMPLATES = 12


class Form(StrEnum):
    """How a page shows a contact."""

    TEXT = "text"
    # A link: mailto:, tel:, or to a profile.
    LINK = "link"
    # "info [at] name [dot] com"
    SPELT = "spelt"
    # Each character a numeric reference.
    REFERENCES = "references"
    # As Cloudflare's e-mail protection does: hexadecimal, XOR with the first byte.
    PROTECTED = "protected"
    # schema.org, as JSON-LD.
    JSON_LD = "json-ld"
    # og:site_name
    META = "meta"


class Contact(NamedTuple):
    """A way to reach somebody."""

    # A domainflow.validation.v1.ContactKind number.
    kind: int
    # In lower case, E.164, as written, or a URL.
    value: str
    form: Form


@dataclass(frozen=True, slots=True)
class Page:
    """What a page of a name's own says."""

    title: str
    # An index into LANGUAGES.
    tongue: int
    # As the page says it; "" when it does not.
    language: str
    charset: Charset
    # Keywords in the visible text, without the title, and how often; in any case.
    hits: tuple[tuple[str, int], ...] = ()
    # The keyword that the title has once; "" for none.
    title_keyword: str = ""
    # A keyword in a comment and in a script, where nobody sees it; "" for none.
    hidden: str = ""
    contacts: tuple[Contact, ...] = ()
    # Where the contacts are: "/" or "/contact", which "/" links to.
    contact_path: str = "/"
    # Bytes of text to fill it with.
    filling: int = 0
    # One occurrence of each keyword is partly bold.
    bold: bool = False
    # Characters of keywords beyond ASCII are numeric references.
    references: bool = False
    # Chooses the text.
    number: int = 0

    @property
    def all_hits(self) -> dict[str, int]:
        """By keyword, the title's included."""
        found = dict(self.hits)
        if self.title_keyword:
            found[self.title_keyword] = found.get(self.title_keyword, 0) + 1
        return found


class _Dice:
    """Takes one choice after another out of a number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def roll(self, sides: int) -> int:
        self._left, found = divmod(self._left, sides)
        return found


_ASCII = Charset("ascii", "utf-8", Declared.META)


def shared_page(shared: tuple[str, str], name: str) -> Page:
    """One of the pages that many names have."""
    title, text = shared
    return Page(title.replace("{name}", name), 0, "en" if 'lang="en"' in text else "", _ASCII)


def template_page(which: int, name: str) -> Page:
    """One of those of TEMPLATE; the first of them are what servers have when they are new."""
    if which < len(DEFAULT_PAGES):
        return Page(DEFAULT_PAGES[which][0], 0, "en", _ASCII)
    keywords = LANGUAGES[0].keywords
    keyword = keywords[which % len(keywords)]
    # Half of them are about something.
    hits = ((keyword, 1 + which % 3),) if which % 2 else ()
    return Page(f"{BRANDS[which]}: {name}", 0, "en", _ASCII, hits, filling=4000, number=which)


def own_page(number: int, domain: str, *, cut: bool) -> Page:
    """Of a site's own, on a registered domain; `cut` if it is cut short."""
    dice = _Dice(number)
    roll = dice.roll
    tongue = LANGUAGE_SHARES[roll(len(LANGUAGE_SHARES))]
    spoken = LANGUAGES[tongue]
    language = (spoken.tags[0], *spoken.tags, "")[roll(len(spoken.tags) + 2)]
    charset = spoken.charsets[roll(len(spoken.charsets))]
    hits = _hits(spoken, roll)
    chosen = roll(2**32)
    brand = BRANDS[chosen & 15]
    tagline = spoken.tagline
    title_keyword = hits[0][0] if hits and roll(2) else ""
    hidden = spoken.keywords[roll(len(spoken.keywords))] if roll(8) == 0 else ""
    kind = roll(100)
    portion = roll(2**16)
    bold, references = roll(8) == 0, roll(8) == 0
    if kind < 3:
        # Thin: less than a kilobyte.
        hits, title_keyword, hidden, filling = (), "", "", 0
    elif kind < 30:
        filling = portion >> 4
    elif kind < 80:
        filling = 4096 + (portion >> 1)
    elif kind < 98:
        filling = 32_768 + portion
    else:
        filling = 98_304 + portion * 2
    contacts: tuple[Contact, ...] = ()
    if not cut and kind >= 3 and roll(10) < 7:
        contacts = _contacts(spoken, domain, roll)
    contact_path = "/contact" if contacts and roll(5) == 0 else "/"
    if cut:
        # Room for keywords within the first 4 KB.
        hits = tuple((keyword, min(count, 4)) for keyword, count in hits[:3])
    title = f"{brand}: {title_keyword or tagline}"
    return Page(
        title, tongue, language, charset, hits, title_keyword, hidden, contacts, contact_path,
        filling, bold, references, chosen,
    )  # fmt: skip


def _hits(spoken: Language, roll: Callable[[int], int]) -> tuple[tuple[str, int], ...]:
    count = (0, 0, 0, 1, 1, 1, 2, 2, 3, 4)[roll(10)]
    keywords = spoken.keywords
    start = roll(len(keywords))
    found = [
        (keywords[(start + place) % len(keywords)], 1 + roll(4))
        for place in range(min(count, len(keywords)))
    ]
    if roll(50) == 0 and found:
        # Stuffed.
        found[0] = (found[0][0], 60)
    return tuple(found)


def _contacts(spoken: Language, domain: str, roll: Callable[[int], int]) -> tuple[Contact, ...]:
    found = []
    if roll(8):
        local = ("info", "office", "hello", "sales", "contact")[roll(5)]
        forms = (Form.LINK, Form.LINK, Form.TEXT, Form.SPELT, Form.REFERENCES, Form.PROTECTED,
                 Form.JSON_LD)  # fmt: skip
        found.append(Contact(EMAIL, f"{local}@{domain}", forms[roll(len(forms))]))
    if roll(5) < 3:
        # Reserved for films and books, in each of these countries; those of the United States are
        # taken for examples by whoever looks for phone numbers.
        prefix, digits = {
            "de": ("+493023125", 3),
            "fr": ("+33199001", 3),
        }.get(spoken.tags[0], ("+442079460", 3))
        number = f"{prefix}{roll(10**digits):0{digits}}"
        found.append(Contact(PHONE, number, (Form.LINK, Form.TEXT, Form.JSON_LD)[roll(3)]))
    if roll(10) < 7:
        company = f"{BRANDS[roll(16)]} {TRADES[roll(8)]} {spoken.forms[roll(len(spoken.forms))]}"
        shown = (Form.JSON_LD, Form.JSON_LD, Form.TEXT, Form.META)[roll(4)]
        found.append(Contact(COMPANY, company, shown))
    if roll(2):
        profile = (
            "https://www.linkedin.com/company/{}",
            "https://www.facebook.com/{}",
            "https://x.com/{}",
            "https://www.instagram.com/{}",
        )[roll(4)].format(f"{BRANDS[roll(16)].lower()}{roll(10_000)}")
        found.append(Contact(SOCIAL, profile, (Form.LINK, Form.LINK, Form.JSON_LD)[roll(3)]))
    return tuple(found)
