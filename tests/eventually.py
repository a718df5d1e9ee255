"""Waits for something that becomes true by itself: no sleeps of guessed length in tests."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")


async def eventually(assertion: Callable[[], Awaitable[Result]], *, within: float = 10) -> Result:
    """Repeat `assertion` until it raises no AssertionError; its last one comes out when time is up.

    `within` is generous on purpose: it only says when to give up, never how fast something must be.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + within
    while True:
        try:
            return await assertion()
        except AssertionError:
            if loop.time() > give_up:
                raise
        await asyncio.sleep(0.02)
