"""The sandbox's recursive resolver: UDP and TCP on one port, truth from `truth.py`, faults on top.

Stateless: nothing is remembered between questions, so any number of names may be asked.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from socket import AF_INET6, inet_aton, inet_pton
from struct import Struct
from types import TracebackType
from typing import Self
from zlib import crc32

from .truth import AAAA, CNAME, MX, NS, SOA, SOA_NUMBERS, A, Behaviour, Mix, Truth, World

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
OPT = 41
# What a liar answers with.
LIE = "203.0.113.80"

_HEADER = Struct("!HHHHH")
_RECORD = Struct("!HHIH")
_OPT_RECORD = b"\x00" + _RECORD.pack(OPT, 1232, 0, 0)
# With an extended error (RFC 8914): 6, DNSSEC bogus.
_OPT_BOGUS = b"\x00" + _RECORD.pack(OPT, 1232, 0, 6) + b"\x00\x0f\x00\x02\x00\x06"
# Primary and mailbox are the root.
_SOA_DATA = bytes(2) + Struct("!IIIII").pack(*SOA_NUMBERS)
# All but the owner.
_SOA_RECORD = _RECORD.pack(SOA, 1, 300, len(_SOA_DATA)) + _SOA_DATA
_A_FIXED = b"\xc0\x0c\x00\x01\x00\x01"
_DRAIN_LIMIT = 128
_TCP_IDLE = 10.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong on the way. Fractions are of UDP questions, each drawn independently."""

    # Questions that get no answer.
    loss: float = 0.0
    # Seconds added to every answer.
    delay: float = 0.0
    # Answered SERVFAIL although the name is well.
    servfail: float = 0.0
    # Answered 0.1-1.5 s late.
    late: float = 0.0
    # Answered with TC although the answer would fit.
    truncate: float = 0.0
    # A forged or broken packet comes before the right answer.
    bogus: float = 0.0
    # Of the names that do not exist, those that get an address: always the same ones. The one
    # fault that changes verdicts, and not of questions.
    lying: float = 0.0
    # Names are echoed in lower case, as some resolvers do.
    fold_case: bool = False


@dataclass(frozen=True, slots=True)
class SandboxDnsSettings:
    """One server. Port 0 lets the kernel choose."""

    host: str = "127.0.0.1"
    port: int = 0
    # Chooses the truth; servers that are to agree share it.
    seed: int = 1
    # Chooses which packets the faults hit.
    fault_seed: int = 1
    mix: Mix = field(default_factory=Mix)
    faults: Faults = field(default_factory=Faults)


@dataclass(slots=True)
class SandboxDnsStats:
    """What the server has seen; TCP counts in `questions` too."""

    questions: int = 0
    answers: int = 0
    tcp: int = 0
    bogus: int = 0


