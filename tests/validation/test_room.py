"""Places for pages that are read at once: large ones take several."""

import asyncio

import pytest

from services.validation.page_check import Room


async def test_never_more_places_are_taken_than_there_are_and_all_get_theirs() -> None:
    room = Room(5)
    taken = most = served = 0

    async def read(places: int) -> None:
        nonlocal taken, most, served
        async with room.taken(places):
            taken += min(places, 5)
            most = max(most, taken)
            await asyncio.sleep(0)
            taken -= min(places, 5)
        served += 1

    await asyncio.gather(*(read(places) for places in (1, 4, 5, 9, 2, 3, 5, 1, 1, 4) * 20))

    assert (taken, served) == (0, 200)
    assert most == 5


async def test_who_gives_up_leaves_its_places_to_others() -> None:
    room = Room(3)
    async with room.taken(2):
        # It has one of three, and waits for the rest.
        waiting = asyncio.create_task(room.taken(3).__aenter__())
        behind = asyncio.create_task(room.taken(1).__aenter__())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not behind.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await behind
