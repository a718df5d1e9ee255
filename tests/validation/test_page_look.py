"""Pages to what is kept of them, and the pages of one site to one."""

from domainflow.validation.v1 import keyword_pb2
from services.chassis.matching.choice import Keywords, compile_choice
from services.chassis.matching.keywords import MAX_PAGE_SNIPPETS
from services.validation.content.classify import PageKind
from services.validation.content.contacts import MAX_CONTACTS
from services.validation.page_look import PageLook, RawPage, look, merged

NOW = 1_790_000_000


def keywords(*words: str, expression: str = "") -> Keywords:
    return compile_choice(keyword_pb2.KeywordChoice(keywords=words, expression=expression), [])


def page(body: str, path: str = "/", **changes) -> RawPage:
    return RawPage(body.encode(), f"https://garden.de{path}", "text/html; charset=utf-8", **changes)


def looked(body: str, path: str = "/", sought: Keywords | None = None, **changes) -> PageLook:
    return look(page(body, path, **changes), name="garden.de", keywords=sought, now=NOW)


def test_a_page_tells_its_title_language_hits_and_contacts() -> None:
    body = """<html lang=de><title>Garten\nMeyer</title><h1>Rasen</h1><p>Rasen, Rasen und Hecken
        <a href="mailto:info@garden.de">Kontakt</a>"""
    found = looked(body, sought=keywords("rasen", "garten", "bagger"))

    assert (found.title, found.language) == ("Garten Meyer", "de")
    assert found.hits is not None
    hits = {it.rule.name: (it.count, it.title_count) for it in found.hits.rules}
    assert hits == {"rasen": (3, 0), "garten": (0, 1)}
    assert (found.is_match, found.unique_keywords, found.has_contact) == (True, 2, True)
    assert [it.value for it in found.contacts][:1] == ["info@garden.de"]
    assert found.encoding == "utf-8 (header)"
    assert found.classification.kind is PageKind.CONTENT
    assert (found.features.hit_count, found.features.fetch_time) == (4, NOW)
    assert found.byte_size == len(body.encode())


def test_without_keywords_nothing_is_a_hit_or_a_miss() -> None:
    found = looked("<p>Rasen")
    assert (found.hits, found.is_match) == (None, False)


def test_a_page_that_was_cut_is_used_and_marked() -> None:
    found = looked("<title>Rasen", sought=keywords("rasen"), truncated=True)
    assert found.is_match
    assert found.features.flags & 4


def test_name_servers_of_a_parking_provider_count() -> None:
    found = look(
        page("<p>Welcome"),
        name="garden.de",
        keywords=None,
        name_servers=["ns1.sedoparking.com"],
        now=NOW,
    )
    assert found.classification.is_parked


def test_no_page_is_refused() -> None:
    for body in (b"", b"\0\0\0", bytes(range(256)) * 50, b"<a" * 5_000, b"\xff\xfe<\0p\0>\0"):
        raw = RawPage(body, "https://garden.de/", "text/html")
        found = look(raw, name="garden.de", keywords=keywords("x"), now=NOW)
        assert "\0" not in found.title
        assert found.byte_size == len(body)


def test_a_site_is_its_front_page_with_the_hits_and_contacts_of_the_others() -> None:
    sought = keywords("rasen", "hecke", expression="rasen AND hecke")
    front = looked("<title>Meyer</title><h1>Meyer</h1><p>Rasen", sought=sought)
    contact = looked(
        "<title>Kontakt</title><p>Hecke, Rasen <a href='mailto:info@garden.de'>hier</a>",
        "/kontakt",
        sought,
    )
    site = merged(front, [contact], sought)

    assert (front.is_match, contact.is_match, site.is_match) == (False, True, True)
    assert site.hits is not None
    assert {it.rule.name: it.count for it in site.hits.rules} == {"rasen": 2, "hecke": 1}
    assert [(it.value, it.source_url) for it in site.contacts if it.kind == 1] == [
        ("info@garden.de", "https://garden.de/kontakt")
    ]
    assert (site.title, site.url, site.byte_size) == (front.title, front.url, front.byte_size)
    assert (site.features.hit_count, site.features.unique_count) == (3, 2)
    assert site.features.byte_size == front.byte_size + contact.byte_size
    assert merged(front, [], sought) is front


def test_a_site_s_evidence_has_a_limit() -> None:
    sought = keywords(*(f"wort{number}x" for number in range(400)))
    pages = [
        looked(" ".join(f"wort{number}x info{number}@garden.de" for number in some), sought=sought)
        for some in (range(200), range(200, 400))
    ]
    site = merged(pages[0], pages[1:], sought)

    assert site.hits is not None
    assert len(site.hits.rules) == 400
    assert sum(len(it.snippets) for it in site.hits.rules) <= MAX_PAGE_SNIPPETS
    assert len(site.contacts) <= MAX_CONTACTS
