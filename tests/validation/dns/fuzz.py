"""Packets that mean harm: `python -m tests.validation.dns.fuzz --packets 10000000`.

Real packets, damaged, and packets made up of well- and ill-formed parts go through the parser, its
quick way and, over sockets, through the engine. Prints what became of them; exits with 1 when one
was read that should not have been, was read differently by the two ways, or ended in an error.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from socket import inet_aton
from typing import cast

import dns.edns
import dns.message
import dns.rrset

from services.validation.dns import wire
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Answer, Outcome, Verdict, is_final, judge
from services.validation.dns.wire import Echo, Malformed, Questions, echo_of, read

RIGHT = "192.0.2.1"
TYPES = {wire.A: "A", wire.NS: "NS", wire.SOA: "SOA", wire.MX: "MX", wire.AAAA: "AAAA"}
SOA_DATA = "ns.example. host.example. 1 900 300 86400 300"
# Data of each type in presentation form, then records of a chain.
RECORDS = {
    wire.A: ["192.0.2.7", "192.0.2.8"],
    wire.NS: ["ns1.x.example.", "ns2.elsewhere.test."],
    wire.SOA: [SOA_DATA],
    wire.MX: ["10 mx.x.example.", "0 ."],
    wire.AAAA: ["2001:db8::7", "2001:db8::8"],
}
# Bytes that mean something somewhere: lengths, pointers, types, flags.
TELLING = bytes((0, 1, 2, 3, 4, 5, 6, 11, 12, 15, 28, 41, 62, 63, 64, 127, 128, 191, 192, 193, 255))


class Wrong(AssertionError):
    """A packet was read as it should not have been."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked, and real answers to it."""

    name: str
    qtype: int
    question: bytes
    answers: tuple[bytes, ...]


def subject(name: str, qtype: int = wire.A) -> Subject:
    """`name` asked for `qtype`, with about every kind of answer there is."""
    kind, data = TYPES[qtype], RECORDS[qtype]
    parent = name.partition(".")[2]
    soa = (f"{parent}.", "SOA", [SOA_DATA])
    hops = [f"{hop}.{name}." for hop in ("a", "b", "c")]
    chain = [
        (owner, "CNAME", [target]) for owner, target in zip([f"{name}.", *hops], hops, strict=False)
    ]
    loop = [*chain, (hops[-1], "CNAME", [f"{name}."])]
    found = (f"{name}.", kind, data)
    many = (f"{name}.", "A", [f"192.0.2.{number}" for number in range(60)])
    messages = [
        _message(name, kind, answer=[found]),
        _message(name, kind, answer=[(f"{name}.", kind, data[:1])]),
        _message(name, kind, answer=[many]),
        _message(name, kind, answer=[*chain, (hops[-1], kind, data)]),
        _message(name, kind, answer=loop),
        _message(name, kind, rcode=3, authority=[soa]),
        _message(name, kind, rcode=3, authority=[(".", "SOA", [SOA_DATA])]),
        _message(name, kind, rcode=3, authority=[(f"{name}.", "SOA", [SOA_DATA])]),
        _message(name, kind, rcode=3, answer=chain, authority=[soa]),
        _message(name, kind, authority=[soa]),
        _message(name, kind, authority=[(f"{parent}.", "NS", RECORDS[wire.NS])]),
        _message(name, kind, rcode=2, errors=(22, 7)),
        _message(name, kind, rcode=5),
    ]
    return Subject(name, qtype, Questions(qtype).build(name), tuple(messages))


_Record = tuple[str, str, Sequence[str]]


def _message(
    name: str,
    kind: str,
    *,
    rcode: int = 0,
    answer: Sequence[_Record] = (),
    authority: Sequence[_Record] = (),
    errors: Sequence[int] = (),
) -> bytes:
    query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(rcode)  # type: ignore[arg-type]
    for section, records in ((response.answer, answer), (response.authority, authority)):
        for owner, type_, data in records:
            section.append(dns.rrset.from_text_list(owner, 300, "IN", type_, data))
    if errors:
        response.use_edns(
            0, options=[dns.edns.EDEOption(dns.edns.EDECode.make(code)) for code in errors]
        )
    return response.to_wire(max_size=4096)


# Damage


class _Patient(bytearray):
    """A packet being damaged, from `floor` on."""

    floor = 2


