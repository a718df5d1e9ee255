"""Outcomes of a chunk -> rows of dns_results in COPY's binary format, counts and digest. Pure.

The format is written here because the driver's encoder takes three times the time per row
(docs/performance.md).
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from services.validation.dns.verdict import Outcome, Verdict

COLUMNS = [
    "campaign_no",
    "run",
    "position",
    "verdict",
    "rcode",
    "attempt_count",
    "tcp",
    "duration_us",
    "check_time_us",
    "ttl",
    "resolver",
    "addresses",
    "cname_chain",
]
_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
# Field count, then length and value of each column up to check_time_us.
_FIXED = struct.Struct(">h" + "ii" * 3 + "ih" * 3 + "ib" + "ii" + "iq")
_INT = struct.Struct(">ii")
_LENGTH = struct.Struct(">i")
_NULL = _LENGTH.pack(-1)
_NAMES = {verdict: verdict.name for verdict in Verdict}
_MAX_INT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ChunkResults:
    """A chunk's outcomes, ready to be stored. `counts[i]` counts verdict number i + 1."""

    rows: bytes
    counts: list[int]
    sha256: bytes


def chunk_results(
    campaign_no: int,
    run: int,
    first_position: int,
    outcomes: Sequence[Outcome],
    check_time_us: int,
) -> ChunkResults:
    """Encode the outcomes of names at consecutive positions."""
    counts = [0] * len(Verdict)
    parts = [_HEADER]
    add = parts.append
    fixed = _FIXED.pack
    digest = []
    resolvers: dict[str, bytes] = {}
    for position, outcome in enumerate(outcomes, first_position):
        name, verdict, rcode, addresses, chain, ttl, resolver, attempts, duration, tcp = outcome
        counts[verdict - 1] += 1
        digest.append(f"{name} {_NAMES[verdict]}\n")
        add(
            fixed(
                13,
                *(4, campaign_no, 4, run, 4, position),
                *(2, verdict, 2, rcode, 2, attempts),
                *(1, tcp),
                *(4, min(duration, _MAX_INT), 8, check_time_us),
            )
        )
        add(_NULL if ttl < 0 else _INT.pack(4, min(ttl, _MAX_INT)))
        # Without an answer no resolver has decided anything.
        if rcode < 0:
            add(_NULL)
        else:
            encoded = resolvers.get(resolver)
            if encoded is None:
                encoded = resolvers[resolver] = _text(resolver)
            add(encoded)
        add(_text(",".join(addresses)) if addresses else _NULL)
        add(_text(",".join(chain)) if chain else _NULL)
    add(_TRAILER)
    sha256 = hashlib.sha256("".join(digest).encode()).digest()
    return ChunkResults(b"".join(parts), counts, sha256)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded
