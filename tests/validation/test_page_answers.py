"""Answers about pages that are too large for who asked."""

from domainflow.validation.v1 import validation_service_pb2 as pb
from services.validation.page_answers import ANSWER_BYTES, fit


def answer(pages: int, rules: int) -> pb.ExtractKeywordsResponse:
    made = pb.ExtractKeywordsResponse()
    for _ in range(pages):
        each = made.pages.add(url="https://a.com/")
        each.page.hits_complete = True
        each.page.contacts.add(value="info@a.com", snippet="x" * 200)
        each.http.evidence.redirects.add(url="http://a.com/" + "y" * 1000)
        for number in range(rules):
            hits = each.page.rule_hits.add(rule=f"rule {number}", hit_count=3)
            hits.snippets.add(before="b" * 50, hit="h" * 200, after="a" * 50)
    return made


def test_what_fits_is_left_as_it_is() -> None:
    made = answer(3, 10)
    before = made.SerializeToString()

    fit(made, made.pages)

    assert made.SerializeToString() == before


def test_surroundings_go_first() -> None:
    made = answer(3, 500)

    fit(made, made.pages, limit=100_000)

    assert made.ByteSize() <= 100_000
    for each in made.pages:
        assert len(each.page.rule_hits) == 500
        assert each.page.rule_hits[0].hit_count == 3
        assert not each.page.rule_hits[0].snippets
        assert each.page.contacts[0].value == "info@a.com"
        assert each.page.hits_complete
        assert each.http.evidence.redirects


def test_then_most_hits_and_at_last_the_way_to_the_page() -> None:
    made = answer(3, 5000)

    fit(made, made.pages, limit=7_000)

    assert made.ByteSize() <= 7_000
    for each in made.pages:
        assert len(each.page.rule_hits) == 100
        assert not each.page.hits_complete
        assert not each.http.evidence.redirects


def test_a_hundred_pages_that_say_as_much_as_they_may_fit_into_an_answer() -> None:
    made = pb.ExtractKeywordsResponse()
    for _ in range(100):
        each = made.pages.add(url="https://a.com/")
        for number in range(100):
            each.page.rule_hits.add(rule=f"{number:03}" + "\u4e00" * 97, category="\u4e00" * 100)
        for _ in range(40):
            each.page.contacts.add(value="x" * 500, source_url="https://a.com/" + "y" * 2_000)

    fit(made, made.pages)

    assert made.ByteSize() <= ANSWER_BYTES
    for each in made.pages:
        assert len(each.page.rule_hits) == 10
        assert len(each.page.contacts) == 5
        assert not each.page.hits_complete
