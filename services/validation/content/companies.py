"""Names of companies: from structured data, imprints, copyright lines and titles. Pure.

Only the head and the foot of a text and what follows the words of an imprint are looked at: names
stand there.
"""

import re
from collections.abc import Iterator, Set
from itertools import islice

import re2

from services.validation.content.marks import (
    CONSTRUCTION_PHRASES,
    DEFAULT_PHRASES,
    LOGIN_PHRASES,
    NOT_FOUND_PHRASES,
)
from services.validation.content.sighting import (
    ContactKind,
    Found,
    Owner,
    Sighting,
    clean,
    rounded,
)

MAX_NAME, MIN_NAME = 120, 2
# Characters of a text that are searched for legal forms: at its head, at its foot, after a word of
# an imprint; and how many such words.
_HEAD, _FOOT, _AFTER, _MARKS = 3_000, 6_000, 1_500, 4
_FORMS = 40

# The legal form closes the name, after a space. The look ahead leaves most words out cheaply.
_FORM = re.compile(
    r" (?=[GgmAKOUeSLICPBNspadZ])(?:g?GmbH(?: & Co\.? ?(?:KGaA|KG|OHG))?|mbH(?: & Co\.? ?KG)?"
    r"|AG(?: & Co\.? ?(?:KGaA|KG))?|KGaA|KG|OHG|GbR|UG(?: \(haftungsbeschränkt\))?"
    r"|e\. ?K\.|e\. ?Kfm\.|e\. ?V\.|eG|SE"
    r"|Ltd\.?|Limited|LLC|L\.L\.C\.|LLP|Inc\.?|Corp\.|Corporation|PLC|plc|Pty\.? Ltd\.?"
    r"|S\.A\.R\.L\.?|SARL|S\.à r\.l\.|SAS|S\.A\.S\.?|S\.A\.|EURL"
    r"|S\.r\.l\.?|S\.R\.L\.?|Srl|SRL|S\.p\.A\.?|SpA|S\.L\.U?\.?|B\.V\.|BV|N\.V\.|NV"
    r"|A/S|ApS|AB|AS|Oyj?|[Ss]p\. z o\.o\.|s\.r\.o\.|a\.s\.|Kft\.?|Zrt\.?|d\.o\.o\.)(?!\w)"
)
# Where one may begin: RE2 has no look ahead, but is ten times as fast.
_FORM_ALONE = _FORM.pattern.replace("(?=[GgmAKOUeSLICPBNspadZ])", "").removesuffix(r"(?!\w)")
_MAYBE_FORM = re2.compile(_FORM_ALONE.encode())
_SHOUTED = re.compile(r" [A-Z]{2}")
_EAST_ASIAN = re.compile(
    r"[^\s\x00-\x7f、。・|\uff1a]{1,20}(?:株式会社|有限公司)|株式会社[^\s、。・|\uff1a]{2,20}"
)
_RUSSIAN = re.compile(r"(?:ООО|ОАО|ЗАО|ПАО|АО|ИП) ?[«\"]([^»\"\n]{2,80})[»\"]")  # noqa: RUF001
_CONNECTORS = frozenset(
    "& + und and et y e of de des du la le the der die das für van von i".split()
)
_NOT_NAMES = frozenset(
    "the our we by of und and die der das von bei copyright ©️ © (c) is a an by: impressum imprint"
    " firma company name anbieter betreiber herausgeber contact kontakt".split()
)
# What names stand after, in lower case.
_IMPRINT = (
    "angaben gemäß", "angaben gemäss", "angaben nach", "impressum", "imprint", "legal notice",
    "medieninhaber", "diensteanbieter", "mentions légales", "éditeur du site", "raison sociale",
    "ragione sociale", "razón social", "company name", "registered name", "registered office",
)  # fmt: skip
# Those that a name follows on the same line, after a colon.
_COLON = (
    "medieninhaber", "diensteanbieter", "anbieter", "betreiber", "betreiber der website",
    "herausgeber", "raison sociale", "éditeur du site", "ragione sociale", "razón social",
    "denominazione", "legal name", "company name", "registered name", "trading name", "firma",
)  # fmt: skip
# Names that stand after these: `_GERMAN_LAW`.
_LAW = ("angaben gemäß", "angaben gemäss", "angaben nach")
_GERMAN_LAW = re.compile(r"angaben (?:gemäß|gemäss|nach) § ?5[^\n]{0,30}\n\s{0,5}([^\n]{3,80})")

