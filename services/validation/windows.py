"""Who may be in flight: so many names of each plan, and so many bytes of pages of all together."""

import asyncio
from collections import deque

from services.validation.http_plans import HttpPlan

# Bytes that the pages in flight may take together.
MEMORY = 512 * 1024 * 1024
# Of its limit, what a page takes while it comes and is put together.
_COPIES = 2


class Windows:
    """Places by plan, given first come, first served within a plan; one event loop only."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._taken = 0
        self._counts: dict[HttpPlan, int] = {}
        # Everybody who waits, in the order they came.
        self._waiters: deque[tuple[HttpPlan, asyncio.Future[None]]] = deque()

    @property
    def in_flight(self) -> int:
        return sum(self._counts.values())

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
        self._counts[plan] -= 1
        if not self._counts[plan]:
            del self._counts[plan]
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
        self._counts[plan] = count + 1
        self._taken += size
        return True


def _size(plan: HttpPlan) -> int:
    return _COPIES * plan.settings.body_limit
