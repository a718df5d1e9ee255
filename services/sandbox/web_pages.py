"""The bytes of the pages that `web_truth.py` speaks of, the same for ever, so that a content hash
can be checked. Pure.

What extraction must not take for contacts or keywords is on all pages of a name's own: file names
with an "@", an address to be typed over, a link to share, and what nobody sees.
"""

import json
from codecs import BOM_UTF8, BOM_UTF16_LE
from collections.abc import Iterator
from functools import lru_cache

from .web_content import COMPANY, EMAIL, PHONE, TEMPLATES, Contact, Form, Page
from .web_text import BRANDS, DEFAULT_PAGES, LANGUAGES, Charset, Declared, Language
from .web_truth import SHARED, Web, WebTruth

# Byte order mark, and the codec of what follows it.
_MARKED = {"utf-8-sig": (BOM_UTF8, "utf-8"), "utf-16": (BOM_UTF16_LE, "utf-16-le")}
# Paragraphs of each language, and words that they are made of.
_PARAGRAPHS, _WORDS = 512, 600
_GROUPS = {"+44": (2, 2, 4, 4), "+49": (2, 2, 8), "+33": (2, 1, 2, 2, 2, 2), "+12": (1, 3, 3, 4)}
_AFTER_CONTACTS = (
    '<footer><img src="/img/footer@2x.png" alt="">'
    '<form><input name="mail" placeholder="you@example.com"></form>'
    '<a href="https://www.facebook.com/sharer/sharer.php?u=https%3A%2F%2Fexample.com">+1</a>'
    "</footer>\n</body>\n</html>\n"
)


def body(known: WebTruth, path: str = "/") -> bytes:
    """The page, whole; with `path` "/contact" the one with the contacts, if they are there.

    Raises ValueError where there is no such page, and where it has no end.
    """
    shared = SHARED.get(known.behaviour)
    if shared:
        return _named(shared[known.variant(len(shared))][1], known.name)
    if known.behaviour is Web.TEMPLATE and known.variant(TEMPLATES) < len(DEFAULT_PAGES):
        return _named(DEFAULT_PAGES[known.variant(TEMPLATES)][1], known.name)
    page = known.page
    if page is None or known.truncated or path not in ("/", page.contact_path):
        raise ValueError(f"{known.name} has no such page, or one without end")
    mark, codec = _MARKED.get(page.charset.codec, (b"", page.charset.codec))
    here = page.contacts if path == page.contact_path else ()
    parts = [mark, _start(page, here, path, known).encode(codec)]
    if path == "/":
        parts += _filling(page, codec)
    end = _contact_section(LANGUAGES[page.tongue], here) + _AFTER_CONTACTS
    parts.append(end.encode(codec))
    return b"".join(parts)


def opening(known: WebTruth) -> bytes:
    """The start of a page that is cut short, at most 4 KB. Raises ValueError for other pages."""
    page = known.page
    if page is None or not known.truncated:
        raise ValueError(f"{known.name} has no page that is cut short")
    mark, codec = _MARKED.get(page.charset.codec, (b"", page.charset.codec))
    return mark + _start(page, (), "/", known).encode(codec)


def content_type(charset: Charset) -> str:
    """The header."""
    said = charset.declared is Declared.HEADER
    return f"text/html; charset={charset.label}" if said else "text/html"


def _named(text: str, name: str) -> bytes:
    return text.replace("{name}", name).encode()


def _start(page: Page, contacts: tuple[Contact, ...], path: str, known: WebTruth) -> str:
    """All before the filling."""
    spoken = LANGUAGES[page.tongue]
    parts = ["<!DOCTYPE html>\n<html", f' lang="{page.language}"' if page.language else ""]
    parts.append(">\n<head>\n")
    if page.charset.declared is Declared.META:
        if page.number & 1:
            parts.append(f'<meta charset="{page.charset.label}">\n')
        else:
            parts.append(
                '<meta http-equiv="Content-Type" content="text/html;'
                f' charset={page.charset.label}">\n'
            )
    parts.append(f"<title>{page.title}</title>\n")
    site = next((it.value for it in contacts if it.form is Form.META), "")
    if site:
        parts.append(f'<meta property="og:site_name" content="{site}">\n')
    parts.append(_structured(contacts))
    if page.hidden:
        parts.append(f'<!-- {page.hidden} -->\n<script>var topic = "{page.hidden}";</script>\n')
    parts.append('<link rel="stylesheet" href="/css/site@1.4.2.css">\n</head>\n<body>\n')
    parts.append('<img src="/img/logo@2x.png" alt="">\n')
    if path == "/" and page.contact_path != "/":
        parts.append(f'<nav><a href="{page.contact_path}">{spoken.contact}</a></nav>\n')
    # A name would be all that sets apart two sites on one wildcard.
    heading = known.name if known.behaviour is Web.TEMPLATE else BRANDS[page.number & 15]
    parts.append(f"<h1>{heading}</h1>\n")
    if path == "/":
        parts += _occurrences(page, spoken)
    if not page.filling:
        # Nothing else tells thin pages apart.
        parts.append(f"<p>{page.number}</p>\n")
    return "".join(parts)


