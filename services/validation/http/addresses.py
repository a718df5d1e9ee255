"""Whether an address may be connected to: public ones, and what configuration adds or takes. Pure.

The blocks that are not public are those of IANA's two special-purpose address registries
(RFC 6890), embedded as data with their date. Every block is refused, also the few marked globally
reachable: those hold anycast services and identifiers, no web servers, and some of them (PCP, TURN)
end in the network of whoever asks. Forms that hold an IPv4 address are judged by that.
"""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.resources import files
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Where clouds tell a machine its secrets. Most lie in blocks refused anyway; these stay refused
# even when configuration allows the block around them, and Azure's is an ordinary public address.
METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Google, Azure, and most others
        "169.254.170.2",  # AWS, containers
        "169.254.170.23",  # AWS, pods
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure, the host itself
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS, pods
        "fd20:ce::254",  # Google
        "fd00:c1::a9fe:a9fe",  # Oracle
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")


@dataclass(frozen=True, slots=True)
class Block:
    """A row of a registry."""

    network: Network
    name: str
    # None where the registry says neither: deprecated, or it depends.
    globally_reachable: bool | None


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What configuration adds to the registries. Denied wins over allowed."""

    # Also connected to, such as the loopback a sandbox is on. Never the metadata addresses.
    allowed: tuple[Network, ...] = ()
    # Never connected to, such as one's own public ranges.
    denied: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, *, allowed: Iterable[str] = (), denied: Iterable[str] = ()) -> "AddressPolicy":
        """From networks in text form ("127.0.0.0/8", "2001:db8::/32"). Raises ValueError."""
        return cls(tuple(map(ip_network, allowed)), tuple(map(ip_network, denied)))


PUBLIC_ONLY = AddressPolicy()


def _blocks(name: str) -> tuple[Block, ...]:
    """The rows of an embedded registry, the most specific first."""
    text = files(__package__).joinpath(name).read_text("ascii")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    reachable = {"true": True, "false": False, "": None}
    blocks = [
        Block(ip_network(row["prefix"]), row["name"], reachable[row["globally_reachable"]])
        for row in rows
    ]
    return tuple(sorted(blocks, key=lambda block: -block.network.prefixlen))


IPV4_SPECIAL_PURPOSE = _blocks("iana_ipv4_special_purpose.csv")
IPV6_SPECIAL_PURPOSE = _blocks("iana_ipv6_special_purpose.csv")


def judge_of(policy: AddressPolicy) -> Callable[[str], str | None]:
    """`judge` with a policy, that remembers: names of one campaign share addresses (hosting,
    parking). 0.1 us instead of 20."""
    return lru_cache(maxsize=16_384)(partial(judge, policy=policy))


def judge(address: str, policy: AddressPolicy = PUBLIC_ONLY) -> str | None:
    """Why an address (text form, no brackets) may not be connected to, or None if it may."""
    if "%" in address:
        return f"{address} names a zone of this machine"
    try:
        outer = ip_address(address)
    except ValueError:
        return f"{address!r} is no address in its canonical form"
    inner = held(outer) if isinstance(outer, IPv6Address) else ()
    if inner and outer in _NAT64_LOCAL:
        if not _within(outer, policy.allowed):
            return f"{outer} {_special(outer, IPV6_SPECIAL_PURPOSE)}"
        # What reads as nothing under one length of prefix is an address under another.
        inner = tuple(candidate for candidate in inner if not candidate.is_unspecified)
    for candidate in (outer, *inner):
        if reason := _never(candidate, policy):
            return _told(outer, candidate, reason)
    if _within(outer, policy.allowed) or (
        inner and all(_within(candidate, policy.allowed) for candidate in inner)
    ):
        return None
    if inner:
        for candidate in inner:
            if reason := _special(candidate, IPV4_SPECIAL_PURPOSE):
                return _told(outer, candidate, reason)
        return None
    if isinstance(outer, IPv4Address):
        reason = _special(outer, IPV4_SPECIAL_PURPOSE)
    else:
        reason = _special(outer, IPV6_SPECIAL_PURPOSE)
        if not reason and outer not in _GLOBAL_UNICAST:
            reason = f"is not in {_GLOBAL_UNICAST} (global unicast)"
    return f"{outer} {reason}" if reason else None


def held(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that packets to an IPv6 address may end at; none for an ordinary one."""
    if mapped := address.ipv4_mapped:
        return (mapped,)
    number = int(address)
    if address in _NAT64:
        return (IPv4Address(number & 0xFFFFFFFF),)
    if address in _NAT64_LOCAL:
        # Which bits hold it is up to the network (RFC 6052, 2.2): the last ones, or as of a /48.
        around_u = ((number >> 64 & 0xFFFF) << 16) | (number >> 40 & 0xFFFF)
        return (IPv4Address(number & 0xFFFFFFFF), IPv4Address(around_u))
    if sixtofour := address.sixtofour:
        return (sixtofour,)
    if teredo := address.teredo:
        return teredo
    return ()


def _never(address: Address, policy: AddressPolicy) -> str:
    """Why not, whatever is allowed."""
    for network in policy.denied:
        if address.version == network.version and address in network:
            return f"is in {network}, denied by configuration"
    if address in METADATA:
        return "is a cloud's metadata address"
    if address.is_unspecified:
        return "is the unspecified address"
    if address.is_multicast:
        return "is a multicast address"
    if int(address) == 0xFFFFFFFF:
        return "is the broadcast address"
    return ""


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _special(address: Address, blocks: tuple[Block, ...]) -> str:
    for block in blocks:
        if address in block.network:
            return f"is in {block.network} ({block.name})"
    return ""


def _told(outer: Address, candidate: Address, reason: str) -> str:
    if candidate == outer:
        return f"{outer} {reason}"
    return f"{outer} holds {candidate}, which {reason}"
