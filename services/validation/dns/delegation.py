"""What a zone's server says when it is asked without recursion. Pure: messages in, words out."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from services.validation.dns.facts import at_or_below
from services.validation.dns.verdict import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Verdict
from services.validation.dns.wire import CHAIN_LIMIT

# Name servers of one zone that are considered, and addresses of each.
SERVER_LIMIT = 16
ADDRESS_LIMIT = 4


@dataclass(frozen=True, slots=True)
class Referral:
    """Ask there."""

    zone: str
    # Names of its servers, and the addresses that came along; only of servers that the one who
    # says so may speak for.
    servers: tuple[str, ...]
    glue: tuple[tuple[str, str], ...]
    # Seconds.
    ttl: int


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, or as much of one as this server can give."""

    # ERROR: the server is not one of the zone's, whatever the parent says.
    verdict: Verdict
    rcode: int
    addresses: tuple[str, ...] = ()
    # Targets of the aliases that were followed, within the zone; the last may lie beyond it.
    chain: tuple[str, ...] = ()
    ttl: int = -1
    # Zone that speaks for a negative answer.
    authority: str = ""
    # Name that has to be asked about next; empty when this is all.
    onward: str = ""


# What is said of servers that say nothing.
MUTE = Said(Verdict.TIMEOUT, -1)
_FAILURES = {SERVFAIL: Verdict.SERVFAIL, REFUSED: Verdict.REFUSED}


def read(response: dns.message.Message, name: str, qtype: int, zone: str) -> Referral | Said:
    """What `response`, of a server of `zone` ("" is the root), says of `name`.

    Data outside the zone is nobody's to give and is left out.
    """
    rcode = int(response.rcode())
    if rcode not in (NOERROR, NXDOMAIN):
        return Said(_FAILURES.get(rcode, Verdict.ERROR), rcode)
    own_word = bool(response.flags & dns.flags.AA) or not response.flags & dns.flags.RA
    if not own_word:
        # Recursion offered, authority not claimed: an answer from a cache.
        return Said(Verdict.ERROR, rcode)
    answers = {(_text(it.name), int(it.rdtype)): it for it in response.answer if _is_in(it)}
    at, ttl = name, -1
    chain: list[str] = []
    while (alias := answers.get((at, dns.rdatatype.CNAME))) is not None:
        at = _text(alias[0].target)
        ttl = _lower(ttl, alias.ttl)
        looped = at == name or at in chain or len(chain) == CHAIN_LIMIT
        chain.append(at)
        if looped:
            return Said(Verdict.CNAME_LOOP, rcode, (), tuple(chain[:CHAIN_LIMIT]), ttl)
        if not at_or_below(at, zone):
            return Said(Verdict.NO_DATA, rcode, (), tuple(chain), ttl, onward=at)
    found = answers.get((at, qtype))
    if found is not None:
        data = tuple(_data(record) for record in found)
        return Said(Verdict.RESOLVED, rcode, data, tuple(chain), _lower(ttl, found.ttl))
    spoken_for = ""
    for rrset in response.authority:
        owner = _text(rrset.name)
        if not (_is_in(rrset) and at_or_below(at, owner) and at_or_below(owner, zone)):
            continue
        if rrset.rdtype == dns.rdatatype.SOA:
            spoken_for = owner
        elif rrset.rdtype == dns.rdatatype.NS and owner != zone and rcode == NOERROR:
            if chain:
                return Said(Verdict.NO_DATA, rcode, (), tuple(chain), ttl, onward=at)
            return _referral(response, rrset, owner, zone)
    if rcode == NXDOMAIN:
        return Said(Verdict.NXDOMAIN, rcode, (), tuple(chain), ttl, spoken_for or zone or ".")
    if spoken_for or response.flags & dns.flags.AA:
        if chain and not spoken_for:
            return Said(Verdict.NO_DATA, rcode, (), tuple(chain), ttl, onward=at)
        return Said(Verdict.NO_DATA, rcode, (), tuple(chain), ttl, spoken_for or zone or ".")
    # Neither an answer nor a way on, or one that leads back up.
    return Said(Verdict.ERROR, rcode)


def reachable(addresses: Iterable[str], *, private: bool) -> tuple[str, ...]:
    """Those that may be asked: a zone must not be able to point us into a private network."""
    once = dict.fromkeys(addresses)
    return tuple(it for it in once if private or ip_address(it).is_global)


def _referral(
    response: dns.message.Message, servers: dns.rrset.RRset, owner: str, zone: str
) -> Referral:
    names = tuple(_text(record.target) for record in servers)[:SERVER_LIMIT]
    glue: list[tuple[str, str]] = []
    for rrset in sorted(response.additional, key=lambda it: int(it.rdtype)):
        server = _text(rrset.name)
        if (
            rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
            and _is_in(rrset)
            and server in names
            and at_or_below(server, zone)
        ):
            glue += [(server, record.address) for record in list(rrset)[:ADDRESS_LIMIT]]
    return Referral(owner, names, tuple(glue), max(0, servers.ttl))


def _is_in(rrset: dns.rrset.RRset) -> bool:
    """Whether it is of the Internet: data of other classes look different."""
    return rrset.rdclass == dns.rdataclass.IN


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


def _data(record: object) -> str:
    """Presentation form as `wire` has it: names lower case and without the final dot."""
    address = getattr(record, "address", None)
    if address is not None:
        return str(address)
    words = str(record).lower().split(" ")
    return " ".join(word[:-1] if word.endswith(".") and len(word) > 1 else word for word in words)


def _lower(ttl: int, other: int) -> int:
    return other if ttl < 0 else min(ttl, other)
