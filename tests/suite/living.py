"""What /proc and pidfds tell of processes, also of those that are not our children."""

import asyncio
import os
from pathlib import Path


async def gone(pid: int, within: float = 10) -> None:
    """Return when the process has ended; TimeoutError when it lives on."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(within):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def program(pid: int | None) -> str:
    """Name of the program a process runs now."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def owner(pid: int | None) -> tuple[int, int]:
    """User and group a process runs as."""
    status = Path(f"/proc/{pid}").stat()
    return status.st_uid, status.st_gid
