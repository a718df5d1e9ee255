"""Page tokens: what comes back is what went in, and nothing else comes back at all."""

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal, binding
from services.query.page_token import Role, StreamPlace, WalkPlace

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
BOUND = binding("ListDomains", b"arguments")
seal = Seal([KEY])
PAGE = WalkPlace(Role.NEXT, 0, 5, 7, (1, 1, 0, 0), 100)
positions = st.integers(min_value=0, max_value=2**31)


def page_place(opener: Seal, token: str, bound: bytes) -> WalkPlace:
    return WalkPlace.open(opener, token, bound, field="page_token")


@given(
    place=st.builds(
        WalkPlace,
        role=st.sampled_from(Role),
        major=st.integers(0, 2**62),
        position=positions,
        revision=st.integers(0, 2**62),
        runs=st.tuples(*[st.integers(0, 2**31 - 1)] * 4),
        total=st.integers(0, 10**9),
        inclusive=st.booleans(),
        more=st.booleans(),
        estimated=st.booleans(),
    )
)
def test_a_page_token_opens_to_the_place_it_was_made_for(place: WalkPlace) -> None:
    field = "after" if place.role is Role.DOMAIN else "page_token"
    token = place.seal(seal, BOUND)
    assert WalkPlace.open(seal, token, BOUND, field=field) == place
    assert len(token) <= 1000
    with pytest.raises(InvalidToken):
        WalkPlace.open(seal, token, BOUND, field="page_token" if field == "after" else "after")


@given(forward=st.booleans(), position=positions)
def test_a_page_token_of_the_version_before_opens(forward: bool, position: int) -> None:
    token = seal.seal(struct.pack(">B?q", 1, forward, position), BOUND)
    place = WalkPlace.open(seal, token, BOUND, field="page_token")
    assert (place.role is Role.NEXT, place.inclusive, place.position) == (
        forward,
        forward,
        position,
    )
    with pytest.raises(InvalidToken):
        WalkPlace.open(seal, token, BOUND, field="after")


@given(index=st.integers(0, 10_000), position=positions, end=positions)
def test_a_cursor_opens_to_the_place_it_was_made_for(index: int, position: int, end: int) -> None:
    place = StreamPlace(index, position, end)
    assert StreamPlace.open(seal, place.seal(seal, BOUND), BOUND) == place


@given(token=st.text(max_size=200))
def test_text_that_is_no_token_is_refused_and_the_field_named(token: str) -> None:
    for opened, field in ((page_place, "page_token"), (StreamPlace.open, "cursor")):
        with pytest.raises(InvalidToken) as refusal:
            opened(seal, token, BOUND)
        assert [v.field for v in refusal.value.violations] == [field]
        assert refusal.value.metadata == {"field": field}


@given(sealed=st.binary(max_size=100))
def test_bytes_dressed_up_as_a_token_are_refused(sealed: bytes) -> None:
    with pytest.raises(InvalidToken):
        StreamPlace.open(seal, base64.urlsafe_b64encode(sealed).decode(), BOUND)


@given(payload=st.binary(max_size=40))
def test_a_payload_this_version_does_not_know_is_refused(payload: bytes) -> None:
    token = seal.seal(b"\xff" + payload, BOUND)
    for opened in (page_place, StreamPlace.open):
        with pytest.raises(InvalidToken):
            opened(seal, token, BOUND)


@given(data=st.data())
def test_a_token_changed_in_any_character_is_refused(data: st.DataObject) -> None:
    token = PAGE.seal(seal, BOUND)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[at]))
    with pytest.raises(InvalidToken):
        page_place(seal, token[:at] + other + token[at + 1 :], BOUND)


@given(cut=st.integers(1, 50))
def test_a_shortened_or_lengthened_token_is_refused(cut: int) -> None:
    token = StreamPlace(1, 2, 3).seal(seal, BOUND)
    for changed in (token[:-cut], token[cut:], token + token[:cut], token + "="):
        with pytest.raises(InvalidToken):
            StreamPlace.open(seal, changed, BOUND)


def test_a_token_of_other_arguments_or_another_method_is_refused() -> None:
    token = PAGE.seal(seal, BOUND)
    for other in (binding("ListDomains", b"others"), binding("StreamDomains", b"arguments")):
        with pytest.raises(InvalidToken):
            page_place(seal, token, other)


def test_a_cursor_is_no_page_token_even_under_the_same_binding() -> None:
    with pytest.raises(InvalidToken):
        page_place(seal, StreamPlace(0, 0, 0).seal(seal, BOUND), BOUND)
    with pytest.raises(InvalidToken):
        StreamPlace.open(seal, PAGE.seal(seal, BOUND), BOUND)


def test_a_token_sealed_with_another_key_is_refused() -> None:
    with pytest.raises(InvalidToken):
        page_place(seal, PAGE.seal(Seal([OTHER_KEY]), BOUND), BOUND)


def test_after_a_rotation_old_tokens_open_and_new_ones_use_the_new_key() -> None:
    rotated, place = Seal([OTHER_KEY, KEY]), PAGE
    assert page_place(rotated, place.seal(seal, BOUND), BOUND) == place
    assert page_place(Seal([OTHER_KEY]), place.seal(rotated, BOUND), BOUND) == place


def test_a_token_never_looks_the_same_twice() -> None:
    assert PAGE.seal(seal, BOUND) != PAGE.seal(seal, BOUND)
