import pytest

from services.validation.content.crawl import (
    Budget,
    NextPage,
    Subject,
    is_needed,
    is_worth_going_on,
    next_pages,
    subject_of,
)
from services.validation.content.markup import Link, parse

FRONT = "https://example.com/"


def chosen(html: str, **more: object) -> list[str]:
    links = parse(html.encode(), url=FRONT).links
    return [it.url.removeprefix(FRONT) for it in next_pages(FRONT, links, **more)]  # type: ignore[arg-type]


def test_pages_with_people_come_first() -> None:
    html = (
        "<a href=/team>x</a><a href=/about-us>x</a><a href=/Impressum.html>x</a><a href=/kontakt>"
    )

    assert chosen(html, budget=Budget(max_pages=3)) == ["kontakt", "Impressum.html", "about-us"]


def test_one_page_of_each_subject_comes_before_a_second() -> None:
    html = "<a href=/contact/a/b>x</a><a href=/contact>x</a><a href=/about>x</a>"

    assert chosen(html) == ["contact", "about", "contact/a/b"]


def test_each_page_is_chosen_once_and_the_front_page_never() -> None:
    html = """<a href=/>Contact</a><a href=/index.html>Contact</a><a href=/contact>x</a>
      <a href=/contact/>x</a><a href=http://www.example.com/contact#a>x</a>"""

    assert chosen(html) == ["contact"]


def test_the_text_of_a_link_tells_its_subject_too() -> None:
    assert chosen("<a href=/p?id=7>Über uns</a><a href=/s/12>お問い合わせ</a>") == [
        "s/12",
        "p?id=7",
    ]


@pytest.mark.parametrize(
    "html",
    [
        "<a href=https://other.org/contact>x</a>",
        "<a rel=nofollow href=/contact>x</a>",
        "<a href=/contact.pdf>x</a>",
        "<a href=/login?next=contact>Contact</a>",
        "<a href=/cart/contact>x</a>",
        "<a href=/blog/contactless-payment>x</a>",
        "<a href=/a>What we think about it</a>",
        "<a href=/blog/how-we-talk-about-contact-and-team>x</a>",
    ],
)
def test_other_links_are_left_alone(html: str) -> None:
    assert chosen(html) == []


def test_other_pages_fill_up_the_budget_when_asked() -> None:
    html = "<a href=/a/b>x</a><a href=/a>x</a><a href=/contact>x</a>"

    assert chosen(html, budget=Budget(include_other=True)) == ["contact", "a", "a/b"]


@pytest.mark.parametrize(
    ("budget", "spent"), [(Budget(max_pages=0), 0), (Budget(max_bytes=100), 100), (Budget(-1), 0)]
)
def test_nothing_is_chosen_without_a_budget(budget: Budget, spent: int) -> None:
    assert chosen("<a href=/contact>x</a>", budget=budget, spent_bytes=spent) == []


@pytest.mark.parametrize(
    ("url", "text", "subject"),
    [
        ("https://a.b/mentions-legales", "", Subject.IMPRINT),
        ("https://a.b/fr/qui_sommes_nous.html", "", Subject.ABOUT),
        ("https://a.b/%C3%BCber-uns", "", Subject.ABOUT),
        ("https://a.b/x", "Mentions légales", Subject.IMPRINT),
        ("https://a.b/x", "Quiénes somos", Subject.ABOUT),
        ("https://a.b/x", "Контакты", Subject.CONTACT),
        ("https://contact.b/x", "", Subject.OTHER),
    ],
)
def test_subjects_are_known_in_many_languages(url: str, text: str, subject: Subject) -> None:
    assert subject_of(Link(url, text, True, False)) is subject


def test_further_pages_are_needed_only_when_all_three_hold() -> None:
    little = {"unique_keywords": 1, "byte_size": 59_999, "parked_confidence": 0.49}

    assert is_needed(**little)  # type: ignore[arg-type]
    for more in ({"unique_keywords": 2}, {"byte_size": 60_000}, {"parked_confidence": 0.5}):
        assert not is_needed(**(little | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "worth"),
    [([0], True), ([1, 1], True), ([1, 1, 1], False), ([1, 2, 3], True), ([20, 20, 22], False),
     ([20, 20, 23], True), ([0, 0, 0], False)],
)  # fmt: skip
def test_it_ends_when_little_is_added(known: list[int], worth: bool) -> None:
    assert is_worth_going_on(known) is worth


def test_a_page_carries_its_subject() -> None:
    links = [Link("https://example.com/team", "", True, False)]

    assert next_pages(FRONT, links) == (NextPage("https://example.com/team", Subject.TEAM),)
