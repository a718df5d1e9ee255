"""What scripted servers answer, and what they are asked."""

import asyncio
from collections.abc import Callable
from itertools import count
from socket import inet_aton

from services.validation.dns import wire
from services.validation.dns.settings import EngineSettings

QUICK = EngineSettings(timeout=0.15, tries=3)


def names(total: int, suffix: str = "example") -> list[str]:
    return [f"name{number}.{suffix}" for number in range(total)]


def reply(question: bytes, address: str | None = None, rcode: int = 0) -> bytes:
    """An answer with one address or none. Without EDNS, whatever the question had."""
    end = question.index(b"\0", 12) + 5
    flags = bytes((0x81, 0x80 | rcode)) + b"\0\1" + (b"\0\1" if address else b"\0\0") + bytes(4)
    record = wire.A_RECORD + b"\0\0\0\x3c\0\4" + inet_aton(address) if address else b""
    return question[:2] + flags + question[12:end] + record


def truncated(question: bytes) -> bytes:
    answer = reply(question)
    return answer[:2] + bytes((answer[2] | 2,)) + answer[3:]


async def until(fact: Callable[[], object]) -> None:
    """Let the loop turn until `fact` holds; the time limit of the test is the limit."""
    for _ in count():
        if fact():
            return
        await asyncio.sleep(0)
