"""Who may ask the database next, where many bulk reads want to.

A turn is held for one statement, never by a client that takes its time. Decided without a clock: by
priority, in each by who came first, and now and then somebody of a lower one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from domainflow.campaign.v1 import campaign_pb2

# Connections of a pool that bulk reads leave to pages.
LEFT_TO_PAGES = 2
# A priority that was passed over so often in a row gets the next turn.
PATIENCE = 16
# The first goes first; unspecified is NORMAL.
_RANKS: dict[int, int] = {
    campaign_pb2.PRIORITY_HIGH: 0,
    campaign_pb2.PRIORITY_UNSPECIFIED: 1,
    campaign_pb2.PRIORITY_NORMAL: 1,
    campaign_pb2.PRIORITY_LOW: 2,
}


class Turns:
    """As many at the same time as a pool of so many connections has for bulk reads."""

    def __init__(self, connections: int) -> None:
        self._free = max(1, connections - LEFT_TO_PAGES)
        # By rank: who waits, and how often the rank was passed over.
        self._waiting: list[deque[asyncio.Future[None]]] = [deque() for _ in range(3)]
        self._passed = [0, 0, 0]

    @asynccontextmanager
    async def turn(self, priority: int) -> AsyncIterator[None]:
        """Wait for a turn and hold it meanwhile. `priority` as in the contract."""
        mine = asyncio.get_running_loop().create_future()
        self._waiting[_RANKS[priority]].append(mine)
        self._grant()
        try:
            await mine
            yield
        finally:
            # Whoever gives up while he waits has cancelled it, and is passed over below; whoever
            # does so in the moment in which it is granted gives it back like all others.
            if not mine.cancelled():
                self._free += 1
                self._grant()

    def _grant(self) -> None:
        while self._free and (rank := self._next()) is not None:
            self._waiting[rank].popleft().set_result(None)
            self._free -= 1
            for other, line in enumerate(self._waiting):
                self._passed[other] = self._passed[other] + 1 if line and other != rank else 0

    def _next(self) -> int | None:
        """The rank whose turn it is."""
        for line in self._waiting:
            while line and line[0].cancelled():
                line.popleft()
        ranks = [rank for rank, line in enumerate(self._waiting) if line]
        late = [rank for rank in ranks if self._passed[rank] >= PATIENCE]
        return next(iter(late or ranks), None)
