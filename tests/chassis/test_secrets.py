"""Secrets at rest."""

import base64
import copy
import json
import pickle
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.secrets import (
    OVERHEAD,
    BadKey,
    Secret,
    SecretBox,
    UnreadableSecret,
    key_id_of,
    new_key,
    place,
)

OLD, NEW = b"o" * 32, b"n" * 32
ROW = place("proxies", "7", "password")


@given(st.text(), st.text(), st.text())
def test_a_secret_opens_where_it_was_sealed(text, row_id, column):
    bound = place("proxies", row_id, column)
    box = SecretBox([NEW])

    assert box.open(box.seal(Secret(text), bound), bound).reveal() == text


@pytest.mark.parametrize(
    "elsewhere",
    [
        place("proxies", "8", "password"),
        place("proxies", "7", "user"),
        place("pools", "7", "password"),
        b"",
    ],
    ids=["row", "column", "table", "nowhere"],
)
def test_a_secret_copied_to_another_place_does_not_open(elsewhere):
    box = SecretBox([NEW])

    with pytest.raises(UnreadableSecret, match="another place"):
        box.open(box.seal(Secret("hunter2"), ROW), elsewhere)


def test_no_flipped_bit_of_an_envelope_goes_unnoticed():
    box = SecretBox([NEW])
    envelope = box.seal(Secret("hunter2"), ROW)

    for index in range(len(envelope) * 8):
        flipped = bytearray(envelope)
        flipped[index // 8] ^= 1 << index % 8
        with pytest.raises(UnreadableSecret):
            box.open(bytes(flipped), ROW)


@given(st.binary(max_size=100))
def test_bytes_that_are_no_envelope_are_refused(data):
    with pytest.raises(UnreadableSecret):
        SecretBox([NEW]).open(data, ROW)


def test_every_key_opens_and_the_first_one_seals():
    before = SecretBox([OLD])
    during = SecretBox([NEW, OLD])
    after = SecretBox([NEW])
    envelope = before.seal(Secret("hunter2"), ROW)

    assert not during.is_current(envelope)
    moved = during.reseal(envelope, ROW)

    assert during.open(envelope, ROW) == Secret("hunter2")
    assert during.is_current(moved)
    assert during.reseal(moved, ROW) == moved
    assert after.open(moved, ROW) == Secret("hunter2")
    assert key_id_of(moved) == after.key_ids[0] != key_id_of(envelope)


def test_a_key_that_is_gone_is_named_by_its_id():
    envelope = SecretBox([OLD]).seal(Secret("hunter2"), ROW)

    with pytest.raises(UnreadableSecret, match=key_id_of(envelope)):
        SecretBox([NEW]).open(envelope, ROW)


def test_two_envelopes_of_one_secret_differ():
    box = SecretBox([new_key()])
    one, other = (box.seal(Secret("hunter2"), ROW) for _ in range(2))

    assert one != other
    assert len(one) == OVERHEAD + len("hunter2")


@pytest.mark.parametrize("keys", ["", "YQ==", "?", base64.b64encode(NEW).decode() + ","])
def test_bad_keys_are_refused(keys):
    with pytest.raises(BadKey):
        SecretBox.of(keys)


def test_a_box_without_a_key_is_refused():
    with pytest.raises(BadKey):
        SecretBox([])


def test_a_secret_shows_itself_nowhere():
    @dataclass(frozen=True, slots=True)
    class Proxy:
        password: Secret

    secret = Secret("hunter2")
    proxy = Proxy(secret)
    box = SecretBox.of(base64.b64encode(NEW).decode())
    shown = (
        f"{secret} {secret!r} {secret:>10} {proxy} {asdict(proxy)} {box} {vars(box)} {[secret]}"
        f"{copy.deepcopy(secret)} {copy.copy(secret)} " + "%s %r" % (secret, secret)  # noqa: UP031
    )

    assert "hunter2" not in shown
    assert repr(NEW) not in shown
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError, match="seal it"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_secrets_are_compared_by_text():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert not Secret("")
    assert Secret("ü")
