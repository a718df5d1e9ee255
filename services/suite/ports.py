"""Ports of one data folder: chosen once, kept in a file, so that a second start uses the same."""

import asyncio
import contextlib
import errno
import json
import os
import random
import socket
from pathlib import Path

# Below the kernel's ephemeral range (32768 on Linux), where a client socket could take the port
# between our look and the server's bind.
_LOWEST, _HIGHEST = 15_000, 29_999


class PortTaken(Exception):
    """A port that was asked for by number is in use; the text names the holder where known."""


class Ports:
    """Hands out loopback ports by the name of their user.

    `patience`: seconds to wait for last time's port, which a predecessor killed just now may
    still hold while it leaves.
    """

    def __init__(self, file: Path, *, patience: float = 2.0) -> None:
        self._file = file
        self._patience = patience
        self._ports: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            stored = json.loads(file.read_text())
            self._ports = {str(name): int(port) for name, port in stored.items()}

    async def claim(
        self, name: str, *, fixed: int | None = None, preferred: int | None = None
    ) -> int:
        """The port of `name`: `fixed` or PortTaken; else last time's, `preferred` or the next
        free one above it, or any free one."""
        if name in self._ports and fixed in (None, self._ports[name]):
            await self._wait_for(self._ports[name])
        if fixed is not None:
            if not is_free(fixed):
                raise PortTaken(f"port {fixed} ({name}) is taken{_by(fixed)}")
            return self._remember(name, fixed)
        others = {port for user, port in self._ports.items() if user != name}
        candidates = [self._ports[name]] if name in self._ports else []
        if preferred is not None:
            candidates += range(preferred, min(preferred + 100, 65_536))
        candidates += random.sample(range(_LOWEST, _HIGHEST + 1), 200)
        for port in candidates:
            if port not in others and is_free(port):
                return self._remember(name, port)
        raise PortTaken(f"no free port found for {name}")

    async def _wait_for(self, port: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while True:
                    if is_free(port):
                        return
                    await asyncio.sleep(0.05)

    def _remember(self, name: str, port: int) -> int:
        self._ports[name] = port
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_name(self._file.name + ".new")
        fresh.write_text(json.dumps(self._ports, indent=2, sort_keys=True) + "\n")
        fresh.replace(self._file)
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _by(port: int) -> str:
    holder = holder_of(port)
    return f" by {holder}" if holder else ""


def holder_of(port: int) -> str | None:
    """`name (pid 42)` of the process listening on `port`, where /proc tells."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) in inodes:
                        return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                columns = line.split()
                listens = columns[3] == "0A"
                if listens and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{columns[9]}]")
    return inodes
