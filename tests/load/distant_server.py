"""`python -m tests.load.distant_server`: a resolver as from another continent.

Answers every question after DELAY, but for a LOSS of them, chosen by chance. Prints its address
once it answers. Does far less per question than a real one, so that it is not what is measured.
"""

import random
import select
import socket
import sys
import time
from collections import deque
from zlib import crc32

DELAY = 0.1
LOSS = 0.01
_BUFFER = 8 * 2**20
_BATCH = 64


def address_of(name: bytes) -> str | None:
    """The address of a name in wire form, lower case; None for the three in five without one."""
    number = crc32(name)
    return (
        f"127.{number >> 16 & 127}.{number >> 8 & 255}.{number & 255}" if number % 5 < 2 else None
    )


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        sys.stdout.write("{}:{}\n".format(*sock.getsockname()))
        sys.stdout.flush()
        _serve(sock)


def _serve(sock: socket.socket) -> None:
    ready = select.poll()
    ready.register(sock, select.POLLIN)
    waiting: deque[tuple[float, bytes, tuple[str, int]]] = deque()
    while True:
        if waiting:
            # Waits are rounded up to a millisecond.
            ready.poll(max(0, (waiting[0][0] - time.monotonic()) * 1000))
        else:
            ready.poll()
        due = time.monotonic() + DELAY
        for _ in range(_BATCH):
            try:
                question, asker = sock.recvfrom(512)
            except BlockingIOError:
                break
            if random.random() >= LOSS:
                waiting.append((due, question, asker))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, question, asker = waiting.popleft()
            try:
                sock.sendto(_answer(question), asker)
            except OSError:
                # Its socket has been closed.
                continue


def _answer(question: bytes) -> bytes:
    end = question.find(b"\0", 12) + 5
    number = crc32(question[12 : end - 4].lower())
    if number % 5 >= 2:
        # Recursion desired and available, NXDOMAIN; the question and nothing else.
        return question[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question[12:end]
    data = bytes((127, number >> 16 & 127, number >> 8 & 255, number & 255))
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + data
    return question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:end] + record


if __name__ == "__main__":
    main()
