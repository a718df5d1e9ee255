"""What is true of every name in the sandbox: a keyed hash decides, so any of 10M is known in O(1).

Pure. Faults of the servers (loss, lies, forged packets) never change what is said here.

The world is made as the Internet is:

- Every top-level domain exists. A name of two labels, "a domain" below, is registered unless its
  behaviour is NXDOMAIN; then it is delegated too, a zone with SOA and NS records of its own. There
  are no public suffixes of several labels, and no zones further down.
- Nothing exists below a domain that is not registered. Below one that is, each name has a behaviour
  of its own, or is part of a CNAME chain ("hop1." and so on), or is a name server ("ns1.").
- A first label of 24 characters or more is never registered: whoever asks for random labels to
  find wildcards, or a resolver that lies, finds names that do not exist.
- Below a name of behaviour WILDCARD every other name resolves; of those that would exist anyhow a
  few keep addresses of their own. See Wildcard for the kinds.
- In TLD_WILDCARDS a name that is not registered resolves to one parking address, as does one in
  eight of those that are.
- "example.com" resolves, and the signatures of "dnssec-failed.org" are broken, as outside.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from socket import AF_INET6, inet_ntop
from typing import NamedTuple


class Behaviour(IntEnum):
    """How the servers treat a name."""

    NXDOMAIN = 0
    # One to four addresses.
    RESOLVES = 1
    NODATA = 2
    SERVFAIL = 3
    REFUSED = 4
    # No answer at all, over UDP and TCP.
    MUTE = 5
    # Resolves, 0.1-0.7 s late.
    SLOW = 6
    # TC over UDP, the answer over TCP only.
    TRUNCATED = 7
    # Resolves behind one to four CNAME records.
    CHAIN = 8
    # A CNAME chain whose end does not exist.
    DANGLING = 9
    LOOP = 10
    # Resolves, and so does every name below it.
    WILDCARD = 11
    # Sixty addresses: fits EDNS over UDP, and only that.
    LARGE = 12
    # NOTIMP whatever is asked.
    UNUSABLE = 13
    # SERVFAIL and the reason (RFC 8914) unless checking is disabled: its signatures are broken.
    BOGUS = 14
    # An IPv6 address only.
    V6_ONLY = 15
    # Resolves; SERVFAIL to whoever asks for IPv6 addresses.
    V6_BROKEN = 16


class Wildcard(IntEnum):
    """What a wildcard answers the names below it with."""

    # The addresses that it has itself.
    PLAIN = 0
    # Each answer has 2 of 40 addresses.
    POOL = 1
    # The first character asked for chooses the addresses.
    LETTER = 2
    # A CNAME record and the addresses of its target.
    ALIAS = 3


# The numbers of domainflow.validation.v1.DnsVerdict, which the sandbox does not import.
RESOLVED, NXDOMAIN, NO_DATA, SERVFAIL, REFUSED, TIMEOUT = 1, 2, 3, 4, 5, 6
WILDCARD, BOGUS, CNAME_LOOP, ERROR = 7, 8, 9, 10
# Types of records.
A, NS, CNAME, SOA, MX, AAAA = 1, 2, 5, 6, 15, 28

# Of a name itself; what lies below a WILDCARD has the verdict of that name.
VERDICTS = {
    Behaviour.NXDOMAIN: NXDOMAIN,
    Behaviour.NODATA: NO_DATA,
    Behaviour.SERVFAIL: SERVFAIL,
    Behaviour.REFUSED: REFUSED,
    Behaviour.MUTE: TIMEOUT,
    Behaviour.DANGLING: NXDOMAIN,
    Behaviour.LOOP: CNAME_LOOP,
    Behaviour.UNUSABLE: ERROR,
    Behaviour.BOGUS: BOGUS,
    Behaviour.V6_ONLY: NO_DATA,
}

TLD_WILDCARDS = frozenset({"ws", "ph"})
# The first label of no registered name is as long.
RANDOM_LABEL = 24
# Where the servers of the authority tree listen, all on one port.
ROOT_HOST, TLD_HOST, ZONE_HOST = "127.0.0.2", "127.0.0.3", "127.0.0.4"
ROOT_SERVER = "a.root-servers.sandbox"
TLD_SERVER = "a.tld-servers.sandbox"
ZONE_SERVER = "a.zone-servers.sandbox"
_SERVERS = {ROOT_SERVER: ROOT_HOST, TLD_SERVER: TLD_HOST, ZONE_SERVER: ZONE_HOST}
_GIVEN = {
    "example.com": Behaviour.RESOLVES,
    "dnssec-failed.org": Behaviour.BOGUS,
    **{server.partition(".")[2]: Behaviour.RESOLVES for server in _SERVERS},
}
# What every SOA record says after its owner: primary, mailbox and numbers.
SOA_NUMBERS = (1, 900, 300, 86400, 300)
SOA_TEXT = f". . {' '.join(map(str, SOA_NUMBERS))}"

_POOL_SIZE, _POOL_SHOWN = 40, 2
_WITH_IPV6 = frozenset(
    {Behaviour.RESOLVES, Behaviour.SLOW, Behaviour.TRUNCATED, Behaviour.CHAIN, Behaviour.V6_ONLY}
)
_WITH_MAIL = frozenset({Behaviour.RESOLVES, Behaviour.NODATA, Behaviour.V6_ONLY})
_COUNTS = {Behaviour.LARGE: 60, Behaviour.TRUNCATED: 90}


def hash_bounds(weights: Sequence[float]) -> tuple[int, ...]:
    """Upper bounds in a 32-bit hash, so that each has its share of all names.

    Raises ValueError for weights that make no sense.
    """
    if min(weights) < 0 or not sum(weights):
        raise ValueError("weights must not be negative, nor all be zero")
    return tuple(int(part / sum(weights) * 2**32) for part in accumulate(weights))


@dataclass(frozen=True, slots=True)
class Mix:
    """Weights of the behaviours, in their order; only their proportions count."""

    nxdomain: float = 55.0
    resolves: float = 35.0
    nodata: float = 2.0
    servfail: float = 0.5
    refused: float = 0.3
    # Each costs its asker all time-outs of all tries.
    mute: float = 0.3
    slow: float = 1.0
    truncated: float = 0.5
    chain: float = 2.0
    dangling: float = 0.5
    loop: float = 0.3
    wildcard: float = 1.5
    large: float = 0.8
    unusable: float = 0.3
    bogus: float = 0.3
    v6_only: float = 0.5
    v6_broken: float = 0.3

    def bounds(self) -> tuple[int, ...]:
        """Upper bounds of the behaviours in a 32-bit hash, in the order of Behaviour.

        Raises ValueError for weights that make no sense.
        """
        return hash_bounds([getattr(self, field.name) for field in fields(self)])


class Truth(NamedTuple):
    """The right verdict on a name and the evidence for it. A tuple: servers make one a question."""

    # In lower case, without a final dot.
    name: str
    behaviour: Behaviour
    # A domainflow.validation.v1.DnsVerdict number, for whoever asks for A records only.
    verdict: int
    # All in 127.64.0.0/10, which is this machine: whatever fetches from them stays at home. Those
    # of the authority tree's servers are theirs.
    addresses: tuple[str, ...]
    # CNAME targets in order; a loop ends with a name passed before.
    chain: tuple[str, ...]
    # Seconds of every record.
    ttl: int
    # For servers: seconds to wait before answering.
    delay: float
    # The zone whose SOA record speaks when there is nothing; "." for the root.
    zone: str
    # Whether the name's domain is registered, and so delegated.
    registered: bool
    # How many of the addresses an answer has, any of them; 0 for all.
    shown: int
    # Chooses everything that is not said above.
    number: int

    @property
    def answered(self) -> int:
        """The verdict that one answer to a question for A records supports."""
        if self.verdict == WILDCARD:
            return RESOLVED
        return SERVFAIL if self.verdict == BOGUS else self.verdict

    @property
    def aaaa(self) -> tuple[str, ...]:
        """IPv6 addresses, of 100::/64, which is nowhere (RFC 6666)."""
        if self.behaviour not in _WITH_IPV6 or not self.registered:
            return ()
        number = self.number
        if self.behaviour is not Behaviour.V6_ONLY and (number >> 4) % 5 > 1:
            return ()
        packed = b"\1" + bytes(7) + (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")
        return (inet_ntop(AF_INET6, packed),)

    @property
    def unchecked(self) -> tuple[str, ...]:
        """The addresses whose signatures are broken."""
        if self.behaviour is not Behaviour.BOGUS:
            return ()
        return _addresses(self.number, 1 + self.number % 4)

    @property
    def apex(self) -> bool:
        """Whether the name is a zone's."""
        return self.registered and self.zone == self.name

    @property
    def mx(self) -> tuple[str, ...]:
        """Mail servers: "10 mail.name"."""
        if self.behaviour in _WITH_MAIL and self.registered and self.number & 8:
            return (f"10 mail.{self.name}",)
        return ()

    @property
    def ns(self) -> tuple[str, ...]:
        """Name servers of a zone: below it in most zones, else with a name elsewhere."""
        if not self.apex:
            return ()
        if self.name == ".":
            return (ROOT_SERVER,)
        if "." not in self.name:
            return (TLD_SERVER,)
        own = _names_its_server(self.behaviour, self.number)
        return (f"ns1.{self.name}",) if own else (ZONE_SERVER,)

    @property
    def soa(self) -> tuple[str, ...]:
        return (SOA_TEXT,) if self.apex else ()

    def records(self, qtype: int) -> tuple[str, ...]:
        """Data of the records of a type in presentation form, those at the end of a chain."""
        if qtype == A:
            return self.addresses
        if qtype == AAAA:
            return self.aaaa
        if qtype == MX:
            return self.mx
        if VERDICTS.get(self.behaviour) not in (None, NO_DATA, BOGUS):
            return ()
        # The CNAME of a zone, wrong as it is outside, hides what else it has.
        if self.chain:
            return ()
        if qtype == NS:
            return self.ns
        return self.soa if qtype == SOA else ()

    def verdict_of(self, qtypes: Collection[int]) -> int:
        """The right verdict for whoever asks for these types, A or AAAA at least."""
        if AAAA not in qtypes:
            return self.verdict
        if self.aaaa:
            return RESOLVED
        if A in qtypes:
            return self.verdict
        if self.behaviour is Behaviour.V6_BROKEN:
            return SERVFAIL
        return NO_DATA if self.verdict in (RESOLVED, WILDCARD) else self.verdict

    def addresses_of(self, qtypes: Collection[int]) -> tuple[str, ...]:
        """IPv4 addresses, then IPv6 addresses, of those asked for."""
        found = self.addresses if A in qtypes else ()
        return found + self.aaaa if AAAA in qtypes else found


