"""A pattern's range -> stored names, chunk by chunk, from exactly where the last commit ended."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.campaign.configuration import asked_names
from services.campaign.ingest import Digest, digest
from services.campaign.pattern import Pattern
from services.campaign.rows import RunningPhase
from services.campaign.store import Store

# Names per transaction. 200,000 are stored a tenth faster, 50,000 a tenth slower
# (docs/performance.md); 100,000 take 0.2 s, which is also how late a pause may come.
CHUNK_SIZE = 100_000


@dataclass(frozen=True, slots=True)
class _Block:
    first: int
    names: Sequence[str]
    kept: Digest


async def generate(store: Store, running: RunningPhase) -> bool:
    """Store the names that the campaign has taken of its pattern, from those on that it has stored.

    True when all are stored; False when the phase stopped running or somebody else is generating.
    Raises InvalidFields when the pattern is not accepted any more.
    """
    asked = asked_names(running.configuration)
    assert asked is not None, "its names come from a pattern"
    taken = await store.reservations.taken(running.campaign_id)
    name_count = taken.name_count
    if not await store.names.announce(running, name_count, planned=False):
        return False
    blocks_to_store = _blocks(running, asked.pattern, taken.first_offset, name_count)
    async with aclosing(blocks_to_store) as blocks:
        async for block in blocks:
            if not await store.names.append_names(running, block.first, block.names, block.kept):
                return False
    return await store.names.announce(running, name_count, planned=True)


async def _blocks(
    running: RunningPhase, pattern: Pattern, first_offset: int, name_count: int
) -> AsyncGenerator[_Block, None]:
    """Blocks in order; one is made while the one before it is on its way to the database."""

    def make(first: int) -> "asyncio.Future[_Block]":
        count = min(CHUNK_SIZE, name_count - first)
        return asyncio.ensure_future(
            asyncio.to_thread(_make_block, pattern, first_offset + first, first, count)
        )

    starts = range(running.campaign_name_count, name_count, CHUNK_SIZE)
    following = make(starts[0]) if starts else None
    try:
        for start in starts:
            assert following is not None
            block = await following
            following = make(start + CHUNK_SIZE) if start != starts[-1] else None
            yield block
    finally:
        if following is not None:
            following.cancel()


def _make_block(pattern: Pattern, offset: int, first: int, count: int) -> _Block:
    names = [name for part in pattern.names(offset, count) for name in part]
    return _Block(first, names, digest(names))
