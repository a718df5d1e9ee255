"""Streams of read sessions: what their names say, and how a range of positions is divided.

Nothing is kept of a session: all there is to know about a stream is sealed into its name, so any
process of the service can read it, also after a restart.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from uuid import UUID

from services.chassis.errors import FieldViolation, InvalidToken
from services.chassis.seal import Seal, binding

# Of a row, in the order in which they come when no columns are asked for. Their numbers are in
# names of streams: append only.
COLUMNS = (
    "position",
    "name",
    "dns_verdict",
    "dns_rcode",
    "addresses",
    "dns_resolver",
    "dns_check_time",
    "http_verdict",
    "http_status_code",
    "final_url",
    "title",
    "score",
    "lead_status",
    "lead_reason",
)
# Seconds.
LIFETIME = 6 * 3600
# Positions that are worth a stream of their own: a tenth of a second.
LEAST_POSITIONS = 50_000
# Bytes. 64 names with a filter in each still fit an answer below 1 MiB.
MAX_FILTER_SIZE = 6_000

# The first byte is kind and version of the rest.
_KIND = 7
_STREAM = struct.Struct(">B16s16siqqqq4IB")
_BOUND = binding("ReadSession", b"")
_FIELD = "read_stream"


@dataclass(frozen=True, slots=True)
class ReadStream:
    """The rows of positions first..end-1 of a campaign, as one session sees them."""

    session_id: UUID
    campaign_id: UUID
    campaign_no: int
    # Revision of the campaign when the session was made: what reads it has seen at least that.
    revision: int
    # Seconds since 1970 UTC.
    expire_time: int
    first: int
    end: int
    # The run of each phase from DNS on whose results are shown, whatever becomes of reruns.
    runs: tuple[int, int, int, int]
    # Of COLUMNS, in the order in which they were asked for.
    columns: tuple[str, ...]
    # domainflow.query.v1.DomainFilter, as protobuf bytes; empty: all rows.
    filter: bytes = b""

    @property
    def size(self) -> int:
        """Positions; as many rows without a filter."""
        return self.end - self.first

    def range(self, first: int, end: int) -> "ReadStream":
        """A part of this one."""
        return replace(self, first=first, end=end)

    def rest(self, first: int) -> "ReadStream":
        """What follows, from position `first` on."""
        return self.range(first, self.end)

    def split(self, fraction: float) -> "tuple[ReadStream, ReadStream] | None":
        """Two streams that are this one together; none when one of them would be empty."""
        middle = self.first + int(self.size * (fraction or 0.5))
        if not self.first < middle < self.end:
            return None
        return self.range(self.first, middle), self.range(middle, self.end)

    def seal(self, seal: Seal) -> str:
        """The stream's name."""
        head = _STREAM.pack(
            _KIND,
            self.session_id.bytes,
            self.campaign_id.bytes,
            self.campaign_no,
            self.revision,
            self.expire_time,
            self.first,
            self.end,
            *self.runs,
            len(self.columns),
        )
        columns = bytes(COLUMNS.index(column) for column in self.columns)
        return seal.seal(head + columns + self.filter, _BOUND)

    @classmethod
    def open(cls, seal: Seal, name: str) -> "ReadStream":
        """The stream that has this name. Raises InvalidToken."""
        payload = seal.open(name, _BOUND, field=_FIELD)
        if len(payload) < _STREAM.size or payload[0] != _KIND:
            raise InvalidToken("is of a kind this version does not know", field=_FIELD)
        _, session, campaign, no, revision, expires, first, end, *runs, columns = _STREAM.unpack(
            payload[: _STREAM.size]
        )
        chosen = payload[_STREAM.size : _STREAM.size + columns]
        if len(chosen) < columns or any(number >= len(COLUMNS) for number in chosen):
            raise InvalidToken("is of a kind this version does not know", field=_FIELD)
        return cls(
            UUID(bytes=session),
            UUID(bytes=campaign),
            no,
            revision,
            expires,
            first,
            end,
            tuple(runs),
            tuple(COLUMNS[number] for number in chosen),
            payload[_STREAM.size + columns :],
        )


def divided(count: int, most: int) -> list[tuple[int, int]]:
    """Positions 0..count-1 as ranges of nearly the same size, at most `most` (0 means 1).

    Fewer where there would be less than LEAST_POSITIONS in each; none without any positions.
    """
    ranges = min(max(most, 1), -(-count // LEAST_POSITIONS))
    cuts = [count * number // ranges for number in range(ranges + 1)] if ranges else [0]
    return list(pairwise(cuts))


def unknown_columns(columns: Sequence[str]) -> list[FieldViolation]:
    """Those that no row has."""
    return [
        FieldViolation(f"columns[{number}]", f"is none of {', '.join(COLUMNS)}")
        for number, column in enumerate(columns)
        if column not in COLUMNS
    ]
