from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.content.clusters import fingerprint
from services.validation.content.features import (
    Features,
    Flag,
    features_of,
    stuffing_penalty,
    tuple_of,
    unix_time,
)
from services.validation.content.markup import parse

NOW = 1_790_000_000


def features(html: str, hits: dict[str, int] | None = None, **more: object) -> Features:
    page = parse(html.encode(), url="https://example.com/")
    facts: dict[str, object] = {
        "hit_counts": hits or {},
        "title_hit": False,
        "parked_confidence": 0.0,
        "page_kind": 1,
        "is_parked": False,
        "fingerprint": fingerprint(page),
        "fetch_time": NOW,
    }
    return features_of(page, **(facts | more))  # type: ignore[arg-type]


def test_a_vector_holds_what_scoring_needs() -> None:
    html = "<h1>A b</h1><p>c d <a href=/x>e</a> <a href=//o.org>f</a><input type=password>"

    vector = features(
        html,
        {"a": 3, "b": 1, "c": 0},
        title_hit=True,
        parked_confidence=0.2315,
        is_parked=True,
        truncated=True,
        last_modified="Sun, 06 Nov 1994 08:49:37 GMT",
    )

    assert (vector.hit_count, vector.unique_count, vector.top_hit_count) == (4, 2, 3)
    assert (vector.byte_size, vector.text_size, vector.word_count) == (len(html), 11, 6)
    assert (vector.link_count, vector.external_link_count, vector.heading_count) == (2, 1, 1)
    assert (vector.fetch_time, vector.modified_time) == (NOW, 784_111_777)
    assert vector.parked_confidence == 232
    assert vector.anchor_share == 182
    assert Flag(vector.flags) == Flag.TITLE_HIT | Flag.PARKED | Flag.TRUNCATED | Flag.LOGIN_FORM


def test_a_change_after_the_fetch_is_not_believed() -> None:
    assert features("x", last_modified="Fri, 01 Jan 2100 00:00:00 GMT").modified_time == 0


def test_the_header_is_believed_before_the_page() -> None:
    html = "<time datetime=2020-01-01>x</time>"

    assert features(html).modified_time == 1_577_836_800
    assert features(html, last_modified="2021-01-01").modified_time == 1_609_459_200


VECTORS = st.builds(
    Features,
    *[st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1)],
    *[st.integers(0, 2**32 - 1)] * 4,
    *[st.integers(0, 2**16 - 1)] * 3,
    *[st.integers(-(2**63), 2**63 - 1)] * 2,
    *[st.integers(0, 1_000)] * 4,
    *[st.integers(0, 255), st.integers(0, 2**16 - 1), st.integers(-(2**63), 2**63 - 1)],
)


@given(VECTORS)
def test_a_vector_survives_both_forms(vector: Features) -> None:
    assert Features.from_tuple(vector.to_tuple()) == vector
    assert Features.from_bytes(vector.to_bytes()) == vector
    assert tuple_of(vector.to_bytes()) == vector.to_tuple()


def test_the_encoding_of_this_version_never_changes() -> None:
    vector = Features(*range(1, len(fields(Features)) + 1))

    assert vector.to_bytes().hex() == (
        "01010000000200030000000400000005000000060000000700080009000a0000"
        "00000000000b000000000000000c000d000e000f001011001200000000000000"
    )


def test_what_a_later_version_adds_is_left_off() -> None:
    encoded = Features(hit_count=7).to_bytes()

    assert Features.from_bytes(b"\x02" + encoded[1:] + b"more") == Features(hit_count=7)


@pytest.mark.parametrize("encoded", [b"", b"\x01", bytes(64), Features().to_bytes()[:-1]])
def test_what_is_no_vector_is_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match="no feature vector"):
        Features.from_bytes(encoded)


def test_counts_too_large_become_the_largest() -> None:
    vector = Features(unique_count=70_000, byte_size=2**40)

    assert Features.from_bytes(vector.to_bytes()) == Features(
        unique_count=65_535, byte_size=2**32 - 1
    )


@pytest.mark.parametrize(
    ("hits", "words", "penalty"),
    [(5, 100, 0), (6, 100, 66), (20, 100, 1_000), (90, 100, 1_000), (40, 49, 0), (0, 0, 0)],
)
def test_stuffing_begins_at_a_twentieth_of_the_words(hits: int, words: int, penalty: int) -> None:
    assert stuffing_penalty(hits, words) == penalty


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
        ("1994-11-06T08:49:37Z", 784_111_777),
        ("1994-11-06T09:49:37+01:00", 784_111_777),
        ("1994-11-06", 784_080_000),
        ("yesterday", 0),
        ("", 0),
        ("0", 0),
        ("9999-99-99", 0),
        ("Mon, 99 Foo 2020 99:99:99 GMT", 0),
        ("2020-01-01" * 100, 0),
    ],
)
def test_dates_are_read(text: str, seconds: int) -> None:
    assert unix_time(text) == seconds


@given(st.text(max_size=60))
def test_no_text_makes_dates_fail(text: str) -> None:
    assert isinstance(unix_time(text), int)