def truth(name: str, seed: int, mix: Mix) -> Truth:
    """What is true of `name`, in any case, with or without a final dot."""
    return _world(seed, mix).truth(name)


@lru_cache(maxsize=16)
def _world(seed: int, mix: Mix) -> "World":
    return World(seed, mix)


class World:
    """The truth about every name, for one seed and mix. Raises ValueError for a senseless mix."""

    def __init__(self, seed: int, mix: Mix) -> None:
        self._key = (seed % 2**64).to_bytes(8, "big")
        self._bounds = mix.bounds()

    def truth(self, name: str) -> Truth:
        """What is true of `name`, in any case, with or without a final dot."""
        name = name.lower().removesuffix(".")
        label, _, parent = name.partition(".")
        if "." in parent:
            return self._below(name, label, parent)
        number = self._hash(name)
        if not parent:
            return _top(name, number >> 32)
        behaviour = self._behaviour(name, label, number)
        if behaviour is Behaviour.NXDOMAIN:
            if parent in TLD_WILDCARDS:
                return self._parked(name, parent)
            return Truth(
                name, behaviour, NXDOMAIN, (), (), _ttl(number >> 32), 0.0, parent, False, 0, 0
            )
        found = _describe(behaviour, name, number >> 32, name)
        if parent in TLD_WILDCARDS and behaviour is Behaviour.RESOLVES and not number >> 61:
            return found._replace(addresses=self._parking(parent))
        return found

    def servers(self, domain: str) -> tuple[str, ...]:
        """Name servers that a registered domain of two labels is delegated to."""
        number = self._hash(domain)
        behaviour = self._behaviour(domain, domain.partition(".")[0], number)
        return (f"ns1.{domain}",) if _names_its_server(behaviour, number >> 32) else (ZONE_SERVER,)

    def _below(self, name: str, label: str, parent: str) -> Truth:
        """What is true of a name of three labels or more."""
        if name in _SERVERS:
            domain = parent
            found = _describe(Behaviour.RESOLVES, name, self._hash(name) >> 32, domain)
            return found._replace(addresses=(_SERVERS[name],))
        rest, _, tld = name.rpartition(".")
        domain = f"{rest.rpartition('.')[2]}.{tld}"
        number = self._hash(domain)
        behaviour = self._behaviour(domain, domain.partition(".")[0], number)
        if behaviour is Behaviour.NXDOMAIN:
            if tld in TLD_WILDCARDS:
                return self._parked(name, tld)
            return Truth(
                name, Behaviour.NXDOMAIN, NXDOMAIN, (), (), _ttl(number >> 32), 0.0, tld, False, 0,
                0,
            )  # fmt: skip
        if label == "ns1" and parent == domain and _names_its_server(behaviour, number >> 32):
            found = _describe(Behaviour.RESOLVES, name, self._hash(name) >> 32, domain)
            return found._replace(addresses=(ZONE_HOST,))
        if label.startswith("hop"):
            hop = self._hop(name, parent)
            if hop is not None:
                return hop
        number = self._hash(name)
        behaviour = self._behaviour(name, label, number)
        above = parent
        while "." in above:
            number_above = self._hash(above)
            if self._behaviour(above, above.partition(".")[0], number_above) is Behaviour.WILDCARD:
                kind = wildcard_kind(number_above >> 32)
                if kind is Wildcard.POOL or behaviour is not Behaviour.RESOLVES or number >> 61:
                    return _wild(name, above, number_above >> 32, domain, kind)
                break
            _, _, above = above.partition(".")
        return _describe(behaviour, name, number >> 32, domain)

    def _hop(self, name: str, parent: str) -> Truth | None:
        """A name on the CNAME chain of its parent."""
        start = self.truth(parent)
        if start.behaviour is Behaviour.WILDCARD:
            # The target of an alias has addresses of its own, those that its aliases have.
            aliased = start.verdict == RESOLVED and wildcard_kind(start.number) is Wildcard.ALIAS
            if not aliased or name != f"hop1.{parent}":
                return None
            return start._replace(name=name, behaviour=Behaviour.RESOLVES, number=0)
        if name not in start.chain:
            return None
        place = start.chain.index(name) + 1
        chain = start.chain[place:]
        behaviour = start.behaviour
        if behaviour is Behaviour.LOOP:
            chain += start.chain[:place]
        elif not chain:
            ended = behaviour is Behaviour.CHAIN
            behaviour = Behaviour.RESOLVES if ended else Behaviour.NXDOMAIN
        return start._replace(name=name, behaviour=behaviour, chain=chain)

    def _parked(self, name: str, tld: str) -> Truth:
        """A name that is not registered, where the top-level domain is a wildcard."""
        addresses = self._parking(tld)
        kind = Behaviour.WILDCARD
        return Truth(name, kind, WILDCARD, addresses, (), 3600, 0.0, tld, False, 0, 0)

    def _parking(self, tld: str) -> tuple[str, ...]:
        return (_address(self._hash(tld) >> 32),)

    def _hash(self, name: str) -> int:
        return int.from_bytes(blake2b(name.encode(), digest_size=8, key=self._key).digest(), "big")

    def _behaviour(self, name: str, label: str, number: int) -> Behaviour:
        if name in _GIVEN:
            return _GIVEN[name]
        if len(label) >= RANDOM_LABEL:
            return Behaviour.NXDOMAIN
        return _BEHAVIOURS[bisect_right(self._bounds, number & 0xFFFFFFFF, hi=_LAST)]


