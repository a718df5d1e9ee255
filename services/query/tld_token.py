"""Where a page of top-level domains begins, as a sealed token."""

import struct
from dataclasses import dataclass

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal
from services.query.campaigns import Runs

_KIND = 8
_PLACE = struct.Struct(">Bq4I")


@dataclass(frozen=True, slots=True)
class TldPlace:
    """Behind `after`, in the counts of these runs, at least as fresh as `revision`."""

    after: str
    runs: Runs
    revision: int

    def seal(self, seal: Seal, bound: bytes) -> str:
        return seal.seal(_PLACE.pack(_KIND, self.revision, *self.runs) + self.after.encode(), bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "TldPlace":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="page_token")
        if len(payload) < _PLACE.size or payload[0] != _KIND:
            raise InvalidToken("is of a kind this version does not know", field="page_token")
        _, revision, *runs = _PLACE.unpack_from(payload)
        return cls(payload[_PLACE.size :].decode(), Runs(*runs), revision)
