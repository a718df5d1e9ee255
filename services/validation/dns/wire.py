"""DNS bytes: the question, and what a response says. Pure; never trusts a length it has read.

Ordinary answers are recognised by fixed bytes (`QUICK`, `addresses_at`); `read` walks all others.
"""

from collections.abc import Callable
from enum import Enum
from random import Random
from socket import AF_INET6, inet_ntoa, inet_ntop
from struct import Struct

from services.validation.dns.verdict import DNSSEC_ERRORS, NOERROR, NXDOMAIN, Answer

A, NS, CNAME, SOA, MX, AAAA, OPT = 1, 2, 5, 6, 15, 28, 41
# Option of an OPT record: the extended error (RFC 8914).
EDE = 15
# What may be asked for.
QTYPES = (A, NS, SOA, MX, AAAA)
CHAIN_LIMIT = 8
# RFC 9715: larger answers risk fragments, which are lost and forged more easily.
EDNS_SIZE = 1232

# Recursion desired, one question; with and without the OPT record that carries EDNS_SIZE.
HEADER = b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01"
HEADER_PLAIN = b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
# The same with checking disabled (RFC 4035): answers come although their signatures are broken.
HEADER_UNCHECKED = b"\x01\x10\x00\x01\x00\x00\x00\x00\x00\x01"
HEADER_UNCHECKED_PLAIN = b"\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00"
OPT_RECORD = b"\x00" + Struct("!HHIH").pack(OPT, EDNS_SIZE, 0, 0)

_COUNTS = Struct("!HHHH")
_RECORD = Struct("!HHIH")
_OPTION = Struct("!HH")
_SOA_NUMBERS = Struct("!IIIII")
_SUFFIXES = 4096


class Malformed(ValueError):
    """The response cannot be read as DNS."""


class Echo(Enum):
    """How the question in a response compares with the one that was sent."""

    SAME = 1
    # The same name in another case: a resolver that does not preserve case, or a forger.
    FOLDED = 2
    # A bare header, as some servers send with FORMERR.
    ABSENT = 3
    FOREIGN = 4


class Questions:
    """Question sections for one type of record, built from a bounded table of encoded parents."""

    def __init__(self, qtype: int) -> None:
        self.qtype = qtype
        self._tail = "\0" + qtype.to_bytes(2, "big").decode("ascii") + "\0\1"
        # Parent of a name -> the rest of its question. Read directly by the engine's loop.
        self.suffixes: dict[str, str] = {}

    def suffix(self, parent: str) -> str:
        """What follows the first label of a child of `parent`. ValueError: it has no encoding."""
        labels = parent.split(".") if parent else []
        if any(not 0 < len(label) < 64 for label in labels):
            raise ValueError(f"no DNS name ends in {parent!r}")
        if len(self.suffixes) >= _SUFFIXES:
            self.suffixes.clear()
        encoded = "".join(chr(len(label)) + label for label in labels) + self._tail
        self.suffixes[parent] = encoded
        return encoded

    def build(self, name: str) -> bytes:
        """The question section for `name`. ValueError: it has no encoding."""
        label, _, parent = name.partition(".")
        suffix = self.suffixes.get(parent) or self.suffix(parent)
        if not 0 < len(label) < 64 or len(name) > 253:
            raise ValueError(f"no DNS name: {name[:80]!r}")
        return (chr(len(label)) + label + suffix).encode("ascii")


def case_tables(random: Random, count: int) -> list[bytes]:
    """Tables for bytes.translate, each giving every letter a case of its own (0x20 encoding).

    They touch letters only, so a whole question can be translated: a length is below 64, and
    neither the types asked for nor the class hold a letter.
    """
    tables = []
    for _ in range(count):
        table = bytearray(range(256))
        bits = random.getrandbits(26)
        for letter in range(26):
            cased = 0x41 + letter if bits >> letter & 1 else 0x61 + letter
            table[0x41 + letter] = table[0x61 + letter] = cased
        tables.append(bytes(table))
    return tables


def _quick() -> dict[bytes, int]:
    """Bytes 2-8 of a response (flags, one question, answers) -> answers to expect.

    Zero stands for NXDOMAIN without records, 1-8 for NOERROR with as many. AA, RD, RA, AD and CD
    do not matter; QR must be set, opcode and TC clear.
    """
    table = {}
    for first in (0x80, 0x81, 0x84, 0x85):
        for second in range(0, 256, 16):
            table[bytes((first, second | NXDOMAIN, 0, 1, 0, 0))] = 0
            for count in range(1, 9):
                table[bytes((first, second | NOERROR, 0, 1, 0, count))] = count
    return table


