import dataclasses
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.content import markup
from services.validation.content.markup import Document, Heading, Link, language_tag, parse

URL = "https://www.example.com/shop/index.html?a=1"


def page(html: str, url: str = URL, **more: str) -> Document:
    return parse(html.encode(), url=url, **more)


def test_a_page_is_read() -> None:
    document = page(
        """<!doctype html><html lang=pt_br><head><title> Caf&eacute;\n &amp; Bar </title>
        <meta name=Description content="Good  coffee"><meta name=robots content="NoIndex, nofollow">
        <meta name=generator content="WordPress 6"><link rel=canonical href=/home>
        <script src="//cdn.example.net/a.js"></script><script>var a = '<p>no</p>'</script></head>
        <body><h1>Wel<b>come</b></h1><p>One&nbsp;two<style>p{}</style> <a href="a.html">three</a>
        <form><input type=PASSWORD></form></body></html>"""
    )

    assert document.title == "Café & Bar"
    assert document.language == "pt-BR"
    assert document.text == "Welcome One two three"
    assert document.description == "Good coffee"
    assert document.headings == (Heading(1, "Welcome"),)
    assert document.robots == ("noindex", "nofollow")
    assert document.generator == "WordPress 6"
    assert document.canonical == "https://www.example.com/home"
    assert document.resource_hosts == ("cdn.example.net",)
    assert document.script_count == 2
    assert document.has_password_field
    assert document.form_count == 1
    assert document.anchor_share == round(5 / 21, 3)
    assert document.links == (Link("https://www.example.com/shop/a.html", "three", True, False),)
    assert not document.is_cut


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("b", "https://www.example.com/shop/b"),
        ("./b", "https://www.example.com/shop/b"),
        ("../b", "https://www.example.com/b"),
        ("/b/../c", "https://www.example.com/c"),
        ("../../../b/./c/..", "https://www.example.com/b/"),
        ("b?x=/../y", "https://www.example.com/shop/b?x=/../y"),
        ("?q", "https://www.example.com/shop/index.html?q"),
        ("//Other.org/b#f", "https://Other.org/b"),
        ("HTTP://other.org", "http://other.org"),
        (" h\nttp://other.org/a b ", "http://other.org/a%20b"),
        ("/\u2028\x85b", "https://www.example.com/b"),
        ("\\b", "https://www.example.com/b"),
        ("c:b", ""),
        ("javascript:alert(1)", ""),
        ("data:text/html,x", ""),
        ("#top", ""),
        ("", ""),
        ("http:///b", ""),
        ("http://[::1", ""),
        ("x" * 3000, ""),
    ],
)  # fmt: skip
def test_references_are_resolved(reference: str, url: str) -> None:
    links = page(f'<a href="{reference}">x</a>').links

    assert [it.url for it in links] == ([url] if url else [])


@pytest.mark.parametrize(
    "anchor",
    [
        '<a href="b">',
        "<a href=b>",
        "<a HREF = 'b' href=\"c\">",
        "<a title=' href=\"c\"' href=b>",
        '<a title="x href=c" href="b">',
        '<a data-href="c" href="b">',
        '<a hreflang="c" href="b">',
        '<a class="x"href="b">',
        '<a/href="b">',
        '<a rel="x" href="b">',
        '<a href="&#98;">',
    ],
)
def test_the_reference_is_found_among_other_attributes(anchor: str) -> None:
    assert [it.url for it in page(f"{anchor}x</a>").links] == ["https://www.example.com/shop/b"]


def test_a_base_changes_what_references_mean() -> None:
    document = page('<base href="https://cdn.org/x/y"><base href=/no><a href=b>x</a>')

    assert document.links == (Link("https://cdn.org/x/b", "x", False, False),)


def test_each_link_stands_once_with_its_first_text() -> None:
    document = page('<a href=b></a><a href=b rel="x NoFollow">t</a><a href=b#c>u</a>')

    assert document.links == (Link("https://www.example.com/shop/b", "t", True, True),)


def test_a_picture_speaks_for_its_link() -> None:
    assert page('<a href=b><img src=c alt="Contact  us"></a>').links[0].text == "Contact us"


def test_ways_to_reach_somebody_are_kept_apart() -> None:
    document = page(
        """<a href="mailto:a@b.c"></a><a href="TEL:+1">y</a><a href="mailto:a@b.c">z</a>
        <a href="/cdn-cgi/l/email-protection#0a1b"><b data-cfemail="0a1b2c3d">hidden</b></a>"""
    )

    assert document.contact_links == (
        ("mailto:a@b.c", "z"),
        ("TEL:+1", "y"),
        ("/cdn-cgi/l/email-protection#0a1b", "hidden"),
    )
    assert document.protected == ("0a1b2c3d",)
    assert document.links == ()


def test_lines_are_the_text_with_the_ends_of_blocks() -> None:
    document = page("<p>Hello <b>dear</b>\n reader</p><div> <p>\0 bye </div>now<br>here")

    assert document.text == "Hello dear reader bye now here"
    assert document.lines == "Hello dear reader\nbye\nnow\nhere"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("Web<b>site</b>", "Website"),
        ("a<br>b", "a b"),
        ("<td>a</td><td>b</td>", "a b"),
        ("a<!-- x -->b", "ab"),
        ("<template>a<template>b</template>c</template>d", "d"),
        ("<svg><title>no</title></svg>e", "e"),
        ("&lt;b&gt; &amp;lt; &#0; &#xD800; &#x41;", "<b> &lt; \ufffd \ufffd A"),
        ("a\0b\u2028c\x85d", "ab c d"),
        ("<textarea>hidden</textarea>seen", "seen"),
    ],
)
def test_text_is_what_a_reader_sees(html: str, text: str) -> None:
    assert page(html).text == text


