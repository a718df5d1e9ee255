"""Answers as JSON, as resolvers give them over HTTPS, turned into bytes that `wire` reads. Pure.

The form is that of https://developers.google.com/speed/public-dns/docs/doh/json, which others
follow; it never became a standard, so nothing in it is relied on.
"""

import json
from collections.abc import Mapping
from struct import Struct
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from services.validation.dns import wire

DNAME = 39
# Types whose data decide anything. Others, such as signatures, are left out: their text form
# differs from resolver to resolver.
_KEPT = frozenset((*wire.QTYPES, wire.CNAME, DNAME))
# More than any honest answer has.
RECORD_LIMIT = 1000

# What becomes of JSON of another shape; ValueError besides.
_BROKEN = (LookupError, TypeError, AttributeError, RecursionError, dns.exception.DNSException)
_COUNTS = Struct("!HHHH")
_RECORD = Struct("!HHIH")


def asked(packet: bytes) -> tuple[str, int, bool]:
    """Name without the final dot, type, and whether checking is disabled, in a question of ours."""
    end = packet.index(b"\0", 12)
    labels = []
    at = 12
    while at < end:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode("ascii"))
        at += 1 + packet[at]
    qtype = int.from_bytes(packet[end + 1 : end + 3], "big")
    return ".".join(labels), qtype, bool(packet[3] & 0x10)


def to_wire(text: bytes, packet: bytes) -> bytes:
    """The response to `packet` that `text` stands for, with id and question of `packet`.

    Raises ValueError if it is none.
    """
    try:
        found = json.loads(text)
        return _message(found, packet)
    except _BROKEN as error:
        raise ValueError(f"no answer in JSON: {error!r:.200}") from error


def _message(found: Mapping[str, Any], packet: bytes) -> bytes:
    name, qtype, _ = asked(packet)
    # Absent in some resolvers' negative answers; over HTTPS an answer belongs to its request.
    for question in found.get("Question") or ():
        if question["name"].rstrip(".").lower() != name.lower() or question["type"] != qtype:
            raise ValueError("the answer is to another question")
    status = found["Status"]
    if type(status) is not int or not 0 <= status < 4096:
        raise ValueError(f"no response code: {status!r:.50}")
    answers = _records(found.get("Answer") or (), name)
    authorities = _records(found.get("Authority") or (), name)
    flags = 0x8000 | status & 0x0F
    for key, bit in (("TC", 0x0200), ("RD", 0x0100), ("RA", 0x0080), ("AD", 0x20), ("CD", 0x10)):
        if found.get(key):
            flags |= bit
    end = packet.index(b"\0", 12) + 5
    counts = _COUNTS.pack(1, len(answers), len(authorities), 1)
    # Carries the upper bits of the response code.
    edns = b"\0" + _RECORD.pack(wire.OPT, wire.EDNS_SIZE, status >> 4 << 24, 0)
    message = b"".join(
        (packet[:2], flags.to_bytes(2, "big"), counts, packet[12:end], *answers, *authorities, edns)
    )
    if len(message) > 65535:
        raise ValueError("more than a message holds")
    return message


def _records(found: Any, asked_name: str) -> list[bytes]:
    if len(found) > RECORD_LIMIT:
        raise ValueError("too many records")
    records = []
    for record in found:
        kind = record["type"]
        if kind not in _KEPT:
            continue
        ttl = record.get("TTL", 0)
        if type(ttl) is not int or not 0 <= ttl < 1 << 32:
            raise ValueError(f"no time to live: {ttl!r:.50}")
        start = _owner(record["name"].rstrip("."), asked_name)
        rdata = dns.rdata.from_text(
            dns.rdataclass.IN, kind, record["data"], origin=dns.name.root, relativize=False
        )
        data = rdata.to_wire()
        assert data is not None
        records.append(start + _RECORD.pack(kind, 1, ttl, len(data)) + data)
    return records


def _owner(name: str, asked_name: str) -> bytes:
    """A pointer into the question if it ends so, as servers write it, else the name in full."""
    if name and f".{asked_name}".lower().endswith(f".{name}".lower()):
        return (0xC00C + len(asked_name) - len(name)).to_bytes(2, "big")
    encoded = dns.name.from_text(name).to_wire()
    assert encoded is not None
    return encoded
