"""One supervisor a data folder: a lock the kernel takes back when its holder dies."""

import fcntl
import os
from pathlib import Path


class FolderInUse(Exception):
    """Another supervisor runs on this data folder; the text names its pid."""


class FolderLock:
    """Held from construction to `release`, or to the end of this process however it comes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "suite.lock"
        # Not inherited by children: a lock they kept would outlive us.
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            holder = file.read_text().strip() or "unknown"
            raise FolderInUse(f"{folder} is in use by another suite (pid {holder})") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
