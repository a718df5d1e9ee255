"""Domains as pages answer them, a few to a segment: what a sealed copy for pages holds.

A page in order of name or score has its domains all over the campaign, and reading each from the
tables of five phases costs five look-ups and a message. In a copy it is one look-up and its bytes.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from struct import Struct

import pyarrow as pa

# Domains in a segment; the first one's position is a multiple of it. Of 8 a compressed segment
# takes 0.6 KB, 76 bytes a domain where one alone would take 150, and stays in its row.
PACK_SIZE = 8
# Where each domain ends in what is compressed behind. Those that are not there end where the last
# one does.
_ENDS = Struct(f"<{PACK_SIZE}I")
# In a copy in another order than that of positions, ahead of all: where each domain stands.
_POSITIONS = Struct(f"<{PACK_SIZE}I")
# 1.3 us to unpack, and the library is here for exports anyway; zstd would save a tenth and take 8.
_CODEC = pa.Codec("lz4_raw")


def pack(domains: Sequence[bytes]) -> bytes:
    """Up to PACK_SIZE domains one after the other, each as a field of ListDomainsResponse, as the
    payload of a segment."""
    ends = list(accumulate(map(len, domains)))
    ends += ends[-1:] * (PACK_SIZE - len(ends))
    return _ENDS.pack(*ends) + bytes(_CODEC.compress(b"".join(domains), asbytes=True))


def opened(payload: bytes) -> tuple[tuple[int, ...], bytes]:
    """Where the domains of a segment begin, and behind them where the last one ends; and all of
    them, one after the other."""
    ends = _ENDS.unpack_from(payload)
    return (0, *ends), _CODEC.decompress(payload[_ENDS.size :], ends[-1], asbytes=True)


def unpack(payload: bytes, places: Iterable[int]) -> list[bytes]:
    """Those at these places of the segment; b"" for one that is not there."""
    edges, wire = opened(payload)
    return [wire[edges[place] : edges[place + 1]] for place in places]


def pack_ranked(positions: Sequence[int], domains: Sequence[bytes]) -> bytes:
    """As `pack`, of domains that have these positions."""
    there = [*positions, *[0] * (PACK_SIZE - len(positions))]
    return _POSITIONS.pack(*there) + pack(domains)


def unpack_ranked(payload: bytes) -> tuple[list[int], list[bytes]]:
    """Positions and domains of such a segment."""
    edges, wire = opened(payload[_POSITIONS.size :])
    domains = [wire[begin:end] for begin, end in pairwise(edges) if begin < end]
    return list(_POSITIONS.unpack_from(payload)[: len(domains)]), domains