_BEHAVIOURS = tuple(Behaviour)
_LAST = len(_BEHAVIOURS) - 1


def wildcard_kind(number: int) -> Wildcard:
    """The kind that a WILDCARD name of this number is; half of them are plain."""
    return Wildcard(max(0, (number >> 20) % 6 - 2))


def _names_its_server(behaviour: Behaviour, number: int) -> bool:
    """Three zones in four; not wildcards, below some of which nothing else can be told apart."""
    return behaviour is not Behaviour.WILDCARD and number >> 12 & 3 != 0


def _ttl(number: int) -> int:
    return 60 + (number >> 8) % 3600


def _top(name: str, number: int) -> Truth:
    """A top-level domain or, of no name, the root: a zone without addresses."""
    zone = name or "."
    return Truth(zone, Behaviour.NODATA, NO_DATA, (), (), _ttl(number), 0.0, zone, True, 0, 0)


def _describe(behaviour: Behaviour, name: str, number: int, zone: str) -> Truth:
    # The low half of the hash chose the behaviour; the high half chooses everything else.
    verdict = VERDICTS.get(behaviour, RESOLVED)
    addresses: tuple[str, ...] = ()
    if verdict == RESOLVED:
        count = _COUNTS.get(behaviour, 1 + number % 4)
        if behaviour is Behaviour.RESOLVES:
            # Three in four names have one address, as outside.
            count = max(1, count - 3 + (number >> 2) % 4)
        addresses = _addresses(number, count)
    length = 1 + number % 4
    chain: tuple[str, ...] = ()
    if behaviour in (Behaviour.CHAIN, Behaviour.DANGLING):
        chain = tuple(f"hop{hop}.{name}" for hop in range(1, length + 1))
    elif behaviour is Behaviour.LOOP:
        chain = (*(f"hop{hop}.{name}" for hop in range(1, length)), name)
    delay = 0.1 + number % 600 / 1000 if behaviour is Behaviour.SLOW else 0.0
    return Truth(
        name, behaviour, verdict, addresses, chain, _ttl(number), delay, zone, True, 0, number
    )


def _wild(name: str, parent: str, number: int, zone: str, kind: Wildcard) -> Truth:
    """A name that exists only because of the wildcard that its parent is."""
    chain: tuple[str, ...] = ()
    shown = 0
    count = 1 + number % 4
    if kind is Wildcard.POOL:
        addresses, shown = _addresses(number, _POOL_SIZE), _POOL_SHOWN
    elif kind is Wildcard.LETTER:
        addresses = _addresses(number + 0x1000193 * ord(name[0]), count)
    else:
        addresses = _addresses(number, count)
        if kind is Wildcard.ALIAS:
            chain = (f"hop1.{parent}",)
    wild = Behaviour.WILDCARD
    return Truth(
        name, wild, WILDCARD, addresses, chain, _ttl(number), 0.0, zone, True, shown, number
    )


def _addresses(number: int, count: int) -> tuple[str, ...]:
    return tuple([_address(number + 0x9E3779B1 * place) for place in range(count)])


def _address(number: int) -> str:
    # The last byte is 1-254, so that no address looks like a network or a broadcast.
    middle = number >> 8
    return f"127.{64 + number % 64}.{middle & 255}.{1 + (middle >> 8) % 254}"
