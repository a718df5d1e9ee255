"""How many questions one resolver may have to answer at once, from what became of the last. Pure.

Additive increase, multiplicative decrease. Times are nanoseconds. A round is the questions of about
one round trip, and long enough to tell something.
"""

from dataclasses import dataclass

# What a default socket buffer holds (270 questions) with something to spare; a resolver of which
# nothing is known gets so many, and a slow answer alone never leads below.
START = 200
LEAST = 16
# Short rounds tell nothing: at least so long, and so many questions or longer still.
LEAST_ROUND = 20_000_000
ROUND_QUESTIONS = 20
ROUND_LIMIT = 1_000_000_000
# A question is late after this at the earliest.
LEAST_PATIENCE = 20_000_000
# Growth per round beyond slow start: an eighth, within these.
LEAST_STEP, MOST_STEP = 2, 64
# A process cannot ask for more than this many names a second, so a window for more would only be a
# queue; and on a machine with too much to do, answers of a neighbour take this long with a window
# of START.
MOST_RATE = 80_000
NEAR = 5_000_000
# Lost questions beyond the usual share that tell of a full buffer. What is usual is learnt: slowly,
# and at once where a smaller window did not help.
LOSS = 0.05
LOSS_CUT, QUEUE_CUT = 0.6, 0.7
# The window that lost them is not tried again at once: this much of it is, for so long.
CEILING, CEILING_HOLDS = 0.75, 10_000_000_000
# Answers all slower than this are slow for a queue: multiples of the fastest lately, and more.
QUEUE_TIMES, QUEUE_MORE = 2, 2_000_000
JAM_TIMES, JAM_MORE = 4, 10_000_000
# Of the questions that a cut was for, so many answered after all make it undone.
FORGIVEN = 0.75


@dataclass(frozen=True, slots=True)
class Round:
    """What became of the questions of one round."""

    answered: int
    # Questions that became late, and late ones that were answered after all.
    late: int
    came_late: int
    # Answers whose time was taken; their times together, and their distance from the usual one.
    timed: int = 0
    waited: int = 0
    strayed: int = 0
    # The fastest of them; of no meaning without one.
    fastest: int = 0
    # Whether the window kept questions back.
    full: bool = False


