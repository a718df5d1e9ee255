"""Reading ahead of a consumer, where what is read next may depend on what was found."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from services.query.ahead import side_by_side


@dataclass(frozen=True, slots=True)
class Item:
    """Number `n` of chain `chain`."""

    chain: int
    n: int
    then: "Callable[[], Coroutine[Any, Any, Item]] | None" = None


class Chains:
    """Chains of so many items each, which end the making of an item when they are told."""

    def __init__(self, *lengths: int) -> None:
        self._lengths = lengths
        self.running: set[tuple[int, int]] = set()
        self.made: list[tuple[int, int]] = []
        self.most = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.ended = False

    async def work(self) -> AsyncGenerator[Coroutine[Any, Any, Item], None]:
        try:
            for chain in range(len(self._lengths)):
                yield self._make(chain, 0)
        finally:
            self.ended = True

    async def _make(self, chain: int, n: int) -> Item:
        self.running.add((chain, n))
        self.most = max(self.most, len(self.running))
        try:
            # The later ones are made sooner.
            for _ in range(10 - chain):
                await asyncio.sleep(0)
            await self.hold.wait()
        finally:
            self.running.discard((chain, n))
        self.made.append((chain, n))
        more = n + 1 < self._lengths[chain]
        return Item(chain, n, partial(self._make, chain, n + 1) if more else None)


async def let_everything_run() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize("depth", [1, 2, 5])
async def test_chains_come_whole_and_in_order(depth: int) -> None:
    chains = Chains(1, 3, 1, 1, 4, 1)
    found = [(item.chain, item.n) async for item in side_by_side(chains.work(), depth)]
    assert found == [(0, 0), *((1, n) for n in range(3)), (2, 0), (3, 0),
                     *((4, n) for n in range(4)), (5, 0)]  # fmt: skip
    assert chains.most == depth


async def test_the_next_chain_is_begun_but_not_gone_on_with_while_the_first_goes_on() -> None:
    chains = Chains(50, 50, 50)
    items = side_by_side(chains.work(), 2)
    for n in range(10):
        item = await anext(items)
        assert (item.chain, item.n) == (0, n)
        await let_everything_run()
        # What goes on from the one that was taken, and the beginning of the next chain.
        assert [each for each in chains.made if each[0] == 0][-1] == (0, n + 1)
        assert [each for each in chains.made if each[0] > 0] == [(1, 0)]
    await items.aclose()
    assert chains.ended


async def test_what_was_taken_is_not_kept_while_its_chain_goes_on() -> None:
    class Heavy:
        def __init__(self, left: int) -> None:
            self.then = partial(make, left - 1) if left else None

    async def make(left: int) -> Heavy:
        return Heavy(left)

    async def work() -> AsyncGenerator[Coroutine[Any, Any, Heavy], None]:
        yield make(3)

    items = side_by_side(work(), 2)
    taken: list[weakref.ref[Heavy]] = []
    async for item in items:
        assert [each() for each in taken] == [None] * len(taken)
        taken.append(weakref.ref(item))
        del item
    assert len(taken) == 4


async def test_closing_ends_all_that_is_running() -> None:
    chains = Chains(2, 2, 2)
    items = side_by_side(chains.work(), 3)
    await anext(items)
    chains.hold.clear()
    await let_everything_run()
    assert chains.running == {(0, 1)}
    await items.aclose()
    assert (chains.running, chains.ended) == (set(), True)


async def test_an_error_comes_after_all_that_was_before_it() -> None:
    chains = Chains(2, 1)

    async def failing() -> Item:
        raise LookupError

    async def work() -> AsyncGenerator[Coroutine[Any, Any, Item], None]:
        async for each in chains.work():
            yield each
        yield failing()

    items = side_by_side(work(), 3)
    for expected in ((0, 0), (0, 1), (1, 0)):
        item = await anext(items)
        assert (item.chain, item.n) == expected
    with pytest.raises(LookupError):
        await anext(items)
