"""What this machine and this process use: cores and memory, read from /proc."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

# Where the system does not say how much memory there is (no /proc), memory decides nothing.
UNKNOWN_MEMORY = 1 << 50

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `free` is what could be taken without swapping."""

    total: int
    free: int


def cores() -> int:
    """Cores this process may use; at least 1. A quota of its control group counts."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        allowed = os.cpu_count() or 1
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        allowed = min(allowed, max(1, int(quota) // int(period)))
    return max(1, allowed)


def memory() -> Memory:
    """The machine's memory, or the control group's where that leaves less."""
    entries = dict(
        line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line
    )
    total = free = UNKNOWN_MEMORY
    if "MemTotal" in entries and "MemAvailable" in entries:
        total, free = (int(entries[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit, used = (
        _read(Path(f"/sys/fs/cgroup/memory.{name}")).strip() for name in ("max", "current")
    )
    if limit.isdigit() and used.isdigit():
        total = min(total, int(limit))
        free = min(free, max(0, int(limit) - int(used)))
    return Memory(total, free)


def process_memory() -> int:
    """Resident bytes of this process."""
    fields = _read(Path("/proc/self/statm")).split()
    if len(fields) > 1:
        return int(fields[1]) * _PAGE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def process_seconds() -> float:
    """CPU time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class BusyCores:
    """Cores that all processes of the machine together keep busy, between two looks."""

    def __init__(self) -> None:
        self._busy, self._at = _busy_seconds(), time.monotonic()

    def look(self) -> float:
        """Since the last look; 0 where the system does not say."""
        busy, now = _busy_seconds(), time.monotonic()
        spent, elapsed = busy - self._busy, now - self._at
        self._busy, self._at = busy, now
        return max(0.0, spent / elapsed) if elapsed > 0 else 0.0


def _busy_seconds() -> float:
    """CPU seconds of all cores since the start of the system that were neither idle nor waiting."""
    fields = _read(Path("/proc/stat")).partition("\n")[0].split()
    if len(fields) < 9:
        return 0.0
    # cpu user nice system idle iowait irq softirq steal
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
