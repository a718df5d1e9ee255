"""Bytes of a page -> all that is kept of it: what it says, what it is, what hit, whom to talk to.
Pure.

A site is a front page and perhaps some further ones; `merged` makes one of them.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.chassis.matching.keywords import MAX_PAGE_SNIPPETS, PageHits, RuleHits
from services.validation.content.classify import Classification, classify
from services.validation.content.clusters import Fingerprint, fingerprint
from services.validation.content.contacts import MAX_CONTACTS, ContactPage, find_contacts
from services.validation.content.features import Features, features_of
from services.validation.content.markup import Document, Link, parse
from services.validation.content.sighting import Contact, ContactKind

# Kinds that reach somebody; a company's name alone does not.
_REACHING = frozenset((ContactKind.EMAIL, ContactKind.PHONE))


class Keywords(Protocol):
    """What is looked for."""

    def scan(self, text: str, title: str) -> PageHits:
        """What the rules hit on a page."""

    def matches(self, hits: PageHits) -> bool:
        """Whether a page, or a site, with these hits is a hit as a whole."""


@dataclass(frozen=True, slots=True)
class RawPage:
    """A page as it came. Everything may be hostile."""

    # Decoded from transfer and content codings; at most what the persona reads.
    body: bytes
    # Of the response, after redirects.
    url: str
    # Headers; empty where they are missing.
    content_type: str = ""
    content_language: str = ""
    last_modified: str = ""
    # Whether a limit or the server cut it.
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class PageLook:
    """What one page, or with `merged` a site's pages, came to."""

    url: str
    # In one line, at most 500 characters.
    title: str
    # BCP 47; empty when the page does not say.
    language: str
    # Of the body.
    byte_size: int
    sha256: bytes
    classification: Classification
    # None where nothing was looked for.
    hits: PageHits | None
    # Whether it is a hit as a whole; false where nothing was looked for.
    is_match: bool
    # The surest first, at most 40.
    contacts: tuple[Contact, ...]
    fingerprint: Fingerprint
    features: Features
    # Whether there is a heading or a link into the site.
    has_structure: bool
    # What it was read in, and what said so, such as "utf-8 (header)".
    encoding: str
    # Of the front page.
    links: tuple[Link, ...]

    @property
    def unique_keywords(self) -> int:
        """Different rules that hit."""
        return len(self.hits.rules) if self.hits else 0

    @property
    def has_contact(self) -> bool:
        """Whether somebody can be written to or called."""
        return any(it.kind in _REACHING for it in self.contacts)


def look(
    page: RawPage,
    *,
    name: str,
    keywords: Keywords | None,
    name_servers: Sequence[str] = (),
    now: int,
) -> PageLook:
    """Look at one page. `name` is the one that was asked for, `name_servers` those of its
    delegation where they are known, `now` Unix seconds. A page of 250 KB takes some 10 ms."""
    document = parse(
        page.body,
        url=page.url,
        content_type=page.content_type,
        content_language=page.content_language,
    )
    classification = classify(document, name=name, final_url=page.url, name_servers=name_servers)
    hits = keywords.scan(document.text, document.title) if keywords else None
    mark = fingerprint(document, name)
    features = features_of(
        document,
        hit_counts={it.rule.name: it.count + it.title_count for it in hits.rules} if hits else {},
        title_hit=any(it.title_count for it in hits.rules) if hits else False,
        parked_confidence=classification.parked_confidence,
        page_kind=classification.kind,
        is_parked=classification.is_parked,
        fingerprint=mark,
        fetch_time=now,
        last_modified=page.last_modified,
        truncated=page.truncated,
    )
    encoding = document.encoding
    return PageLook(
        url=page.url,
        title=document.title,
        language=document.language,
        byte_size=len(page.body),
        sha256=hashlib.sha256(page.body).digest(),
        classification=classification,
        hits=hits,
        is_match=bool(keywords and hits is not None and keywords.matches(hits)),
        contacts=find_contacts(_contact_page(document, page.url)),
        fingerprint=mark,
        features=features,
        has_structure=bool(document.headings) or any(it.same_host for it in document.links),
        encoding=f"{encoding.name} ({encoding.source})",
        links=document.links,
    )


def merged(front: PageLook, further: Sequence[PageLook], keywords: Keywords | None) -> PageLook:
    """A site: the front page with the hits, contacts and sizes of its further pages.

    Its kind, title, links and shape stay the front page's.
    """
    if not further:
        return front
    hits = merged_hits([it.hits for it in (front, *further) if it.hits is not None])
    counts = [it.count + it.title_count for it in hits.rules]
    features = replace(
        front.features,
        hit_count=sum(counts),
        unique_count=len(counts),
        top_hit_count=max(counts, default=0),
        byte_size=sum(it.features.byte_size for it in (front, *further)),
        text_size=sum(it.features.text_size for it in (front, *further)),
        word_count=sum(it.features.word_count for it in (front, *further)),
        # A site is as stuffed as the worst of what was read.
        stuffing_penalty=max(it.features.stuffing_penalty for it in (front, *further)),
    )
    return replace(
        front,
        hits=hits if front.hits is not None else None,
        is_match=bool(keywords and keywords.matches(hits)),
        contacts=merged_contacts(it.contacts for it in (front, *further)),
        features=features,
    )


def merged_hits(pages: Sequence[PageHits]) -> PageHits:
    """Counts added up; snippets of the first page that a rule hit."""
    rules: dict[str, RuleHits] = {}
    snippets = 0
    for page in pages:
        for hits in page.rules:
            known = rules.get(hits.rule.name)
            if known is not None:
                rules[hits.rule.name] = replace(
                    known,
                    count=known.count + hits.count,
                    title_count=known.title_count + hits.title_count,
                )
                continue
            shown = hits.snippets[: MAX_PAGE_SNIPPETS - snippets]
            snippets += len(shown)
            rules[hits.rule.name] = replace(hits, snippets=shown)
    return PageHits(tuple(rules.values()), all(it.complete for it in pages))


def merged_contacts(pages: Iterable[Sequence[Contact]]) -> tuple[Contact, ...]:
    """Each value once, as the page says it that is surest of it; the surest first."""
    best: dict[tuple[ContactKind, str], Contact] = {}
    for contacts in pages:
        for contact in contacts:
            key = contact.kind, contact.value
            if key not in best or contact.confidence > best[key].confidence:
                best[key] = contact
    ranked = sorted(best.values(), key=lambda each: (-each.confidence, each.kind))
    return tuple(ranked[:MAX_CONTACTS])


def _contact_page(document: Document, url: str) -> ContactPage:
    return ContactPage(
        url=url,
        text=document.lines,
        links=(*document.contact_links, *((it.url, it.text) for it in document.links)),
        items=(*document.json_ld, *document.microdata),
        title=document.title,
        site_name=document.site_name,
        language=document.language,
        protected=document.protected,
    )