# What a text without them has no name in, or none of that sort. As RE2 writes them.
HINTS = {
    "form": rf"(?:{_FORM_ALONE})(?:[^\pL\pN_]|\z)",
    "colon": rf"(?i)(?:{'|'.join(map(re.escape, _COLON))})[\s\pZ\x0b\x1c-\x1f\x{{85}}]*:",
    "east": r"(?:АО|ООО|ИП) ?[«\"]|株式会社|有限公司",  # noqa: RUF001
    "copyright": "(?i)copyright",
    "(c)": r"(?i)\(c\)",
    **{word: f"(?i){re.escape(word)}" for word in _IMPRINT},
}

_COPYRIGHT_HEAD = re.compile(
    r"(?:\s|©|\(c\)|copyright\b|(?:19|20)\d\d|[-\u2012-\u2015/,:.|]|by\b|von\b|to\b|bis\b|present\b"
    r"|heute\b|today\b|all rights reserved\b)+",
    re.IGNORECASE,
)
_COPYRIGHT_TAIL = re.compile(
    r" [-|•·\u2012-\u2015] |[|•·©\n]|(?<!\bCo)(?<!\bDr)(?<!\bSt)(?<!\be)(?<!\bInc)(?<!\bLtd)"
    r"(?<!\b[A-Z])\.(?: |\Z)|,(?! ?(?:inc|ltd|llc|s\.|gmbh|l\.l))"
    r"|\ball rights|\balle rechte|\btous droits|\btodos los|\btutti i|\bwszelkie|\bpowered"
    r"|\bdesign(?:ed)? |\bmade (?:with|by)|\b(?:19|20)\d\d\b|\bimpressum|\bimprint|\bdatenschutz"
    r"|\bcopyright|\bpermission|\bthis |\blast |\bversion|\brelease|\blicen[sc]"
    r"|\bprivacy|\bterms|\bcookie|\bsite by|\bwebsite|\bagb\b",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:19|20)\d\d")
_TITLE = re.compile(r"\s+(?:[-|·•»\u2012-\u2015]|::)\s+|\s*\|\s*")
# In titles of pages that are nobody's own.
_STOCK = (*NOT_FOUND_PHRASES, *LOGIN_PHRASES, *DEFAULT_PHRASES, *CONSTRUCTION_PHRASES)
_LETTERS = re.compile(r"[^\W\d_]")
_SQUEEZED = re.compile(r"[\W_]+")
_EDGES, _QUOTES = " ,;:|-\u2013\u2014", "\"'„“”»«"
_GENERIC = frozenset(
    "home homepage startseite start welcome willkommen index untitled default website webseite"
    " site company yourcompany firma about kontakt contact impressum imprint blog shop news"
    " accueil inicio page error notfound 404 document newpage mysite mywebsite organization"
    " allrightsreserved copyright lorem".split()
)
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "é": "e", "è": "e", "à": "a"})


def named(
    name: str, found: Found, owner: Owner, confidence: float, *, context: str
) -> Iterator[Sighting]:
    """A name that somebody gave as one: in structured data, or as the site's."""
    yield from _sighting(name, found, owner, confidence, context=context)


def in_title(title: str, owner: Owner) -> Iterator[Sighting]:
    """The part of a title that is the site's: the one that is like its domain, else the last.

    A site that calls itself by its bare domain, as stock pages do, names nobody, and what follows
    "404" or "Log in" is hardly ever a company.
    """
    title = clean(title, 500)
    parts = [part for part in _TITLE.split(title, maxsplit=8) if part]
    if owner.domain and any(_has_domain(part, owner) for part in parts):
        return
    for part in reversed(parts):
        if is_like_domain(part, owner):
            yield from _sighting(part, Found.TITLE, owner, 0.4, context=title)
            return
    if len(parts) > 1 and len(parts[-1]) <= 60 and not _is_stock(title.lower()):
        yield from _sighting(parts[-1], Found.TITLE, owner, 0.25, context=title)


