"""Pages nobody here wrote: the HTML that comes with Python packages and the system."""

import sysconfig
from pathlib import Path

import pytest

from services.validation.content.classify import PageKind, classify
from services.validation.content.clusters import fingerprint
from services.validation.content.contacts import MAX_CONTACTS, ContactPage, find_contacts
from services.validation.content.crawl import next_pages
from services.validation.content.features import Features, features_of
from services.validation.content.markup import parse
from services.validation.content.scoring import DEFAULT_PROFILE, explain
from tests.validation.content.test_markup import assert_bounded

FOLDERS = [
    Path("/usr/share/doc"),
    Path("/usr/share/javascript"),
    Path("/usr/lib/python3"),
    Path(sysconfig.get_path("stdlib")),
    Path(sysconfig.get_path("purelib")),
]
PAGES = sorted(
    {
        path.resolve()
        for folder in FOLDERS
        if folder.is_dir()
        for pattern in ("*.html", "*.htm", "*.xhtml")
        for path in folder.rglob(pattern)
        if path.is_file() and path.stat().st_size < 2_000_000
    }
)[:400]


@pytest.mark.skipif(not PAGES, reason="no package here comes with HTML")
def test_pages_of_packages_are_read_classified_and_scored() -> None:
    kinds = []
    for path in PAGES:
        body = path.read_bytes()
        url = f"https://docs.example.com/{path.stem}"
        page = parse(body, url=url)
        assert_bounded(page)
        found = classify(page, name="docs.example.com", final_url=url)
        vector = features_of(
            page,
            hit_counts={"the": page.text.count("the"), "python": page.text.count("python")},
            title_hit=False,
            parked_confidence=found.parked_confidence,
            page_kind=found.kind,
            is_parked=found.is_parked,
            fingerprint=fingerprint(page, "docs.example.com"),
            fetch_time=1_790_000_000,
        )
        assert Features.from_bytes(vector.to_bytes()) == vector
        assert 0 <= explain(vector, DEFAULT_PROFILE, now=1_790_000_000).score <= 1_000
        next_pages(url, page.links)
        contacts = find_contacts(
            ContactPage(
                url=url,
                text=page.lines,
                links=(*page.contact_links, *((it.url, it.text) for it in page.links)),
                items=(*page.json_ld, *page.microdata),
                title=page.title,
                site_name=page.site_name,
                language=page.language,
                protected=page.protected,
            )
        )
        assert len(contacts) <= MAX_CONTACTS
        assert all(it.value and "\n" not in it.value for it in contacts)
        kinds.append(found.kind)

    # Documentation is not parked.
    assert PageKind.PARKED not in kinds
    assert PageKind.FOR_SALE not in kinds
