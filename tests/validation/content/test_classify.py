import pytest

from services.validation.content.classify import (
    DEFAULT_THRESHOLDS,
    Classification,
    PageKind,
    Thresholds,
    classify,
    parking_domain,
)
from services.validation.content.markup import parse

ARTICLE = "<p>" + "The weather stays fine and the harvest is good. " * 60


def kind_of(html: str, **facts: object) -> Classification:
    facts = {"name": "example.com", "final_url": "https://example.com/", **facts}
    page = parse(html.encode(), url=str(facts["final_url"]))
    return classify(page, **facts)  # type: ignore[arg-type]


def signals_of(found: Classification) -> list[str]:
    return [signal.name for finding in found.findings for signal in finding.signals]


def test_an_ordinary_page_is_content_without_a_signal() -> None:
    found = kind_of(f"<title>Harvest news</title><h1>Harvest</h1>{ARTICLE}")

    assert found == Classification(PageKind.CONTENT, 0.0, ())


@pytest.mark.parametrize(
    ("html", "kind"),
    [
        ("<title>Buy this domain</title>x", PageKind.FOR_SALE),
        ("<title>Parked</title>x", PageKind.CONTENT),
        ("<title>example.com is for sale</title>x", PageKind.FOR_SALE),
        ("<h1>Diese Domain kaufen</h1>", PageKind.FOR_SALE),
        ("<p>Ce domaine est à vendre", PageKind.FOR_SALE),
        ("<p>此域名出售", PageKind.FOR_SALE),
        ("<html data-adblockkey=MFww><title>example.com</title>x", PageKind.PARKED),
        ("<script src=//www.google.com/x></script><script>new google.ads.domains.Caf()</script>x",
         PageKind.PARKED),
        ("<script src=//c.parkingcrew.net/a.js></script>x", PageKind.PARKED),
        ("<p>This domain is parked. Related searches", PageKind.PARKED),
        ("<title>Welcome to nginx!</title><h1>Welcome to nginx!</h1>", PageKind.DEFAULT_PAGE),
        ("<title>Index of /</title><h1>Index of /</h1>", PageKind.DEFAULT_PAGE),
        ("<h1>Coming soon</h1>", PageKind.UNDER_CONSTRUCTION),
        ("<title>Neu</title><p>Hier entsteht unsere Seite", PageKind.UNDER_CONSTRUCTION),
        ("<title>404 Not Found</title><h1>Not Found</h1>", PageKind.SOFT_NOT_FOUND),
        ("<h1>Seite nicht gefunden</h1>", PageKind.SOFT_NOT_FOUND),
        ("<title>Log in</title><input type=password>", PageKind.LOGIN),
        ("", PageKind.EMPTY),
        ("<script>app()</script>", PageKind.EMPTY),
    ],
)  # fmt: skip
def test_pages_about_nothing_are_told_apart(html: str, kind: PageKind) -> None:
    assert kind_of(html).kind is kind


@pytest.mark.parametrize(
    "html",
    [
        f"<title>How domain parking works</title>{ARTICLE} This domain is for sale, it says. Sedo.",
        f"<title>Used cars for sale</title>{ARTICLE}",
        f"<title>Shop</title>{ARTICLE} Shoes: coming soon! Page not found? <a href=/x>Login</a>",
        f"<title>Bank</title>{ARTICLE}<input type=password>",
        f"<h1>Our houses</h1>{ARTICLE}<a href=https://sedo.com/x>our other name is for sale</a>",
    ],
)
def test_pages_that_mention_it_are_content(html: str) -> None:
    assert kind_of(html).kind is PageKind.CONTENT


def test_name_servers_and_redirects_speak_for_themselves() -> None:
    found = kind_of(
        ARTICLE,
        final_url="https://www.hugedomains.com/domain_profile.cfm?d=example",
        name_servers=("NS1.SedoParking.com.",),
    )

    assert found.kind is PageKind.PARKED
    assert found.parked_confidence == 0.97
    assert signals_of(found) == ["parking_name_server", "redirect_to_parking"]


def test_a_numbered_host_of_the_name_is_a_sign_of_parking() -> None:
    found = kind_of("x", final_url="http://ww25.example.com/?subid=1")

    assert signals_of(found) == ["sent_to_numbered_host"]
    assert found.kind is PageKind.PARKED


def test_the_own_site_of_a_parking_provider_is_not_parked_by_its_host() -> None:
    assert kind_of(ARTICLE, name="sedo.com", final_url="https://sedo.com/").kind is PageKind.CONTENT


def test_confidence_is_one_less_the_product_of_the_doubts() -> None:
    found = kind_of("<title>Buy this domain</title>x", name_servers=("ns1.bodis.com",))

    weights = [it.weight for it in found.findings[0].signals]
    assert weights == [0.7, 0.6]
    assert found.parked_confidence == found.findings[0].confidence == 0.88


def test_thresholds_decide_what_a_page_is_called_not_how_sure_it_is() -> None:
    html = "<p>This page is parked."
    page = parse(html.encode(), url="https://example.com/")

    strict = classify(page, thresholds=Thresholds(parked=0.9))

    assert strict.kind is PageKind.CONTENT
    assert not strict.is_parked
    assert strict.parked_confidence == classify(page).parked_confidence == 0.5
    assert DEFAULT_THRESHOLDS.parked == 0.30


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("ns1.sedoparking.com", "sedoparking.com"),
        ("NotSedo.com", ""),
        ("ns1.namebrightdns.com", ""),
        ("nsg1.namebrightdns.com.", "nsg1.namebrightdns.com"),
        ("", ""),
    ],
)
def test_hosts_are_matched_by_whole_labels(host: str, domain: str) -> None:
    assert parking_domain(host) == domain


def test_what_the_text_says_adds_to_what_the_title_says() -> None:
    found = kind_of(
        "<title>example.com</title><h2>Related searches</h2><p>This domain is parked free."
    )

    assert signals_of(found) == ["parked_phrase_in_title", "parked_phrase_in_text"]
    assert found.kind is PageKind.PARKED
    assert found.parked_confidence == 0.6


def test_a_heading_is_not_counted_again_as_text() -> None:
    found = kind_of("<title>example.com</title><h2>Related searches</h2><p>Loans, hotels")

    assert signals_of(found) == ["parked_phrase_in_title"]
    assert found.kind is PageKind.CONTENT


def test_an_offer_by_the_way_does_not_make_a_parking_page_one_of_a_seller() -> None:
    page = "<p>This web page is parked for free. Would you like to buy this domain?"
    offered = kind_of(f"<title>example.com</title>{page}")
    shouted = kind_of(f"<title>example.com is for sale</title>{page}")

    assert offered.kind is PageKind.PARKED
    assert shouted.kind is PageKind.FOR_SALE
    assert offered.is_parked
    assert shouted.is_parked
