"""Content codings undone within limits."""

import gzip
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.http.decoding import NotDecodable, decoder_for


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


CODINGS = {
    "": bytes,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "identity": bytes,
    "utf-8": bytes,
}


def decoded(coding: str, data: bytes, *, piece: int = 1000, room: int = 1 << 20) -> bytes:
    decoder, out = decoder_for(coding), b""
    for at in range(0, len(data), piece):
        out += decoder.feed(data[at : at + piece], room - len(out))
        if len(out) >= room:
            break
    return out


@pytest.mark.parametrize("coding", CODINGS)
@given(body=st.binary(max_size=5000), piece=st.integers(1, 700))
def test_every_coding_is_undone_however_it_is_cut(coding, body, piece):
    assert decoded(coding, CODINGS[coding](body), piece=piece) == body


@given(body=st.binary(max_size=2000), piece=st.integers(1, 700))
def test_deflate_without_its_frame_is_undone(body, piece):
    assert decoded("deflate", raw_deflate(b"<html>" + body), piece=piece) == b"<html>" + body


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_no_more_comes_out_than_there_is_room_for(coding):
    bomb = CODINGS[coding](bytes(16 << 20))

    assert decoded(coding, bomb, piece=1 << 16, room=100_001) == bytes(100_001)


def test_a_gzip_stream_of_several_members_is_one_body():
    assert decoded("gzip", gzip.compress(b"a") + gzip.compress(b"b") + b"garbage") == b"ab"


def test_a_stream_of_endless_members_is_left():
    assert decoded("gzip", gzip.compress(b"") * 50_000 + gzip.compress(b"end")) == b""


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_body_in_another_coding_than_it_claims_is_refused(coding):
    with pytest.raises(NotDecodable):
        decoded(coding, b"<html>" * 100 + bytes(range(256)))


@pytest.mark.parametrize("coding", ["zstd", "compress", "gzip, br"])
def test_a_coding_that_was_not_asked_for_is_refused(coding):
    with pytest.raises(NotDecodable):
        decoder_for(coding)


@pytest.mark.parametrize("coding", CODINGS)
@given(data=st.binary(max_size=3000))
def test_no_bytes_are_an_error_of_another_kind(coding, data):
    try:
        assert len(decoded(coding, data, room=500)) <= 500
    except NotDecodable:
        pass