def _occurrences(page: Page, spoken: Language) -> Iterator[str]:
    carriers = spoken.carriers
    for keyword, count in page.hits:
        for place in range(count):
            shown = keyword
            if place % 4 == 1:
                shown = keyword[0].upper() + keyword[1:]
            elif place % 4 == 2:
                shown = keyword.upper()
            if page.bold and not place and " " in shown:
                first, _, rest = shown.partition(" ")
                shown = f"{first} <b>{rest}</b>"
            if page.references:
                shown = shown.encode("ascii", "xmlcharrefreplace").decode()
            yield f"<p>{carriers[place % len(carriers)].format(shown)}</p>\n"


def _filling(page: Page, codec: str) -> list[bytes]:
    """Paragraphs that few other pages have, in an order that none has."""
    pool = _pool(page.tongue, codec)
    # Odd, so that each comes once before any comes twice.
    at, step = page.number % _PARAGRAPHS, page.number >> 9 | 1
    found = []
    left = page.filling
    while left > 0:
        paragraph = pool[at]
        found.append(paragraph)
        left -= len(paragraph)
        at = (at + step) % _PARAGRAPHS
    return found


@lru_cache(maxsize=32)
def _pool(tongue: int, codec: str) -> tuple[bytes, ...]:
    """Up to half a megabyte for each language and character set that is met."""
    return tuple([paragraph.encode(codec) for paragraph in _paragraphs(tongue)])


@lru_cache(maxsize=len(LANGUAGES))
def _paragraphs(tongue: int) -> tuple[str, ...]:
    spoken = LANGUAGES[tongue]
    state = tongue + 1

    def roll(sides: int) -> int:
        # Knuth's MMIX: the same on every Python.
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % sides

    def a_word() -> str:
        return "".join(spoken.syllables[roll(len(spoken.syllables))] for _ in range(2 + roll(3)))

    vocabulary = [a_word() for _ in range(_WORDS)]
    space, stop = ("", "。") if "ja" in spoken.tags else (" ", ". ")

    def sentence() -> str:
        words = []
        for _ in range(3 + roll(6)):
            words.append(spoken.words[roll(len(spoken.words))])
            words.append(vocabulary[roll(_WORDS)])
        text = space.join(words)
        return text[0].upper() + text[1:] + stop

    return tuple(
        "<p>" + "".join(sentence() for _ in range(3 + roll(6))).strip() + "</p>\n"
        for _ in range(_PARAGRAPHS)
    )


def _structured(contacts: tuple[Contact, ...]) -> str:
    """An Organization of schema.org, of what is to be said that way."""
    told = {contact.kind: contact.value for contact in contacts if contact.form is Form.JSON_LD}
    if not told:
        return ""
    keys = {COMPANY: "name", EMAIL: "email", PHONE: "telephone"}
    organization: dict[str, object] = {"@context": "https://schema.org", "@type": "Organization"}
    for kind, value in told.items():
        if kind in keys:
            organization[keys[kind]] = value
        else:
            organization["sameAs"] = [value]
    return f'<script type="application/ld+json">{json.dumps(organization)}</script>\n'


def _contact_section(spoken: Language, contacts: tuple[Contact, ...]) -> str:
    shown = [text for contact in contacts if (text := _show(contact))]
    if not shown:
        return ""
    lines = "".join(f"<p>{text}</p>\n" for text in shown)
    return f"<section>\n<h2>{spoken.contact}</h2>\n{lines}</section>\n"


def _show(contact: Contact) -> str:
    """A contact in the visible part of a page; "" for those in the head."""
    value, form = contact.value, contact.form
    if form in (Form.JSON_LD, Form.META):
        return ""
    if contact.kind == COMPANY:
        return f"&copy; 2026 {value}"
    if contact.kind == PHONE:
        shown = grouped(value)
        return f'<a href="tel:{value}">{shown}</a>' if form is Form.LINK else shown
    if contact.kind != EMAIL:
        return f'<a href="{value}" rel="me">{value.split("/")[2]}</a>'
    if form is Form.LINK:
        return f'<a href="mailto:{value}">{value}</a>'
    if form is Form.SPELT:
        return value.replace("@", " [at] ").replace(".", " [dot] ")
    if form is Form.REFERENCES:
        return "".join(f"&#{ord(character)};" for character in value)
    if form is Form.PROTECTED:
        hidden = bytes((0x5A, *(byte ^ 0x5A for byte in value.encode()))).hex()
        return (
            '<a href="/cdn-cgi/l/email-protection" class="__cf_email__"'
            f' data-cfemail="{hidden}">[email&#160;protected]</a>'
        )
    return value


def grouped(number: str) -> str:
    """A phone number of the sandbox's as people write it abroad."""
    parts = []
    at = 1
    for length in _GROUPS[number[:3]]:
        parts.append(number[at : at + length])
        at += length
    return "+" + " ".join(parts)
