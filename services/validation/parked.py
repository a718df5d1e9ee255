"""What is finished of a chunk's names, and how far those are that wait, as bytes. Pure.

They are read by whoever takes the chunk up again, perhaps a worker of another version: what it
cannot read is as if it were not there, and those names begin anew.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.validation.http.retry import Attempt, LaneName
from services.validation.http.verdict import Verdict
from services.validation.http_rows import PAGE_COLUMNS, RESULT_COLUMNS, HttpOutcome

# To be raised when anything below is written otherwise. Encoded columns are of the tables as this
# version has them, which the digest tells.
_FORMAT = 1
_COLUMNS = zlib.crc32(",".join((*RESULT_COLUMNS, *PAGE_COLUMNS)).encode())
# Format, columns, time in Unix microseconds, number of outcomes and of names that wait.
_HEAD = struct.Struct(">BIqII")
# Position, verdict, attempts, duration in microseconds, length of the result and of the page.
_OUTCOME = struct.Struct(">iBiqii")
_NO_PAGE = -1
# Position, attempts, microseconds, lanes, earlier attempts.
_WAITING = struct.Struct(">iiqBB")
# Length of a lane's name, tries.
_LANE = struct.Struct(">BB")
# Verdict, status, delay in seconds.
_EARLIER = struct.Struct(">BHd")
# Earlier attempts that are kept, the last ones; policies allow for 50.
_MAX_EARLIER = 255


@dataclass(frozen=True, slots=True)
class Waiting:
    """What came so far of a name that is to be asked for again."""

    position: int
    attempts: int
    # Microseconds from when it was asked for first to `time_us`.
    elapsed_us: int
    # Attempts that ended in each lane.
    tries: Mapping[LaneName, int]
    earlier: Sequence[Attempt]
    # When its chunk was set aside: Unix microseconds.
    time_us: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of some of a chunk's names, by position."""

    finished: Mapping[int, HttpOutcome]
    waiting: Mapping[int, Waiting]


def encoded(finished: Iterable[HttpOutcome], waiting: Iterable[Waiting], time_us: int) -> bytes:
    """`time_us` counts for all that wait, whatever they say themselves."""
    outcomes, late = list(finished), list(waiting)
    parts = [_HEAD.pack(_FORMAT, _COLUMNS, time_us, len(outcomes), len(late))]
    for it in outcomes:
        page = it.page
        size = _NO_PAGE if page is None else len(page)
        # fmt: off
        parts += (_OUTCOME.pack(it.position, it.verdict, it.attempts, it.duration_us,
                                len(it.result), size), it.result, page or b"")
        # fmt: on
    for each in late:
        earlier = each.earlier[-_MAX_EARLIER:]
        parts.append(
            _WAITING.pack(
                each.position, each.attempts, each.elapsed_us, len(each.tries), len(earlier)
            )
        )
        for lane, tries in each.tries.items():
            name = lane.value.encode()
            parts += (_LANE.pack(len(name), tries), name)
        parts += (_EARLIER.pack(it.verdict, it.status, it.delay) for it in earlier)
    return b"".join(parts)


def decoded(progress: bytes, names: Mapping[int, str]) -> Progress | None:
    """What is known of these names, by position: a chunk that was split has fewer than it had.

    None for what this version cannot read.
    """
    try:
        return _Reader(progress).progress(names)
    except (struct.error, ValueError):
        return None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def progress(self, names: Mapping[int, str]) -> Progress:
        """Raises struct.error and ValueError."""
        format_, columns, time_us, finished_count, waiting_count = self._take(_HEAD)
        if (format_, columns) != (_FORMAT, _COLUMNS):
            raise ValueError("of another version")
        finished, waiting = {}, {}
        for _ in range(finished_count):
            position, verdict, attempts, duration, size, page_size = self._take(_OUTCOME)
            result = self._bytes(size)
            page = None if page_size == _NO_PAGE else self._bytes(page_size)
            if (name := names.get(position)) is not None:
                finished[position] = HttpOutcome(
                    position, name, Verdict(verdict), attempts, duration, result, page
                )
        for _ in range(waiting_count):
            each = self._waiting(time_us)
            if each.position in names:
                waiting[each.position] = each
        if self._at != len(self._data):
            raise ValueError("there is more")
        return Progress(finished, waiting)

    def _waiting(self, time_us: int) -> Waiting:
        position, attempts, elapsed, lane_count, earlier_count = self._take(_WAITING)
        tries = {}
        for _ in range(lane_count):
            size, count = self._take(_LANE)
            tries[LaneName(self._bytes(size).decode())] = count
        earlier = []
        for _ in range(earlier_count):
            verdict, status, delay = self._take(_EARLIER)
            earlier.append(Attempt(Verdict(verdict), status, delay))
        return Waiting(position, attempts, elapsed, tries, tuple(earlier), time_us)

    def _take(self, kind: struct.Struct) -> tuple[Any, ...]:
        values = kind.unpack_from(self._data, self._at)
        self._at += kind.size
        return values

    def _bytes(self, size: int) -> bytes:
        past = self._at + size
        if size < 0 or past > len(self._data):
            raise ValueError("there is less")
        taken = self._data[self._at : past]
        self._at = past
        return taken
