"""One attempt at a chunk: its names, their outcomes, the settlement. In a worker or on its own."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from services.chassis import postgres
from services.validation.pacing import Pace
from services.validation.probe import Check, Item, Outcome, Probe, Unable
from services.validation.results import ChunkResults
from services.validation.store import Claim, Store

log = logging.getLogger(__name__)

# A settlement whose database is away is tried again for as long as the claim may still be ours.
SETTLE_RETRY = 0.25
# What the database says about values that it cannot hold.
_UNFIT = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


class NotPrepared(Exception):
    """The attempt failed for a reason that lies in no name; the text says why."""


class CheckFailed(Exception):
    """Checking the names failed, and one of them may be why; the text says how."""


async def stored_items(store: Store, probe: Probe[Item, Any], claim: Claim) -> Sequence[Item]:
    """Return what there is to check of the claim. Raises NotPrepared when it is not all there."""
    items = await probe.items(store, claim)
    if len(items) != claim.name_count:
        raise NotPrepared(f"{len(items)} of {claim.name_count} names are stored")
    return items


async def check_and_settle(
    store: Store, probe: Probe[Item, Any], claim: Claim, items: Sequence[Item], pace: Pace
) -> bool:
    """Check the items and store what comes of it; False when the chunk is not ours any more.

    Raises NotPrepared and CheckFailed.
    """
    async with AsyncExitStack() as stack:
        check = await _prepared(stack, probe, claim)
        outcomes = await _checked(check, items, pace)
        try:
            results = probe.results(claim, outcomes)
        except Exception as error:
            raise CheckFailed(told(error)) from error
        # Before the end of what was prepared: the probe counts what is in memory.
        return await _settle(store, claim, results)


def told(error: BaseException) -> str:
    """An error in one line; of several at once, the first."""
    error = _first(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _prepared(
    stack: AsyncExitStack, probe: Probe[Item, Outcome], claim: Claim
) -> Check[Item, Outcome]:
    """Whatever a probe raises is about this chunk, also what looks like a part that is away."""
    try:
        return await stack.enter_async_context(probe.prepare(claim))
    except Exception as error:
        raise NotPrepared(told(error)) from error


async def _checked(
    check: Check[Item, Outcome], items: Sequence[Item], pace: Pace
) -> Sequence[Outcome]:
    """As above."""
    try:
        return await (_paced(check, items, pace) if pace.rate else check(items))
    except Exception as error:
        if isinstance(_first(error), Unable):
            raise NotPrepared(told(error)) from error
        raise CheckFailed(told(error)) from error


async def _paced(check: Check[Item, Outcome], items: Sequence[Item], pace: Pace) -> list[Outcome]:
    """Hand the items over in slices; a slice with mute names must not delay the next."""

    async def check_slice(some: Sequence[Item]) -> Sequence[Outcome]:
        return await check(some)

    slices = []
    first = 0
    async with asyncio.TaskGroup() as group:
        while first < len(items):
            count = pace.take(len(items) - first, time.monotonic())
            if count:
                slices.append(group.create_task(check_slice(items[first : first + count])))
                first += count
                continue
            pace.waiting += 1
            try:
                await asyncio.sleep(pace.wait(len(items) - first))
            finally:
                pace.waiting -= 1
    return [outcome for checked in slices for outcome in checked.result()]


async def _settle(store: Store, claim: Claim, results: ChunkResults) -> bool:
    """Store, however often the database goes away meanwhile; the fence counts it once."""
    while True:
        try:
            return await store.settle(claim, results)
        except postgres.AWAY as error:
            log.warning("settling waits: %s: %s", type(error).__name__, error)
            await asyncio.sleep(SETTLE_RETRY)
        except _UNFIT as error:
            raise CheckFailed(told(error)) from error
