"""The dispatcher carries a campaign through all phases, over the names that each lets through."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from nats.aio.client import Client

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub
from domainflow.validation.v1.task_pb2 import ChunkTask
from services.campaign.campaign import Mode, Phase
from services.campaign.dispatcher import Dispatcher
from services.campaign.ingest import digest
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.chassis import jetstream
from services.chassis.postgres import Pool
from tests.campaigns import LEASE, from_upload, generating, history, new_campaign
from tests.eventually import eventually
from tests.queues import empty_queue

NAMES = [f"{number}.com" for number in range(600)]
# Of every phase: the outcome of the name at a position.
OUTCOMES = {
    2: lambda position: 1 if position % 3 else 2,
    3: lambda position: 1 if position % 2 else 21,
    4: lambda position: position % 3 + 1,
    5: lambda position: position % 11 + 1,
}
RESULTS = {
    2: """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count, tcp,
        duration_us, check_time_us) VALUES ($1, $2, $3, $4, 0, 1, false, 1, 1)""",
    3: """INSERT INTO http_results (campaign_no, run, position, verdict, attempt_count, duration_us,
        check_time_us) VALUES ($1, $2, $3, $4, 1, 1, 1)""",
}


@pytest.fixture
async def queue(nats_url: str) -> AsyncIterator[Client]:
    async with empty_queue(nats_url) as client:
        yield client


@contextlib.asynccontextmanager
async def dispatching(store: Store, queue: Client) -> AsyncIterator[None]:
    task = asyncio.create_task(Dispatcher(store=store, queue=queue).dispatch())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def sequence(store: Store, **http: int) -> RunningPhase:
    """A campaign through all phases; its names are there, and DNS validation is next."""
    configuration = from_upload()
    configuration.http.CopyFrom(pb.HttpConfiguration(**http))
    configuration.analysis.SetInParent()
    configuration.lead.SetInParent()
    new = new_campaign(configuration, mode=Mode.FULL_SEQUENCE, phases=tuple(Phase))
    running = await generating(store, new)
    assert await store.names.append_names(running, 0, NAMES, digest(NAMES))
    await store.names.announce(running, len(NAMES), planned=True)
    return running


async def work(pool: Pool, queue: Client, phases: set[int]) -> None:
    """Do what is on the queue, as workers of two pools would, until cancelled."""
    subscription = await queue.subscribe(f"{jetstream.TASK_SUBJECT}.>")
    async for message in subscription.messages:
        task = ChunkTask.FromString(message.data)
        pool_name = {2: "dns", 3: "http", 4: "analysis", 5: "analysis"}[task.phase]
        assert message.subject == jetstream.task_subject(pool_name, express=True)
        if task.phase in phases:
            await settle(pool, task)
            await queue.publish(jetstream.EVENT_SUBJECT, str(task.campaign_no).encode())


async def settle(pool: Pool, task: ChunkTask) -> None:
    key = (task.campaign_no, task.phase, task.run, task.first_position)
    async with pool.acquire() as connection, connection.transaction():
        claim = await connection.fetchrow(
            """SELECT t.attempt, c.name_count, c.last_position, p.source_run
            FROM claim_chunk($1, $2::smallint, $3, $4, 'w', interval '1 minute') t
            JOIN chunks c ON (c.campaign_no, c.phase, c.run, c.first_position) = ($1, $2, $3, $4)
            JOIN phases p ON (p.campaign_no, p.phase) = ($1, $2)""",
            *key,
        )
        if claim is None:
            return
        first, size = task.first_position, claim["name_count"]
        positions = list(range(first, first + size))
        if task.phase > 2:
            rows = await connection.fetch(
                "SELECT * FROM candidate_positions($1, $2::smallint, $3, $4, $5, 10000)",
                task.campaign_no,
                task.phase,
                claim["source_run"],
                first,
                claim["last_position"],
            )
            positions = [row[0] for row in rows]
        assert len(positions) == size
        found = [OUTCOMES[task.phase](position) for position in positions]
        settled = await connection.fetch(
            "SELECT settle_chunk($1, $2::smallint, $3, $4, $5, $6, 'digest', '{}')",
            *key,
            claim["attempt"],
            [found.count(outcome) for outcome in range(1, 22)],
        )
        assert settled
        if task.phase in RESULTS:
            results = zip(positions, found, strict=True)
            await connection.executemany(
                RESULTS[task.phase], [(task.campaign_no, task.run, *each) for each in results]
            )
        await connection.execute("SELECT append_event($1, '')", task.campaign_no)


@contextlib.asynccontextmanager
async def working(pool: Pool, queue: Client, phases: set[int]) -> AsyncIterator[None]:
    await jetstream.ensure_task_stream(queue.jetstream())
    task = asyncio.create_task(work(pool, queue, phases))
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_each_phase_settles_what_the_one_before_lets_through(
    store: Store, pool: Pool, queue: Client, campaigns: CampaignServiceStub
) -> None:
    running = await sequence(store, chunk_size=130)
    request = rpc.GetReceiptRequest(campaign_id=str(running.campaign_id))

    async def balanced() -> pb.Receipt:
        receipt = (await campaigns.GetReceipt(request)).receipt
        assert receipt.balanced
        return receipt

    async with working(pool, queue, {2, 3, 4, 5}), dispatching(store, queue):
        receipt = await eventually(balanced)

    assert [phase.name_count for phase in receipt.phases] == [600, 600, 400, 200, 400]
    http, analysis, leads = receipt.phases[2:]
    assert {each.outcome: each.count for each in http.outcomes} == {"OK": 200, "DEAD_LETTER": 200}
    assert [each.outcome for each in analysis.outcomes] == ["WITHOUT_KEYWORD", "ERROR"]
    assert len(leads.outcomes) == 11
    audit = leads.audit
    assert (
        audit.analysed_count
        == 400
        == sum(
            getattr(audit, f"{part}_count")
            for part in ("qualified", "rejected", "no_keyword", "error", "timeout")
        )
    )
    # The letters are those in the list, which these workers have not written.
    assert http.dead_letter_count == leads.dead_letter_count == 0
    sizes = await pool.fetch("SELECT name_count FROM chunks WHERE phase = 3 ORDER BY 1")
    assert [row[0] for row in sizes] == [10, 130, 130, 130]
    decided = [
        (event.chunk_size_decided.phase, event.chunk_size_decided.chunk_size)
        for event in await history(store, running.campaign_no)
        if event.HasField("chunk_size_decided")
    ]
    # HTTP was given its size; the others go by how little there is to do.
    assert decided == [(2, 150), (4, 200), (5, 200)]


async def fetching(store: Store, running: RunningPhase) -> RunningPhase:
    """The HTTP phase, when it runs and its names are known."""

    async def begun() -> None:
        state = (await store.get(running.campaign_id)).current
        assert (state.phase, state.name_count) == (Phase.HTTP_VALIDATION, 400)

    await eventually(begun)
    return await store.names.running_phase(running.campaign_id, Phase.HTTP_VALIDATION)


async def test_a_later_phase_is_watched_by_the_names_of_its_outcomes(
    store: Store, pool: Pool, queue: Client, campaigns: CampaignServiceStub
) -> None:
    running = await sequence(store, chunk_size=100)
    ids = [str(running.campaign_id)]
    # Nobody fetches but this test: names are known all the same.
    async with working(pool, queue, {2}), dispatching(store, queue):
        http = await fetching(store, running)
        first = await pool.fetchval("SELECT min(first_position) FROM chunks WHERE phase = 3")
        task = ChunkTask(campaign_no=http.campaign_no, phase=3, run=1, first_position=first)
        await settle(pool, task)
        call = campaigns.WatchCampaigns(rpc.WatchCampaignsRequest(campaign_ids=ids))
        while True:
            message = await call.read()
            assert message is not grpc.aio.EOF
            if message.progress.settled_count:
                break
        call.cancel()

    progress = message.progress
    assert (progress.phase, progress.run) == (pb.PHASE_HTTP_VALIDATION, 1)
    assert (progress.name_count, progress.settled_count) == (400, 100)
    assert {each.outcome: each.count for each in progress.outcomes} == {"OK": 50, "DEAD_LETTER": 50}


async def test_what_went_out_of_a_sparse_ledger_is_charged_to_the_rate_limit(
    store: Store, pool: Pool, queue: Client
) -> None:
    running = await sequence(store, chunk_size=100)
    async with working(pool, queue, {2}), dispatching(store, queue):
        http = await fetching(store, running)
    await pool.execute("UPDATE chunks SET state = 'ready' WHERE phase = 3")
    [before] = [work.out for work in await store.ledger.survey()]
    [[first, second, *_]] = await store.ledger.offers([http], 4)

    await store.ledger.queue([first.key], LEASE)
    [queued] = [work.out for work in await store.ledger.survey()]
    task = ChunkTask(campaign_no=http.campaign_no, phase=3, run=1)
    task.first_position = first.key.first_position
    await settle(pool, task)
    await store.ledger.queue([second.key], LEASE)
    [then] = [work.out for work in await store.ledger.survey()]

    assert (before, queued, then) == (0, 100, 200)
