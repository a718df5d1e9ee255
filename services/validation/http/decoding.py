"""Content codings undone in pieces, with a limit on what comes out: a few kilobytes can hold
gigabytes. Pure."""

import zlib
from typing import Protocol

import brotli

# What can be undone, in the order of Accept-Encoding.
ACCEPTED = "gzip, deflate, br"
# Members of one gzip stream; real pages have one, and each costs a copy of what follows.
_MEMBERS = 16


class NotDecodable(ValueError):
    """The body is not in the coding it claims; the message says which."""


class Decoder(Protocol):
    """Undoes one coding."""

    def feed(self, data: bytes, room: int) -> bytes:
        """Decode up to about `room` bytes (1 or more) and forget the rest: whoever has no room left
        asks no more. Raises NotDecodable."""
        ...


def decoder_for(coding: str) -> Decoder:
    """For a Content-Encoding header. Raises NotDecodable for one that was not asked for."""
    coding = coding.strip().lower()
    if coding in ("gzip", "x-gzip"):
        return _Gzip()
    if coding == "deflate":
        return _Deflate()
    if coding == "br":
        return _Brotli()
    if coding in ("zstd", "compress", "x-compress", "dcb", "dcz") or "," in coding:
        raise NotDecodable(f"content coding {coding[:40]!r} was not asked for")
    # As browsers do: servers write charsets and other words into this header.
    return _Identity()


class _Identity:
    def feed(self, data: bytes, room: int) -> bytes:
        return data[:room]


class _Gzip:
    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._members = 1

    def feed(self, data: bytes, room: int) -> bytes:
        if self._members > _MEMBERS:
            return b""
        try:
            out = self._member.decompress(data, room)
            while self._member.eof and self._member.unused_data and len(out) < room:
                rest = self._member.unused_data
                self._members += 1
                # What follows a member and is none is ignored, as browsers do.
                if self._members > _MEMBERS or not rest.startswith(b"\x1f"):
                    self._members = _MEMBERS + 1
                    break
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
                out += self._member.decompress(rest, room - len(out))
        except zlib.error as error:
            raise NotDecodable(f"not gzip: {error}") from None
        return out


class _Deflate:
    """RFC 1950, or RFC 1951 without its frame, which many servers send by the same name."""

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes, room: int) -> bytes:
        if self._stream is None:
            if not data:
                return b""
            framed = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
            if framed and len(data) > 1:
                framed = (data[0] << 8 | data[1]) % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if framed else -zlib.MAX_WBITS)
        try:
            return self._stream.decompress(data, room)
        except zlib.error as error:
            raise NotDecodable(f"not deflate: {error}") from None


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def feed(self, data: bytes, room: int) -> bytes:
        if self._stream.is_finished():
            return b""
        try:
            # It stops at the first block beyond the limit.
            out: bytes = self._stream.process(data, output_buffer_limit=room)
        except brotli.error as error:
            raise NotDecodable(f"not brotli: {error}") from None
        return out[:room]
