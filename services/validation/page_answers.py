"""Answers about pages: filled in, and made small enough for who asked."""

from collections.abc import Sequence
from typing import Any

from services.validation.site_evidence import http_to_pb, page_to_pb
from services.validation.sites import Site

# Bytes of an answer: clients take 4 MiB.
ANSWER_BYTES = 3 << 20
# Rules of a page that are told when its answer would be too large; and rules and contacts when it
# would be all the same: names of rules and URLs may be long.
_FEW_HITS = 100
_LEAST_HITS, _LEAST_CONTACTS = 10, 5


def fill(message: Any, site: Site, now_ns: int) -> None:
    """Write what came of a site into a message with the fields `http` and `page`."""
    message.http.CopyFrom(http_to_pb(site, now_ns))
    if site.look is not None:
        message.page.CopyFrom(page_to_pb(site))


def fit(answer: Any, parts: Sequence[Any], limit: int = ANSWER_BYTES) -> None:
    """Make an answer small enough for its caller: of `parts`, messages with the fields `http` and
    `page`, surroundings go first, then hits beyond the first hundred, then the way to the page, at
    last further pages and all but a few hits and contacts."""
    for shorten in (_without_surroundings, _with_few_hits, _without_ways, _with_the_least):
        if answer.ByteSize() <= limit:
            return
        for part in parts:
            shorten(part)


def _without_surroundings(part: Any) -> None:
    for hits in part.page.rule_hits:
        hits.ClearField("snippets")
    for contact in part.page.contacts:
        contact.ClearField("snippet")


def _with_few_hits(part: Any, most: int = _FEW_HITS) -> None:
    if len(part.page.rule_hits) > most:
        del part.page.rule_hits[most:]
        part.page.hits_complete = False


def _without_ways(part: Any) -> None:
    for field in ("redirects", "tls"):
        part.http.evidence.ClearField(field)


def _with_the_least(part: Any) -> None:
    _with_few_hits(part, _LEAST_HITS)
    page = part.page
    del page.contacts[_LEAST_CONTACTS:]
    for field in ("crawled_pages", "findings"):
        page.ClearField(field)
    part.http.evidence.ClearField("trials")
