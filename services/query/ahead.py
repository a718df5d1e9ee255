"""Reads ahead of whoever takes its time."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol, Self, TypeVar

T = TypeVar("T")


class Step(Protocol):
    """What a coroutine returned, and the one that goes on from there; None: it was the last."""

    @property
    def then(self) -> Callable[[], Coroutine[Any, Any, Self]] | None: ...


S = TypeVar("S", bound=Step)


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
    source: AsyncGenerator[Coroutine[Any, Any, S], None], depth: int
) -> AsyncGenerator[S, None]:
    """What the coroutines of `source` return, in its order, each followed by all that goes on from
    it; up to `depth` coroutines run, or have returned, before they are asked for.

    What goes on from a result begins when the result is taken, in its place: whoever comes later
    cannot keep it waiting. A consumer that stands still stops it all. Closing this generator ends
    what is running.
    """
    begun: asyncio.Queue[asyncio.Task[S] | None] = asyncio.Queue()
    places = asyncio.Semaphore(depth)
    running: set[asyncio.Task[S]] = set()

    def begin(work: Coroutine[Any, Any, S]) -> asyncio.Task[S]:
        task = asyncio.create_task(work)
        running.add(task)
        return task

    async def begin_all() -> None:
        while True:
            await places.acquire()
            try:
                begun.put_nowait(begin(await anext(source)))
            except StopAsyncIteration:
                return

    maker = asyncio.create_task(begin_all())
    maker.add_done_callback(lambda _: begun.put_nowait(None))
    try:
        while (going := await begun.get()) is not None:
            while going is not None:
                result = await going
                running.discard(going)
                going = begin(result.then()) if result.then is not None else None
                if going is None:
                    places.release()
                yield result
                # Not kept while the next one is waited for.
                del result
        await maker
    finally:
        for each in (maker, *running):
            each.cancel()
        await asyncio.wait([maker, *running])
        for each in (maker, *running):
            if not each.cancelled():
                each.exception()  # seen: who closes early does not want it
        await source.aclose()
