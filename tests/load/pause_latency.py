"""How soon a campaign of two million names stands still after the call that pauses or cancels it.

Three ends count: the call's answer, the last name that is settled, the last datagram that the name
server sees. All times are from the moment of the call.
"""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.load.busy_suite import (
    DNS,
    GENERATION,
    LOOK_PERIOD,
    PAUSED,
    RUNNING,
    Busy,
    Load,
    busy_suite,
    now,
    scaled,
)
from tests.load.clocked_server import ClockedServer, clocked_server

NAMES = scaled(2_000_000, least=400_000)
# Generation is the faster phase by far: more names, for a middle to stop in.
GENERATED_NAMES = scaled(8_000_000, least=200_000)
PAUSES, CANCELS = scaled(10, least=2), scaled(3, least=1)
WORKERS = 2
# At full speed: so many names more before the next stop.
RUN_UP = scaled(60_000, least=5_000)
# How long to look for what still happens: twice the line.
AFTERWARDS = 4.0
LINE = "s < 2"


@dataclass(frozen=True, slots=True)
class Stop:
    """Seconds from the call to each of its ends; 0 where nothing happened after it."""

    answer: float
    last_name: float
    last_datagram: float
    # Names settled after the answer: none is allowed to be.
    too_late: int
    names_per_second: float


def run() -> list[dict[str, Any]]:
    return asyncio.run(_measure())


async def _measure() -> list[dict[str, Any]]:
    with clocked_server() as server:
        async with busy_suite(WORKERS) as busy:
            generation = await _in_generation(busy, server)
            load = await busy.create(NAMES, server.address)
            await load.generated()
            await load.start()
            idle_call = await _call(load)
            pauses = []
            for _ in range(PAUSES):
                pauses.append(await _stop(load, server, "Pause", DNS))
                await load.do("Resume")
            survived = await _killed_after_the_answer(load, server)
            await load.do("Resume")
            cancels = [await _stop(load, server, "Cancel", DNS)]
            while len(cancels) < CANCELS:
                another = await busy.create(NAMES, server.address)
                await another.generated()
                await another.start()
                cancels.append(await _stop(another, server, "Cancel", DNS))
    results = []
    for what, stops in (
        ("pause", pauses),
        ("cancel", cancels),
        ("pause of generation", generation),
    ):
        results += _results(what, stops, idle_call)
    return [*results, survived]


async def _in_generation(busy: Busy, server: ClockedServer) -> list[Stop]:
    load = await busy.create(GENERATED_NAMES, server.address)
    await load.start()
    stops = []
    for share in (0.1, 0.3, 0.5):
        await load.until_settled(int(share * GENERATED_NAMES), GENERATION)
        stops.append(await _stop(load, server, "Pause", GENERATION))
        await load.do("Resume")
    await load.do("Cancel")
    return stops


async def _stop(load: Load, server: ClockedServer, action: str, phase: int) -> Stop:
    """Stop a phase at full speed and watch what still happens."""
    settled = await load.settled(phase)
    if phase == DNS:
        begun = now()
        await load.until_settled(settled + RUN_UP)
        assert (await load.state(phase)).status == RUNNING, "too few names for so many stops"
        speed = (await load.settled(phase) - settled) / (now() - begun)
    else:
        speed = 0.0
    called = now()
    calling = asyncio.create_task(_answered(load, action))
    seen, last = await load.settled(phase), called
    at_answer: int | None = None
    while now() < called + AFTERWARDS:
        if calling.done() and at_answer is None:
            at_answer = seen = await load.settled(phase)
        settled = await load.settled(phase)
        if settled != seen:
            seen, last = settled, now()
        await asyncio.sleep(LOOK_PERIOD)
    assert at_answer is not None, "no answer"
    datagram = server.read()[1]
    return Stop(
        answer=await calling - called,
        last_name=last - called,
        last_datagram=max(0.0, datagram - called),
        too_late=seen - at_answer,
        names_per_second=speed,
    )


async def _answered(load: Load, action: str) -> float:
    await load.do(action)
    return now()


async def _call(load: Load) -> float:
    """Median seconds of a call that stops nothing, beside the same work."""
    await load.until_settled(RUN_UP)
    took = []
    for _ in range(50):
        begun = time.perf_counter()
        await load.do("Get")
        took.append(time.perf_counter() - begun)
        await asyncio.sleep(LOOK_PERIOD)
    return median(took)


async def _killed_after_the_answer(load: Load, server: ClockedServer) -> dict[str, Any]:
    """kill -9 of the campaign service at once after a pause's answer."""
    await load.until_settled(await load.settled() + RUN_UP)
    await load.do("Pause")
    process = load.busy.suite.processes["campaign"]
    restarts, pid = process.restarts, process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    settled = await load.settled()
    await process.restarted(restarts)
    await asyncio.sleep(AFTERWARDS)
    state = await load.state(DNS)
    assert state.status == PAUSED, state
    questions = server.read()[0]
    await asyncio.sleep(LOOK_PERIOD)
    return {
        "name": "pause_latency, kill -9 after the answer",
        "value": await load.settled() - settled,
        "unit": "names settled after it",
        "yardstick": None,
        "ratio": None,
        "target": "names <= 0",
        "questions_later": server.read()[0] - questions,
    }


def _results(what: str, stops: list[Stop], idle_call: float) -> list[dict[str, Any]]:
    return [
        {
            "name": f"pause_latency, {what}, {end}",
            "value": max(found),
            "unit": "s at worst",
            "yardstick": {"name": "GetCampaign, median", "value": idle_call, "unit": "s"},
            "ratio": max(found) / idle_call,
            "target": LINE,
            "median": median(found),
            "stops": len(stops),
            "names": NAMES,
            "settled_after_the_answer": sum(stop.too_late for stop in stops),
            "names_per_second": median(stop.names_per_second for stop in stops),
        }
        for end, found in (
            ("the answer", [stop.answer for stop in stops]),
            ("the last name", [stop.last_name for stop in stops]),
            ("the last datagram", [stop.last_datagram for stop in stops]),
        )
        # Generation asks nobody anything.
        if any(found) or "generation" not in what
    ]