QUICK = _quick()
# For types whose records `addresses_at` does not read.
QUICK_ABSENT = {start: count for start, count in QUICK.items() if not count}
# The start of an ordinary address record: pointer to the question's name, type, class IN.
A_RECORD = b"\xc0\x0c\x00\x01\x00\x01"
_A = Struct("!6sIH4s").unpack_from
_A_STRIDE = 16


def addresses_at(datagram: bytes, at: int, count: int) -> tuple[tuple[str, ...], int] | None:
    """Addresses and lowest TTL when exactly `count` ordinary A records stand at `at`, else None."""
    if len(datagram) < at + count * _A_STRIDE:
        return None
    found = []
    ttl = 0x7FFFFFFF
    for start in range(at, at + count * _A_STRIDE, _A_STRIDE):
        head, seconds, length, address = _A(datagram, start)
        if head != A_RECORD or length != 4:
            return None
        found.append(inet_ntoa(address))
        if seconds < ttl:
            ttl = seconds
        elif seconds >= 0x80000000:
            ttl = 0
    return tuple(found), ttl


def name_in(question: bytes) -> str:
    """The name in a question section of ours, lower case."""
    labels = []
    at = 0
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length])
        at += 1 + length
    return b".".join(labels).decode("ascii").lower()


def echo_of(response: bytes, question: bytes) -> Echo:
    """Whether `response` answers `question`. The caller has matched id and socket already."""
    # QR set, opcode QUERY.
    if len(response) < 12 or response[2] & 0xF8 != 0x80:
        return Echo.FOREIGN
    if response[4:6] == b"\x00\x01":
        if response.startswith(question, 12):
            return Echo.SAME
        if response[12 : 12 + len(question)].lower() == question.lower():
            return Echo.FOLDED
    elif len(response) == 12 and response[4:12] == bytes(8):
        return Echo.ABSENT
    return Echo.FOREIGN


def _text(byte: int) -> str:
    """One byte of a label in presentation form (RFC 4343), lower case."""
    if byte in b'".;\\@$()':
        return "\\" + chr(byte)
    return chr(byte).lower() if 0x20 < byte < 0x7F else f"\\{byte:03d}"


_TEXT = [_text(byte) for byte in range(256)]


