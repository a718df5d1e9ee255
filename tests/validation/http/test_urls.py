"""URLs that may be asked for, and where redirects lead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from services.validation.http.urls import BadUrl, of_name, parse, redirected, robots_of

BASE = URL("https://site.example/a/b?c=d")


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/x", "https://site.example/x"),
        ("x", "https://site.example/a/x"),
        ("?q=1", "https://site.example/a/b?q=1"),
        ("//other.example/x", "https://other.example/x"),
        ("http://OTHER.example", "http://other.example"),
        ("http://other.example:80/#top", "http://other.example/"),
        ("http://user:secret@other.example/", "http://other.example/"),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC"),
        ("http://straße.example/", "http://xn--strae-oqa.example/"),
        ("http://b\udcfccher.example/", "http://xn--bcher-kva.example/"),
        ("  /x y  ", "https://site.example/x%20y"),
        ("http://a_b.example/", "http://a_b.example/"),
        ("http://other.example./", "http://other.example./"),
        ("http://[2606:4700::1111]/", "http://[2606:4700::1111]/"),
        ("http://192.0.2.1:8080/", "http://192.0.2.1:8080/"),
    ],
)
def test_a_location_leads_where_browsers_go(location, leads_to):
    assert str(redirected(BASE, location).url) == leads_to


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("ftp://other.example/", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("http://", "host"),
        ("http://127.1/", "canonical"),
        ("http://2130706433/", "canonical"),
        ("http://0x7f.1/", "canonical"),
        ("http://0x7f000001/", "canonical"),
        ("http://127.0.0.1./", "canonical"),
        ("http://0177.0.0.01/", "canonical"),
        ("http://other.example:0/", "port"),
        ("http://other.example:99999/", "URL"),
        ("http://[::1/", "URL"),
        ("http://[fe80::1%25eth0]/", "zone"),
        ("http://" + "a" * 64 + ".example/", "URL|host"),
        ("http://" + "a." * 130 + "example/", "host"),
        ("http://" + ".".join([*["a" * 63] * 3, "b" * 62]) + "/", "host"),
        ("http://a..b/", "URL|host"),
        ("/" + "x" * 2000, "2000"),
        ("/" + "x" * 100_000, "4096"),
    ],
)
def test_a_location_that_may_not_be_asked_for_is_refused(location, said):
    with pytest.raises(BadUrl) as bad:
        redirected(BASE, location)

    assert any(word in str(bad.value) for word in said.split("|"))


def test_a_target_tells_host_port_and_whether_it_is_an_address():
    literal = parse("http://[2606:4700::1111]:8080/")
    named = of_name("https", "site.example", 8443)

    assert (literal.host, literal.port, literal.literal) == ("2606:4700::1111", 8080, True)
    assert (named.host, named.port, named.literal) == ("site.example", 8443, False)
    assert parse("http://other.example./").host == "other.example"


@given(st.text(max_size=300), st.sampled_from(["", "http://", "//", "https://user@", "http://["]))
def test_no_location_is_an_error_other_than_a_bad_url(text, prefix):
    try:
        target = redirected(BASE, prefix + text)
    except BadUrl:
        return

    assert target.host
    assert target.url.raw_user is None
    assert target.scheme in ("http", "https")


@pytest.mark.parametrize(
    "page",
    [
        of_name("https", "site.example", 443),
        of_name("http", "site.example", 8080),
        parse("https://site.example./a/b?c=d"),
        parse("http://192.0.2.1:8080/a"),
        parse("http://[2606:4700::1111]/"),
    ],
)
def test_the_robots_txt_of_a_page_is_that_of_its_origin(page):
    assert robots_of(page) == parse(str(page.url.with_path("/robots.txt")))
