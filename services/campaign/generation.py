"""A pattern's range -> stored names, chunk by chunk, from exactly where the last commit ended."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.campaign import ingest
from services.campaign.pattern import Pattern
from services.campaign.store import RunningPhase, Store

# Names per transaction. Commits cost 20% at 50,000 and 4% at 200,000 (docs/performance.md); 100,000
# are stored in 0.1 s, which is also how late a pause may come.
CHUNK_SIZE = 100_000


@dataclass(frozen=True, slots=True)
class _Block:
    first: int
    count: int
    rows: bytes
    sha256: bytes


async def generate(
    store: Store, running: RunningPhase, pattern: Pattern, first_offset: int, name_count: int
) -> bool:
    """Store the pattern's names from first_offset on until the campaign has name_count of them.

    True when all are stored; False when the phase stopped running or somebody else is generating.
    """
    await store.announce(running, name_count, planned=False)
    # One block is made while the one before it is on its way to the database: two are in memory at
    # most.
    blocks: asyncio.Queue[_Block | None] = asyncio.Queue(1)

    async def make_blocks() -> None:
        for first in range(running.campaign_name_count, name_count, CHUNK_SIZE):
            count = min(CHUNK_SIZE, name_count - first)
            block = await asyncio.to_thread(
                _make_block, pattern, first_offset + first, running.campaign_no, first, count
            )
            await blocks.put(block)
        await blocks.put(None)

    async with asyncio.TaskGroup() as group:
        maker = group.create_task(make_blocks())
        while (block := await blocks.get()) is not None:
            if not await store.append_names(
                running, block.first, block.rows, block.count, block.sha256
            ):
                maker.cancel()
                return False
    await store.announce(running, name_count, planned=True)
    return True


def encode_names(campaign_no: int, first: int, names: Sequence[str]) -> tuple[bytes, bytes]:
    """COPY rows and content hash of names at consecutive positions."""
    encoded = "\n".join(names).encode().split(b"\n")
    return ingest.copy_rows(campaign_no, first, encoded), ingest.digest(encoded)


def _make_block(pattern: Pattern, offset: int, campaign_no: int, first: int, count: int) -> _Block:
    names = [name for part in pattern.names(offset, count) for name in part]
    return _Block(first, count, *encode_names(campaign_no, first, names))
