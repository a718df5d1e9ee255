"""From a pattern to stored names, through crashes and pauses."""

import asyncio
from dataclasses import replace

import pytest

from services.campaign.campaign import Action
from services.campaign.configuration import asked_names
from services.campaign.generation import CHUNK_SIZE, generate
from services.campaign.ingest import digest
from services.campaign.store import Store
from services.chassis.postgres import Pool
from tests.campaigns import GENERATION, act, from_pattern, generating, history, new_campaign
from tests.eventually import eventually


async def names(pool: Pool) -> list[str]:
    rows = await pool.fetch("SELECT position, name FROM domains ORDER BY position")
    assert [row["position"] for row in rows] == list(range(len(rows)))
    return [row["name"] for row in rows]


async def test_a_pattern_is_stored_in_order_from_its_first_offset(store: Store, pool: Pool) -> None:
    configuration = from_pattern(first_offset=3, name_count=4)
    running = await generating(store, new_campaign(configuration))

    assert await generate(store, running)

    assert await names(pool) == ["bax.com", "bbx.com", "bcx.com", "cax.com"]
    state = (await store.get(running.campaign_id)).current
    assert (state.name_count, state.settled_count) == (4, 4)
    assert await store.ledger.complete(
        await store.names.running_phase(running.campaign_id, GENERATION)
    )


async def test_generating_again_adds_nothing(store: Store, pool: Pool) -> None:
    running = await generating(store)
    assert await generate(store, running)

    # With the campaign as it was at the beginning, and as it is now.
    assert not await generate(store, running)
    assert await generate(store, await store.names.running_phase(running.campaign_id, GENERATION))

    assert len(await names(pool)) == 9
    assert (await store.names.running_phase(running.campaign_id, GENERATION)).planned


@pytest.mark.parametrize("action", [None, Action.PAUSE])
async def test_what_was_cut_off_in_the_middle_goes_on_at_the_exact_position(
    store: Store, pool: Pool, action: Action | None
) -> None:
    """By a crash, played by a cancelled task, or by a pause."""
    total = 4 * CHUNK_SIZE + 77
    configuration = from_pattern(
        length=4, characters="abcdefghijklmnopqrstuvwxyz", first_offset=11, name_count=total
    )
    running = await generating(store, new_campaign(configuration))
    task = asyncio.create_task(generate(store, running))

    async def under_way() -> None:
        assert (await store.get(running.campaign_id)).name_count > 0

    await eventually(under_way)
    if action is None:
        task.cancel()
        await asyncio.wait([task])
    else:
        await act(store, running.campaign_id, action)
        assert not await task
        await act(store, running.campaign_id, Action.RESUME)
    stored = (await store.get(running.campaign_id)).name_count
    assert 0 < stored < total
    assert stored % CHUNK_SIZE == 0

    running = await store.names.running_phase(running.campaign_id, GENERATION)
    assert running.campaign_name_count == stored
    assert await generate(store, running)

    asked = asked_names(running.configuration)
    assert asked is not None
    assert await names(pool) == [name for part in asked.pattern.names(11, total) for name in part]
    settled = [
        event.chunk_settled
        for event in await history(store, running.campaign_no)
        if event.HasField("chunk_settled")
    ]
    assert sum(chunk.name_count for chunk in settled) == total


async def test_two_generators_at_once_store_every_name_once(store: Store, pool: Pool) -> None:
    running = await generating(store, new_campaign(from_pattern(length=6)))

    await asyncio.gather(*(generate(store, running) for _ in range(3)))
    await generate(store, await store.names.running_phase(running.campaign_id, GENERATION))

    assert len(set(await names(pool))) == 3**6
    assert (await store.names.running_phase(running.campaign_id, GENERATION)).planned


async def test_a_cancelled_campaign_generates_nothing(store: Store, pool: Pool) -> None:
    running = await generating(store)
    await act(store, running.campaign_id, Action.CANCEL)

    assert not await generate(store, running)

    assert await names(pool) == []


async def test_a_stale_generator_does_not_overwrite(store: Store, pool: Pool) -> None:
    running = await generating(store, new_campaign(from_pattern(length=3)))
    await generate(store, running)
    stale = replace(running, campaign_name_count=9)

    assert not await store.names.append_names(stale, 9, ["evil.com"], digest(["evil.com"]))

    assert "evil.com" not in await names(pool)
