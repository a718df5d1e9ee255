"""Ends a process that computes without end: it lives, so nobody would replace it."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

# Seconds of computing without a turn of the event loop. Longer than anything takes that a worker
# does on purpose; its claims are lost after a lease anyway.
LIMIT = 30.0
# How often the time begins anew, s.
PERIOD = 1.0


@contextlib.contextmanager
def ended_when_stalled(limit: float = LIMIT) -> Iterator[None]:
    """Within it, have the kernel end this process (SIGPROF) when its event loop takes no turn for
    `limit` seconds of processor time.

    Processor time: a process that was frozen, or whose machine is busy, has done nothing wrong.
    """
    turning = asyncio.create_task(_begin_anew(limit))
    try:
        yield
    finally:
        turning.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0)


async def _begin_anew(limit: float) -> None:
    while True:
        signal.setitimer(signal.ITIMER_PROF, limit)
        await asyncio.sleep(min(PERIOD, limit / 4))