def in_text(text: str, lower: str, owner: Owner, hints: Set[str]) -> Iterator[Sighting]:
    """Names of a text; `lower` is the text in lower case, `hints` those of HINTS that it has."""
    yield from _copyrights(text, lower, owner, hints)
    is_given = "colon" in hints or not hints.isdisjoint(_LAW)
    if not is_given and "form" not in hints and "east" not in hints:
        return
    parts, imprint = _parts(text, lower, hints)
    for start, end in parts:
        part = text[start:end]
        for first, last, confidence in _given(part, lower[start:end]) if is_given else ():
            name = part[first:last].partition(", ")[0]
            if not any(each.isdigit() for each in name) and _has_capital(name):
                yield from _sighting(
                    name, Found.IMPRINT, owner, confidence, start=start + first, end=start + last
                )
        for first, last, name in _with_form(part, hints):
            yield from _sighting(
                name,
                Found.IMPRINT,
                owner,
                0.72 if imprint else 0.5,
                start=start + first,
                end=start + last,
            )


def key_of(name: str) -> str:
    """Equal for spellings of one name."""
    return _SQUEEZED.sub("", name.casefold())


def is_like_domain(name: str, owner: Owner) -> bool:
    """Whether a name and the site's domain are of one another."""
    if len(owner.label) < 3:
        return False
    squeezed = _SQUEEZED.sub("", name.lower().translate(_UMLAUTS))
    return bool(squeezed) and (
        owner.label in squeezed or (len(squeezed) > 3 and squeezed in owner.label)
    )


def _has_domain(part: str, owner: Owner) -> bool:
    """Whether the domain stands there as nobody writes a name: "example.com", not "Example.com"."""
    at = part.find(owner.domain)
    if at < 0:
        return False
    before, after = part[at - 1 : at], part[at + len(owner.domain) :][:1]
    return not before.isalnum() and not after.isalnum()


def _is_stock(title: str) -> bool:
    return any(phrase in title for phrase in _STOCK)


def _parts(text: str, lower: str, hints: Set[str]) -> tuple[list[tuple[int, int]], bool]:
    """Where names are looked for, without overlap; and whether there is an imprint among it."""
    foot = max(len(text) - _FOOT, _HEAD)
    spans = [(0, _HEAD), (foot, len(text))]
    imprint = False
    words = [word for word in _IMPRINT if word in hints]
    # Imprints stand on pages of their own, or at the foot of a long one.
    for searched in ((0, 4 * _HEAD), (max(len(text) - 4 * _FOOT, 4 * _HEAD), len(text))):
        for word in words:
            place = lower.find(word, *searched)
            for _ in range(_MARKS):
                if place < 0:
                    break
                # A link to the imprint is short, or the last thing on a page.
                imprint = imprint or len(lower) - place > 100
                spans.append((place, place + _AFTER))
                place = lower.find(word, place + _AFTER, searched[1])
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        end = min(end, len(text))
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return merged, imprint


def _given(part: str, lower: str) -> Iterator[tuple[int, int, float]]:
    """Names that follow a word for them: where, and how sure."""
    start = 0
    for line in lower.split("\n"):
        colon = line.find(":", 0, 60)
        if colon > 0 and line[:colon].rstrip().endswith(_COLON):
            end = start + min(len(line), colon + MAX_NAME)
            yield start + colon + 1, end, 0.7
        start += len(line) + 1
    for match in _GERMAN_LAW.finditer(lower):
        yield match.start(1), match.end(1), 0.6


def _with_form(part: str, hints: Set[str]) -> Iterator[tuple[int, int, str]]:
    """Names that a legal form is part of."""
    for match in islice(_forms(part), _FORMS) if "form" in hints else ():
        if _SHOUTED.match(part, match.end()):
            # "ENTIRE RISK AS TO".
            continue
        name = _before_form(part, match.start(), match.group().strip())
        if name:
            yield max(match.end() - len(name), 0), match.end(), name
    if "east" in hints:
        for pattern in (_RUSSIAN, _EAST_ASIAN):
            for count, match in enumerate(pattern.finditer(part)):
                if count >= _FORMS:
                    break
                yield match.start(), match.end(), match.group()


