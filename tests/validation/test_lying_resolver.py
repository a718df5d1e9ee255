"""A campaign one of whose resolvers turns liar: what it said is asked again, row by row."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.duration_pb2 import Duration
from nats.aio.client import Client

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration, PhaseReceipt
from domainflow.campaign.v1.event_pb2 import SystemEvent
from domainflow.validation.v1 import dns_settings_pb2 as pb
from domainflow.validation.v1.resolver_pb2 import RESOLVER_STATE_QUARANTINED
from services.campaign.campaign import Campaign, Status
from services.campaign.outcomes import balances, phase_receipt
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Behaviour, Mix, truth
from services.validation.dns.verdict import Agreement
from services.validation.dns_probe import DnsProbe
from services.validation.engines import Engines
from services.validation.plans import plan_of
from services.validation.store import Settled, Store
from services.validation.worker import Worker
from tests.campaigns import hand_out, history, validating
from tests.eventually import eventually
from tests.queues import publish

NAMES = [
    name
    for name in (f"name-{number}.com" for number in range(2000))
    if truth(name, 1, Mix()).behaviour in {Behaviour.NXDOMAIN, Behaviour.RESOLVES}
][:400]


@pytest.fixture
async def liar() -> AsyncIterator[SandboxDns]:
    """Tells the truth until it is told otherwise."""
    async with SandboxDns(SandboxDnsSettings()) as server:
        yield server


@pytest.fixture
async def honest() -> AsyncIterator[SandboxDns]:
    async with SandboxDns(SandboxDnsSettings()) as server:
        yield server


@pytest.fixture
def asking_both(liar: SandboxDns, honest: SandboxDns) -> DnsConfiguration:
    """Canaries alone find liars: nobody is asked twice, and wildcards are not looked for."""
    settings = pb.DnsSettings(
        resolvers=[
            pb.DnsResolver(address="{}:{}".format(*server.address)) for server in (liar, honest)
        ],
        second_opinion=pb.SecondOpinion(policy=pb.SecondOpinion.POLICY_NONE),
        wildcard_detection=pb.WildcardDetection(disabled=True),
        authority=pb.AuthoritySettings(disabled=True),
        canary_period=Duration(seconds=60),
    )
    return DnsConfiguration(settings=settings)


@pytest.fixture
async def running(campaign_store: CampaignStore, asking_both: DnsConfiguration) -> RunningPhase:
    return await validating(campaign_store, NAMES, asking_both, chunk_size=100)


@pytest.fixture
async def worker(store: Store, queue: Client, probe: DnsProbe) -> AsyncIterator[Worker]:
    worker = Worker(store=store, queue=queue, probe=probe, worker_id="w1", host="h", pid=1)
    working = asyncio.create_task(worker.work())
    yield worker
    working.cancel()
    await asyncio.wait([working])


async def wrong(pool: Pool) -> int:
    """Verdicts that are not true."""
    rows = await pool.fetch(
        "SELECT name, verdict FROM domains JOIN dns_results USING (campaign_no, position)"
    )
    return sum(row["verdict"] != truth(row["name"], 1, Mix()).verdict for row in rows)


async def receipts_of(
    store: CampaignStore, running: RunningPhase
) -> tuple[Campaign, list[PhaseReceipt]]:
    accounts = await store.accounts(running.campaign_id)
    assert accounts.campaign.current.status is Status.COMPLETED
    return accounts.campaign, [
        phase_receipt(state, tally, digests, accounts.upload)
        for state, tally, digests in zip(
            accounts.campaign.phases, accounts.tallies, accounts.digests, strict=True
        )
    ]


async def test_a_resolver_that_turns_liar_leaves_no_wrong_verdict(
    running: RunningPhase,
    campaign_store: CampaignStore,
    pool: Pool,
    queue: Client,
    engines: Engines,
    asking_both: DnsConfiguration,
    liar: SandboxDns,
    worker: Worker,
) -> None:
    label = "{}:{}".format(*liar.address)

    async def settled(count: int) -> None:
        done = await pool.fetchval("SELECT count(*) FROM chunks WHERE phase = 2 AND state = 'done'")
        assert done == count

    (first, second) = await hand_out(campaign_store, [running], 2)
    await publish(queue, first)
    await eventually(lambda: settled(1))
    assert await wrong(pool) == 0
    liar.lie()
    await publish(queue, second)
    await eventually(lambda: settled(2))
    assert await wrong(pool) > 0

    # It was found out by three of its answers.
    async with engines.use(plan_of(asking_both)) as examiner:
        for _ in range(3):
            examiner.canaries.wrong(label)

    # Both: the first chunk was settled after its last good canary, too.
    await eventually(lambda: settled(0))
    assert await wrong(pool) == 0
    assert await pool.fetchval("SELECT count(*) FROM dns_results") == 0

    await publish(queue, *await hand_out(campaign_store, [running]))
    await eventually(lambda: settled(4))
    assert await wrong(pool) == 0
    resolvers = await pool.fetch("SELECT DISTINCT resolver FROM dns_results")
    assert label not in {row["resolver"] for row in resolvers}

    (withdrawn,) = [
        event.verdicts_withdrawn
        for event in await history(campaign_store, running.campaign_no)
        if event.HasField("verdicts_withdrawn")
    ]
    assert list(withdrawn.first_positions) == [0, 100]
    assert withdrawn.name_count == 200
    assert sum(outcome.count for outcome in withdrawn.outcomes) == 200
    assert (withdrawn.phase, withdrawn.run, withdrawn.resolver) == (2, running.run, label)
    assert "says the authority" in withdrawn.reason

    changed = [
        SystemEvent.FromString(row["body"]).resolver_changed
        for row in await pool.fetch("SELECT body FROM system_events ORDER BY revision")
    ]
    assert [(it.resolver, it.state, it.worker_id) for it in changed] == [
        (label, RESOLVER_STATE_QUARANTINED, "w1")
    ]
    assert changed[0].HasField("retry_time")

    assert await campaign_store.ledger.complete(running)
    assert balances(*await receipts_of(campaign_store, running))


async def test_canaries_find_out_who_turns_liar_in_the_middle_of_a_campaign(
    campaign_store: CampaignStore,
    pool: Pool,
    queue: Client,
    engines: Engines,
    asking_both: DnsConfiguration,
    liar: SandboxDns,
    worker: Worker,
) -> None:
    asking_both.settings.canary_period.CopyFrom(Duration(nanos=300_000_000))
    running = await validating(campaign_store, NAMES, asking_both, chunk_size=100)

    async def some_done() -> None:
        assert await pool.fetchval("SELECT count(*) FROM chunks WHERE phase = 2 AND state = 'done'")

    async def out() -> None:
        assert await pool.fetchval("SELECT count(*) FROM system_events") == 1

    async def all_done_and_right() -> None:
        await publish(queue, *await hand_out(campaign_store, [running]))
        states = await pool.fetch("SELECT DISTINCT state FROM chunks WHERE phase = 2")
        assert [row["state"] for row in states] == ["done"]
        assert await wrong(pool) == 0

    await publish(queue, *await hand_out(campaign_store, [running], 1))
    await eventually(some_done)
    liar.lie()
    # In use until it is found, however soon these chunks are done.
    async with engines.use(plan_of(asking_both)) as examiner, examiner.canaries.in_use():
        await publish(queue, *await hand_out(campaign_store, [running], 2))
        await eventually(out)
    await eventually(all_done_and_right)

    assert await campaign_store.ledger.complete(running)
    assert balances(*await receipts_of(campaign_store, running))


async def test_a_report_says_how_each_resolver_does(
    running: RunningPhase,
    campaign_store: CampaignStore,
    pool: Pool,
    store: Store,
    queue: Client,
    engines: Engines,
    asking_both: DnsConfiguration,
    liar: SandboxDns,
    honest: SandboxDns,
    worker: Worker,
) -> None:
    await publish(queue, *await hand_out(campaign_store, [running]))

    async def done() -> None:
        assert not await pool.fetchval(
            "SELECT count(*) FROM chunks WHERE phase = 2 AND state <> 'done'"
        )

    await eventually(done)
    label = "{}:{}".format(*liar.address)
    async with engines.use(plan_of(asking_both)) as examiner:
        for _ in range(3):
            examiner.canaries.wrong(label)

    async def reported() -> None:
        assert [it.resolver for it in await store.resolvers.list()] == [
            label,
            "{}:{}".format(*honest.address),
        ]

    await eventually(reported)
    bad, good = await store.resolvers.list()
    assert bad.state == RESOLVER_STATE_QUARANTINED
    assert bad.wrong_count == 3
    assert bad.score < good.score == 1.0
    assert bad.HasField("retry_time")
    assert good.worker_id == "w1"
    assert good.host == "h"
    assert good.operator == "127.0.0.0/24"
    assert good.question_count > 0
    assert good.answer_count > 0
    assert good.HasField("latency")
    assert good.HasField("report_time")
    assert {(it.kind, it.passed) for it in good.canaries} >= {
        (pb.Canary.KIND_GOOD, True),
        (pb.Canary.KIND_NXDOMAIN, True),
    }
    assert await store.resolvers.list(resolver=label) == [bad]
    assert await store.resolvers.list(worker_id="w2") == []


async def claimed_and_settled(
    pool: Pool, store: Store, running: RunningPhase, campaign_store: CampaignStore
) -> list[Settled]:
    chunks = []
    for key in await hand_out(campaign_store, [running]):
        claim = await store.claim(key, "w")
        assert claim
        chunks.append(Settled(key, claim.attempt))
    return chunks


async def test_only_positives_that_nobody_confirmed_are_taken_back(
    running: RunningPhase, campaign_store: CampaignStore, pool: Pool, store: Store
) -> None:
    chunks = await claimed_and_settled(pool, store, running, campaign_store)
    # Chunk by chunk: an address by its word, not confirmed, confirmed, and a name that is absent.
    rows = [(1, None), (7, 4), (1, 1), (2, None)]
    for chunk, (verdict, agreement) in zip(chunks, rows, strict=True):
        await pool.execute(
            """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count,
                   tcp, duration_us, check_time_us, resolver, agreement)
               VALUES ($1, $2, $3, $4, 0, 1, false, 1, 1, 'liar', $5)""",
            chunk.key.campaign_no,
            chunk.key.run,
            chunk.key.first_position + 7,
            verdict,
            agreement,
        )
    counts = [60, 40] + [0] * 9
    await pool.execute(
        "UPDATE chunks SET state = 'done', outcome_counts = $1 WHERE phase = 2", counts
    )
    # Settled by somebody else since, or not yet.
    stale = Settled(chunks[0].key, chunks[0].attempt + 1)

    assert (await store.withdraw([stale], "liar", "why")).name_count == 0
    assert (await store.withdraw(chunks, "another", "why")).name_count == 0
    withdrawn = await store.withdraw(chunks, "liar", "why")

    assert withdrawn.name_count == 200
    assert withdrawn.open == set()
    states = await pool.fetch(
        "SELECT state, outcome_counts FROM chunks WHERE phase = 2 ORDER BY first_position"
    )
    assert [row["state"] for row in states] == ["ready", "ready", "done", "done"]
    assert [row["outcome_counts"] for row in states] == [None, None, counts, counts]
    left = await pool.fetch("SELECT position FROM dns_results ORDER BY position")
    assert [row["position"] for row in left] == [207, 307]
    event = (await history(campaign_store, running.campaign_no))[-1].verdicts_withdrawn
    assert {it.outcome: it.count for it in event.outcomes} == {"RESOLVED": 120, "NXDOMAIN": 80}


async def test_its_side_in_a_dispute_that_nobody_decided_is_taken_back(
    running: RunningPhase, campaign_store: CampaignStore, pool: Pool, store: Store
) -> None:
    chunks = await claimed_and_settled(pool, store, running, campaign_store)
    await pool.execute(
        """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count,
               tcp, duration_us, check_time_us, resolver, agreement)
           VALUES ($1, $2, 3, 1, 0, 2, false, 1, 1, 'liar', $3)""",
        running.campaign_no,
        running.run,
        Agreement.DISPUTED,
    )
    await pool.execute(
        "UPDATE chunks SET state = 'done', outcome_counts = $1 WHERE phase = 2", [100] + [0] * 10
    )

    assert (await store.withdraw(chunks, "liar", "why")).name_count == 100


async def test_what_is_not_stored_yet_is_to_be_looked_at_again(
    running: RunningPhase, campaign_store: CampaignStore, pool: Pool, store: Store
) -> None:
    chunks = await claimed_and_settled(pool, store, running, campaign_store)

    assert (await store.withdraw(chunks, "liar", "why")).open == set(chunks)


async def test_nothing_of_a_phase_that_is_over_is_taken_back(
    running: RunningPhase, campaign_store: CampaignStore, pool: Pool, store: Store
) -> None:
    chunks = await claimed_and_settled(pool, store, running, campaign_store)
    await pool.execute("UPDATE chunks SET state = 'done' WHERE phase = 2")
    await pool.execute("UPDATE phases SET status = 'COMPLETED' WHERE phase = 2")
    await pool.execute(
        """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count,
               tcp, duration_us, check_time_us, resolver)
           VALUES ($1, $2, 0, 1, 0, 1, false, 1, 1, 'liar')""",
        running.campaign_no,
        running.run,
    )

    assert (await store.withdraw(chunks, "liar", "why")).name_count == 0
    assert await pool.fetchval("SELECT count(*) FROM dns_results") == 1