class SandboxDns:
    """One resolver, open inside `async with`."""

    def __init__(self, settings: SandboxDnsSettings | None = None) -> None:
        self.settings = settings or SandboxDnsSettings()
        self.stats = SandboxDnsStats()
        self.world = World(self.settings.seed, self.settings.mix)
        self._lying = float(self.settings.faults.lying)
        self._random = Random(self.settings.fault_seed)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, the same for UDP and TCP."""
        if self._socket is None:
            raise RuntimeError("the server is not open")
        host, port = self._socket.getsockname()[:2]
        return host, port

    def lie(self, fraction: float = 1.0) -> None:
        """From now on give an address to this fraction of the names that do not exist."""
        self._lying = float(fraction)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        settings = self.settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        for attempt in range(20):
            udp = socket.socket(family, socket.SOCK_DGRAM)
            try:
                udp.setblocking(False)
                for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    udp.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
                udp.bind((settings.host, settings.port))
                port = udp.getsockname()[1]
                self._server = await asyncio.start_server(
                    self._serve_tcp, settings.host, port, backlog=1024
                )
            except OSError:
                # The port the kernel chose for UDP may be taken for TCP.
                udp.close()
                if settings.port or attempt == 19:
                    raise
            else:
                self._socket = udp
                break
        loop.add_reader(udp.fileno(), self._drain)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._socket is not None
        assert self._server is not None
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._server.close()
        await self._server.wait_closed()

    # UDP

    def _drain(self) -> None:
        assert self._socket is not None
        receive = self._socket.recvfrom
        faults = self.settings.faults
        faulty = faults.loss or faults.servfail or faults.late or faults.truncate or faults.bogus
        for _ in range(_DRAIN_LIMIT):
            try:
                question, client = receive(4096)
            except BlockingIOError:
                return
            except OSError:
                continue
            self.stats.questions += 1
            if faulty:
                self._answer_with_faults(question, client)
            else:
                response, wait = self.respond(question, udp=True)
                self._send_later(response, client, wait + faults.delay)

    def _answer_with_faults(self, question: bytes, client: tuple[str, int]) -> None:
        faults, random = self.settings.faults, self._random
        if random.random() < faults.loss:
            return
        response, wait = self.respond(question, udp=True)
        if not response:
            return
        end = question_end(question)
        if random.random() < faults.servfail:
            response = header_of(question, SERVFAIL) + question[12:end]
        elif random.random() < faults.truncate:
            response = _truncated(question, end)
        if random.random() < faults.late:
            wait += 0.1 + 1.4 * random.random()
        if random.random() < faults.bogus:
            self.stats.bogus += 1
            self._send_later(self._forge(response, end), client, faults.delay)
        self._send_later(response, client, wait + faults.delay)

    def _send_later(self, response: bytes, client: tuple[str, int], wait: float) -> None:
        if wait:
            asyncio.get_running_loop().call_later(wait, self._send, response, client)
        else:
            self._send(response, client)

    def _send(self, response: bytes, client: tuple[str, int]) -> None:
        if response and self._socket is not None:
            try:
                self._socket.sendto(response, client)
                self.stats.answers += 1
            except OSError:
                # A full buffer, or a client that has gone: the answer is lost, as outside.
                pass

    def _forge(self, response: bytes, end: int) -> bytes:
        """A packet that a careful client must not take for the answer."""
        poison = b"\xc0\x0c" + _RECORD.pack(A, 1, 60, 4) + inet_aton("203.0.113.66")
        head = response[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
        question = response[12:end]
        kind = self._random.randrange(5)
        if kind == 0:
            return bytes((response[0] ^ 0xA5, response[1])) + head[2:] + question + poison
        if kind == 1:
            other = bytes((question[1] ^ 1,)) if len(question) > 5 else b"\0"
            return head + question[:1] + other + question[2:] + poison
        if kind == 2:
            # Another type asked for.
            return head + question[:-4] + b"\x00\x0f\x00\x01" + poison
        if kind == 3:
            return response[: self._random.randrange(end)]
        return head + question + poison[:7]

    # TCP

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TCP_IDLE):
                while True:
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    question = await reader.readexactly(length)
                    self.stats.questions += 1
                    self.stats.tcp += 1
                    response, wait = self.respond(question, udp=False)
                    await asyncio.sleep(wait + self.settings.faults.delay)
                    if response:
                        writer.write(len(response).to_bytes(2, "big") + response)
                        await writer.drain()
                        self.stats.answers += 1
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            writer.close()

    # Answers

    def respond(self, question: bytes, *, udp: bool) -> tuple[bytes, float]:
        """The response, empty for none, and the seconds to wait before it. No faults but lies."""
        end = question_end(question)
        if not end or question[2] & 0xF8 or question[4:6] != b"\x00\x01":
            # Not a question. Answering garbage would make an echo of two such servers.
            return b"", 0.0
        known = self.world.truth(name_of(question))
        if self.settings.faults.fold_case:
            question = question[:12] + question[12 : end - 4].lower() + question[end - 4 :]
        return self.answer(question, end, known, udp=udp)

    def answer(self, question: bytes, end: int, known: Truth, *, udp: bool) -> tuple[bytes, float]:
        """As a recursive resolver answers; `end` is that of the question section."""
        behaviour = known.behaviour
        if behaviour is Behaviour.MUTE:
            return b"", 0.0
        if behaviour is Behaviour.TRUNCATED and udp:
            return _truncated(question, end), 0.0
        qtype = int.from_bytes(question[end - 4 : end - 2], "big")
        rcode = _RCODES.get(behaviour, NOERROR)
        records = known.addresses if qtype == A else known.records(qtype)
        if rcode == NXDOMAIN and self._lying and self._lies_about(known.name):
            rcode, records = NOERROR, (LIE,) if qtype == A else ()
        elif behaviour is Behaviour.BOGUS:
            # The "checking disabled" bit.
            if question[3] & 0x10:
                rcode, records = NOERROR, known.unchecked if qtype == A else records
            else:
                records = ()
        elif behaviour is Behaviour.V6_BROKEN and qtype == AAAA:
            rcode = SERVFAIL
        if known.shown and records:
            records = tuple(self._random.sample(records, known.shown))
        response = build(question, end, known, rcode, qtype, records)
        limit = _payload_size(question, end) if udp else 65535
        return (response if len(response) <= limit else _truncated(question, end)), known.delay

    def _lies_about(self, name: str) -> bool:
        return crc32(name.encode("latin-1")) < self._lying * 2**32


_RCODES = {
    Behaviour.NXDOMAIN: NXDOMAIN,
    Behaviour.DANGLING: NXDOMAIN,
    Behaviour.SERVFAIL: SERVFAIL,
    Behaviour.REFUSED: REFUSED,
    Behaviour.UNUSABLE: NOTIMP,
    Behaviour.BOGUS: SERVFAIL,
}


def question_end(message: bytes) -> int:
    """The offset after the question, 0 when there is no well-formed one."""
    at = 12
    size = len(message)
    while at < size:
        length = message[at]
        if length == 0:
            return at + 5 if at + 5 <= size else 0
        if length > 63:
            return 0
        at += length + 1
    return 0


def name_of(message: bytes) -> str:
    """The name asked about, in the case it was asked in; the message has a well-formed question."""
    labels = []
    at = 12
    while message[at]:
        stop = at + 1 + message[at]
        labels.append(message[at + 1 : stop].decode("latin-1"))
        at = stop
    return ".".join(labels)


def _payload_size(question: bytes, end: int) -> int:
    """What the client takes over UDP: its EDNS size, 512 without EDNS."""
    if len(question) >= end + 11 and question[end : end + 3] == b"\x00\x00\x29":
        return max(512, int.from_bytes(question[end + 3 : end + 5], "big"))
    return 512


def header_of(
    question: bytes, rcode: int, answers: int = 0, authorities: int = 0, extra: int = 0
) -> bytes:
    # Recursion desired and checking disabled are repeated.
    flags = 0x8080 | (question[2] & 0x01) << 8 | question[3] & 0x10 | rcode
    return question[:2] + _HEADER.pack(flags, 1, answers, authorities, extra)


def _truncated(question: bytes, end: int) -> bytes:
    header = header_of(question, NOERROR)
    return header[:2] + bytes((header[2] | 0x02,)) + header[3:] + question[12:end]


def build(
    question: bytes, end: int, known: Truth, rcode: int, qtype: int, records: Sequence[str]
) -> bytes:
    """A whole response with these records of the type asked for, whatever its size."""
    ttl = known.ttl
    if known.chain:
        body, count = _chain_records(known, qtype, records)
    elif qtype == A:
        fixed = _A_FIXED + ttl.to_bytes(4, "big") + b"\x00\x04"
        body, count = b"".join([fixed + inet_aton(it) for it in records]), len(records)
    else:
        body, count = _records(b"\xc0\x0c", qtype, ttl, records), len(records)
    negative = (
        not records
        and (rcode == NOERROR or rcode == NXDOMAIN)
        and known.behaviour is not Behaviour.LOOP
    )
    edns = len(question) > end
    header = header_of(question, rcode, count, int(negative), int(edns))
    tail = _owner_of(known, end) + _SOA_RECORD if negative else b""
    if edns:
        bogus = rcode == SERVFAIL and known.behaviour is Behaviour.BOGUS
        tail += _OPT_BOGUS if bogus else _OPT_RECORD
    return header + question[12:end] + body + tail


def _owner_of(known: Truth, end: int) -> bytes:
    """The zone's name: a pointer into the question, which ends with it."""
    zone = known.zone
    return b"\0" if zone == "." else (0xC000 + end - 6 - len(zone)).to_bytes(2, "big")