class Congestion:
    """The window of one resolver."""

    __slots__ = (
        "_ceiling",
        "_ceiling_until",
        "_cut_from",
        "_deaf_until",
        "_fastest",
        "_forgive_until",
        "_most",
        "_opening",
        "_spread",
        "_to_forgive",
        "_unhelped",
        "_usual_loss",
        "_verdict_until",
        "loss",
        "usual",
        "window",
    )

    def __init__(self, most: int) -> None:
        self._most = most
        self.window = min(START, most)
        # Usual time to an answer, 0 while unknown, and how far answers are from it.
        self.usual = self._spread = 0
        self._fastest = 0
        # Share of late questions lately, and what is taken to be usual.
        self.loss = self._usual_loss = 0.0
        # Slow start: the window doubles each round until something speaks against it.
        self._opening = True
        # Where questions were lost lately, and until when the window stays below.
        self._ceiling = most
        self._ceiling_until = 0
        # A share that tells, until then, that the last cut was of no use.
        self._unhelped = 0.0
        self._verdict_until = 0
        # What was lost before a cut says nothing of the window after it.
        self._deaf_until = 0
        # Window before the last cut, and how many late answers until then show that it was wrong.
        self._cut_from = self._to_forgive = 0
        self._forgive_until = 0

    def patience(self) -> int:
        """After how long a question is late, if a later one has been answered."""
        return max(LEAST_PATIENCE, self.usual + 4 * self._spread)

    def is_over(self, answered: int, late: int, lasted: int) -> bool:
        """Whether a round that began `lasted` ago is over."""
        if lasted < max(LEAST_ROUND, self.usual):
            return False
        return answered + late >= ROUND_QUESTIONS or lasted >= ROUND_LIMIT

    def restart(self) -> None:
        """The resolver was away; what it holds now must be found out anew."""
        self.window = max(self.window, min(START, self._most))
        self._opening = True
        self._usual_loss = 0.0
        self._to_forgive = 0

    def observe(self, last: Round, now: int) -> None:
        """Adapt to the round that is over."""
        self._forgive(last, now)
        if not self.usual:
            # Nobody knew what is late. What was out counts for nothing yet.
            self._deaf_until = now
            if last.timed:
                self._learn_times(last)
                self._deaf_until += self.patience()
                self._grow(now)
            return
        if last.timed:
            self._learn_times(last)
        if not last.answered:
            # Silence is no full buffer: that answers something. Others decide what it is.
            return
        lost = max(0, last.late - last.came_late)
        total = last.answered + lost
        self.loss += (lost / total - self.loss) / 4
        if now < self._deaf_until:
            return
        # Two by chance are nothing in a short round.
        if lost > total * (self._usual_loss + LOSS) + 2:
            self._lose(lost, total, now)
            return
        self._usual_loss += (lost / total - self._usual_loss) / 20
        if not last.timed:
            return
        if last.fastest > JAM_TIMES * self._fastest + JAM_MORE and self.window > START:
            self._cut(QUEUE_CUT, START, now)
        elif last.full and last.fastest <= QUEUE_TIMES * self._fastest + QUEUE_MORE:
            self._grow(now)

    def _lose(self, lost: int, total: int, now: int) -> None:
        """Ask less, unless that did not help the last time."""
        share = lost / total
        if self.window <= LEAST or (now < self._verdict_until and share > self._unhelped):
            # It is not the window: names whose servers are mute, or a bad line.
            self._usual_loss = share
            self.window = max(self.window, self._cut_from)
            self._ceiling_until = self._verdict_until = 0
            return
        # A full buffer would lose so much less after the cut, a bad line as much as now.
        helped = max(0.0, 1 - (1 - share) / LOSS_CUT)
        self._unhelped = (share + helped) / 2
        self._ceiling = max(LEAST, int(self.window * CEILING))
        self._ceiling_until = now + CEILING_HOLDS
        self._cut(LOSS_CUT, LEAST, now)
        self._verdict_until = now + 8 * self.patience()
        self._to_forgive = int(FORGIVEN * lost)
        self._forgive_until = now + 2 * self.patience()

    def _grow(self, now: int) -> None:
        most = max(START, (self.usual - NEAR) * MOST_RATE // 1_000_000_000)
        if now < self._ceiling_until:
            most = min(most, self._ceiling)
        if self.window >= most:
            return
        step = max(LEAST_STEP, min(self.window // 8, MOST_STEP))
        self.window = min(self.window + (self.window if self._opening else step), most, self._most)

    def _cut(self, factor: float, least: int, now: int) -> None:
        self._cut_from = self.window
        self._to_forgive = 0
        self.window = max(int(self.window * factor), min(least, self._most))
        self._opening = False
        self._deaf_until = now + self.patience()

    def _forgive(self, last: Round, now: int) -> None:
        """Undo a cut for questions that were only slow, as when somebody had no CPU for a while."""
        if self._to_forgive and now <= self._forgive_until:
            self._to_forgive = max(0, self._to_forgive - last.came_late)
            if not self._to_forgive:
                self.window = max(self.window, self._cut_from)

    def _learn_times(self, last: Round) -> None:
        mean = last.waited // last.timed
        if not self.usual:
            self.usual, self._spread, self._fastest = mean, mean // 2, last.fastest
            return
        self.usual += (mean - self.usual) // 4
        self._spread += (last.strayed // last.timed - self._spread) // 4
        # Forgotten slowly: the way to a resolver may have become longer.
        self._fastest = min(last.fastest, self._fastest + (self._fastest >> 7) + 1)
