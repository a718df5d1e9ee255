"""Zones that scripted servers serve: resolvers by name, and authorities with real referrals."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from services.validation.dns.plan import Delegations

TTL = 300
# No answer at all.
MUTE = "mute"


@dataclass
class Question:
    name: str
    # "A", "AAAA"...
    kind: str
    # Whether a validating resolver is to answer although signatures are broken.
    unchecked: bool


# Data to answer with, an rcode's name, or MUTE. After the rcode, the code of an extended error.
Saying = Sequence[str] | str


def resolver(
    say: Callable[[Question], Saying], asked: list[Question] | None = None
) -> Callable[[bytes], list[bytes]]:
    """A recursive server's script. An empty list is NOERROR without data; a CNAME among the data
    is written "CNAME target"."""

    def script(packet: bytes) -> list[bytes]:
        query = dns.message.from_wire(packet)
        (only,) = query.question
        name = only.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(only.rdtype)
        question = Question(name, kind, bool(query.flags & dns.flags.CD))
        if asked is not None:
            asked.append(question)
        said = say(question)
        if said == MUTE:
            return []
        response = dns.message.make_response(query, recursion_available=True)
        if isinstance(said, str):
            rcode, _, extended = said.partition(" ")
            response.set_rcode(dns.rcode.from_text(rcode))
            if extended:
                options = [dns.edns.EDEOption(int(extended))]
                response.use_edns(0, options=options)
        else:
            owner = only.name
            for data in said:
                if data.startswith("CNAME "):
                    record = dns.rrset.from_text(owner, TTL, "IN", "CNAME", data[6:] + ".")
                    owner = record[0].target
                else:
                    record = dns.rrset.from_text(owner, TTL, "IN", kind, data)
                response.answer.append(record)
        if not response.answer:
            zone = name.split(".")[-1]
            response.authority.append(_soa(zone))
        return [response.to_wire()]

    return script


@dataclass
class Zone:
    """What one server says of one zone; "" is the root."""

    name: str
    # (name, type) -> data.
    records: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    # Child -> its servers' names and addresses; no address: none comes along.
    children: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    # Does something else, where it returns anything but None.
    instead: Callable[[dns.message.Message], list[bytes] | None] | None = None

    def __call__(self, packet: bytes) -> list[bytes]:
        query = dns.message.from_wire(packet)
        assert not query.flags & dns.flags.RD
        (only,) = query.question
        name = only.name.to_text(omit_final_dot=True).lower()
        self.asked[name] += 1
        if self.instead is not None:
            said = self.instead(query)
            if said is not None:
                return said
        return [self.answer(query).to_wire()]

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        (only,) = query.question
        name = only.name.to_text(omit_final_dot=True).lower()
        response = dns.message.make_response(query)
        response.flags &= ~dns.flags.RA
        for child, servers in self.children.items():
            if name == child or name.endswith("." + child):
                for server, address in servers:
                    response.authority.append(_record(child, "NS", server + "."))
                    if address:
                        response.additional.append(_record(server, "A", address))
                return response
        response.flags |= dns.flags.AA
        kind = dns.rdatatype.to_text(only.rdtype)
        if (name, "CNAME") in self.records:
            (target,) = self.records[name, "CNAME"]
            response.answer.append(_record(name, "CNAME", target + "."))
        elif (name, kind) in self.records:
            response.answer += [_record(name, kind, it) for it in self.records[name, kind]]
        else:
            response.authority.append(_soa(self.name))
            if all(owner != name for owner, _ in self.records):
                response.set_rcode(dns.rcode.NXDOMAIN)
        return response


@asynccontextmanager
async def served(scripted, zones: Mapping[str, Zone], port: int = 0) -> AsyncIterator[Delegations]:
    """Serve each at its address, all on one port; the first is the root's only server."""
    async with AsyncExitStack() as stack:
        root = ""
        for host, zone in zones.items():
            server = await stack.enter_async_context(scripted(zone, host, port))
            port = server.port
            root = root or host
        yield Delegations(((root, port),), port)


def _record(owner: str, kind: str, data: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(owner + ".", TTL, "IN", kind, data)


def _soa(zone: str) -> dns.rrset.RRset:
    return _record(zone, "SOA", "ns.invalid. admin.invalid. 1 2 3 4 60")
