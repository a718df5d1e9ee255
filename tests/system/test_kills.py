"""Every part dies in the middle of a campaign; the campaign ends with every verdict right.

Each kill proves from the tables that it hits between 5% and 90% of the names.
"""

import random
import shutil
from collections.abc import Callable
from functools import partial

import pytest

from domainflow.campaign.v1 import campaign_pb2
from services.chassis.postgres import open_pool
from tests.suite.living import gone
from tests.system.campaigns import UNHURRIED, Trial, World, check_every_verdict

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = 40_000


def more_than(share: float) -> Callable[[Trial], bool]:
    return lambda trial: trial.share() >= share


async def kill_at(trial: Trial, share: float, part: str) -> None:
    """Kill a part when so much is settled, and wait until the supervisor's next one is ready."""
    await trial.until(more_than(share))
    await trial.is_in_the_middle()
    await trial.world.kill(part).is_back()


async def test_workers_die_again_and_again(world: World) -> None:
    trial = await Trial.begin(world, NAMES, rate=UNHURRIED)
    dice = random.Random(1)

    for share in (0.06, 0.12, 0.18, 0.24):
        await kill_at(trial, share, dice.choice(["worker-1", "worker-2"]))
    await trial.hurry()
    await trial.finished()

    # What the dead had claimed was not forgotten but done by another attempt.
    assert trial.retried
    await check_every_verdict(trial)


async def test_services_and_the_door_die(world: World) -> None:
    trial = await Trial.begin(world, NAMES, rate=UNHURRIED)

    await kill_at(trial, 0.06, "campaign")
    await kill_at(trial, 0.1, "validation")
    await kill_at(trial, 0.14, "envoy")
    await kill_at(trial, 0.18, "query")
    await kill_at(trial, 0.22, "campaign")
    await trial.hurry()
    await trial.finished()

    assert trial.reconnects
    await check_every_verdict(trial)


async def test_database_dies(world: World) -> None:
    trial = await Trial.begin(world, NAMES, rate=UNHURRIED)

    await kill_at(trial, 0.1, "postgres")
    await kill_at(trial, 0.2, "postgres")
    await trial.hurry()
    await trial.finished()

    await check_every_verdict(trial)


async def test_queue_dies_and_then_loses_everything(world: World) -> None:
    trial = await Trial.begin(world, NAMES, rate=UNHURRIED)

    await kill_at(trial, 0.1, "nats")
    await trial.until(more_than(0.2))
    await trial.is_in_the_middle()
    killed = world.kill("nats")
    await gone(killed.pid)
    # Nothing awaits from here on: the supervisor cannot have started the next one.
    assert world.suite.processes["nats"].pid in (None, killed.pid)
    shutil.rmtree(world.folder / "nats" / "data")
    await killed.is_back()
    await trial.hurry()
    await trial.finished()

    await check_every_verdict(trial)


async def test_worker_frozen_in_its_transaction_does_not_hold_up_the_campaign(world: World) -> None:
    trial = await Trial.begin(world, 10_000, rate=UNHURRIED)
    await trial.until(more_than(0.05))
    await trial.is_in_the_middle()

    async with await open_pool(world.suite.database_url, application_name="frozen") as pool:
        connection = await pool.acquire()
        backend = connection.get_server_pid()
        await connection.execute("BEGIN")
        # The lock that every settlement of this campaign needs.
        await connection.execute(
            "SELECT FROM campaigns WHERE id::text = $1 FOR UPDATE", trial.campaign_id
        )
        await trial.finished()
        # The database ended it: the campaign could not have ended otherwise.
        assert not await world.rows("SELECT FROM pg_stat_activity WHERE pid = $1", backend)

    await check_every_verdict(trial)


async def test_paused_campaign_stands_still_until_resumed(world: World) -> None:
    trial = await Trial.begin(world, NAMES, rate=UNHURRIED)
    await trial.until(more_than(0.1))

    paused = await trial.do("Pause")
    assert paused.status == campaign_pb2.PHASE_STATUS_PAUSED
    settled = await trial.is_in_the_middle()
    # The answer came after the commit: nothing is settled behind it, not even what was in work.
    await _watched_for(trial, progress=2)
    await world.kill("campaign").is_back()
    await _watched_for(trial, progress=1)
    assert await trial.settled_in_tables() == settled
    assert trial.share() == settled / NAMES

    await trial.do("Resume")
    await trial.hurry()
    await trial.finished()
    await check_every_verdict(trial)


async def test_cancelled_campaign_keeps_what_is_settled(world: World) -> None:
    trial = await Trial.begin(world, NAMES, rate=UNHURRIED)
    await trial.until(more_than(0.1))

    await trial.do("Cancel")
    settled = await trial.is_in_the_middle()
    await trial.until(lambda t: t.ending is not None)
    assert trial.ending == campaign_pb2.PHASE_STATUS_CANCELLED

    # The workers go through a whole campaign afterwards: what they held of this one is long over.
    other = await Trial.begin(world, 5_000)
    await other.finished()
    assert await trial.settled_in_tables() == settled
    results = await world.value(
        """SELECT count(*) FROM dns_results r JOIN campaigns k ON k.no = r.campaign_no
           WHERE k.id::text = $1""",
        trial.campaign_id,
    )
    assert results == settled == round(trial.share() * NAMES)


async def _watched_for(trial: Trial, *, progress: int) -> None:
    """Go on until the watch, opened anew each time, has told the progress so often."""
    for _ in range(progress):
        seen = trial.progress_count
        await trial.stop_watching()
        await trial.until(partial(_told_more_than, seen))


def _told_more_than(seen: int, trial: Trial) -> bool:
    return trial.progress_count > seen
