"""Who may be in flight: so many names of each plan, so many bytes of pages of all together, and no
more names than this process has the time for.

A process that is late answers late: its own waits would be taken for those of the sites.
"""

import asyncio
from collections import deque

from services.validation.http_plans import HttpPlan

# Bytes that the pages in flight may take together.
MEMORY = 512 * 1024 * 1024
# Of its limit, what a page takes while it comes and is put together.
_COPIES = 2
# Seconds between two looks at how late the loop is, and how late it may be: a page takes some
# fifteen turns of the loop, and the shortest usual clock is 5 s.
PERIOD = 0.1
LATE = 0.1
# Names in flight that are always allowed, and at first: what a slow machine bears.
LEAST, FIRST = 16, 64
# Names of a plan that may be aside, in windows of it: each is a request that is not sent yet, of
# some kilobytes.
ASIDE = 4


class Allowance:
    """Names that may be in flight, by how late the loop is: fewer by a quarter at every look when
    it is late, more when all that are allowed are there. Until the loop is late for the first time
    nothing is known of what it can bear: then more are twice as many, and a tenth from then on."""

    def __init__(self) -> None:
        self.count = FIRST
        self._was_late = False

    def look(self, late: float, in_flight: int) -> None:
        """`late`: seconds."""
        if late > LATE:
            self._was_late = True
            self.count = max(LEAST, min(self.count, in_flight) * 3 // 4)
        elif in_flight >= self.count:
            self.count += max(1, self.count // 10) if self._was_late else self.count


class Windows:
    """Places by plan, given first come, first served within a plan; one event loop only."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._taken = 0
        self._counts: dict[HttpPlan, int] = {}
        # Everybody who waits, in the order they came.
        self._waiters: deque[tuple[HttpPlan, asyncio.Future[None]]] = deque()
        self._allowance = Allowance()
        self._in_flight = 0
        self._looking: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def enter(self, plan: HttpPlan) -> None:
        """Wait for a place; whoever returns from here calls `leave`."""
        if not any(it is plan or it == plan for it, _ in self._waiters) and self._admit(plan):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = plan, turn
        self._waiters.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(plan)
            elif entry in self._waiters:
                self._waiters.remove(entry)
            raise

    def leave(self, plan: HttpPlan) -> None:
        """Give a place back; the next ones come."""
        self._taken -= _size(plan)
        self._in_flight -= 1
        self._counts[plan] -= 1
        if not self._counts[plan]:
            del self._counts[plan]
        self._let_in()

    def _let_in(self) -> None:
        waiting, self._waiters = self._waiters, deque()
        # Each plan's own order is kept; of different plans none waits for another's place.
        full: set[HttpPlan] = set()
        for entry in waiting:
            plan, turn = entry
            if turn.done():
                continue
            if plan in full or not self._admit(plan):
                full.add(plan)
                self._waiters.append(entry)
            else:
                turn.set_result(None)

    def _admit(self, plan: HttpPlan) -> bool:
        count, size = self._counts.get(plan, 0), _size(plan)
        # One page at least, however large.
        if count >= plan.window or (self._taken and self._taken + size > self._memory):
            return False
        if self._in_flight >= self._allowance.count:
            return False
        self._counts[plan] = count + 1
        self._taken += size
        self._in_flight += 1
        if self._looking is None:
            self._look_later()
        return True

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD
        self._looking = loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        self._looking = None
        self._allowance.look(asyncio.get_running_loop().time() - due, self._in_flight)
        self._let_in()
        if self._in_flight:
            self._look_later()


def _size(plan: HttpPlan) -> int:
    return _COPIES * plan.settings.body_limit
