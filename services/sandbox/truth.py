"""What is true of every name in the sandbox: a keyed hash decides, so any of 10M is known in O(1).

Pure. Faults of the servers (loss, lies, forged packets) never change what is said here.
"""

from bisect import bisect_right
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate


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
    # Every name below it resolves, to the addresses it has itself.
    WILDCARD = 11
    # Sixty addresses: fits EDNS over UDP, and only that.
    LARGE = 12
    # NOTIMP whatever is asked.
    UNUSABLE = 13


# The numbers of domainflow.validation.v1.DnsVerdict, which the sandbox does not import.
RESOLVED, NXDOMAIN, NO_DATA, SERVFAIL, REFUSED, TIMEOUT, CNAME_LOOP, ERROR = 1, 2, 3, 4, 5, 6, 9, 10

VERDICTS = {
    Behaviour.NXDOMAIN: NXDOMAIN,
    Behaviour.NODATA: NO_DATA,
    Behaviour.SERVFAIL: SERVFAIL,
    Behaviour.REFUSED: REFUSED,
    Behaviour.MUTE: TIMEOUT,
    Behaviour.DANGLING: NXDOMAIN,
    Behaviour.LOOP: CNAME_LOOP,
    Behaviour.UNUSABLE: ERROR,
}


@dataclass(frozen=True, slots=True)
class Mix:
    """Weights of the behaviours; only their proportions count."""

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

    def bounds(self) -> tuple[int, ...]:
        """Upper bounds of the behaviours in a 32-bit hash, in the order of Behaviour."""
        return _bounds(self)


@lru_cache(maxsize=16)
def _bounds(mix: Mix) -> tuple[int, ...]:
    weights = [getattr(mix, field.name) for field in fields(mix)]
    if min(weights) < 0 or not sum(weights):
        raise ValueError("weights must not be negative, nor all be zero")
    return tuple(int(part / sum(weights) * 2**32) for part in accumulate(weights))


@dataclass(frozen=True, slots=True)
class Truth:
    """The right verdict on a name and the evidence for it."""

    behaviour: Behaviour
    # A domainflow.validation.v1.DnsVerdict number.
    verdict: int
    # All in 127.64.0.0/10, which is this machine: whatever fetches from them stays at home.
    addresses: tuple[str, ...]
    # CNAME targets in order; a loop ends with a name passed before.
    chain: tuple[str, ...]
    # Seconds of every record.
    ttl: int
    # For servers: seconds to wait before answering.
    delay: float


def truth(name: str, seed: int, mix: Mix) -> Truth:
    """What is true of `name`, in any case, with or without a final dot."""
    name = name.lower().removesuffix(".")
    number = _hash(name, seed)
    # Below a wildcard every name exists, at any depth. A name of two labels has no such parent.
    _, _, parent = name.partition(".")
    while "." in parent:
        above = _hash(parent, seed)
        if _behaviour(above, mix) is Behaviour.WILDCARD:
            return _describe(Behaviour.WILDCARD, name, above)
        _, _, parent = parent.partition(".")
    return _describe(_behaviour(number, mix), name, number)


def _hash(name: str, seed: int) -> int:
    key = (seed % 2**64).to_bytes(8, "big")
    return int.from_bytes(blake2b(name.encode(), digest_size=8, key=key).digest(), "big")


def _behaviour(number: int, mix: Mix) -> Behaviour:
    return Behaviour(bisect_right(mix.bounds(), number & 0xFFFFFFFF, hi=len(Behaviour) - 1))


def _describe(behaviour: Behaviour, name: str, number: int) -> Truth:
    # The low half chose the behaviour; the high half chooses everything else.
    high = number >> 32
    ttl = 60 + (high >> 8) % 3600
    verdict = VERDICTS.get(behaviour, RESOLVED)
    count = 0
    if verdict == RESOLVED:
        count = {Behaviour.LARGE: 60, Behaviour.TRUNCATED: 90}.get(behaviour, 1 + high % 4)
        if behaviour is Behaviour.RESOLVES:
            # Three in four names have one address, as outside.
            count = max(1, count - 3 + (high >> 2) % 4)
    addresses = tuple(_address(high + 0x9E3779B1 * number_) for number_ in range(count))
    length = 1 + high % 4
    chain: tuple[str, ...] = ()
    if behaviour in (Behaviour.CHAIN, Behaviour.DANGLING):
        chain = tuple(f"hop{hop}.{name}" for hop in range(1, length + 1))
    elif behaviour is Behaviour.LOOP:
        chain = (*(f"hop{hop}.{name}" for hop in range(1, length)), name)
    delay = 0.1 + high % 600 / 1000 if behaviour is Behaviour.SLOW else 0.0
    return Truth(behaviour, verdict, addresses, chain, ttl, delay)


def _address(number: int) -> str:
    # The last byte is 1-254, so that no address looks like a network or a broadcast.
    middle = number >> 8
    return f"127.{64 + number % 64}.{middle & 255}.{1 + (middle >> 8) % 254}"