def test_the_title_of_a_drawing_is_not_that_of_the_page() -> None:
    assert page("<svg><title>icon</title></svg><title>page</title>").title == "page"


@pytest.mark.parametrize(
    ("tag", "normal"),
    [
        ("en", "en"), ("EN_us", "en-US"), ("zh-hant-tw", "zh-Hant-TW"), ("iw", "he"),
        ("es-419", "es-419"), ("de-DE-1996", "de-DE"), ("en, fr", "en"), ("en_US.UTF-8", "en-US"),
        ("english", ""), ("x-default", ""), ("", ""), ("<b>", ""), ("zh-cmn-hans-cn", "zh-Hans-CN"),
    ],
)  # fmt: skip
def test_languages_are_normalised(tag: str, normal: str) -> None:
    assert language_tag(tag) == normal


@pytest.mark.parametrize(
    ("html", "header", "language"),
    [
        ("<html lang=de><meta http-equiv=Content-Language content=fr>", "it", "de"),
        ("<html lang=???><meta http-equiv=Content-Language content=fr>", "it", "fr"),
        ("<html>", "it, en", "it"),
        ("<meta property=og:locale content=es_ES>", "", "es-ES"),
    ],
)
def test_the_nearest_statement_of_the_language_counts(
    html: str, header: str, language: str
) -> None:
    assert page(html, content_language=header).language == language


def test_another_kind_of_text_is_taken_as_it_is() -> None:
    assert page("a <b> c", content_type="text/plain").text == "a <b> c"


def test_what_is_no_text_gives_an_empty_page() -> None:
    document = page("%PDF-1.7 <title>x</title>", content_type="application/pdf")

    assert (document.title, document.text, document.byte_size) == ("", "", 25)


@pytest.mark.parametrize(
    ("html", "modified"),
    [
        ("<meta property='article:modified_time' content='2026-01-02'>", "2026-01-02"),
        ("<time datetime=2025-01-01>x</time>", "2025-01-01"),
        (
            '<script type="application/ld+json">{"dateModified": "2024-05-06"}</script>',
            "2024-05-06",
        ),
    ],
)
def test_the_page_says_when_it_was_changed(html: str, modified: str) -> None:
    assert page(html).modified == modified


def test_the_target_of_a_refresh_is_kept() -> None:
    refresh = page('<meta http-equiv="Refresh" content="0; URL=\'/lander\'">').refresh

    assert refresh == "https://www.example.com/lander"


N = 20_000
BOMBS = {
    "open elements": "<div>" * 100_000,
    "unlike elements": "".join(f"<font size={it}>" for it in range(N)),
    "attributes": "<a " + " ".join(f"a{it}=1" for it in range(100_000)) + ">",
    "one attribute": '<a href="' + "x" * 3_000_000 + '">',
    "quotes": "<a b='" * N,
    "comments": "<!--" * N,
    "almost comments": "<!---!--" * N,
    "scripts without end": "<script><!--" * N,
    "tags without end": "<a " * N,
    "less-than signs": "<" * N,
    "NUL": "\0" * N,
    "links": "<a href=x>" * N,
    "headings": "<h1>" * N,
    "templates": "<template>" * N,
    "items": "<div itemscope itemprop=a>" * N,
    "references": "&amp;" * N + "&#x" * N,
    "brackets in JSON": "<script type=application/ld+json>" + "[" * N,
    "objects in JSON": "<script type=application/ld+json>" + '{"a":' * N,
    "number in JSON": "<script type=application/ld+json>" + "9" * N,
    "cdata": "<![CDATA[" * N + "]" * N,
}


@pytest.mark.parametrize("html", BOMBS.values(), ids=BOMBS.keys())
def test_hostile_markup_is_read_within_limits(html: str) -> None:
    assert_bounded(page(html))


PARTS = (
    "<a href= <h1> </h1> <title> </title> <meta name=robots content= <base href= &#0; \x00 > ' \" "
    "\U0001f600 \x85 //[ http:// mailto: <div itemscope itemtype=//schema.org/A> itemprop=b é "
    "<script type=ld+json>{ </script> <template> <svg> \u2028 <html lang="
).split(" ")


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=5)).map(" ".join))
def test_any_text_gives_a_bounded_page(html: str) -> None:
    assert_bounded(parse(html.encode("utf-8", "surrogatepass"), url=URL))


@given(st.binary())
def test_any_bytes_give_a_bounded_page(body: bytes) -> None:
    assert_bounded(parse(body, url=URL))


def assert_bounded(document: Document) -> None:
    assert len(document.title) <= 500
    assert len(document.text) <= markup.MAX_TEXT
    assert document.lines.replace("\n", " ") == document.text
    assert len(document.links) <= markup.MAX_LINKS
    assert len(document.json_ld) + len(document.microdata) <= 2 * markup.MAX_ITEMS
    assert 0 <= document.anchor_share <= 1
    for text in texts_of(document.title, document.text, document.headings, document.links):
        assert len(text) <= markup.MAX_TEXT
        assert text.isprintable() or not any(
            unicodedata.category(it) in ("Zl", "Zp", "Cs") or it in "\0\r\n\t\x85" for it in text
        )
    for text in texts_of(document.json_ld, document.microdata, document.robots):
        assert len(text) <= 1_000
        assert not set(text) & set("\0\r\n")
        text.encode()


def texts_of(*values: object) -> Iterator[str]:
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif dataclasses.is_dataclass(value):
            waiting += [getattr(value, it.name) for it in dataclasses.fields(value)]
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, tuple | list):
            waiting += value
