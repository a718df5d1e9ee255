"""A process that computes without end, and one that only works long."""

import asyncio
import signal
import sys

import pytest

_PROGRAM = """
import asyncio, time
from services.validation.stall import ended_when_stalled

async def work():
    with ended_when_stalled(0.4):
        {work}

asyncio.run(work())
"""


async def end_of(work: str) -> int:
    """The exit status of a process that does `work`; negative for the signal that ended it."""
    program = _PROGRAM.format(work=work)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    return await process.wait()


async def test_a_process_that_computes_without_end_is_ended() -> None:
    work = "await asyncio.sleep(0)\n        while True: pass"
    assert await end_of(work) == -signal.SIGPROF


@pytest.mark.parametrize(
    "work",
    [
        # Longer than the limit in all, and by the clock, but never at a stretch.
        "for _ in range(8):\n"
        "            began = time.process_time()\n"
        "            while time.process_time() - began < 0.1: pass\n"
        "            await asyncio.sleep(0.11)",
        # As one that was frozen.
        "await asyncio.sleep(0)\n        time.sleep(0.8)",
    ],
)
async def test_a_process_that_works_long_or_waits_is_left_alone(work: str) -> None:
    assert await end_of(work) == 0
