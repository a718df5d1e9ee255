"""What the ledger keeps of stored names: their content hash, their top-level domains. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.tlds import TldCounts, tld_counts


@dataclass(frozen=True, slots=True)
class Digest:
    """Of the names of one chunk."""

    # Over a line "name GENERATED\n" per name: the content hash of a chunk (proto PhaseReceipt).
    sha256: bytes
    tlds: TldCounts


def digest(names: Sequence[str]) -> Digest:
    """Both from the same lines."""
    lines = " GENERATED\n".join([*names, ""])
    return Digest(hashlib.sha256(lines.encode()).digest(), tld_counts(lines, {"GENERATED": 1}))
