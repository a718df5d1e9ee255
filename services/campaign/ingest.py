"""Names -> rows of the domains table in COPY's binary format, and their digest. Pure.

The format is written here so that a thread can write it while the event loop answers calls: the
driver's own encoder is quicker, and works on the loop (docs/performance.md).
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from itertools import chain

_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
# Field count; length and value of campaign_no; length and value of position; length of name.
_ROW = struct.Struct(">hiiiii")


def copy_rows(campaign_no: int, first_position: int, names: Sequence[bytes]) -> bytes:
    """The rows (campaign_no, position, name) for names at consecutive positions."""
    pack = _ROW.pack
    heads = (
        pack(3, 4, campaign_no, 4, position, len(name))
        for position, name in enumerate(names, first_position)
    )
    return b"".join(
        chain((_HEADER,), chain.from_iterable(zip(heads, names, strict=True)), (_TRAILER,))
    )


def digest(names: Iterable[bytes]) -> bytes:
    """SHA-256 over a line "name GENERATED\\n" per name: the content hash of a chunk (proto
    PhaseReceipt)."""
    lines = b" GENERATED\n".join(names)
    return hashlib.sha256(lines + b" GENERATED\n").digest()
