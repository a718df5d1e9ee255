"""How fast the names of one campaign go to the probe: a bucket of names that fills evenly. Pure."""

# Names go out in slices of about this many seconds: even enough for whoever is asked, and few
# enough that a slice costs nothing.
SLICE = 0.25
# Seconds of names that a delayed slice may catch up on.
CATCH_UP = 2 * SLICE


class Pace:
    """The pace of one campaign in one process. Times are seconds of a monotonic clock."""

    def __init__(self, rate: int, now: float) -> None:
        # Names per second; 0: no limit. To be changed at any time.
        self.rate = rate
        # Chunks whose next names wait for their time, kept by whoever waits.
        self.waiting = 0
        # Empty at first, or a campaign of many small chunks would be a slice ahead with each.
        self._allowed = 0.0
        self._filled_at = now

    def take(self, wanted: int, now: float) -> int:
        """Return how many of `wanted` names may go out now; 0: ask again after `wait`."""
        if self.rate == 0:
            self._allowed, self._filled_at = 0.0, now
            return wanted
        self._fill(now)
        share = self._share(wanted)
        if self._allowed < share:
            return 0
        self._allowed -= share
        return share

    def wait(self, wanted: int) -> float:
        """Return the seconds until `take` has something, at most a slice: the rate may change."""
        if self.rate == 0:
            return 0.0
        return min(max(0.0, (self._share(wanted) - self._allowed) / self.rate), SLICE)

    def _share(self, wanted: int) -> int:
        return min(wanted, max(1, int(self.rate * SLICE)))

    def _fill(self, now: float) -> None:
        most = max(1.0, self.rate * CATCH_UP)
        gained = max(0.0, now - self._filled_at) * self.rate
        self._allowed = min(self._allowed + gained, most)
        self._filled_at = now
