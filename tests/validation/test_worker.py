"""Workers with a real queue, a real database and a real resolver, in every kind of trouble."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.campaign.campaign import Action
from services.campaign.dispatcher import Dispatcher
from services.campaign.ledger import ChunkKey
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis import jetstream
from services.chassis.postgres import Pool
from services.sandbox.dns_server import SandboxDns
from services.sandbox.truth import truth
from services.validation.dns.verdict import Verdict
from services.validation.dns_probe import DnsProbe
from services.validation.engines import Engines
from services.validation.isolation import MAX_CHILDREN
from services.validation.store import Store
from services.validation.worker import Worker
from tests.campaigns import DNS, act, from_upload, hand_out, history, kinds, validating
from tests.eventually import eventually
from tests.queues import publish, task_count, wipe
from tests.validation.conftest import asking
from tests.validation.probes import PoisonedProbe, raise_an_error

NAMES = [f"name-{number}.com" for number in range(250)]


@pytest.fixture
def worker(store: Store, queue: Client, probe: DnsProbe) -> Worker:
    return new_worker(store, queue, probe)


def new_worker(store: Store, queue: Client, probe: DnsProbe, name: str = "worker") -> Worker:
    return Worker(store=store, queue=queue, probe=probe, worker_id=name, host="host", pid=7)


@contextlib.asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(worker.work()) for worker in workers]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture
def mute() -> Iterator[str]:
    """A resolver that takes every question and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*sock.getsockname())


async def handed_out(store: CampaignStore, running: RunningPhase) -> list[ChunkKey]:
    return await hand_out(store, [running])


async def chunks(pool: Pool) -> list[tuple[str, int]]:
    """State and attempt of the DNS phase's chunks in order."""
    rows = await pool.fetch(
        "SELECT state, attempt FROM chunks WHERE phase = 2 ORDER BY first_position"
    )
    return [tuple(row) for row in rows]


async def verdicts(pool: Pool) -> list[tuple[str, int]]:
    rows = await pool.fetch(
        """SELECT d.name, r.verdict FROM domains d
           JOIN dns_results r USING (campaign_no, position) ORDER BY d.position"""
    )
    return [tuple(row) for row in rows]


def expected(sandbox: SandboxDns, names: Sequence[str]) -> list[tuple[str, int]]:
    settings = sandbox.settings
    return [(name, truth(name, settings.seed, settings.mix).verdict) for name in names]


async def has_enough(probe: DnsProbe) -> None:
    assert probe.waiting() >= probe.names_ahead


async def all_acknowledged(queue: Client) -> None:
    async def none_left() -> None:
        assert await task_count(queue) == 0

    await eventually(none_left, within=20)


async def claimed(pool: Pool) -> None:
    async def is_claimed() -> None:
        assert await pool.fetchval(
            "SELECT bool_and(claim_time IS NOT NULL) FROM chunks WHERE phase = 2"
        )

    await eventually(is_claimed)


async def test_chunks_are_settled_with_the_verdicts_that_are_true(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    worker: Worker,
    sandbox: SandboxDns,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, dns)
    hints: asyncio.Queue[Msg] = asyncio.Queue()
    await queue.subscribe(jetstream.EVENT_SUBJECT, cb=hints.put)
    await publish(queue, *await handed_out(campaign_store, running))

    async with working(worker):
        await all_acknowledged(queue)
        told = [await asyncio.wait_for(hints.get(), 10) for _ in range(3)]

    assert await verdicts(pool) == expected(sandbox, NAMES)
    assert await chunks(pool) == [("done", 1)] * 3
    assert {message.data for message in told} == {str(running.campaign_no).encode()}
    assert (await kinds(campaign_store, running.campaign_no))[-3:] == ["chunk_settled"] * 3
    tally = await campaign_store.tally(running.campaign_no, DNS, 1)
    assert sum(tally.outcomes) == tally.settled_count == 250


