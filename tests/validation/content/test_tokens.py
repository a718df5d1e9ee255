import random
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.content.tokens import attributes_of, tokens_of


def test_tags_stand_between_texts() -> None:
    tokens = tokens_of("a<P Class='x'>b</p>c")

    assert tokens.texts == ["a", "b", "c"]
    assert tokens.names == ["p", "/p"]
    assert attributes_of(tokens.attributes[0]) == {"class": "x"}


@pytest.mark.parametrize(
    ("html", "names"),
    [
        ('<a href="x>y">', ["a"]),
        ("<a b'c>'<i>", ["a", "i"]),
        ("<a x=b'c>'<i>", ["a", "i"]),
        ('<a x="1"y="2">', ["a"]),
        ("<a x= '>' y>", ["a"]),
        ("a < b <c>", ["c"]),
        ("<3 <i>", ["i"]),
        ("<!--><i>", ["", "i"]),
        ("<!-- <b> --!><i>", ["", "i"]),
        ("<!-- <b> -- > --><i>", ["", "i"]),
        ("<!doctype html><i>", ["", "i"]),
        ("<?php <b> ?><i>", ["", "i"]),
        ("</ b><i>", ["", "i"]),
        ("<![CDATA[<b>]]><i>", ["", "i"]),
        ("<br/><hr />", ["br", "hr"]),
        ("<i", [""]),
        ("<b><a href='x>", ["b", ""]),
        ("<b></b", ["b", ""]),
        ("<i x='>'>", ["i"]),
        ("<script x", [""]),
        ("<scripty><i></scripty>", ["scripty", "i", "/scripty"]),
    ],
)
def test_tags_end_where_browsers_end_them(html: str, names: list[str]) -> None:
    assert tokens_of(html).names == names


def test_scripts_and_titles_hold_no_tags() -> None:
    tokens = tokens_of("<SCRIPT a=1>if (a</b/.test(c)) '<i>'</scripts></Script ><title><b></title>")

    assert tokens.names == ["script", "/script", "title", "/title"]
    assert tokens.raw[0] == "if (a</b/.test(c)) '<i>'</scripts>"
    assert tokens.raw[2] == "<b>"


def test_the_first_attribute_of_a_name_counts() -> None:
    assert attributes_of(" HREF=a&amp;b href='c' hidden =d") == {"href": "a&b", "hidden": "d"}


@given(st.text(alphabet="<>/!-=\"' aAbscript[]CDATA&;?\n\0é"))
def test_no_character_of_the_text_is_lost_or_made_up(html: str) -> None:
    tokens = tokens_of(html)

    assert len(tokens.texts) == len(tokens.names) + 1 == len(tokens.attributes) + 1
    at = 0
    for text in tokens.texts:
        at = html.index(text, at) + len(text)


class _Names(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.names.append("/" + tag)


def test_ordinary_markup_is_cut_as_another_reader_cuts_it() -> None:
    chosen = random.Random(7)
    parts = ["<p>", "</p>", '<a href="x?a=1&b=2" rel=nofollow>', "</a>", "text &lt; ", "<br>", "é"]
    parts += ["<!-- c -->", "<div class='a b' data-x=\"1 > 2\">", "</div>", "<style>a>b{}</style>"]
    for _ in range(200):
        html = "".join(chosen.choices(parts, k=30))
        other = _Names()
        other.feed(html)
        other.close()

        assert [it for it in tokens_of(html).names if it] == other.names