def damage(random: Random, packet: bytes, other: bytes) -> bytes:
    """`packet` with one to four things wrong; the id stays, for nothing else would be read.

    Mostly behind the question: with another question nothing else is looked at.
    """
    message = _Patient(packet)
    if random.random() < 0.8:
        message.floor = packet.index(b"\0", 12) + 5
    for _ in range(1 + int(random.random() * 4)):
        _DAMAGES[int(random.random() * len(_DAMAGES))](random, message, other)
    return bytes(message)


def _place(random: Random, message: _Patient) -> int:
    return message.floor + int(random.random() * max(1, len(message) - message.floor))


def _any_byte(random: Random, message: _Patient, _: bytes) -> None:
    at = _place(random, message)
    if at < len(message):
        message[at] = int(random.random() * 256)


def _telling_byte(random: Random, message: _Patient, _: bytes) -> None:
    at = _place(random, message)
    if at < len(message):
        message[at] = TELLING[int(random.random() * len(TELLING))]


def _one_bit(random: Random, message: _Patient, _: bytes) -> None:
    at = _place(random, message)
    if at < len(message):
        message[at] ^= 1 << int(random.random() * 8)


def _header(random: Random, message: _Patient, _: bytes) -> None:
    at = 2 + int(random.random() ** 0.3 * 10)
    if at < len(message) and (at not in (4, 5) or message.floor == 2):
        message[at] = TELLING[int(random.random() * len(TELLING))]


def _pointer(random: Random, message: _Patient, _: bytes) -> None:
    at = _place(random, message)
    target = int(random.random() * (len(message) + 4))
    message[at : at + 2] = (0xC000 | target & 0x3FFF).to_bytes(2, "big")


def _cut(random: Random, message: _Patient, _: bytes) -> None:
    del message[_place(random, message) :]


def _remove(random: Random, message: _Patient, _: bytes) -> None:
    at = _place(random, message)
    del message[at : at + 1 + int(random.random() * 12)]


def _repeat(random: Random, message: _Patient, _: bytes) -> None:
    at, start = _place(random, message), _place(random, message)
    message[at:at] = message[start : start + 1 + int(random.random() * 40)]


def _splice(random: Random, message: _Patient, other: bytes) -> None:
    at = _place(random, message)
    message[at:] = other[int(random.random() * len(other)) :]


def _noise(random: Random, message: _Patient, _: bytes) -> None:
    message += random.randbytes(int(random.random() * 40))


_DAMAGES: tuple[Callable[[Random, _Patient, bytes], None], ...] = (
    _any_byte, _telling_byte, _one_bit, _header, _pointer, _cut, _remove, _repeat, _splice, _noise,
)  # fmt: skip