async def test_doubled_tasks_are_settled_once_and_all_acknowledged(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    store: Store,
    probe: DnsProbe,
    sandbox: SandboxDns,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, dns)
    keys = await handed_out(campaign_store, running)
    await publish(queue, *keys * 4)

    workers = [new_worker(store, queue, probe, name) for name in ("one", "other")]
    async with working(*workers):
        await all_acknowledged(queue)
        before = await kinds(campaign_store, running.campaign_no)
        await publish(queue, *keys)
        await all_acknowledged(queue)

    assert await verdicts(pool) == expected(sandbox, NAMES)
    assert await kinds(campaign_store, running.campaign_no) == before
    assert before.count("chunk_settled") == 1 + 3


async def test_a_cancelled_worker_gives_its_claims_back(
    pool: Pool, campaign_store: CampaignStore, queue: Client, worker: Worker, mute: str
) -> None:
    running = await validating(campaign_store, NAMES, asking(mute, attempt_limit=20))
    await publish(queue, *await handed_out(campaign_store, running))

    async with working(worker):
        await claimed(pool)
        assert await chunks(pool) == [("queued", 1)] * 3

    assert await chunks(pool) == [("ready", 1)] * 3
    assert await verdicts(pool) == []


async def test_a_worker_ends_when_it_is_told_to_however_busy(
    campaign_store: CampaignStore, queue: Client, worker: Worker, mute: str
) -> None:
    """A cancellation that comes together with a task must not get lost in the client."""
    running = await validating(campaign_store, NAMES, asking(mute, attempt_limit=20))
    keys = await handed_out(campaign_store, running)

    for number in range(60):
        task = asyncio.create_task(worker.work())
        for _ in range(number % 6 + 1):
            await publish(queue, *keys)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=10)
        assert done
        assert task.cancelled()


async def test_what_a_worker_gives_back_is_taken_by_the_next_at_once(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    store: Store,
    probe: DnsProbe,
    sandbox: SandboxDns,
    mute: str,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, asking(mute, attempt_limit=20))
    await publish(queue, *await handed_out(campaign_store, running))
    async with working(new_worker(store, queue, probe, "one")):
        await claimed(pool)

    # The same tasks, and resolvers that answer now.
    configuration = from_upload(dns).SerializeToString()
    await pool.execute("UPDATE campaigns SET configuration = $1", configuration)
    async with working(new_worker(store, queue, probe, "other")):
        await all_acknowledged(queue)

    assert await chunks(pool) == [("done", 2)] * 3
    assert await verdicts(pool) == expected(sandbox, NAMES)


async def test_a_lost_claim_drops_the_work(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    worker: Worker,
    mute: str,
) -> None:
    running = await validating(campaign_store, NAMES[:100], asking(mute, attempt_limit=20))
    await publish(queue, *await handed_out(campaign_store, running))

    async with working(worker):
        await claimed(pool)
        # As if this worker had been frozen for longer than its lease; one statement, so that it
        # cannot hold the chunk in between.
        await pool.execute(
            """UPDATE chunks SET attempt = attempt + 1, worker = 'other', claim_time = now()
               WHERE phase = 2"""
        )
        await all_acknowledged(queue)

        assert await chunks(pool) == [("queued", 2)]
    holder = await pool.fetchval("SELECT worker FROM chunks WHERE phase = 2")
    assert holder == "other"
    assert await verdicts(pool) == []


@pytest.mark.parametrize("action", [Action.PAUSE, Action.CANCEL])
async def test_a_phase_that_does_not_run_any_more_drops_the_work(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    worker: Worker,
    mute: str,
    action: Action,
) -> None:
    running = await validating(campaign_store, NAMES, asking(mute, attempt_limit=20))
    await publish(queue, *await handed_out(campaign_store, running))

    async with working(worker):
        await claimed(pool)
        await act(campaign_store, running.campaign_id, action)
        await all_acknowledged(queue)

    assert await chunks(pool) == [("ready", 1)] * 3
    assert await verdicts(pool) == []


async def test_a_worker_recovers_when_its_stream_is_deleted(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    worker: Worker,
    sandbox: SandboxDns,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, dns)
    first, *others = await handed_out(campaign_store, running)
    await publish(queue, first)

    async with working(worker):
        await all_acknowledged(queue)
        await wipe(queue)
        await publish(queue, *others)
        await all_acknowledged(queue)

    assert await verdicts(pool) == expected(sandbox, NAMES)


