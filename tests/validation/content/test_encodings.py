import codecs

import pytest

from services.validation.content import encodings
from services.validation.content.encodings import Encoding, EncodingSource, decode


@pytest.mark.parametrize(
    ("body", "content_type", "text", "name", "source"),
    [
        ("é".encode("utf-8-sig"), "text/html; charset=latin1", "é", "utf-8", "BYTE_ORDER_MARK"),
        (codecs.BOM_UTF16_LE + "é".encode("utf-16-le"), "", "é", "utf-16le", "BYTE_ORDER_MARK"),
        ("é".encode("cp1251", "replace") + "я".encode("cp1251"), "a/b;charset='CP1251'", "?я",
         "windows-1251", "HEADER"),
        (b"\x80", "text/html; charset=ISO-8859-1", "€", "windows-1252", "HEADER"),
        ("é".encode(), "text/html; charset=utf-7", "é", "utf-8", "CONTENT"),
        ("é".encode() + b"\xc3", "", "é", "utf-8", "CONTENT"),
        (b"\xe9", "", "é", "windows-1252", "FALLBACK"),
        (b"", "", "", "utf-8", "CONTENT"),
    ],
)  # fmt: skip
def test_the_strongest_declaration_decides(
    body: bytes, content_type: str, text: str, name: str, source: str
) -> None:
    assert decode(body, content_type=content_type) == (text, Encoding(name, EncodingSource[source]))


@pytest.mark.parametrize(
    "meta",
    [
        '<meta charset="shift_jis">',
        "<META CHARSET=sjis />",
        "<meta http-equiv=content-type content='text/html; charset=x-sjis'>",
        "<!-- <meta charset=koi8-r> --><meta charset = Shift-JIS>",
        "<meta name=a content=b><meta charset='unknown'><meta charset=shift_jis>",
    ],
)
def test_a_meta_declares_the_encoding(meta: str) -> None:
    text, encoding = decode(meta.encode() + "日本".encode("cp932"))

    assert text.endswith("日本")
    assert encoding == Encoding("shift_jis", EncodingSource.META)


def test_a_meta_that_says_utf_16_is_not_believed() -> None:
    _, encoding = decode(b"<meta charset=utf-16>")

    assert encoding == Encoding("utf-8", EncodingSource.META)


def test_a_meta_after_the_first_kilobyte_is_too_late() -> None:
    _, encoding = decode(b" " * 1024 + b"<meta charset=koi8-r>\xe9")

    assert encoding.source is EncodingSource.FALLBACK


def test_a_hint_comes_before_the_fallback() -> None:
    text, encoding = decode("привет".encode("koi8-r"), hint="KOI8-R")

    assert text == "привет"
    assert encoding == Encoding("koi8-r", EncodingSource.HINT)


def test_every_label_has_a_codec_that_reads_any_bytes() -> None:
    for name, codec in encodings._CODECS.items():
        assert encodings.encoding_of_label(f" {name.upper()}\n") == name
        assert isinstance(bytes(range(256)).decode(codec, "replace"), str)
    assert len(encodings._NAMES) == 221


@pytest.mark.parametrize("label", ["rot13", "utf-7", "base64", "idna", "", "punycode", "utf-32"])
def test_codecs_that_are_no_web_encodings_cannot_be_chosen(label: str) -> None:
    assert encodings.encoding_of_label(label) == ""
