"""Where a list of campaigns goes on, as a sealed token."""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal

# The first byte is kind and version of the rest, for the day a layout changes while tokens of
# yesterday are still out. Then the campaign's number, the kind of its value, and the value.
_HEAD = struct.Struct(">BiB")
_NUMBER = struct.Struct(">q")
_VERSION = 2
_TEXT_KIND, _NUMBER_KIND, _TIME_KIND = 1, 2, 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Place:
    """A campaign in an order: its value in the field that is ordered by, and its number."""

    value: str | int | datetime
    no: int

    def seal(self, seal: Seal, bound: bytes) -> str:
        return seal.seal(self._pack(), bound)

    def _pack(self) -> bytes:
        match self.value:
            case str(text):
                return _HEAD.pack(_VERSION, self.no, _TEXT_KIND) + text.encode()
            case datetime() as time:
                number, kind = (time - _EPOCH) // _MICROSECOND, _TIME_KIND
            case number:
                kind = _NUMBER_KIND
        return _HEAD.pack(_VERSION, self.no, kind) + _NUMBER.pack(number)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "Place":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="page_token")
        if len(payload) < _HEAD.size or payload[0] != _VERSION:
            raise InvalidToken("is of a kind this version does not know", field="page_token")
        _, no, kind = _HEAD.unpack_from(payload)
        if kind == _TEXT_KIND:
            return cls(payload[_HEAD.size :].decode(), no)
        (number,) = _NUMBER.unpack_from(payload, _HEAD.size)
        return cls(_EPOCH + number * _MICROSECOND if kind == _TIME_KIND else number, no)
