"""Where streams of changes and of differences go on, as sealed tokens."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal

# The first byte is kind and version of the rest.
_CHANGE = struct.Struct(">BBB?qq5i5qqii")
_CHANGE_KIND = 5
_DIFFERENCE = struct.Struct(">Bqiiqq")
_DIFFERENCE_KIND = 6


@dataclass(frozen=True, slots=True)
class ChangePlace:
    """What a stream of changes began with, and where it goes on."""

    # Revision and names of the campaign when it began: what came later is left to the next stream.
    revision: int
    name_count: int
    # By phase, from the first: the run that was shown, and since which revision; run 0: none.
    runs: Sequence[int]
    shown: Sequence[int]
    # Phases whose run replaced another since the caller asked last: bit n - 1 is phase n.
    replaced: int
    phase: int
    # In the walk through all names of a run that replaced another, or in its chunks.
    walking: bool
    # The chunk, and the position to go on at.
    chunk_revision: int
    first_position: int
    position: int

    def seal(self, seal: Seal, bound: bytes) -> str:
        payload = _CHANGE.pack(
            _CHANGE_KIND,
            self.replaced,
            self.phase,
            self.walking,
            self.revision,
            self.name_count,
            *self.runs,
            *self.shown,
            self.chunk_revision,
            self.first_position,
            self.position,
        )
        return seal.seal(payload, bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "ChangePlace":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="cursor")
        if len(payload) != _CHANGE.size or payload[0] != _CHANGE_KIND:
            raise _unknown()
        _, replaced, phase, walking, revision, name_count, *rest = _CHANGE.unpack(payload)
        runs, shown, chunk = rest[:5], rest[5:10], rest[10:]
        return cls(revision, name_count, runs, shown, replaced, phase, walking, *chunk)


@dataclass(frozen=True, slots=True)
class DifferencePlace:
    """Two runs that are compared, up to the names there were, and the position to go on at."""

    # Of the campaign when the comparison began: whoever goes on with it has to know both runs.
    revision: int
    base_run: int
    run: int
    end: int
    position: int

    def seal(self, seal: Seal, bound: bytes) -> str:
        payload = _DIFFERENCE.pack(
            _DIFFERENCE_KIND, self.revision, self.base_run, self.run, self.end, self.position
        )
        return seal.seal(payload, bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "DifferencePlace":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="cursor")
        if len(payload) != _DIFFERENCE.size or payload[0] != _DIFFERENCE_KIND:
            raise _unknown()
        _, *place = _DIFFERENCE.unpack(payload)
        return cls(*place)


def _unknown() -> InvalidToken:
    return InvalidToken("is of a kind this version does not know", field="cursor")
