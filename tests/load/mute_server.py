"""`python -m tests.load.mute_server`: a resolver that says NXDOMAIN to most names and nothing to
three in a thousand, whose askers wait through all their tries.

Prints its address once it answers. Does far less per question than any real resolver, so that it
is not what a measurement measures.
"""

import socket
import sys
from zlib import crc32

MUTE_PER_MILLE = 3
_BUFFER = 4 * 2**20


def is_mute(name: bytes) -> bool:
    """Whether a name in wire form, lower case, never gets an answer."""
    return crc32(name) % 1000 < MUTE_PER_MILLE


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind(("127.0.0.1", 0))
        sys.stdout.write("{}:{}\n".format(*sock.getsockname()))
        sys.stdout.flush()
        while True:
            question, asker = sock.recvfrom(512)
            end = question.find(b"\0", 12) + 5
            if not is_mute(question[12 : end - 4].lower()):
                # Recursion desired and available, NXDOMAIN; the question and nothing else.
                flags = b"\x81\x83\0\1\0\0\0\0\0\0"
                sock.sendto(question[:2] + flags + question[12:end], asker)


if __name__ == "__main__":
    main()
