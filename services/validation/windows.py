"""Who may be in flight: so many names of each plan, so many bytes of pages of all together, and no
more names than this process has the time for.

A process that is late answers late: its own waits would be taken for those of the sites. Names that
wait for their turn at a busy host step aside: all of a plan's would be of that host in the end.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

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


# Who waits, in the order they came: when that was, by a count of all, and the turn to wait for.
_Line: TypeAlias = deque[tuple[int, "asyncio.Future[None]"]]


@dataclass(eq=False, slots=True)
class _Share:
    """What one plan has of the places."""

    window: int
    # Bytes of memory that a page takes.
    size: int
    # Its names that have a place, those that stepped aside, and all of them with those that wait.
    count: int = 0
    aside: int = 0
    names: int = 0
    # Those that come back are first: whoever has his turn at a host keeps others from it as long as
    # he waits here.
    returning: _Line = field(default_factory=deque)
    waiting: _Line = field(default_factory=deque)


class Windows:
    """Places by plan, given first come, first served within a plan; one event loop only."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._taken = 0
        # Whether somebody waits for memory alone: then nobody new gets what comes back of it, or
        # small pages would keep a large one waiting for ever.
        self._is_short = False
        self._shares: dict[HttpPlan, _Share] = {}
        self._tickets = count()
        self._allowance = Allowance()
        self._in_flight = 0
        self._looking: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def enter(self, plan: HttpPlan) -> "Place":
        """Wait for a place; whoever gets one leaves it."""
        share = self._shares.get(plan)
        if share is None:
            share = _Share(plan.window, _COPIES * plan.settings.body_limit)
            self._shares[plan] = share
        place = Place(self, plan, share)
        share.names += 1
        try:
            if share.waiting or self._is_short or not self._admit(share):
                await self._wait(share, share.waiting)
        except BaseException:
            self._forget(plan, share)
            raise
        return place

    async def _return(self, share: _Share) -> None:
        if not self._admit(share, returns=True):
            await self._wait(share, share.returning)
        share.aside -= 1
        # As many may step aside.
        self._let_in()

    def _leave(self, share: _Share) -> None:
        self._taken -= share.size
        self._in_flight -= 1
        share.count -= 1
        self._let_in()

    def _forget(self, plan: HttpPlan, share: _Share) -> None:
        share.names -= 1
        if not share.names:
            del self._shares[plan]

    async def _wait(self, share: _Share, line: _Line) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = next(self._tickets), turn
        line.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(share)
            elif entry in line:
                line.remove(entry)
            raise

    def _let_in(self) -> None:
        self._is_short = False
        shares = self._shares.values()
        self._let_in_from({it: it.returning for it in shares if it.returning}, returns=True)
        if not self._is_short:
            self._let_in_from({it: it.waiting for it in shares if it.waiting}, returns=False)

    def _let_in_from(self, lines: dict[_Share, _Line], *, returns: bool) -> None:
        while lines:
            # Who came first; but of different plans none waits for another's place, only for the
            # memory of all.
            share = min(lines, key=lambda it: lines[it][0][0])
            line = lines[share]
            turn = line[0][1]
            if turn.done():
                line.popleft()
            elif self._admit(share, returns=returns):
                line.popleft()
                turn.set_result(None)
            elif self._is_short:
                return
            else:
                del lines[share]
                continue
            if not line:
                del lines[share]

    def _admit(self, share: _Share, *, returns: bool = False) -> bool:
        if share.count >= share.window or self._in_flight >= self._allowance.count:
            return False
        if share.aside >= ASIDE * share.window and not returns:
            return False
        # One page at least, however large.
        if self._taken and self._taken + share.size > self._memory:
            self._is_short = True
            return False
        share.count += 1
        self._taken += share.size
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


class Place:
    """A name's place; made by `Windows.enter`."""

    __slots__ = ("_is_aside", "_plan", "_share", "_windows")

    def __init__(self, windows: Windows, plan: HttpPlan, share: _Share) -> None:
        self._windows = windows
        self._plan = plan
        self._share = share
        self._is_aside = False

    def step_aside(self) -> None:
        """Let others in while this name waits for somebody else, and holds nothing: names that wait
        for one busy host would keep all others waiting. `come_back` is next; nothing is done for
        whoever is aside already."""
        if not self._is_aside:
            self._is_aside = True
            self._share.aside += 1
            self._windows._leave(self._share)

    async def come_back(self) -> None:
        """Wait for a place again, before those who never had one; at once for whoever has his."""
        if self._is_aside:
            await self._windows._return(self._share)
            self._is_aside = False

    def leave(self) -> None:
        """Give it back for good, also from aside; the next ones come."""
        self._windows._forget(self._plan, self._share)
        if self._is_aside:
            self._share.aside -= 1
            self._windows._let_in()
        else:
            self._windows._leave(self._share)
