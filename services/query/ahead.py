"""Reads ahead of whoever takes its time."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

T = TypeVar("T")


async def ahead(source: AsyncGenerator[T, None], depth: int) -> AsyncGenerator[T, None]:
    """The items of `source`, of which up to `depth` are made before they are asked for.

    A consumer that stands still stops the making. Closing this generator ends it.
    """
    made: asyncio.Queue[T | None] = asyncio.Queue()
    places = asyncio.Semaphore(depth)

    async def make() -> None:
        while True:
            await places.acquire()
            try:
                made.put_nowait(await anext(source))
            except StopAsyncIteration:
                return

    maker = asyncio.create_task(make())
    maker.add_done_callback(lambda _: made.put_nowait(None))
    try:
        while (item := await made.get()) is not None:
            places.release()
            yield item
        await maker
    finally:
        maker.cancel()
        await asyncio.wait([maker])
        if not maker.cancelled():
            maker.exception()  # seen: who closes early does not want it
        await source.aclose()
