"""Page tokens: what comes back is what went in, and nothing else comes back at all."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal, binding
from services.query.page_token import PagePlace, StreamPlace

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
BOUND = binding("ListDomains", b"arguments")
seal = Seal([KEY])
positions = st.integers(min_value=0, max_value=2**31)


@given(forward=st.booleans(), position=positions)
def test_a_page_token_opens_to_the_place_it_was_made_for(forward: bool, position: int) -> None:
    place = PagePlace(forward, position)
    assert PagePlace.open(seal, place.seal(seal, BOUND), BOUND) == place


@given(index=st.integers(0, 10_000), position=positions, end=positions)
def test_a_cursor_opens_to_the_place_it_was_made_for(index: int, position: int, end: int) -> None:
    place = StreamPlace(index, position, end)
    assert StreamPlace.open(seal, place.seal(seal, BOUND), BOUND) == place


@given(token=st.text(max_size=200))
def test_text_that_is_no_token_is_refused_and_the_field_named(token: str) -> None:
    for kind, field in ((PagePlace, "page_token"), (StreamPlace, "cursor")):
        with pytest.raises(InvalidToken) as refusal:
            kind.open(seal, token, BOUND)
        assert [v.field for v in refusal.value.violations] == [field]
        assert refusal.value.metadata == {"field": field}


@given(sealed=st.binary(max_size=100))
def test_bytes_dressed_up_as_a_token_are_refused(sealed: bytes) -> None:
    with pytest.raises(InvalidToken):
        StreamPlace.open(seal, base64.urlsafe_b64encode(sealed).decode(), BOUND)


@given(payload=st.binary(max_size=40))
def test_a_payload_this_version_does_not_know_is_refused(payload: bytes) -> None:
    token = seal.seal(b"\xff" + payload, BOUND)
    for kind in (PagePlace, StreamPlace):
        with pytest.raises(InvalidToken):
            kind.open(seal, token, BOUND)


@given(data=st.data())
def test_a_token_changed_in_any_character_is_refused(data: st.DataObject) -> None:
    token = PagePlace(True, 5).seal(seal, BOUND)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[at]))
    with pytest.raises(InvalidToken):
        PagePlace.open(seal, token[:at] + other + token[at + 1 :], BOUND)


@given(cut=st.integers(1, 50))
def test_a_shortened_or_lengthened_token_is_refused(cut: int) -> None:
    token = StreamPlace(1, 2, 3).seal(seal, BOUND)
    for changed in (token[:-cut], token[cut:], token + token[:cut], token + "="):
        with pytest.raises(InvalidToken):
            StreamPlace.open(seal, changed, BOUND)


def test_a_token_of_other_arguments_or_another_method_is_refused() -> None:
    token = PagePlace(True, 5).seal(seal, BOUND)
    for other in (binding("ListDomains", b"others"), binding("StreamDomains", b"arguments")):
        with pytest.raises(InvalidToken):
            PagePlace.open(seal, token, other)


def test_a_cursor_is_no_page_token_even_under_the_same_binding() -> None:
    with pytest.raises(InvalidToken):
        PagePlace.open(seal, StreamPlace(0, 0, 0).seal(seal, BOUND), BOUND)
    with pytest.raises(InvalidToken):
        StreamPlace.open(seal, PagePlace(True, 0).seal(seal, BOUND), BOUND)


def test_a_token_sealed_with_another_key_is_refused() -> None:
    with pytest.raises(InvalidToken):
        PagePlace.open(seal, PagePlace(True, 5).seal(Seal([OTHER_KEY]), BOUND), BOUND)


def test_after_a_rotation_old_tokens_open_and_new_ones_use_the_new_key() -> None:
    rotated, place = Seal([OTHER_KEY, KEY]), PagePlace(False, 7)
    assert PagePlace.open(rotated, place.seal(seal, BOUND), BOUND) == place
    assert PagePlace.open(Seal([OTHER_KEY]), place.seal(rotated, BOUND), BOUND) == place


def test_a_token_never_looks_the_same_twice() -> None:
    assert PagePlace(True, 5).seal(seal, BOUND) != PagePlace(True, 5).seal(seal, BOUND)
