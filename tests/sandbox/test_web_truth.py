"""The truth about web servers and their pages: stable, in the shares documented, and to be seen."""

import html
import json
import re
from collections import Counter, defaultdict
from hashlib import sha256

import pytest

from domainflow.validation.v1.http_pb2 import HttpVerdict
from domainflow.validation.v1.lead_pb2 import ContactKind
from services.sandbox import web_content, web_truth
from services.sandbox.truth import ZONE_SERVER, Behaviour, Mix, truth
from services.sandbox.web_content import COMPANY, EMAIL, PHONE, Contact, Form
from services.sandbox.web_pages import body, grouped, opening
from services.sandbox.web_text import KEYWORDS, LANGUAGES, Declared
from services.sandbox.web_truth import (
    BAD_CERTIFICATES,
    NOWHERE,
    Fetching,
    Web,
    WebMix,
    WebTruth,
    WebWorld,
)

WORLD = WebWorld(1)
# Here nearly all names have a web server, and none shares it.
FULL = WebWorld(1, Mix(nxdomain=0, wildcard=0))
KNOWN = [
    known for number in range(20_000) if (known := FULL.truth(f"name{number}.example")) is not None
]
OWN = [it for it in KNOWN if it.has_page and not it.truncated and not it.template]


def test_the_truth_about_a_name_does_not_change() -> None:
    # A change here makes every recorded seed worthless.
    known = WORLD.truth("name18.com")
    assert known is not None
    page = known.page
    assert page is not None

    assert known == WORLD.truth("NAME18.com.")
    assert (known.behaviour, known.verdict(), known.status()) == (Web.PAGE, 1, 200)
    assert page.title == "Lumenta: für höchste Ansprüche"
    assert (page.language, page.charset.codec) == ("de-DE", "cp1252")
    assert page.all_hits == {"Küchen nach Wunsch": 4}
    assert page.contacts == (
        Contact(EMAIL, "contact@name18.com", Form.LINK),
        Contact(PHONE, "+493023125814", Form.LINK),
        Contact(COMPANY, "Tamarind Group KG", Form.JSON_LD),
        Contact(4, "https://www.linkedin.com/company/bluefield684", Form.LINK),
    )
    assert sha256(body(known)).hexdigest() == (
        "acd069600d9bc3cd286623e1bb4dbd313ca2b65f20d475a02d44946e99942878"
    )


def test_behaviours_of_a_seed_do_not_change() -> None:
    found = [WORLD.truth(f"name{number}.com") for number in range(1000)]
    told = " ".join(f"{it.name}:{it.behaviour.value}" for it in found if it is not None)

    assert sha256(told.encode()).hexdigest() == (
        "c6f3bf824252705842e96555b969c2d9d541ea4546855d57bb822c6731e2f25c"
    )


def test_another_seed_is_another_web() -> None:
    other = WebWorld(2, Mix(nxdomain=0, wildcard=0))
    both = [(it, other.truth(it.name)) for it in KNOWN[:1000]]

    assert sum(it.behaviour is not also.behaviour for it, also in both if also) > 400


def test_behaviours_come_in_the_documented_shares() -> None:
    counts = Counter(it.behaviour for it in KNOWN)
    mix = WebMix()
    shares = {kind: getattr(mix, kind.name.lower()) / 100 for kind in Web}
    # Where "www." does not resolve, there is a page instead.
    both = counts.pop(Web.PAGE) + counts.pop(Web.MOVED_TO_WWW)
    due = shares.pop(Web.PAGE) + shares.pop(Web.MOVED_TO_WWW)

    assert sum(shares.values()) + due == pytest.approx(1)
    assert both / len(KNOWN) == pytest.approx(due, abs=0.01)
    for kind, share in shares.items():
        # Six standard deviations.
        allowed = 6 * (share / len(KNOWN)) ** 0.5
        assert counts[kind] / len(KNOWN) == pytest.approx(share, abs=allowed)


def test_a_weight_of_zero_makes_a_behaviour_impossible() -> None:
    pages = dict.fromkeys(WebMix.__slots__, 0.0) | {"page": 1.0, "mute": 1.0}
    world = WebWorld(1, Mix(nxdomain=0), WebMix(**pages))
    found = [world.truth(f"name{number}.example") for number in range(300)]

    assert {it.behaviour for it in found if it} == {Web.PAGE, Web.MUTE}


@pytest.mark.parametrize("weights", [{"mute": -1.0}, dict.fromkeys(WebMix.__slots__, 0.0)])
def test_a_senseless_mix_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        WebWorld(1, web=WebMix(**weights))


def test_only_what_has_addresses_has_a_web_server() -> None:
    for number in range(2000):
        name = f"name{number}.com"
        known, dns = WORLD.truth(name), truth(name, 1, Mix())
        assert (known is not None) == bool(dns.addresses)
        assert known is None or known.addresses == dns.addresses
    assert WORLD.truth(ZONE_SERVER) is None
    assert WORLD.truth(NOWHERE) is None
    assert WORLD.truth("") is None


