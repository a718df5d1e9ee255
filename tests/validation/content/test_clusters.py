import os
import random
import subprocess
import sys

import pytest

from services.validation.content.clusters import (
    Cluster,
    ClusterIndex,
    Fingerprint,
    are_near,
    bands,
    fingerprint,
    similarity,
)
from services.validation.content.markup import parse

WORDS = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("n", "r", "st", "mp", "ll")]


def page_of(words: list[str], name: str = "example.com", tag: str = "p") -> Fingerprint:
    html = f"<title>{name}</title><{tag}>{' '.join(words)}</{tag}>"
    return fingerprint(parse(html.encode(), url=f"https://{name}/"), name)


def text_of(seed: int, count: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def test_fingerprints_are_the_same_for_ever() -> None:
    page = page_of("the quick brown fox jumps over the lazy dog and runs on 12 times".split())

    assert page.sketch.hex() == "3ed974912c11ac7e67029d49184be6a3"
    assert page.tags == 4029196417260200240
    # The name and the number are none.
    assert page.word_count == 13


def test_fingerprints_are_the_same_in_another_process() -> None:
    code = (
        "from tests.validation.content.test_clusters import *\n"
        "print(page_of(text_of(1)).sketch.hex(), page_of(text_of(1)).tags)"
    )
    code = code.replace("tests.validation.content.test_clusters", "test_clusters")
    folder = os.path.dirname(__file__)
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": f"{folder}:{os.getcwd()}"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout

    page = page_of(text_of(1))
    assert out.split() == [page.sketch.hex(), str(page.tags)]


def test_the_name_makes_no_difference() -> None:
    words = text_of(2)

    pages = {
        page_of(["Welcome", "to", name, *words, label.title()], name)
        for name, label in [("first-name.com", "first-name"), ("second.co.uk", "second")]
    }

    assert len(pages) == 1


def test_numbers_make_no_difference() -> None:
    words = text_of(3)

    assert page_of([*words, "© 2024", "ref 17"]) == page_of([*words, "© 2026", "ref 99"])


@pytest.mark.parametrize("seed", range(20))
def test_pages_with_a_few_other_words_are_near_and_share_a_band(seed: int) -> None:
    words = text_of(seed)
    other = words[:100] + text_of(1_000 + seed, 12) + words[112:]
    one, two = page_of(words), page_of(other)

    assert are_near(one, two)
    assert len(set(bands(one)) & set(bands(two))) >= 2


def test_sentences_without_spaces_are_pieces_of_a_page() -> None:
    rows = ["".join(chr(0x4E00 + ord(it)) for it in word) for word in text_of(4, 200)]
    other = [*rows[:50], "\u4e00\u4e8c", *rows[51:]]

    one, two = page_of(["\u3002".join(rows)]), page_of(["\uff0c".join(other)])

    assert one.word_count == 200
    assert are_near(one, two)


def test_repetition_is_the_share_of_runs_that_came_before() -> None:
    assert page_of(["buy", "now"] * 30).repetition == 982
    assert page_of(WORDS[:100]).repetition == 0
    assert page_of(["buy"] * 49).repetition == 0


def test_a_page_of_which_little_is_hashed_has_a_whole_sketch() -> None:
    # So few different runs that all of them are put in order.
    assert page_of(["buy", "now"] * 200).sketch == page_of(["buy", "now"] * 100).sketch


def test_other_pages_are_far() -> None:
    pages = [page_of(text_of(seed)) for seed in range(60)]

    assert max(similarity(a.sketch, b.sketch) for a in pages for b in pages if a is not b) < 7


def test_short_pages_are_near_only_when_all_is_equal() -> None:
    assert are_near(page_of(["coming", "soon"]), page_of(["coming", "soon"]))
    assert not are_near(page_of(["coming", "soon"]), page_of(["coming", "later"]))
    assert not are_near(page_of(["coming", "soon"]), page_of(["coming", "soon"], tag="div"))


def test_tags_are_told_apart_by_their_order() -> None:
    one = fingerprint(parse(b"<p><b>a</b></p>", url="https://a.b/"))
    two = fingerprint(parse(b"<b><p>a</p></b>", url="https://a.b/"))

    assert one.tags != two.tags
    assert -(2**63) <= one.tags < 2**63
    assert fingerprint(parse(b"", url="https://a.b/")).tags == 0


def test_an_index_counts_near_pages_together() -> None:
    index = ClusterIndex()
    first = page_of(text_of(1))

    assert index.add(first) == Cluster(first, 1)
    assert index.add(page_of(text_of(2))).size == 1
    assert index.add(page_of([*text_of(1), "more"])) == Cluster(first, 2)
    assert len(index) == 2


def test_an_index_forgets_the_coldest_group_first() -> None:
    index = ClusterIndex(2)
    warm, cold = page_of(text_of(1)), page_of(text_of(2))
    index.add(warm)
    index.add(cold)
    index.add(warm)

    index.add(page_of(text_of(3)))

    assert len(index) == 2
    assert index.add(warm).size == 3
    assert index.add(cold).size == 1


def test_an_index_stays_bounded() -> None:
    index = ClusterIndex(10)
    for seed in range(200):
        index.add(page_of(text_of(seed, 10 + seed % 30)))

    assert len(index) == 10
    assert len(index._bands) <= 80
