"""How far a replica is behind, by one process's clock and positions in the log of the primary.

The time stamp of the last replayed transaction does not tell: it is old where nothing happens, it
is compared with the clock of another machine, and it says nothing of what was never received.
"""

# Samples that are kept. A replica that stands still for long has every other one forgotten, and
# again; its lag is then overstated by as much as lies between two.
SAMPLES = 1_000
# A page of the log, and what stands at its beginning: 40 bytes in the first page of a file.
_PAGE, _HEADERS = 8192, (24, 40)


class Lag:
    """What was seen of both servers: moments in seconds of one monotonic clock, positions in bytes.

    A replica that has replayed the position which the primary had at a moment shows everything
    that was committed by then. So the lag is at most the age of the newest such moment.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []
        self._replayed = -1

    def primary_was_at(self, moment: float, position: int) -> None:
        """The primary's position in the log, no earlier than `moment`; moments never go back."""
        # Where a page is full, the primary is behind the header of the next one already, the
        # replica is not. No record ends in between.
        header = position % _PAGE
        position -= header if header in _HEADERS else 0
        if self._seen and position < self._seen[-1][1]:
            # The primary is another one, or an earlier state of it: nothing old holds.
            self._seen.clear()
        if self._seen and position == self._seen[-1][1]:
            self._seen.pop()
        self._seen.append((moment, position))
        if len(self._seen) > SAMPLES:
            del self._seen[1:-1:2]

    def replica_is_at(self, position: int) -> None:
        """The position up to which the replica has replayed the log."""
        self._replayed = position
        while len(self._seen) > 1 and self._seen[1][1] <= position:
            self._seen.pop(0)

    def behind(self, now: float) -> float | None:
        """Seconds that the replica is behind at most. None: it has not reached any sample yet."""
        if not self._seen or self._replayed < self._seen[0][1]:
            return None
        return now - self._seen[0][0]

    @property
    def size(self) -> int | None:
        """Bytes of the log that the replica has to replay yet, as last seen; None: unknown."""
        if not self._seen or self._replayed < 0:
            return None
        return max(0, self._seen[-1][1] - self._replayed)