def test_all_names_below_a_wildcard_are_one_site() -> None:
    wildcards = [
        f"name{number}.example"
        for number in range(3000)
        if truth(f"name{number}.example", 1, Mix()).behaviour is Behaviour.WILDCARD
    ]
    pages = 0
    for parent in wildcards:
        below = [WORLD.truth(f"{'r' * 25}{it}.{parent}") for it in range(4)]
        found = [it for it in below if it is not None]
        assert len(found) == 4
        assert len({(it.behaviour, it.number, it.template) for it in found}) == 1
        if found[0].behaviour is Web.PAGE:
            pages += 1
            assert found[0].template
            assert len({body(it) for it in found}) == 1
    assert pages


def test_where_the_top_is_a_wildcard_names_are_parked() -> None:
    found = [WORLD.truth(f"{number:028}.ws") for number in range(20)]

    assert {it.behaviour for it in found if it} == {Web.PARKED}
    assert len({it.template for it in found if it}) == 1
    assert all(it is not None and it.parked for it in found)


def test_names_that_moved_have_their_page_at_www() -> None:
    moved = [it for it in KNOWN if it.behaviour is Web.MOVED_TO_WWW]

    assert moved
    for known in moved[:50]:
        there = FULL.truth(known.landing[0])
        assert there is not None
        assert (there.behaviour, there.name) == (Web.PAGE, f"www.{known.name}")
        assert body(there) == body(known)


def test_numbers_are_those_of_the_contract() -> None:
    verdicts = {
        "OK", "TIMEOUT", "CONNECTION_REFUSED", "CONNECTION_RESET", "UNREACHABLE", "TLS_HANDSHAKE",
        "TLS_CERTIFICATE", "NOT_FOUND", "GONE", "UNAUTHORIZED", "FORBIDDEN", "RATE_LIMITED",
        "SERVER_ERROR", "STATUS_NOT_ALLOWED", "TOO_MANY_REDIRECTS", "ADDRESS_NOT_ALLOWED",
        "EXCLUDED", "PROTOCOL_ERROR",
    }  # fmt: skip
    for name in verdicts:
        assert getattr(web_truth, name) == HttpVerdict.Value(f"HTTP_VERDICT_{name}")
    assert web_truth.LEGAL_REASONS == HttpVerdict.HTTP_VERDICT_UNAVAILABLE_FOR_LEGAL_REASONS
    for name in ("EMAIL", "PHONE", "COMPANY", "SOCIAL"):
        assert getattr(web_content, name) == ContactKind.Value(f"CONTACT_KIND_{name}")


def one(behaviour: Web) -> WebTruth:
    return next(it for it in KNOWN if it.behaviour is behaviour)


def test_the_verdict_depends_on_how_pages_are_fetched() -> None:
    for kind in BAD_CERTIFICATES:
        assert one(kind).verdict() == web_truth.OK
        assert one(kind).verdict(Fetching(verify=True)) == web_truth.TLS_CERTIFICATE
        assert one(kind).status(Fetching(verify=True)) == 0
    for kind, first, status in (
        (Web.LIMITED_AT_FIRST, web_truth.RATE_LIMITED, 429),
        (Web.BUSY_AT_FIRST, web_truth.SERVER_ERROR, 503),
    ):
        once = Fetching(retry=False)
        assert (one(kind).verdict(), one(kind).status()) == (web_truth.OK, 200)
        assert (one(kind).verdict(once), one(kind).status(once)) == (first, status)
    polite, rude = Fetching(), Fetching(robots=False)
    assert (one(Web.ROBOTS).verdict(polite), one(Web.ROBOTS).status(polite)) == (19, 0)
    assert (one(Web.ROBOTS).verdict(rude), one(Web.ROBOTS).status(rude)) == (1, 200)
    strict = Fetching(closed_port=False)
    assert [one(Web.REFUSED).verdict(it) for it in (polite, strict)] == [3, 18]
    assert [one(Web.MOVED_NOWHERE).verdict(it) for it in (polite, strict)] == [3, 5]


def test_every_verdict_that_a_fetch_can_come_to_is_some_name_s() -> None:
    found = {it.verdict(how) for it in KNOWN for how in (Fetching(), Fetching(verify=True))}
    found |= {it.verdict(Fetching(closed_port=False)) for it in KNOWN}
    # The proxy's, and those that are not a fetch's.
    assert set(HttpVerdict.values()) - found == {0, 8, 21}


# What is on the pages


def text_of(page: str) -> str:
    """What is to be seen, without the title."""
    shown = re.sub(r"(?s)<!--.*?-->|<script.*?</script>|<title>.*?</title>", "", page)
    return html.unescape(re.sub(r"<[^>]+>", "", shown))


def decoded(known: WebTruth, path: str = "/") -> str:
    assert known.page is not None
    return body(known, path).decode(known.page.charset.codec)


