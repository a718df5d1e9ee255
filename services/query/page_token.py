"""Where a page begins and where a stream goes on, as sealed tokens."""

import struct
from dataclasses import dataclass

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal

# The first byte is kind and version of the rest, for the day a layout changes while tokens of
# yesterday are still out.
_PAGE = struct.Struct(">B?q")
_PAGE_KIND = 1
_CURSOR = struct.Struct(">BIqq")
_CURSOR_KIND = 2


@dataclass(frozen=True, slots=True)
class PagePlace:
    """Where a page begins: at `position` going forward, just below it going backward."""

    forward: bool
    position: int

    def seal(self, seal: Seal, bound: bytes) -> str:
        return seal.seal(_PAGE.pack(_PAGE_KIND, self.forward, self.position), bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "PagePlace":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="page_token")
        if len(payload) != _PAGE.size or payload[0] != _PAGE_KIND:
            raise _unknown("page_token")
        _, forward, position = _PAGE.unpack(payload)
        return cls(forward, position)


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Where a stream goes on: at `position` of the campaign at `index` of the request.

    `end` is how many names that campaign had when the stream reached it: the snapshot's bound.
    """

    index: int
    position: int
    end: int

    def seal(self, seal: Seal, bound: bytes) -> str:
        return seal.seal(_CURSOR.pack(_CURSOR_KIND, self.index, self.position, self.end), bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "StreamPlace":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="cursor")
        if len(payload) != _CURSOR.size or payload[0] != _CURSOR_KIND:
            raise _unknown("cursor")
        _, index, position, end = _CURSOR.unpack(payload)
        return cls(index, position, end)


def _unknown(field: str) -> InvalidToken:
    return InvalidToken("is of a kind this version does not know", field=field)
