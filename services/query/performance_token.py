"""Where a page of ListQueryPerformance begins, as a sealed token."""

import struct
from dataclasses import dataclass

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal

# Kind and version, as in page_token.py, a number, and the rest as text.
_HEAD = struct.Struct(">Bq")
_KIND = 9


@dataclass(frozen=True, slots=True)
class PerformancePlace:
    """Behind which row: its minute (microseconds since 1970) and method, or, of slow queries, its
    duration (microseconds) and number."""

    first: int
    second: str

    def seal(self, seal: Seal, bound: bytes) -> str:
        return seal.seal(_HEAD.pack(_KIND, self.first) + self.second.encode(), bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "PerformancePlace":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="page_token")
        if len(payload) < _HEAD.size or payload[0] != _KIND:
            raise InvalidToken("is of a kind this version does not know", field="page_token")
        _, first = _HEAD.unpack_from(payload)
        return cls(first, payload[_HEAD.size :].decode())