def test_keywords_are_seen_as_often_as_the_truth_says() -> None:
    stuffed = 0
    for known in OWN[:700]:
        page = known.page
        assert page is not None
        text = text_of(decoded(known)).lower()
        found = {it: count for it in KEYWORDS if (count := text.count(it.lower()))}
        assert found == dict(page.hits)
        assert page.title_keyword in ("", *found)
        stuffed += any(count > 50 for count in found.values())
    assert stuffed


def test_keywords_that_nobody_sees_are_on_some_pages() -> None:
    hiding = [it for it in OWN if it.page and it.page.hidden][:20]

    assert hiding
    for known in hiding:
        assert known.page is not None
        assert f"<!-- {known.page.hidden} -->" in decoded(known)


def test_titles_and_languages_are_what_the_page_says() -> None:
    said: Counter[str] = Counter()
    for known in OWN[:700]:
        page = known.page
        assert page is not None
        text = decoded(known)
        assert f"<title>{page.title}</title>" in text
        assert page.title_keyword in page.title
        found = re.search(r'<html lang="([^"]+)">', text)
        assert (found[1] if found else "") == page.language
        said[page.language.partition("-")[0]] += 1
    assert set(said) == {"", "en", "de", "fr", "es", "ru", "ja"}


def test_character_sets_are_declared_where_the_truth_says() -> None:
    used = defaultdict(set)
    for known in OWN[:2000]:
        page = known.page
        assert page is not None
        used[page.charset].add(page.tongue)
        raw = body(known)
        marked = raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe"))
        assert marked == (page.charset.declared is Declared.MARK)
        in_meta = f"charset={page.charset.label}".encode() in raw.replace(b'"', b"")[:400]
        assert in_meta == (page.charset.declared is Declared.META)
    assert set(used) == {it for language in LANGUAGES for it in language.charsets}


def shown_as(contact: Contact) -> str:
    value, form = contact.value, contact.form
    if contact.kind == PHONE:
        return f'href="tel:{value}"' if form is Form.LINK else grouped(value)
    return {
        Form.LINK: f'href="{"mailto:" if contact.kind == EMAIL else ""}{value}"',
        Form.SPELT: value.replace("@", " [at] ").replace(".", " [dot] "),
        Form.REFERENCES: "".join(f"&#{ord(it)};" for it in value),
        Form.META: f'<meta property="og:site_name" content="{value}">',
    }.get(form, value)


def test_contacts_are_shown_as_the_truth_says() -> None:
    forms = set()
    for known in OWN[:1500]:
        page = known.page
        assert page is not None
        text = decoded(known, page.contact_path) if page.contacts else decoded(known)
        told = re.search(r'<script type="application/ld\+json">(.*?)</script>', text)
        organization = json.loads(told[1]) if told else {}
        for contact in page.contacts:
            forms.add((contact.kind, contact.form))
            if contact.form is Form.JSON_LD:
                assert contact.value in (*organization.values(), *organization.get("sameAs", ()))
            elif contact.form is Form.PROTECTED:
                found = re.search(r'data-cfemail="([0-9a-f]+)"', text)
                assert found
                key, *hidden = bytes.fromhex(found[1])
                assert bytes(it ^ key for it in hidden).decode() == contact.value
            else:
                assert shown_as(contact) in text
        if page.contact_path != "/":
            assert f'<a href="{page.contact_path}">' in decoded(known)
            emails = [it.value for it in page.contacts if it.kind == EMAIL]
            assert not any(it in decoded(known) for it in emails)
    assert {form for _, form in forms} == set(Form)
    assert {kind for kind, _ in forms} == {1, 2, 3, 4}


def test_names_of_one_template_have_one_page_and_others_have_their_own() -> None:
    shared = [it for it in KNOWN if it.template]
    texts = defaultdict(set)
    for known in shared:
        texts[known.template].add(body(known).replace(known.name.encode(), b""))

    assert len(texts) == 4 + 2 + 3 + 2 + 3 + 12
    assert all(len(it) == 1 for it in texts.values())
    pages = [body(it) for it in OWN[:1500] if it.behaviour is not Web.MOVED_TO_WWW]
    assert len(set(pages)) == len(pages)


def test_pages_are_thin_to_large() -> None:
    sizes = sorted(len(body(it)) for it in OWN[:2000])

    assert sizes[0] < 700
    assert 0.015 < sum(it < 1024 for it in sizes) / len(sizes) < 0.06
    assert 8_000 < sizes[len(sizes) // 2] < 40_000
    assert 128_000 < sizes[-1] < 256 << 10


def test_pages_that_are_cut_short_have_their_keywords_in_4_kb() -> None:
    for known in [it for it in KNOWN if it.truncated]:
        page = known.page
        assert page is not None
        start = opening(known)
        assert len(start) <= 4096
        text = text_of(start.decode(page.charset.codec)).lower()
        assert {it: text.count(it.lower()) for it, _ in page.hits} == dict(page.hits)
        assert page.contacts == ()
        with pytest.raises(ValueError, match="without end"):
            body(known)
    with pytest.raises(ValueError, match="cut short"):
        opening(one(Web.PAGE))
    with pytest.raises(ValueError, match="no such page"):
        body(one(Web.GONE))
