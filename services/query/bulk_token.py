"""Where a bulk stream goes on, as a sealed token."""

import struct
from dataclasses import dataclass

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal

# The first byte is kind and version of the rest.
_PLACE = struct.Struct(">BIqqiiiiqq")
_KIND = 4
# What StreamDomains handed out before streams were pinned to runs: index, position, end.
_EARLIER = struct.Struct(">BIqq")
_EARLIER_KIND = 2


@dataclass(frozen=True, slots=True)
class BulkPlace:
    """Where a stream goes on: at `position` of the campaign at `index` of the request.

    In a stream of events, positions are revisions. `end` is the first position that the stream
    leaves out: what came after it had reached the campaign. `runs` are those whose results it shows
    of this campaign, by phase from DNS on; None in tokens of earlier versions. `sent` rows of the
    campaign are out already. `revision` is what the campaign had reached.
    """

    index: int
    position: int
    end: int
    runs: tuple[int, int, int, int] | None = None
    sent: int = 0
    revision: int = 0

    def seal(self, seal: Seal, bound: bytes) -> str:
        payload = _PLACE.pack(
            _KIND,
            self.index,
            self.position,
            self.end,
            *(self.runs or (0, 0, 0, 0)),
            self.sent,
            self.revision,
        )
        return seal.seal(payload, bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "BulkPlace":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="cursor")
        if len(payload) == _PLACE.size and payload[0] == _KIND:
            _, index, position, end, dns, http, analysis, leads, sent, revision = _PLACE.unpack(
                payload
            )
            return cls(index, position, end, (dns, http, analysis, leads), sent, revision)
        if len(payload) == _EARLIER.size and payload[0] == _EARLIER_KIND:
            _, index, position, end = _EARLIER.unpack(payload)
            return cls(index, position, end)
        raise InvalidToken("is of a kind this version does not know", field="cursor")
