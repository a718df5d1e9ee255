"""Page tokens: what comes back is what went in, and nothing else comes back at all."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidToken
from services.query.page_token import (
    BadKey,
    PagePlace,
    Seal,
    StreamPlace,
    binding,
    parse_keys,
)

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
BOUND = binding("ListDomains", b"arguments")
seal = Seal([KEY])
positions = st.integers(min_value=0, max_value=2**31)


@given(forward=st.booleans(), position=positions)
def test_a_page_token_opens_to_the_place_it_was_made_for(forward: bool, position: int) -> None:
    place = PagePlace(forward, position)
    assert seal.open_page(seal.page(place, BOUND), BOUND, field="page_token") == place


@given(index=st.integers(0, 10_000), position=positions, end=positions)
def test_a_cursor_opens_to_the_place_it_was_made_for(index: int, position: int, end: int) -> None:
    place = StreamPlace(index, position, end)
    assert seal.open_cursor(seal.cursor(place, BOUND), BOUND, field="cursor") == place


@given(token=st.text(max_size=200))
def test_text_that_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken) as refusal:
        seal.open_page(token, BOUND, field="page_token")
    assert [v.field for v in refusal.value.violations] == ["page_token"]
    assert refusal.value.metadata == {"field": "page_token"}


@given(sealed=st.binary(max_size=100))
def test_bytes_dressed_up_as_a_token_are_refused(sealed: bytes) -> None:
    with pytest.raises(InvalidToken):
        seal.open_cursor(base64.urlsafe_b64encode(sealed).decode(), BOUND, field="cursor")


@given(data=st.data())
def test_a_token_changed_in_any_character_is_refused(data: st.DataObject) -> None:
    token = seal.page(PagePlace(True, 5), BOUND)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[at]))
    with pytest.raises(InvalidToken):
        seal.open_page(token[:at] + other + token[at + 1 :], BOUND, field="page_token")


@given(cut=st.integers(1, 50))
def test_a_shortened_or_lengthened_token_is_refused(cut: int) -> None:
    token = seal.cursor(StreamPlace(1, 2, 3), BOUND)
    for changed in (token[:-cut], token[cut:], token + token[:cut], token + "="):
        with pytest.raises(InvalidToken):
            seal.open_cursor(changed, BOUND, field="cursor")


def test_a_token_of_other_arguments_or_another_method_is_refused() -> None:
    token = seal.page(PagePlace(True, 5), BOUND)
    for other in (binding("ListDomains", b"others"), binding("StreamDomains", b"arguments")):
        with pytest.raises(InvalidToken):
            seal.open_page(token, other, field="page_token")


def test_a_cursor_is_no_page_token_even_under_the_same_binding() -> None:
    with pytest.raises(InvalidToken):
        seal.open_page(seal.cursor(StreamPlace(0, 0, 0), BOUND), BOUND, field="page_token")
    with pytest.raises(InvalidToken):
        seal.open_cursor(seal.page(PagePlace(True, 0), BOUND), BOUND, field="cursor")


def test_a_token_of_another_service_key_is_refused() -> None:
    with pytest.raises(InvalidToken):
        seal.open_page(Seal([OTHER_KEY]).page(PagePlace(True, 5), BOUND), BOUND, field="page_token")


def test_after_a_rotation_old_tokens_open_and_new_ones_use_the_new_key() -> None:
    rotated = Seal([OTHER_KEY, KEY])
    old = seal.page(PagePlace(False, 7), BOUND)
    assert rotated.open_page(old, BOUND, field="page_token") == PagePlace(False, 7)
    new = rotated.page(PagePlace(False, 7), BOUND)
    assert Seal([OTHER_KEY]).open_page(new, BOUND, field="page_token") == PagePlace(False, 7)


def test_a_token_does_not_show_its_position_and_never_looks_the_same_twice() -> None:
    first, second = (seal.page(PagePlace(True, 5), BOUND) for _ in range(2))
    assert first != second


def test_keys_are_read_from_comma_separated_base64() -> None:
    text = f"{base64.b64encode(KEY).decode()}, {base64.b64encode(OTHER_KEY).decode()}"
    assert parse_keys(text) == [KEY, OTHER_KEY]


@pytest.mark.parametrize("text", ["", "not base64!", base64.b64encode(b"short").decode(), "é"])
def test_a_bad_key_is_refused(text: str) -> None:
    with pytest.raises(BadKey, match="key 1"):
        parse_keys(text)


@pytest.mark.parametrize("size", [16, 31, 33])
def test_a_key_of_another_length_is_refused_though_the_cipher_might_take_it(size: int) -> None:
    with pytest.raises(BadKey, match=f"{size} bytes"):
        parse_keys(base64.b64encode(b"k" * size).decode())
