"""`python -m tests.load.clocked_server FILE`: says NXDOMAIN to every question.

Prints its address once it answers, and keeps in FILE how many there were and when the last came.
"""

import mmap
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.load.processes import server

_BUFFER = 4 * 2**20
# Questions so far, and the monotonic clock at the last one: that clock is one for all processes.
_STATE = struct.Struct("=qd")


class ClockedServer:
    """One that runs, seen from another process."""

    def __init__(self, address: str, file: Path) -> None:
        self.address = address
        with file.open("rb") as opened:
            self._state = mmap.mmap(opened.fileno(), _STATE.size, access=mmap.ACCESS_READ)

    def read(self) -> tuple[int, float]:
        """Questions so far, and time.monotonic() at the last one."""
        count, last = _STATE.unpack_from(self._state)
        return count, last


@contextmanager
def clocked_server() -> Iterator[ClockedServer]:
    with TemporaryDirectory(prefix="domainflow-load-") as folder:
        file = Path(folder) / "state"
        file.write_bytes(bytes(_STATE.size))
        with server("tests.load.clocked_server", str(file)) as address:
            yield ClockedServer(address.strip(), file)


def main() -> None:
    with (
        Path(sys.argv[1]).open("r+b") as file,
        mmap.mmap(file.fileno(), _STATE.size) as state,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind(("127.0.0.1", 0))
        sys.stdout.write("{}:{}\n".format(*sock.getsockname()))
        sys.stdout.flush()
        count = 0
        while True:
            question, asker = sock.recvfrom(512)
            count += 1
            _STATE.pack_into(state, 0, count, time.monotonic())
            end = question.find(b"\0", 12) + 5
            # Recursion desired and available, NXDOMAIN; the question and nothing else.
            flags = b"\x81\x83\0\1\0\0\0\0\0\0"
            sock.sendto(question[:2] + flags + question[12:end], asker)


if __name__ == "__main__":
    main()
