"""The content hash of stored names. Pure."""

import hashlib
from collections.abc import Sequence


def digest(names: Sequence[str]) -> bytes:
    """SHA-256 over a line "name GENERATED\\n" per name: the content hash of a chunk (proto
    PhaseReceipt)."""
    return hashlib.sha256(" GENERATED\n".join([*names, ""]).encode()).digest()