def made_up(random: Random, question: bytes) -> bytes:
    """A response to `question` of random records, few of them sound."""
    counts = [int(random.random() ** 3 * 6) for _ in range(3)]
    message = bytearray(
        bytes(2)
        + bytes((0x80 | random.choice(TELLING) & 0x07, random.choice((0x80, 0x80, 0x83, 0, 0x85))))
        + b"\0\1"
        + b"".join(count.to_bytes(2, "big") for count in counts)
        + question
    )
    for _ in range(sum(counts)):
        message += _owner(random, len(message))
        kind = random.choice((1, 1, 1, 2, 5, 5, 6, 15, 28, 41, int(random.random() * 300)))
        data = _data(random, kind, len(message) + 10)
        length = len(data) if random.random() < 0.9 else int(random.random() * 70)
        category = 1 if random.random() < 0.95 else 3
        ttl = random.choice((0, 1, 60, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
        message += b"".join(
            (
                kind.to_bytes(2, "big"), category.to_bytes(2, "big"), ttl.to_bytes(4, "big"),
                length.to_bytes(2, "big"), data,
            )
        )  # fmt: skip
    return bytes(message)


def _owner(random: Random, size: int) -> bytes:
    draw = random.random()
    if draw < 0.5:
        return b"\xc0\x0c"
    if draw < 0.8:
        return (0xC000 | int(random.random() * size)).to_bytes(2, "big")
    label = random.randbytes(int(random.random() * 10))
    return bytes((len(label),)) + label + random.choice((b"\0", b"\xc0\x0c", b"", b"\x40"))


def _data(random: Random, kind: int, at: int) -> bytes:
    if kind in (2, 5):
        return _owner(random, at)
    if kind == 6:
        return _owner(random, at) + _owner(random, at) + random.randbytes(20)
    if kind == 15:
        return random.randbytes(2) + _owner(random, at)
    if kind == 41:
        size = int(random.random() * 6)
        return b"\0\x0f" + size.to_bytes(2, "big") + random.randbytes(size)
    return random.randbytes({1: 4, 28: 16}.get(kind, int(random.random() * 30)))


class Packets:
    """A source of subjects and packets for them; the same seed gives the same ones."""

    def __init__(self, random: Random) -> None:
        self.random = random
        deep = ".".join(["a"] * 60 + ["example"])
        self.subjects = [
            subject(name, qtype)
            for name in ("x.example", "www.long-name-of-a-shop.co.example", deep)
            for qtype in TYPES
        ]

    def draw(self) -> tuple[Subject, bytes]:
        random = self.random
        it = self.subjects[int(random.random() * len(self.subjects))]
        if random.random() < 0.2:
            return it, made_up(random, it.question)
        other = self.subjects[int(random.random() * len(self.subjects))].answers
        answers = it.answers
        return it, damage(
            random,
            answers[int(random.random() * len(answers))],
            other[int(random.random() * len(other))],
        )


# Judgement


def quick(message: bytes, asked: Subject) -> Answer | None:
    """What the engine's quick way says of a packet; None when it leaves it to the careful one."""
    table = wire.QUICK if asked.qtype == wire.A else wire.QUICK_ABSENT
    count = table.get(message[2:8])
    if count is None or not message.startswith(asked.question, 12):
        return None
    if not count:
        return Answer(3, False, (), (), -1, False, False)
    found = wire.addresses_at(message, 12 + len(asked.question), count)
    return None if found is None else Answer(0, False, found[0], (), found[1], False, False)


def careful(message: bytes, asked: Subject) -> Answer | Echo | None:
    """What the parser says; None for malformed, the echo where it is not the question's."""
    echo = echo_of(message, asked.question)
    if echo is not Echo.SAME:
        return echo
    if not message.startswith(asked.question, 12):
        raise Wrong("taken for an answer to this question")
    try:
        return read(message, asked.question, asked.qtype)
    except Malformed:
        return None


def check(message: bytes, asked: Subject, *, compare: bool) -> str:
    """Read one packet both ways. Its kind, in a word; raises Wrong, or whatever went wrong."""
    fast = quick(message, asked)
    slow = careful(message, asked)
    if isinstance(slow, Echo):
        if fast is not None:
            raise Wrong(f"the quick way took what the careful way calls {slow}")
        return slow.name
    if slow is None:
        # The quick way does not look at what follows the records it needs.
        return "malformed behind the answer" if fast is not None else "malformed"
    # An extended rcode stands behind what the quick way looks at.
    same = slow._replace(authority="", ede=-1, rcode=slow.rcode & 15, chain=())
    if fast is not None and judge(same) is not judge(fast):
        raise Wrong(f"the quick way says {fast}, the careful one {slow}")
    if fast is not None and judge(fast) is Verdict.RESOLVED and same != fast:
        raise Wrong(f"the quick way says {fast}, the careful one {slow}")
    if asked.qtype == wire.A and not all(inet_aton(it) in message for it in slow.addresses):
        raise Wrong(f"addresses from nowhere: {slow}")
    if slow.truncated:
        return "truncated"
    if compare:
        _compare(message, asked, slow)
    return "taken the quick way" if fast is not None else judge(slow).name


def _compare(message: bytes, asked: Subject, answer: Answer) -> None:
    """Raise Wrong if dnspython follows the same packet elsewhere."""
    try:
        parsed = dns.message.from_wire(message, ignore_trailing=True)
        chain = parsed.resolve_chaining()  # type: ignore[attr-defined]
    except Exception:
        # dnspython refuses more than is needed here, such as a second OPT record.
        return
    if answer.looped or answer.rcode or chain.answer is None:
        return
    if sum(map(len, parsed.answer)) != int.from_bytes(message[6:8], "big"):
        # It merges records; of two aliases of one name it follows the last, we the first.
        return
    aliases = {it.name for it in parsed.answer if it.rdtype == wire.CNAME}
    if any(it.name in aliases for it in parsed.answer if it.rdtype != wire.CNAME):
        # Of an alias that has other records too it takes those, we follow the alias.
        return
    if asked.qtype in (wire.A, wire.AAAA):
        theirs = {item.address for item in chain.answer}
        if set(answer.addresses) != theirs:
            raise Wrong(f"{answer} where dnspython reads {theirs}")


def parse_many(random: Random, total: int) -> tuple[Counter[str], float]:
    """What became of `total` packets, and the CPU seconds of the slowest thousand."""
    packets = Packets(random)
    kinds: Counter[str] = Counter()
    slowest = 0.0
    began = time.process_time()
    for number in range(1, total + 1):
        asked, message = packets.draw()
        try:
            kinds[check(message, asked, compare=number % 50 == 0)] += 1
        except Exception as error:
            raise Wrong(
                f"packet {message.hex()} for {asked.name} {asked.qtype}: {error!r}"
            ) from error
        if number % 1000 == 0:
            now = time.process_time()
            slowest, began = max(slowest, now - began), now
            if number % 500_000 == 0:
                _say(f"{number:,} packets")
    return kinds, slowest


# The engine


class _Server(asyncio.DatagramProtocol):
    """Sends one harmful packet for each name's first question, and the right answer after it."""

    def __init__(self, packets: Packets, sent: dict[str, tuple[bytes, bytes]]) -> None:
        self._packets = packets
        # Name -> its question, and the packet sent.
        self._sent = sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        name = question[1 : 1 + question[0]].decode().lower()
        if name not in self._sent:
            packet = data[:2] + self._harm(question)
            self._sent[name] = question, packet
            self._transport.sendto(packet, addr)
        record = wire.A_RECORD + b"\0\0\0\x3c\0\4" + inet_aton(RIGHT)
        head = data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
        self._transport.sendto(head + question + record, addr)

    def _harm(self, question: bytes) -> bytes:
        packets, random = self._packets, self._packets.random
        model, other = packets.subjects[0], packets.subjects[5]
        if random.random() < 0.2:
            return made_up(random, question)[2:]
        real = random.choice(model.answers)
        # The names differ by a first label of as many letters, so that pointers keep their sense.
        real = real[:12] + question + real[12 + len(question) :]
        return damage(random, real, random.choice(other.answers))[2:]


def _allowed(outcome: Outcome, question: bytes, packet: bytes) -> bool:
    """Whether an outcome is what the packet says, or the right one where it says nothing."""
    asked = Subject(outcome.name, wire.A, question, ())
    check(packet, asked, compare=False)
    said = (outcome.verdict, outcome.rcode, outcome.addresses, outcome.chain, outcome.ttl)
    fast, slow = quick(packet, asked), careful(packet, asked)
    right = said == (Verdict.RESOLVED, 0, (RIGHT,), (), 60) and not outcome.authority
    if right and outcome.attempts > 1:
        # The packet was lost, or came so late that only the careful way saw it.
        return True
    zone = slow.authority if isinstance(slow, Answer) else outcome.authority
    if fast is not None:
        same = (judge(fast), fast.rcode, fast.addresses, (), fast.ttl)
        return said == same and outcome.authority in (zone, "")
    if isinstance(slow, Answer) and not slow.truncated and is_final(judge(slow)):
        careful_one = (judge(slow), slow.rcode, slow.addresses, slow.chain, slow.ttl)
        return said == careful_one and outcome.authority == zone
    return right


async def engine_many(random: Random, total: int) -> Counter[str]:
    """Put `total` names through an engine whose server sends harm before each right answer."""
    kinds: Counter[str] = Counter()
    packets = Packets(random)
    packets.subjects[0] = subject("n000000000.example")
    settings = EngineSettings(window=100, timeout=5, soft_delay=0, tcp_timeout=5)
    loop = asyncio.get_running_loop()
    sent: dict[str, tuple[bytes, bytes]] = {}
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Server(packets, sent), local_addr=("127.0.0.1", 0)
    )
    try:
        async with Engine([Resolver(*transport.get_extra_info("sockname"))], settings) as engine:
            for start in range(0, total, 2000):
                names = [f"n{at:09d}.example" for at in range(start, min(start + 2000, total))]
                sent.clear()
                for outcome in await engine.resolve(names):
                    question, packet = sent[outcome.name.partition(".")[0]]
                    if not _allowed(outcome, question, packet):
                        raise Wrong(f"{outcome} after {packet.hex()}")
                    kinds["right" if outcome.addresses == (RIGHT,) else "as the packet says"] += 1
    finally:
        transport.close()
    return kinds


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=1_000_000, help="through the parser")
    parser.add_argument("--names", type=int, default=200_000, help="through the engine")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        kinds, slowest = parse_many(Random(options.seed), options.packets)
        took = time.monotonic() - started
        _say(f"{options.packets:,} packets in {took:.0f} s, {options.packets / took:,.0f} a second")
        _say(f"slowest thousand: {slowest * 1000:.0f} ms of CPU time")
        for kind, count in kinds.most_common():
            _say(f"{count:12,} {kind}")
        kinds = asyncio.run(engine_many(Random(options.seed), options.names))
        _say(f"{options.names:,} names through the engine: {dict(kinds)}")
    except Wrong as wrong:
        _say(f"WRONG: {wrong}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
