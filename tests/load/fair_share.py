"""What a campaign of five million names leaves to others.

A campaign of a thousand names alone and beside the large one; three large ones of different
priorities; a priority that is changed.
"""

import asyncio
from statistics import median
from typing import Any

from domainflow.campaign.v1 import campaign_pb2
from tests.load.busy_suite import DNS, GENERATION, RUNNING, Busy, Load, busy_suite, now, scaled
from tests.load.clocked_server import ClockedServer, clocked_server

LARGE, SECOND = scaled(5_000_000, least=1_500_000), scaled(1_500_000, least=1_000_000)
SMALL = 1_000
ROUNDS = 5
WORKERS = 2
# Seconds in which the three share, and in which a changed priority is looked for.
SHARED = max(3.0, min(20.0, scaled(20) * 1.0))
SAMPLED, SAMPLE = 6.0, 0.1
# Shares are taken over so many seconds: a chunk is some tenths of a second's work.
SPAN = 1.0
HIGH, NORMAL, LOW = (
    campaign_pb2.PRIORITY_HIGH,
    campaign_pb2.PRIORITY_NORMAL,
    campaign_pb2.PRIORITY_LOW,
)
WEIGHTS = {HIGH: 4, NORMAL: 2, LOW: 1}
# Of the share it should reach, what counts as reached.
REACHED = 0.9


def run() -> list[dict[str, Any]]:
    return asyncio.run(_measure())


async def _measure() -> list[dict[str, Any]]:
    with clocked_server() as server:
        async with busy_suite(WORKERS) as busy:
            await _small(busy, server)
            alone = [await _small(busy, server) for _ in range(ROUNDS)]
            large = await _ready(busy, server, LARGE, HIGH)
            others = [await _ready(busy, server, SECOND, each) for each in (NORMAL, LOW)]

            await large.start()
            await large.until_settled(SMALL)
            begun, settled = now(), await large.settled()
            beside = [await _small(busy, server) for _ in range(ROUNDS)]
            assert (await large.state(DNS)).status == RUNNING, "the large one is over"
            speed = (await large.settled() - settled) / (now() - begun)

            await asyncio.gather(*(each.start() for each in others))
            loads = [large, *others]
            shares = await _shares(loads)
            change = await _change(loads)
    return [_beside(alone, beside, speed), _by_weight(shares), change]


async def _ready(busy: Busy, server: ClockedServer, names: int, priority: int) -> Load:
    """A campaign whose names are there and wait to be checked."""
    load = await busy.create(names, server.address, priority=priority)
    await load.generated()
    return load


async def _small(busy: Busy, server: ClockedServer) -> float:
    """Seconds of a small campaign from the first phase's start to the last one's end."""
    load = await busy.create(SMALL, server.address, sequence=True)
    await load.start()
    # Looks seldom: whoever looks takes time from the others.
    last = await load.completed(DNS)
    first = await load.state(GENERATION)
    assert await load.is_balanced()
    return (last.end_time.ToNanoseconds() - first.start_time.ToNanoseconds()) / 1e9


async def _shares(loads: list[Load]) -> list[float]:
    """The part of each of the names settled in a while."""
    await asyncio.sleep(SPAN)
    before = [await load.settled() for load in loads]
    await asyncio.sleep(SHARED)
    after = [await load.settled() for load in loads]
    for load in loads:
        assert (await load.state(DNS)).status == RUNNING, "too few names to share"
    settled = [b - a for a, b in zip(before, after, strict=True)]
    return [each / sum(settled) for each in settled]


async def _change(loads: list[Load]) -> dict[str, Any]:
    """Raise the lowest to HIGH, and see when it gets as much as the one that always was."""
    *_, lowest = loads
    right = 4 / (4 + 2 + 4)
    samples = [(now(), [await load.settled() for load in loads])]
    changed = now()
    await lowest.do("Update", priority=HIGH)
    while now() < changed + SAMPLED:
        await asyncio.sleep(SAMPLE)
        samples.append((now(), [await load.settled() for load in loads]))
    assert (await lowest.state(DNS)).status == RUNNING, "too few names to share"
    shares = list(_spans(samples, changed))
    reached = [at for at, share in shares if share >= REACHED * right]
    return {
        "name": "fair_share, a changed priority is felt",
        "value": min(reached, default=SAMPLED),
        "unit": "s",
        "yardstick": {"name": "seconds that a share is taken over", "value": SPAN, "unit": "s"},
        "ratio": None,
        "target": "s <= 1",
        "shares": [(round(at, 1), round(share, 3)) for at, share in shares],
        "right": right,
    }


def _spans(samples: list[tuple[float, list[int]]], changed: float) -> "list[tuple[float, float]]":
    """The last campaign's share over SPAN seconds, by when that span begins after the change."""
    found = []
    for at, settled in samples:
        later = next((each for each in samples if each[0] >= at + SPAN), None)
        if later is None:
            break
        grown = [b - a for a, b in zip(settled, later[1], strict=True)]
        if sum(grown):
            found.append((max(0.0, at - changed), grown[-1] / sum(grown)))
    return found


def _beside(alone: list[float], beside: list[float], speed: float) -> dict[str, Any]:
    return {
        "name": f"fair_share, {SMALL:,} names beside {LARGE:,}",
        "value": median(beside),
        "unit": "s, median",
        "yardstick": {"name": "alone", "value": median(alone), "unit": "s, median"},
        "ratio": median(beside) / median(alone),
        "target": "ratio <= 3",
        "beside": beside,
        "alone": alone,
        "names_per_second_of_the_large_one": speed,
    }


def _by_weight(shares: list[float]) -> dict[str, Any]:
    weights = [WEIGHTS[each] for each in (HIGH, NORMAL, LOW)]
    right = [weight / sum(weights) for weight in weights]
    off = max(abs(share / best - 1) for share, best in zip(shares, right, strict=True))
    return {
        "name": "fair_share, HIGH : NORMAL : LOW",
        "value": off * 100,
        "unit": "% off 4 : 2 : 1 at worst",
        "yardstick": None,
        "ratio": None,
        "target": "% <= 15",
        "shares": shares,
        "seconds": SHARED,
        "in_sevenths": [share * 7 for share in shares],
    }
