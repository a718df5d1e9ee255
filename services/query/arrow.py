"""Rows of read sessions as Arrow record batches.

Import it where it is used only: pyarrow takes 0.4 s and 40 MB. Values go from one buffer to another
inside Arrow: no Python object for any of them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from domainflow.validation.v1.dns_pb2 import DnsVerdict
from domainflow.validation.v1.http_pb2 import HttpVerdict
from domainflow.validation.v1.lead_pb2 import LeadReason, LeadStatus
from services.query.session_rows import Part, Positions, Rows, numbers

# Below the 1 MiB that proxies buffer; the rest is for the name of what follows.
MESSAGE_LIMIT = 1_000_000

_TYPES: Mapping[str, Any] = {
    "position": pa.int64(),
    "name": pa.string(),
    "dns_verdict": pa.string(),
    "dns_rcode": pa.int16(),
    "addresses": pa.list_(pa.string()),
    "dns_resolver": pa.string(),
    "dns_check_time": pa.timestamp("us", tz="UTC"),
    "http_verdict": pa.string(),
    "http_status_code": pa.int16(),
    "final_url": pa.string(),
    "title": pa.string(),
    "score": pa.float64(),
    "lead_status": pa.string(),
    "lead_reason": pa.string(),
}
_ALWAYS = {"position", "name"}


class Packer:
    """Makes Arrow IPC messages of rows with these columns, in this order.

    Null: the phase has not settled the name, or there is no such value.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._schema = pa.schema(
            [pa.field(column, _TYPES[column], nullable=column not in _ALWAYS) for column in columns]
        )
        self.schema = bytes(self._schema.serialize())
        none = pa.RecordBatch.from_pylist([], schema=self._schema)
        self.no_rows = bytes(none.serialize())

    def messages(self, rows: Rows) -> list[tuple[Any, int, int]]:
        """The rows as record batches that each fit a gRPC message: a buffer with its bytes, its
        rows, and the position of the last one. Nothing for no rows."""
        return [
            (piece.serialize(), len(piece), rows.positions[first + len(piece) - 1])
            for first, piece in _fitting(self._batch(rows), 0)
        ]

    def _batch(self, rows: Rows) -> Any:
        """All of the rows; of each table the columns that were read of it."""
        positions = _positions(rows.positions)
        made = {"position": positions}
        for part in rows.parts.values():
            place = None if part.positions is None else _positions(part.positions)
            if place is not None and place.equals(positions):
                place = None
            # Null for rows that the table has nothing about.
            where = None if place is None else _where(rows.positions, positions, place)
            for column, value in part.columns.items():
                values = _CONVERSIONS[column](value, part)
                made[column] = values if where is None else values.take(where)
        return pa.RecordBatch.from_arrays([made[c] for c in self._columns], schema=self._schema)


def _fitting(batch: Any, first: int) -> Iterator[tuple[int, Any]]:
    count = len(batch)
    if not count:
        return
    if count == 1 or batch.nbytes <= MESSAGE_LIMIT:
        yield first, batch
        return
    half = count // 2
    yield from _fitting(batch.slice(0, half), first)
    yield from _fitting(batch.slice(half), first + half)


def _positions(values: Positions) -> Any:
    if isinstance(values, range):
        return pa.arange(values.start, values.stop)
    return _array(pa.int32(), values).cast(pa.int64())


def _where(values: Positions, positions: Any, place: Any) -> Any:
    """For each position its index in `place`, null where it is not there."""
    if isinstance(values, range):
        # No search: the index of a position among all of them is known.
        indices = pc.subtract(place, values.start)
        return pc.inverse_permutation(indices, max_index=len(values) - 1)
    return pc.index_in(positions, value_set=place)


def _array(kind: Any, values: Any) -> Any:
    """A Python array as an Arrow one, which keeps it."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _lines(value: str | None, part: Part) -> Any:
    if not part.count:
        return pa.array([], pa.string())
    return pc.split_pattern(pa.array([value], pa.string()), "\n").flatten()


def _text(value: str | None, part: Part) -> Any:
    lines = _lines(value, part)
    return pc.if_else(pc.equal(lines, ""), pa.scalar(None, pa.string()), lines)


def _list(value: str | None, part: Part) -> Any:
    """Comma-separated texts as lists, an empty text as an empty list."""
    lines = _lines(value, part)
    counts = pc.if_else(pc.equal(lines, ""), 0, pc.add(pc.count_substring(lines, ","), 1))
    ends = pc.cumulative_sum(counts.cast(pa.int32()))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    every = pc.split_pattern(lines, ",").flatten()
    return pa.ListArray.from_arrays(offsets, every.filter(pc.not_equal(every, "")))


def _int16(value: bytes | None, part: Part) -> Any:
    return _array(pa.int16(), numbers("h", value))


def _status_code(value: bytes | None, part: Part) -> Any:
    codes = _int16(value, part)
    return pc.if_else(pc.equal(codes, 0), pa.scalar(None, pa.int16()), codes)


def _score(value: bytes | None, part: Part) -> Any:
    return pc.divide(_int16(value, part).cast(pa.float64()), 1000.0)


def _time(value: bytes | None, part: Part) -> Any:
    return _array(pa.int64(), numbers("q", value)).cast(_TYPES["dns_check_time"])


class _Labels:
    """Letters, one for each number of an enum, as the names of the numbers without the enum's."""

    def __init__(self, names: Collection[tuple[str, int]], prefix: str) -> None:
        # A number that this version has no name for stays one.
        texts = [str(number) for number in range(256)]
        for name, number in names:
            texts[number] = name.removeprefix(prefix)
        self._texts = pa.array(texts, pa.string())

    def __call__(self, value: str | None, part: Part) -> Any:
        numbers_of = (value or "").encode().translate(_FROM_LETTER)
        return self._texts.take(_array(pa.uint8(), numbers_of))


_FROM_LETTER = bytes(max(0, letter - 32) for letter in range(256))
_CONVERSIONS: Mapping[str, Any] = {
    "name": _lines,
    "dns_verdict": _Labels(DnsVerdict.items(), "DNS_VERDICT_"),
    "dns_rcode": _int16,
    "addresses": _list,
    "dns_resolver": _text,
    "dns_check_time": _time,
    "http_verdict": _Labels(HttpVerdict.items(), "HTTP_VERDICT_"),
    "http_status_code": _status_code,
    "final_url": _text,
    "title": _text,
    "score": _score,
    "lead_status": _Labels(LeadStatus.items(), "LEAD_STATUS_"),
    "lead_reason": _Labels(LeadReason.items(), "LEAD_REASON_"),
}