def _forms(part: str) -> Iterator[re.Match[str]]:
    """As `_FORM.finditer`, beginning where RE2 says that one may."""
    encoded = part.encode("utf-8", "replace")
    searched = place = 0
    # Bytes and characters: equal in number up to here.
    counted = 0
    while maybe := _MAYBE_FORM.search(encoded, searched):
        begin = maybe.start()
        place += len(encoded[counted:begin].decode())
        counted = begin
        if match := _FORM.match(part, place):
            yield match
            searched = begin + len(match[0].encode())
        else:
            searched = begin + 1


def _before_form(part: str, at: int, form: str) -> str:
    """The name that a legal form closes: capitalised words before it, on its line."""
    line = part[max(at - 100, 0) : at].rpartition("\n")[2]
    words: list[str] = []
    for word in reversed(line.split()[-8:]):
        bare = word.strip("\"'„“»«(")
        if not bare or bare.lower() in _NOT_NAMES or word.endswith((":", ";", "!", "?")):
            break
        if not _LETTERS.search(bare) and len(bare) > 3 and bare not in _CONNECTORS:
            # Years, a post code.
            break
        if bare not in _CONNECTORS:
            if not (bare[0].isupper() or bare[0].isdigit() or not bare[0].isascii()):
                break
            if words and word.endswith((".", ",")) and len(bare) > 4:
                break
        words.insert(0, bare)
        if word[0] in "\"'„“»«(":
            break
    while words and (words[0] in _CONNECTORS or _YEAR.fullmatch(words[0])):
        words.pop(0)
    if not words or not any(_LETTERS.match(each) and each[0].isupper() for each in words):
        return ""
    return f"{' '.join(words)} {form}"


def _copyrights(text: str, lower: str, owner: Owner, hints: Set[str]) -> Iterator[Sighting]:
    for mark in ("©", "copyright", "(c)"):
        if mark != "©" and mark not in hints:
            continue
        searched = text if mark == "©" else lower
        place = searched.rfind(mark)
        for _ in range(3):
            if place < 0:
                break
            yield from _copyright(text, place, mark, owner)
            place = searched.rfind(mark, 0, place)


def _copyright(text: str, at: int, mark: str, owner: Owner) -> Iterator[Sighting]:
    line = text[at : at + 200].partition("\n")[0]
    if mark != "©" and not _YEAR.search(line[:40]) and "©" not in line[:40]:
        # "copyright law", "(a), (b), (c)".
        return
    head = _COPYRIGHT_HEAD.match(line)
    rest = line[head.end() :] if head else line
    tail = _COPYRIGHT_TAIL.search(rest)
    name = rest[: tail.start()] if tail else rest
    form = _FORM.search(name)
    if form:
        # Addresses follow.
        name = name[: form.end()]
    if name.partition(" ")[0] in _CONNECTORS:
        return
    start = at + (head.end() if head else 0)
    if not _has_capital(name):
        # "Name © 2026".
        before = text[max(at - 100, 0) : at].rpartition("\n")[2]
        name = re.split(r"[|•·]", before)[-1].strip(" -,0123456789")
        start = at - len(before)
        if not _has_capital(name) or len(name.split()) > 6:
            return
    if len(name.split()) <= 8:
        yield from _sighting(
            name, Found.COPYRIGHT, owner, 0.55 + 0.1 * bool(form), start=start,
            end=start + len(name),
        )  # fmt: skip


def _has_capital(name: str) -> bool:
    return any(each.isupper() for each in name) or bool(
        name.strip() and not name.isascii() and _LETTERS.search(name)
    )


def _sighting(
    name: str,
    found: Found,
    owner: Owner,
    confidence: float,
    *,
    start: int = -1,
    end: int = -1,
    context: str = "",
) -> Iterator[Sighting]:
    name = clean(name, MAX_NAME).strip(_EDGES)
    if name[:1] in _QUOTES or not any(each in name[:-1] for each in _QUOTES):
        name = name.strip(_EDGES + _QUOTES)
    key = key_of(name)
    if len(name) < MIN_NAME or not _LETTERS.search(name) or key in _GENERIC or "@" in name:
        return
    if "://" in name or name.lower().startswith("www."):
        return
    if is_like_domain(name, owner):
        confidence += 0.12
    yield Sighting(
        ContactKind.COMPANY, name, found, rounded(confidence), start, end, context or name
    )
