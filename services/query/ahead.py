"""Reads ahead of whoever takes its time."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

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


async def side_by_side(
    source: AsyncGenerator[Coroutine[Any, Any, T], None], depth: int
) -> AsyncGenerator[T, None]:
    """What the coroutines of `source` return, in its order; up to `depth` of them run, or have
    returned, before they are asked for.

    A consumer that stands still stops it all. Closing this generator ends what is running.
    """
    begun: asyncio.Queue[asyncio.Task[T] | None] = asyncio.Queue()
    places = asyncio.Semaphore(depth)
    running: set[asyncio.Task[T]] = set()

    async def begin() -> None:
        while True:
            await places.acquire()
            try:
                work = await anext(source)
            except StopAsyncIteration:
                return
            task = asyncio.create_task(work)
            running.add(task)
            begun.put_nowait(task)

    maker = asyncio.create_task(begin())
    maker.add_done_callback(lambda _: begun.put_nowait(None))
    try:
        while (task := await begun.get()) is not None:
            result = await task
            running.discard(task)
            places.release()
            yield result
            # Not kept while the next one is waited for.
            del result, task
        await maker
    finally:
        for each in (maker, *running):
            each.cancel()
        await asyncio.wait([maker, *running])
        for each in (maker, *running):
            if not each.cancelled():
                each.exception()  # seen: who closes early does not want it
        await source.aclose()
