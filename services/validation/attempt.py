"""One attempt at a chunk: its names, their outcomes, the settlement. In a worker or on its own.

A chunk some of whose names are to be checked again, and not soon, is set aside: what is known is
stored, and whoever takes it up again goes on from there.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from enum import Enum, auto
from typing import Any

import asyncpg

from services.chassis import postgres
from services.validation.pacing import Pace
from services.validation.probe import Check, Item, Later, Outcome, Parking, Probe, Unable
from services.validation.store import Claim, Store

log = logging.getLogger(__name__)

# A settlement whose database is away is tried again for as long as the claim may still be ours.
SETTLE_RETRY = 0.25
# What the database says about values that it cannot hold.
_UNFIT = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


class End(Enum):
    """How an attempt ended that did not fail."""

    # Its results were stored by us.
    SETTLED = auto()
    # What is known was stored by us, and the chunk comes back when the time has come.
    PARKED = auto()
    # The chunk is not ours any more.
    NOT_OURS = auto()


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
    store: Store, probe: Probe[Item, Outcome], claim: Claim, items: Sequence[Item], pace: Pace
) -> End:
    """Check the items and store what comes of it. Raises NotPrepared and CheckFailed."""
    parking = probe.parking
    async with AsyncExitStack() as stack:
        check = await _prepared(stack, probe, claim)
        found = await _checked(check, items, pace, parking if claim.parked else None)
        outcomes = [it for it in found if not isinstance(it, Later)]
        # Before the end of what was prepared: the probe counts what is in memory.
        if len(outcomes) < len(found):
            waits = [it.due for it in found if isinstance(it, Later)]
            return await _park(store, parking, claim, items, found, waits)
        try:
            results = probe.results(claim, outcomes)
        except Exception as error:
            raise CheckFailed(told(error)) from error
        settled = await _stored(lambda: store.settle(claim, results))
        return End.SETTLED if settled else End.NOT_OURS


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
    check: Check[Item, Outcome],
    items: Sequence[Item],
    pace: Pace,
    parking: Parking[Item, Outcome] | None,
) -> Sequence[Outcome | Later]:
    """As above. `parking`: of a chunk that is taken up again."""
    try:
        if parking is not None:
            return await _resumed(check, items, pace, parking)
        return await _asked(check, items, pace)
    except Exception as error:
        if isinstance(_first(error), Unable):
            raise NotPrepared(told(error)) from error
        raise CheckFailed(told(error)) from error


async def _resumed(
    check: Check[Item, Outcome],
    items: Sequence[Item],
    pace: Pace,
    parking: Parking[Item, Outcome],
) -> Sequence[Outcome | Later]:
    """Nobody is asked about what is finished, so that it takes nothing of the campaign's rate."""
    finished = [parking.is_finished(item) for item in items]
    known = iter(await check([it for it, done in zip(items, finished, strict=True) if done]))
    others = [it for it, done in zip(items, finished, strict=True) if not done]
    found = iter(await _asked(check, others, pace))
    return [next(known if done else found) for done in finished]


async def _asked(
    check: Check[Item, Outcome], items: Sequence[Item], pace: Pace
) -> Sequence[Outcome | Later]:
    return await (_paced(check, items, pace) if pace.rate else check(items))


async def _paced(
    check: Check[Item, Outcome], items: Sequence[Item], pace: Pace
) -> list[Outcome | Later]:
    """Hand the items over in slices; a slice with mute names must not delay the next."""

    async def check_slice(some: Sequence[Item]) -> Sequence[Outcome | Later]:
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


async def _park(
    store: Store,
    parking: Parking[Item, Outcome] | None,
    claim: Claim,
    items: Sequence[Item],
    found: Sequence[Outcome | Later],
    waits: Sequence[float],
) -> End:
    """Set the chunk aside until the last of the names that wait is due: then all of them are."""
    try:
        assert parking is not None, "it has no way to set chunks aside"
        progress = parking.progress(items, found)
    except Exception as error:
        raise CheckFailed(told(error)) from error
    due = max(waits)

    async def park() -> bool:
        delay = max(0.0, due - time.monotonic())
        return await store.park(claim, progress, len(waits), delay)

    return End.PARKED if await _stored(park) else End.NOT_OURS


async def _stored(store: Callable[[], Awaitable[bool]]) -> bool:
    """Store, however often the database goes away meanwhile; the fence counts it once."""
    while True:
        try:
            return await store()
        except postgres.AWAY as error:
            log.warning("settling waits: %s: %s", type(error).__name__, error)
            await asyncio.sleep(SETTLE_RETRY)
        except _UNFIT as error:
            raise CheckFailed(told(error)) from error
