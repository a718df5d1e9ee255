"""How fast one resolver is asked: a bucket of questions that fills evenly. Pure."""

# The bucket holds one question and what this many seconds bring: enough for whoever looks every few
# hundredths.
CATCH_UP = 0.05


class RateLimit:
    """A limit of questions per second. Times are nanoseconds of a monotonic clock."""

    __slots__ = ("_allowed", "_filled_at", "_most", "_rate")

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._most = 1.0 + rate * CATCH_UP
        self._allowed = 1.0
        self._filled_at = 0

    def allowed(self, now: int) -> int:
        """How many questions may go out now."""
        gained = max(0, now - self._filled_at) * self._rate / 1e9
        self._allowed = min(self._allowed + gained, self._most)
        self._filled_at = now
        return int(self._allowed)

    def take(self, questions: int) -> None:
        """Count questions that went out."""
        self._allowed -= questions
