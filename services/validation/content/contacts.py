"""Whom to talk to: e-mail addresses, phones, companies and social profiles of one page. Pure.

Time is linear in the page and bounded: every search has a window around what it looks for and a
limit to how often it looks. Nothing a page says makes this fail.
"""

from collections.abc import Iterator

from services.validation.content import companies, emails, phones, profiles
from services.validation.content.hints import Hints
from services.validation.content.sighting import (
    MAX_LINKS,
    MAX_TEXT,
    MAX_VALUE,
    Contact,
    ContactKind,
    ContactPage,
    Found,
    Owner,
    Sighting,
    clean,
    lowered,
    owner_of,
    readable,
    snippet,
)
from services.validation.content.structured import Statements, statements_of

__all__ = ["Contact", "ContactKind", "ContactPage", "Found", "find_contacts"]

# Contacts of a page, and of one kind among them.
MAX_CONTACTS = 40
MAX_OF_KIND = 15
_KINDS = tuple(ContactKind)
# Other people's, in structured data: the author of a review, the maker of a product.
_OTHERS = 0.4
_HINTS = Hints(emails.HINTS | phones.HINTS | companies.HINTS)


def find_contacts(page: ContactPage, *, limit: int = MAX_CONTACTS) -> tuple[Contact, ...]:
    """Contacts of a page, each value once, the surest first, at most `limit`.

    What is found in several ways keeps the surest of them. Ties go by kind (e-mail, phone, company,
    social), then by what came first on the page.
    """
    text = emails.reveal(readable(page.text), page.protected[:MAX_LINKS])[:MAX_TEXT]
    best: dict[tuple[ContactKind, str], Sighting] = {}
    for sighting in _sightings(page, text, owner_of(page.url)):
        key = sighting.kind, _key(sighting)
        known = best.get(key)
        if known is None or sighting.confidence > known.confidence:
            best[key] = sighting
    ranked = sorted(best.values(), key=lambda each: (-each.confidence, each.kind))
    kept: list[Contact] = []
    counts = dict.fromkeys(_KINDS, 0)
    source_url = clean(page.url, 2_000)
    for each in ranked:
        if len(kept) >= limit:
            break
        counts[each.kind] += 1
        if counts[each.kind] <= MAX_OF_KIND:
            kept.append(_contact(each, text, source_url))
    return tuple(kept)


def _sightings(page: ContactPage, text: str, owner: Owner) -> Iterator[Sighting]:
    said = statements_of(page.items)
    regions = phones.regions_of(
        countries=(page.country, *said.countries[:3]), tld=owner.tld, language=page.language
    )
    yield from _in_data(said, owner, regions)
    for target, label in page.links[:MAX_LINKS]:
        # Nearly all links are none of these: two comparisons each.
        kind = target[:7].lower()
        if kind == "mailto:" or "email-protection#" in target:
            yield from emails.in_link(target, label, owner)
        elif kind[:4] == "tel:" or kind in ("callto:", "sms:+", "sms:00") or "whats" in target:
            yield from phones.in_link(target, label, regions)
        elif "//wa.me/" in target:
            yield from phones.in_link(target, label, regions)
        elif kind[:4] == "http" or kind[:2] == "//":
            yield from profiles.in_link(target, label, owner)
    for code in page.protected[:MAX_LINKS]:
        yield from emails.in_protected(code, "", owner)
    hints = _HINTS.of(text)
    # Without a hint there is nothing that it is needed for.
    lower = lowered(text) if hints else ""
    yield from emails.in_text(text, lower, owner, hints)
    yield from phones.in_text(text, lower, regions, hints)
    yield from companies.in_text(text, lower, owner, hints)
    yield from companies.named(page.site_name, Found.SITE_NAME, owner, 0.55, context=page.site_name)
    yield from companies.in_title(page.title, owner)


def _in_data(said: Statements, owner: Owner, regions: tuple[str, ...]) -> Iterator[Sighting]:
    for each in said.emails:
        for found in emails.in_data(each.text, f"{each.place}: {each.text}", owner):
            yield _less(found, each.is_others)
    for each, is_fax in [(phone, False) for phone in said.phones] + [
        (fax, True) for fax in said.faxes
    ]:
        own = phones.regions_of(countries=(each.country,), tld="", language="")
        near = tuple(dict.fromkeys((*own, *regions)))
        context = f"{each.place}: {each.text}"
        for found in phones.in_data(each.text, context, near, is_fax=is_fax):
            yield _less(found, each.is_others)
    for each, confidence in [(name, 0.85) for name in said.legal_names] + [
        (name, 0.75) for name in said.names
    ]:
        context = f"{each.place}: {each.text}"
        for found in companies.named(
            each.text, Found.STRUCTURED, owner, confidence, context=context
        ):
            yield _less(found, each.is_others)
    for each in said.profiles:
        for found in profiles.in_data(each.text, f"{each.place}: {each.text}", owner):
            yield _less(found, each.is_others)


def _less(sighting: Sighting, is_others: bool) -> Sighting:
    if not is_others:
        return sighting
    return sighting._replace(confidence=round(sighting.confidence * _OTHERS, 2))


def _key(sighting: Sighting) -> str:
    if sighting.kind is ContactKind.COMPANY:
        return companies.key_of(sighting.value)
    return sighting.value


def _contact(sighting: Sighting, text: str, source_url: str) -> Contact:
    if sighting.start >= 0:
        around = snippet(text, sighting.start, sighting.end)
    else:
        around = clean(sighting.context)
        place = text.find(sighting.value) if around == sighting.value else -1
        if place >= 0:
            # A link that says no more than the text does.
            around = snippet(text, place, place + len(sighting.value))
    return Contact(
        kind=sighting.kind,
        value=sighting.value[:MAX_VALUE],
        source_url=source_url,
        snippet=around,
        found=sighting.found,
        confidence=sighting.confidence,
    )