async def test_names_that_no_resolver_answers_for_time_out(
    pool: Pool, campaign_store: CampaignStore, queue: Client, worker: Worker
) -> None:
    """Dead resolvers are an outcome like any other: the campaign comes to its end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        dead = "{}:{}".format(*sock.getsockname())
    running = await validating(campaign_store, NAMES, asking(dead, attempt_limit=2))
    await publish(queue, *await handed_out(campaign_store, running))

    async with working(worker):
        await all_acknowledged(queue)

    assert await verdicts(pool) == [(name, 6) for name in NAMES]
    assert await campaign_store.ledger.complete(running)
    rows = await pool.fetch("SELECT DISTINCT rcode, resolver, addresses, ttl FROM dns_results")
    assert [tuple(row) for row in rows] == [(-1, None, None, None)]


async def test_a_task_that_cannot_be_read_does_not_stop_the_others(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    worker: Worker,
    sandbox: SandboxDns,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, dns)
    keys = await handed_out(campaign_store, running)
    await jetstream.ensure_task_stream(queue.jetstream())
    await queue.jetstream().publish(jetstream.task_subject("dns"), b"\xff no task")
    await publish(queue, *keys, ChunkKey(999, 2, 1, 0))

    async with working(worker):
        await all_acknowledged(queue)

    assert await chunks(pool) == [("done", 1)] * 3
    assert await verdicts(pool) == expected(sandbox, NAMES)


async def test_a_chunk_that_always_fails_leaves_no_task_behind(
    pool: Pool, campaign_store: CampaignStore, queue: Client, worker: Worker
) -> None:
    # Past the contract, as settings of another version may be.
    running = await validating(campaign_store, NAMES, DnsConfiguration(window=20_000))

    async with working(worker):
        for attempt in (1, 2):
            await publish(queue, *await handed_out(campaign_store, running))
            await all_acknowledged(queue)
            assert await chunks(pool) == [("ready", attempt)] * 3
            await pool.execute("UPDATE chunks SET ready_time = NULL")


async def test_a_chunk_that_fails_is_on_record_and_waits(
    pool: Pool, campaign_store: CampaignStore, queue: Client, worker: Worker
) -> None:
    running = await validating(campaign_store, NAMES[:100], DnsConfiguration(window=20_000))

    async with working(worker):
        await publish(queue, *await handed_out(campaign_store, running))
        await all_acknowledged(queue)

    assert await handed_out(campaign_store, running) == []
    await pool.execute("UPDATE chunks SET ready_time = NULL")
    assert len(await handed_out(campaign_store, running)) == 1
    retried = (await history(campaign_store, running.campaign_no))[-1].chunk_retried
    assert (retried.attempt, retried.first_position) == (1, 0)
    assert "window is 20000" in retried.cause


async def test_suspects_that_there_is_no_room_for_are_left_to_others(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    store: Store,
    probe: DnsProbe,
    dns: DnsConfiguration,
) -> None:
    stays = [sys.executable, "-c", "import signal; signal.pause()"]
    worker = Worker(
        store=store, queue=queue, probe=probe, worker_id="w", host="host", pid=7, alone=stays
    )
    names = [f"suspect-{number}.com" for number in range(1500)]
    running = await validating(campaign_store, names, dns)
    keys = await handed_out(campaign_store, running)
    await pool.execute("UPDATE chunks SET lost_count = 2 WHERE phase = 2")

    async def divided() -> None:
        rows = await pool.fetch(
            "SELECT claim_time, ready_time FROM chunks WHERE phase = 2 AND state <> 'done'"
        )
        assert sum(row["claim_time"] is not None for row in rows) == MAX_CHILDREN
        assert sum(row["ready_time"] is not None for row in rows) == len(keys) - MAX_CHILDREN

    async with working(worker):
        await publish(queue, *keys)
        await eventually(divided, within=20)


async def test_express_chunks_are_taken_while_others_wait(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    probe: DnsProbe,
    worker: Worker,
    dns: DnsConfiguration,
    mute: str,
) -> None:
    slow = asking(mute)
    slow.window, slow.timeout.seconds = 10, 20
    # More than a worker takes ahead of those it can ask about.
    many = [f"mute-{number}.com" for number in range(probe.names_ahead + 100)]
    large = await validating(campaign_store, many, slow, chunk_size=5000)
    waits = await validating(campaign_store, NAMES[:200], dns)
    passes = await validating(campaign_store, NAMES[200:], dns)

    async def states(running: RunningPhase) -> list[str]:
        rows = await pool.fetch(
            """SELECT CASE WHEN state = 'done' OR claim_time IS NULL THEN state ELSE 'claimed' END
               FROM chunks WHERE phase = 2 AND campaign_no = $1""",
            running.campaign_no,
        )
        return [row[0] for row in rows]

    async def has_passed() -> None:
        assert await states(passes) == ["done"]

    async with working(worker):
        await publish(queue, *await handed_out(campaign_store, large))
        await eventually(partial(has_enough, probe))
        await publish(queue, *await handed_out(campaign_store, waits))
        await publish(queue, *await handed_out(campaign_store, passes), express=True)
        await eventually(has_passed)

        assert await states(large) == ["claimed"]
        # One of them at most: it was asked for before there was enough to do.
        assert "queued" in await states(waits)


async def test_the_name_that_a_probe_fails_on_is_found_and_mended(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    store: Store,
    engines: Engines,
    probe: DnsProbe,
    sandbox: SandboxDns,
    dns: DnsConfiguration,
) -> None:
    """The probe raises what also means that a part is away: here it is about the name. Then a
    worker that does not fail on it is given the letter."""
    running = await validating(campaign_store, NAMES, dns)
    poisoned = PoisonedProbe(engines, NAMES[77], raise_an_error)
    dispatching = asyncio.create_task(Dispatcher(store=campaign_store, queue=queue).dispatch())

    async def completed() -> None:
        assert (await campaign_store.get(running.campaign_id)).is_finished

    async with working(new_worker(store, queue, poisoned)):
        await eventually(completed, within=30)

    others = [name for name in NAMES if name != NAMES[77]]
    found = dict(await verdicts(pool))
    assert found.pop(NAMES[77]) == Verdict.DEAD_LETTER
    assert list(found.items()) == expected(sandbox, others)
    letter = await pool.fetchrow("SELECT position, name, cause, failure_count FROM dead_letters")
    assert letter
    # Three times as a chunk of 100, then 50, 25, 13 or 12, 7 or 6, 4 or 3, 2 and alone.
    assert tuple(letter)[:3] == (77, NAMES[77], "OSError: the name is poison")
    splits = [kind for kind in await kinds(campaign_store, running.campaign_no) if "split" in kind]
    assert letter["failure_count"] == 3 + len(splits)
    tally = await campaign_store.tally(running.campaign_no, DNS, 1)
    assert sum(tally.outcomes) == tally.settled_count == 250
    assert tally.outcomes[Verdict.DEAD_LETTER - 1] == 1

    await campaign_store.dead_letters.redrive(
        running.campaign_id, DNS, [77], reason="mended", key=None, answer=lambda count: b""
    )
    async with working(new_worker(store, queue, probe)):
        await eventually(completed, within=30)
    dispatching.cancel()
    await asyncio.wait([dispatching])

    assert await verdicts(pool) == expected(sandbox, NAMES)
    tally = await campaign_store.tally(running.campaign_no, DNS, 1)
    assert sum(tally.outcomes) == tally.settled_count == 250
    assert tally.outcomes[Verdict.DEAD_LETTER - 1] == 0
    assert await pool.fetchval("SELECT state FROM dead_letters") == "REDRIVEN"


async def test_settings_that_cannot_be_used_bury_no_name(
    pool: Pool, campaign_store: CampaignStore, queue: Client, worker: Worker
) -> None:
    running = await validating(campaign_store, NAMES[:100], DnsConfiguration(window=20_000))

    async with working(worker):
        for failures in range(1, 6):
            await publish(queue, *await handed_out(campaign_store, running))
            await all_acknowledged(queue)
            counted = "SELECT failure_count FROM chunks WHERE phase = 2"
            assert [row[0] for row in await pool.fetch(counted)] == [failures]
            await pool.execute("UPDATE chunks SET ready_time = NULL")


async def test_a_limited_campaign_is_asked_about_at_its_rate(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    worker: Worker,
    sandbox: SandboxDns,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES[:150], dns)
    await pool.execute("UPDATE campaigns SET name_rate_limit = 100")
    await publish(queue, *await handed_out(campaign_store, running))

    async with working(worker):
        begun = time.monotonic()
        await all_acknowledged(queue)
        # Both chunks go by one pace.
        assert time.monotonic() - begun >= 1.5

    assert await verdicts(pool) == expected(sandbox, NAMES[:150])


async def test_a_changed_limit_takes_effect_on_chunks_in_work(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    worker: Worker,
    sandbox: SandboxDns,
    dns: DnsConfiguration,
) -> None:
    running = await validating(campaign_store, NAMES, dns)
    # Minutes, if it stayed.
    await pool.execute("UPDATE campaigns SET name_rate_limit = 1")
    await publish(queue, *await handed_out(campaign_store, running))

    async def some_asked() -> None:
        assert sandbox.stats.questions > 0

    async with working(worker):
        await eventually(some_asked)
        await pool.execute("UPDATE campaigns SET name_rate_limit = 0")
        await all_acknowledged(queue)

    assert await chunks(pool) == [("done", 1)] * 3
    assert await verdicts(pool) == expected(sandbox, NAMES)


async def test_a_new_limit_takes_back_names_that_went_out_without_one(
    pool: Pool, campaign_store: CampaignStore, queue: Client, worker: Worker, mute: str
) -> None:
    running = await validating(campaign_store, NAMES, asking(mute, attempt_limit=20))
    await publish(queue, *await handed_out(campaign_store, running))

    async with working(worker):
        await claimed(pool)
        await pool.execute("UPDATE campaigns SET name_rate_limit = 1000")
        await all_acknowledged(queue)

    assert await chunks(pool) == [("ready", 1)] * 3
    assert await pool.fetchval("SELECT max(failure_count) FROM chunks") == 0


async def test_a_slow_campaign_keeps_no_other_from_being_worked_on(
    pool: Pool,
    campaign_store: CampaignStore,
    queue: Client,
    worker: Worker,
    dns: DnsConfiguration,
) -> None:
    slow = await validating(campaign_store, NAMES, dns)
    await pool.execute("UPDATE campaigns SET name_rate_limit = 1")
    other = await validating(campaign_store, NAMES[:100], dns)
    worker.task_limit = 1
    await publish(queue, *await handed_out(campaign_store, slow))
    await publish(queue, *await handed_out(campaign_store, other))

    async def other_settled() -> None:
        tally = await campaign_store.tally(other.campaign_no, DNS, 1)
        assert tally.settled_count == 100

    async with working(worker):
        await eventually(other_settled)
    assert (await campaign_store.tally(slow.campaign_no, DNS, 1)).settled_count == 0


async def test_no_more_chunks_are_taken_than_decided(
    pool: Pool, campaign_store: CampaignStore, queue: Client, worker: Worker, mute: str
) -> None:
    running = await validating(campaign_store, NAMES, asking(mute, attempt_limit=20))
    worker.task_limit = 1
    await publish(queue, *await handed_out(campaign_store, running))

    async def in_hand(count: int) -> None:
        taken = "SELECT count(*) FROM chunks WHERE claim_time IS NOT NULL AND phase = 2"
        assert await pool.fetchval(taken) == count

    async with working(worker):
        await eventually(lambda: in_hand(1))
        assert await task_count(queue) == 3
        await in_hand(1)
        worker.task_limit = 3
        await eventually(lambda: in_hand(3))


async def test_a_worker_reports_itself(store: Store, worker: Worker) -> None:
    async with working(worker):

        async def reported() -> None:
            assert [row.worker_id for row in await store.pools.workers()] == ["worker"]

        await eventually(reported)

    await store.pools.sign_off("worker")
    assert await store.pools.workers() == []