def _chain_records(known: Truth, qtype: int, data: Sequence[str]) -> tuple[bytes, int]:
    """CNAME records with full names, then the records of the last."""
    records = []
    owner = b"\xc0\x0c"
    for target in known.chain:
        encoded = encode(target)
        records.append(owner + _RECORD.pack(CNAME, 1, known.ttl, len(encoded)) + encoded)
        owner = encoded
    records.append(_records(owner, qtype, known.ttl, data))
    return b"".join(records), len(known.chain) + len(data)


def _records(owner: bytes, qtype: int, ttl: int, data: Sequence[str]) -> bytes:
    encoded = [_encode_data(qtype, text) for text in data]
    return b"".join([owner + _RECORD.pack(qtype, 1, ttl, len(it)) + it for it in encoded])


def _encode_data(qtype: int, text: str) -> bytes:
    if qtype == A:
        return inet_aton(text)
    if qtype == AAAA:
        return inet_pton(AF_INET6, text)
    if qtype == NS:
        return encode(text)
    if qtype == MX:
        preference, _, server = text.partition(" ")
        return int(preference).to_bytes(2, "big") + encode(server)
    return _SOA_DATA


def encode(name: str) -> bytes:
    """A name in wire format, not compressed."""
    labels = [label.encode("latin-1") for label in name.split(".") if label]
    return b"".join([bytes((len(label),)) + label for label in labels]) + b"\0"
