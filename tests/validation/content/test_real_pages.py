"""Pages nobody here wrote: the HTML that comes with Python packages and the system."""

import sysconfig
from pathlib import Path

import pytest

from domainflow.validation.v1 import keyword_pb2
from services.chassis.matching.choice import compile_choice
from services.validation.content.classify import PageKind, classify
from services.validation.content.clusters import fingerprint
from services.validation.content.contacts import MAX_CONTACTS, ContactPage, find_contacts
from services.validation.content.crawl import next_pages
from services.validation.content.features import Features, features_of
from services.validation.content.markup import parse
from services.validation.content.scoring import DEFAULT_PROFILE, explain
from services.validation.http.fetch import nothing_asked
from services.validation.http.verdict import Verdict
from services.validation.page_look import RawPage, look
from services.validation.site_evidence import page_to_pb
from services.validation.sites import Site
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


@pytest.mark.skipif(not PAGES, reason="no package here comes with HTML")
def test_pages_of_packages_go_the_whole_way_to_what_is_stored() -> None:
    choice = keyword_pb2.KeywordChoice(
        keywords=["python", "copyright", "library", "function", "größe", "文字"],
        rules=[
            keyword_pb2.KeywordRule(
                name="version", pattern=r"\b[0-9]+\.[0-9]+\b", kind=keyword_pb2.KEYWORD_KIND_REGEX
            )
        ],
    )
    keywords = compile_choice(choice, [])
    matched = 0
    # Every third: they are many, and of few kinds.
    for path in PAGES[::3]:
        url = f"https://docs.example.com/{path.stem}"
        found = look(
            RawPage(path.read_bytes(), url, "text/html"),
            name="docs.example.com",
            keywords=keywords,
            now=1_790_000_000,
        )
        assert found.hits is not None
        matched += found.is_match
        fetch = nothing_asked("docs.example.com", Verdict.OK, "")
        page = page_to_pb(Site(fetch, found))
        assert page.kind == found.classification.kind
        assert len(page.SerializeToString()) < 1_000_000
        # One line each, which is what streams join them with.
        assert not {"\n", "\r", "\0"} & set(found.title)

    assert matched > len(PAGES) // 6
