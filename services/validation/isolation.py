"""Attempts in a process of their own, for chunks that may be what ends their workers.

The parent keeps the claim alive and learns at once how the process ended; the child gets the claim
on its standard input, checks and settles. A child that outlived its parent would do no harm, since
its settlement is fenced like any other; it ends with it for the machine's sake.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from services.chassis import postgres
from services.chassis.parent import end_with
from services.validation.attempt import (
    CheckFailed,
    End,
    NotPrepared,
    check_and_settle,
    stored_items,
    told,
)
from services.validation.pacing import Pace
from services.validation.probe import Probe
from services.validation.proxy_store import secret_box
from services.validation.store import ChunkKey, Claim, Store
from services.validation.suppression_store import suppression_salt

log = logging.getLogger(__name__)

# Children at once of one worker: 32 MB each. With two, 23 chunks that a storm of kills had made
# suspects took 44 s of 82 to 102 s: a child waits for mute names as everybody does.
MAX_CHILDREN = 8
# Seconds a child may take beyond what its names can take.
GRACE = 120.0
# How often the parent looks whether a child hangs, and a child for its campaign's rate.
LOOK_PERIOD = 1.0
# Bytes of what a child says that are kept; its last line is the cause.
MAX_SAID = 4096
# How a child ends. Any other status is a failure of the check.
SETTLED, NOT_OURS, PARKED, AWAY, NOT_PREPARED = 0, 3, 4, 75, 78
_STATUSES = {End.SETTLED: SETTLED, End.NOT_OURS: NOT_OURS, End.PARKED: PARKED}
_ENDS = {status: end for end, status in _STATUSES.items()}


class Isolation:
    """Runs attempts by `command`, at most `children` at once."""

    def __init__(
        self, command: Sequence[str], *, grace: float = GRACE, children: int = MAX_CHILDREN
    ) -> None:
        self._command = command
        self._grace = grace
        self._room = asyncio.Semaphore(children)

    @property
    def is_full(self) -> bool:
        """Whether the next attempt would have to wait for another one's end."""
        return self._room.locked()

    async def attempt(self, claim: Claim, time_limit: Callable[[], float]) -> End:
        """How the child's attempt ended.

        `time_limit` in seconds is asked every second, for the campaign's rate may change; its
        largest answer counts. Raises NotPrepared, CheckFailed, and ConnectionError when a part
        that the child needs was away.
        """
        async with self._room:
            status, said, hung = await self._run(claim, time_limit)
        last = said.splitlines()[-1] if said else ""
        if (end := _ENDS.get(status)) is not None:
            return end
        if status == AWAY:
            raise ConnectionError(last)
        if status == NOT_PREPARED:
            raise NotPrepared(last)
        if said:
            log.warning("a process that made an attempt said:\n%s", said)
        if hung:
            raise CheckFailed("the process that checked it did not end in its time")
        if status < 0:
            ended_by = signal.Signals(-status).name
            raise CheckFailed(f"the process that checked it was ended by {ended_by}")
        raise CheckFailed(last or f"the process that checked it ended with status {status}")

    async def _run(self, claim: Claim, time_limit: Callable[[], float]) -> tuple[int, str, bool]:
        """The child's exit status, the end of what it said, and whether it had to be killed."""
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                # Ctrl-C in the terminal reaches the parent alone, which ends it in order.
                start_new_session=True,
            )
        except OSError as error:
            raise NotPrepared(f"no process of its own: {told(error)}") from error
        assert child.stdin is not None
        assert child.stderr is not None
        said = bytearray()
        listening = asyncio.create_task(_listen(child.stderr, said))
        try:
            # How it ended tells more than that it did not listen.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                child.stdin.write(_to_json(claim))
                await child.stdin.drain()
                child.stdin.close()
            hung = await self._wait(child, time_limit)
            # Its own children may still have the pipe.
            await asyncio.wait([listening], timeout=LOOK_PERIOD)
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
            listening.cancel()
        assert child.returncode is not None
        return child.returncode, said.decode(errors="replace").strip(), hung

    async def _wait(
        self, child: asyncio.subprocess.Process, time_limit: Callable[[], float]
    ) -> bool:
        """Wait for the child's end; True when it took too long and was killed."""
        begun, limit = time.monotonic(), 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_PERIOD):
                    await child.wait()
                return False
            limit = max(limit, time_limit() + self._grace)
            if time.monotonic() - begun > limit:
                child.kill()
                await child.wait()
                return True


async def _listen(stream: asyncio.StreamReader, said: bytearray) -> None:
    while block := await stream.read(MAX_SAID):
        said += block
        del said[:-MAX_SAID]


# The child's side


async def attempt_alone(
    database_url: str, open_probe: Callable[[Store], AbstractAsyncContextManager[Probe[Any, Any]]]
) -> int:
    """Make the attempt at the claim on standard input; returns the status to exit with."""
    line = await asyncio.to_thread(sys.stdin.buffer.readline)
    if not line.endswith(b"\n"):
        _say("there is no claim on standard input")
        return AWAY
    parent, claim = _from_json(line)
    end_with(parent)
    try:
        # The parent's hold tells it when waiting makes no sense any more.
        async with (
            await postgres.open_pool(
                database_url, application_name="domainflow-attempt", max_size=2
            ) as pool,
            open_probe(store := Store(pool, suppression_salt(), secret_box())) as probe,
        ):
            items = await stored_items(store, probe, claim)
            pace = Pace(claim.name_rate_limit, time.monotonic())
            following = asyncio.create_task(_follow_rate(store, claim, pace))
            try:
                end = await check_and_settle(store, probe, claim, items, pace)
            finally:
                following.cancel()
    except postgres.AWAY as error:
        _say(told(error))
        return AWAY
    except NotPrepared as error:
        _say(str(error))
        return NOT_PREPARED
    except CheckFailed as error:
        _say(str(error))
        return 1
    return _STATUSES[end]


async def _follow_rate(store: Store, claim: Claim, pace: Pace) -> None:
    while True:
        with contextlib.suppress(*postgres.AWAY):
            pace.rate = await store.name_rate_limit(claim.key.campaign_no)
        await asyncio.sleep(LOOK_PERIOD)


def _say(cause: str) -> None:
    sys.stderr.write(f"{cause}\n")


# The claim on its way


def _to_json(claim: Claim) -> bytes:
    key = claim.key
    told_of = {
        "key": [key.campaign_no, key.phase, key.run, key.first_position],
        "attempt": claim.attempt,
        "name_count": claim.name_count,
        "configuration": base64.b64encode(claim.configuration).decode(),
        "failure_count": claim.failure_count,
        "lost_count": claim.lost_count,
        "name_rate_limit": claim.name_rate_limit,
        "last_position": claim.last_position,
        "source_run": claim.source_run,
        "park_count": claim.park_count,
    }
    return json.dumps({"parent": os.getpid(), "claim": told_of}).encode() + b"\n"


def _from_json(line: bytes) -> tuple[int, Claim]:
    """The parent's process id and the claim."""
    order = json.loads(line)
    told_of = order["claim"]
    told_of["key"] = ChunkKey(*told_of["key"])
    told_of["configuration"] = base64.b64decode(told_of["configuration"])
    return order["parent"], Claim(**told_of)
