"""How far a replica is behind, by one process's clock and positions in the log of the primary.

The time stamp of the last replayed transaction does not tell: it is old where nothing happens, it
is compared with the clock of another machine, and it says nothing of what was never received.
"""

# Samples that are kept. Where a replica stands still for long they are taken at growing distances,
# and its lag is overstated by as much as lies between two.
SAMPLES = 1_000


class Lag:
    """What was seen of both servers: moments in seconds of one monotonic clock, positions in bytes.

    A replica that has replayed the position which the primary had at a moment shows everything
    that was committed by then. So the lag is at most the age of the newest such moment.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []
        self._replayed = -1
        # Seconds between two that are kept.
        self._distance = 0.0

    def primary_was_at(self, moment: float, position: int) -> None:
        """The primary's position in the log, no earlier than `moment`; moments never go back."""
        if self._seen and position < self._seen[-1][1]:
            # The primary is another one, or an earlier state of it: nothing old holds.
            self._seen.clear()
            self._replayed = -1
        if self._seen and (position == self._seen[-1][1] or self._newest_is_close()):
            self._seen.pop()
        self._seen.append((moment, position))
        if len(self._seen) > SAMPLES:
            self._distance = 2 * (moment - self._seen[0][0]) / SAMPLES
            del self._seen[1:-1:2]

    def _newest_is_close(self) -> bool:
        return len(self._seen) > 1 and self._seen[-1][0] - self._seen[-2][0] < self._distance

    def replica_is_at(self, position: int) -> None:
        """The position up to which the replica has replayed the log."""
        self._replayed = position
        while len(self._seen) > 1 and self._seen[1][1] <= position:
            self._seen.pop(0)
        if len(self._seen) == 1:
            self._distance = 0.0

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
