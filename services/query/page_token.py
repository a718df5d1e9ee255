"""Where a page begins and where a stream goes on, as sealed tokens."""

import struct
from dataclasses import dataclass
from enum import IntEnum

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal

# The first byte is kind and version of the rest, for the day a layout changes while tokens of
# yesterday are still out.
_PAGE = struct.Struct(">B?q")
_PAGE_KIND = 1
_CURSOR = struct.Struct(">BIqq")
_CURSOR_KIND = 2
# Role, flags, key, revision, runs, total.
_WALK = struct.Struct(">BBBqqq4iq")
_WALK_KIND = 3


class Role(IntEnum):
    """What a token of a walk is for: the page after it, the page before it, or a domain itself."""

    NEXT = 0
    PREVIOUS = 1
    DOMAIN = 2


@dataclass(frozen=True, slots=True)
class WalkPlace:
    """Where a page begins, in any order: behind `major`, `position`, or with it if `inclusive`.

    `more`: on the other side of it there is something too, or may be. `total` as on the first page,
    an estimate where `estimated`. `revision` of the campaign and `runs` of DNS, HTTP, analysis and
    leads: what the walk has seen and shows.
    """

    role: Role
    major: int
    position: int
    revision: int
    runs: tuple[int, int, int, int]
    total: int
    inclusive: bool = False
    more: bool = False
    estimated: bool = False

    def seal(self, seal: Seal, bound: bytes) -> str:
        flags = self.inclusive | self.more << 1 | self.estimated << 2
        payload = _WALK.pack(
            _WALK_KIND,
            self.role,
            flags,
            self.major,
            self.position,
            self.revision,
            *self.runs,
            self.total,
        )
        return seal.seal(payload, bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes, *, field: str) -> "WalkPlace":
        """A page token in `page_token`, a cursor in any other field. Raises InvalidToken.

        A page token of the version before leads on in order of position.
        """
        payload = seal.open(token, bound, field=field)
        if field == "page_token" and len(payload) == _PAGE.size and payload[0] == _PAGE_KIND:
            _, forward, position = _PAGE.unpack(payload)
            role = Role.NEXT if forward else Role.PREVIOUS
            return cls(role, 0, position, 0, (0, 0, 0, 0), -1, inclusive=forward, more=True)
        if len(payload) != _WALK.size or payload[0] != _WALK_KIND:
            raise _unknown(field)
        _, role, flags, major, position, revision, *runs, total = _WALK.unpack(payload)
        if (role == Role.DOMAIN) is (field == "page_token"):
            raise InvalidToken("is a token of another field", field=field)
        return cls(
            Role(role),
            major,
            position,
            revision,
            (runs[0], runs[1], runs[2], runs[3]),
            total,
            inclusive=bool(flags & 1),
            more=bool(flags & 2),
            estimated=bool(flags & 4),
        )


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
