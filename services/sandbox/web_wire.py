"""Bytes of the sandbox's web servers: what is asked, and what is sent without end. Pure."""

import struct
import zlib
from collections.abc import Iterator
from itertools import repeat
from typing import NamedTuple

_ENDLESS = b"<p>Nothing to be seen here, and there will be more of it.</p>\n" * 1024
# A megabyte of spaces as a deflate block after a full flush, and 16 MB as a brotli meta-block.
_FLUSHED = zlib.compressobj(9, wbits=-15)
GZIP_BLOCK = _FLUSHED.compress(b" " * (1 << 20)) + _FLUSHED.flush(zlib.Z_FULL_FLUSH)
BROTLI_BLOCK = bytes.fromhex("fcffff034002200e0b40f7fe8fffff7f004800c46101e8deff19")
_BLOCKS = 1024
FLOOD = b"".join([b"X-Flood-%02d: %s\r\n" % (it, b"a" * 1000) for it in range(64)])


class Asked(NamedTuple):
    """What a request asks for."""

    method: str
    path: str
    # Without a port, in lower case.
    host: str
    gzip: bool
    brotli: bool
    # Whether the connection ends with it.
    last: bool


def parse(head: bytes) -> Asked | None:
    """A request up to its empty line; None for what is none, or has content."""
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        return None
    method, path, version = parts
    host = coding = ""
    last = version == "HTTP/1.0"
    for line in lines[1:]:
        key, _, value = line.partition(":")
        key = key.lower()
        if key == "host":
            host = value.strip().lower().partition(":")[0]
        elif key == "accept-encoding":
            coding = value.lower()
        elif key == "connection":
            last = last or "close" in value.lower()
        elif key == "transfer-encoding" or (key == "content-length" and value.strip() != "0"):
            return None
    codings = {it.partition(";")[0].strip() for it in coding.split(",")} if coding else set()
    path = path.partition("?")[0]
    return Asked(method, path, host.removesuffix("."), "gzip" in codings, "br" in codings, last)


def server_name(data: bytes) -> str | None:
    """The name that a ClientHello asks for, "" for none or for what is no ClientHello; None when
    more has to come."""
    hello = b""
    at = 0
    while True:
        if len(data) < at + 5:
            return None if not data[:1] or data[0] == 0x16 else ""
        if data[at] != 0x16:
            return ""
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        if len(data) < end:
            return None
        hello += data[at + 5 : end]
        at = end
        if hello[:1] != b"\x01":
            return ""
        if len(hello) >= 4 and len(hello) >= 4 + int.from_bytes(hello[1:4], "big"):
            break
    # Version and random, session, cipher suites, compression methods.
    at = 4 + 34
    at += 1 + int.from_bytes(hello[at : at + 1], "big")
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + int.from_bytes(hello[at : at + 1], "big")
    at += 2
    while at + 4 <= len(hello):
        kind, length = struct.unpack_from("!HH", hello, at)
        if kind == 0:
            # Length of the list, kind of name, length of the name.
            return hello[at + 9 : at + 4 + length].decode("latin-1").lower().removesuffix(".")
        at += 4 + length
    return ""


def number_of(path: str, prefix: str) -> int:
    """What follows the prefix, -1 for no number below a million."""
    text = path.removeprefix(prefix)
    return int(text) if text != path and text.isdecimal() and len(text) < 7 else -1


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def endless(head: bytes) -> Iterator[bytes]:
    yield head
    yield from repeat(chunk(_ENDLESS))


def bomb(head: bytes, block: bytes) -> Iterator[bytes]:
    """The check value at the end is missing: whoever gets there has read too much."""
    yield head
    yield from repeat(block * 16, _BLOCKS // 16)


def packed_gzip(start: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)


def packed_brotli(start: bytes) -> bytes:
    """A stream that begins with this, as it is; at most 64 KB. RFC 7932, 9.1 and 9.2: a window of
    22 bits (four bits, 1011), not the last, length in 16 bits (00), uncompressed."""
    return (0xB | (len(start) - 1) << 7 | 1 << 23).to_bytes(3, "little") + start