class _Names:
    """Names of one message. Remembers where each began, so hostile pointers cost linear time."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        # Offset -> labels from there on and their length on the wire.
        self._known: dict[int, tuple[tuple[str, ...], int]] = {}

    def at(self, offset: int) -> tuple[str, int]:
        """The name at `offset`, lower case and without the final dot, and the offset after it."""
        message = self._message
        starts: list[tuple[int, str, int]] = []
        rest: tuple[tuple[str, ...], int] = ((), 1)
        position = offset
        lowest = offset
        after = -1
        while True:
            if position >= len(message):
                raise Malformed("a name runs past the end")
            length = message[position]
            if length < 64:
                if length == 0:
                    after = position + 1 if after < 0 else after
                    break
                label = message[position + 1 : position + 1 + length]
                if len(label) < length:
                    raise Malformed("a label runs past the end")
                starts.append((position, "".join([_TEXT[byte] for byte in label]), length + 1))
                if len(starts) > 127:
                    raise Malformed("a name of more than 127 labels")
                position += length + 1
            elif length >= 0xC0:
                if position + 1 >= len(message):
                    raise Malformed("a pointer runs past the end")
                target = (length & 0x3F) << 8 | message[position + 1]
                after = position + 2 if after < 0 else after
                # Strictly backwards, each further than the last: no chain of pointers can loop.
                if target >= lowest:
                    raise Malformed("a pointer that does not point backwards")
                position = lowest = target
                if target in self._known:
                    rest = self._known[target]
                    break
            else:
                raise Malformed("an unknown kind of label")
        labels, size = rest
        for start, text, width in reversed(starts):
            labels, size = (text, *labels), size + width
            if size > 255:
                raise Malformed("a name of more than 255 bytes")
            self._known[start] = labels, size
        return ".".join(labels) or ".", after


def read(response: bytes, question: bytes, qtype: int) -> Answer:
    """What `response` says. The caller has checked the echo; raises Malformed, never another."""
    _, answers, authorities, additionals = _COUNTS.unpack_from(response, 4)
    rcode = response[3] & 0x0F
    truncated = bool(response[2] & 0x02)
    names = _Names(response)
    name, at = names.at(12)
    at += 4
    if truncated:
        return Answer(rcode, True, (), (), -1, False, False)
    targets: dict[str, tuple[str, int]] = {}
    data: dict[str, list[tuple[str, int]]] = {}
    kinds = set()
    authority = ""
    ede = -1
    data_at = _DATA[qtype]
    for number in range(answers + authorities + additionals):
        owner, at = names.at(at)
        if at + 10 > len(response):
            raise Malformed("a record runs past the end")
        kind, category, ttl, length = _RECORD.unpack_from(response, at)
        at += 10
        end = at + length
        if end > len(response):
            raise Malformed("record data run past the end")
        if kind == OPT:
            rcode |= ttl >> 24 << 4
            ede = _extended_error(response, at, end)
        elif category == 1:
            seconds = ttl if ttl < 0x80000000 else 0
            if number < answers:
                if kind == CNAME:
                    target, stop = names.at(at)
                    if stop != end:
                        raise Malformed("a CNAME of the wrong length")
                    targets.setdefault(owner, (target, seconds))
                elif kind == qtype:
                    text = data_at(names, response, at, end)
                    data.setdefault(owner, []).append((text, seconds))
            elif number < answers + authorities:
                kinds.add(kind)
                if kind == SOA:
                    authority = owner
        at = end
    # Authoritative data or a recursive server's word end the search; neither bit set and NS
    # records instead of an answer say "ask elsewhere".
    no_word = not response[2] & 0x04 and not response[3] & 0x80
    chain: list[str] = []
    ttl = -1
    passed = {name}
    looped = False
    while name in targets:
        if len(chain) == CHAIN_LIMIT:
            looped = True
            break
        name, seconds = targets[name]
        chain.append(name)
        ttl = seconds if ttl < 0 else min(ttl, seconds)
        if name in passed:
            looped = True
            break
        passed.add(name)
    found = [] if looped else data.get(name, [])
    for _, seconds in found:
        ttl = seconds if ttl < 0 else min(ttl, seconds)
    referral = NS in kinds and SOA not in kinds and no_word and not found and not chain
    return Answer(
        rcode,
        False,
        tuple([text for text, _ in found]),
        tuple(chain),
        ttl,
        looped,
        referral,
        "" if found else authority,
        ede,
    )


def _extended_error(response: bytes, at: int, end: int) -> int:
    """Info code of the extended error among the options from `at` to `end`, -1 without one.

    Of several, one about DNSSEC. What is no proper option ends the search: nothing rests on it.
    """
    found = -1
    while at + 4 <= end:
        option, length = _OPTION.unpack_from(response, at)
        at += 4
        if at + length > end:
            break
        if option == EDE and length >= 2 and found not in DNSSEC_ERRORS:
            found = int.from_bytes(response[at : at + 2], "big")
        at += length
    return found


def _ipv4_at(_: _Names, response: bytes, at: int, end: int) -> str:
    if end - at != 4:
        raise Malformed("an address of the wrong length")
    return inet_ntoa(response[at:end])


def _ipv6_at(_: _Names, response: bytes, at: int, end: int) -> str:
    if end - at != 16:
        raise Malformed("an address of the wrong length")
    return inet_ntop(AF_INET6, response[at:end])


def _name_at(names: _Names, response: bytes, at: int, end: int) -> str:
    name, stop = names.at(at)
    if stop != end:
        raise Malformed("a name of the wrong length")
    return name


def _mx_at(names: _Names, response: bytes, at: int, end: int) -> str:
    if end - at < 3:
        raise Malformed("mail server data of the wrong length")
    preference = int.from_bytes(response[at : at + 2], "big")
    return f"{preference} {_name_at(names, response, at + 2, end)}"


def _soa_at(names: _Names, response: bytes, at: int, end: int) -> str:
    primary, at = names.at(at)
    mailbox, at = names.at(at)
    if end - at != 20:
        raise Malformed("SOA data of the wrong length")
    numbers = _SOA_NUMBERS.unpack_from(response, at)
    return f"{primary} {mailbox} {' '.join(map(str, numbers))}"


# Type -> its data in presentation form.
_DATA: dict[int, Callable[[_Names, bytes, int, int], str]] = {
    A: _ipv4_at,
    AAAA: _ipv6_at,
    NS: _name_at,
    MX: _mx_at,
    SOA: _soa_at,
}
