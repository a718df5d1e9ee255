"""The tables of campaigns, under every race there is."""

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import TypeVar
from uuid import uuid4

import asyncpg
import pytest

from domainflow.campaign.v1 import campaign_pb2
from services.campaign.campaign import Action, Mode, Phase, Status
from services.campaign.ingest import digest
from services.campaign.ledger import ChunkKey
from services.campaign.rows import RunningPhase
from services.campaign.store import RequestKey, Store
from services.chassis.errors import (
    CampaignNotFound,
    RequestIdReused,
    TransitionNotAllowed,
    UploadClosed,
    UploadOffsetGap,
    UploadOffsetStored,
)
from services.chassis.postgres import Pool
from tests.campaigns import (
    DNS,
    GENERATION,
    act,
    answer,
    claim,
    create,
    from_upload,
    generating,
    hand_out,
    history,
    kinds,
    new_campaign,
    settle,
    validating,
)

Result = TypeVar("Result")


def request_key(body: bytes = b"body", method: str = "method") -> RequestKey:
    return RequestKey(uuid4(), method, hashlib.sha256(body).digest())


async def at_once(*works: Awaitable[Result]) -> list[Result | BaseException]:
    return await asyncio.gather(*works, return_exceptions=True)


async def append(store: Store, running: RunningPhase, first: int, names: Sequence[str]) -> bool:
    return await store.names.append_names(running, first, names, digest(names))


# Requests and transitions.


async def test_a_repeated_create_has_one_effect_and_one_answer(store: Store, pool: Pool) -> None:
    key = request_key()

    answers = await at_once(*(store.create(new_campaign(), key, answer) for _ in range(10)))

    assert len(set(answers)) == 1
    assert isinstance(answers[0], bytes)
    assert await pool.fetchval("SELECT count(*) FROM campaigns") == 1


async def test_a_repeated_transition_has_one_effect_and_one_answer(store: Store) -> None:
    campaign = await create(store)
    key = request_key()

    answers = await at_once(*(act(store, campaign, Action.START, key=key) for _ in range(10)))

    assert len(set(answers)) == 1
    assert isinstance(answers[0], bytes)
    assert await kinds(store, campaign.no) == ["campaign_created", "1 RUNNING", "names_reserved"]
    # The answer stays what it was, whatever has happened since.
    await act(store, campaign, Action.PAUSE)
    assert await act(store, campaign, Action.START, key=key) == answers[0]


@pytest.mark.parametrize("other", [{"body": b"another"}, {"method": "another"}])
async def test_a_request_id_of_another_request_is_refused(
    store: Store, pool: Pool, other: dict[str, object]
) -> None:
    key = request_key()
    reused = request_key(**other)  # type: ignore[arg-type]
    reused = RequestKey(key.request_id, reused.method, reused.body_sha256)
    await store.create(new_campaign(), key, answer)

    with pytest.raises(RequestIdReused):
        await store.create(new_campaign(), reused, answer)

    assert await pool.fetchval("SELECT count(*) FROM campaigns") == 1


async def test_a_refused_request_may_be_sent_again(store: Store) -> None:
    campaign = await create(store)
    key = request_key()

    with pytest.raises(TransitionNotAllowed):
        await act(store, campaign, Action.PAUSE, key=key)
    await act(store, campaign, Action.START)
    await act(store, campaign, Action.PAUSE, key=key)

    assert (await store.get(campaign.id)).current.status is Status.PAUSED


async def test_old_answers_are_forgotten(store: Store, pool: Pool) -> None:
    key = request_key()
    await store.create(new_campaign(), key, answer)

    await store.forget_requests(timedelta(hours=1))
    assert await pool.fetchval("SELECT count(*) FROM requests") == 1
    await store.forget_requests(timedelta(0))
    assert await pool.fetchval("SELECT count(*) FROM requests") == 0


async def test_two_pauses_at_once_let_one_through(store: Store) -> None:
    campaign = await create(store)
    await act(store, campaign, Action.START)

    results = await at_once(*(act(store, campaign, Action.PAUSE) for _ in range(5)))

    assert sum(isinstance(result, TransitionNotAllowed) for result in results) == 4
    assert (await kinds(store, campaign.no))[-2:] == ["names_reserved", "1 PAUSED"]


async def test_an_unknown_campaign_is_not_found(store: Store) -> None:
    with pytest.raises(CampaignNotFound):
        await store.get(uuid4())
    with pytest.raises(CampaignNotFound):
        await act(store, uuid4(), Action.START)
    with pytest.raises(CampaignNotFound):
        await store.names.running_phase(uuid4(), GENERATION)


async def test_a_cancelled_campaign_says_that_it_is_finished(store: Store) -> None:
    campaign = await create(store)

    await act(store, campaign, Action.CANCEL)

    assert await kinds(store, campaign.no) == [
        "campaign_created",
        "1 CANCELLED",
        "campaign_finished",
    ]
    assert (await store.get(campaign.id)).current.end_time is not None


# Generation.


async def test_names_appended_twice_are_stored_once(store: Store, pool: Pool) -> None:
    running = await generating(store)

    assert await append(store, running, 0, ["a.com", "b.com"])
    assert not await append(store, running, 0, ["a.com", "b.com"])
    assert await append(store, running, 2, ["c.com"])

    campaign = await store.get(running.campaign_id)
    assert (campaign.name_count, campaign.current.settled_count) == (3, 3)
    assert await pool.fetchval("SELECT count(*) FROM domains") == 3
    assert await kinds(store, running.campaign_no) == [
        "campaign_created",
        "1 RUNNING",
        "names_reserved",
        "chunk_settled",
        "chunk_settled",
    ]


async def test_names_appended_at_once_are_stored_once(store: Store, pool: Pool) -> None:
    running = await generating(store)

    results = await at_once(*(append(store, running, 0, ["a.com", "b.com"]) for _ in range(5)))

    assert sorted(results) == [False] * 4 + [True]
    assert await pool.fetchval("SELECT count(*) FROM domains") == 2


async def test_names_after_a_gap_are_not_stored(store: Store, pool: Pool) -> None:
    running = await generating(store)

    assert not await append(store, running, 1, ["b.com"])

    assert await pool.fetchval("SELECT count(*) FROM domains") == 0
    assert (await store.get(running.campaign_id)).name_count == 0


@pytest.mark.parametrize("action", [Action.PAUSE, Action.CANCEL])
async def test_no_name_is_stored_for_a_phase_that_does_not_run(
    store: Store, pool: Pool, action: Action
) -> None:
    running = await generating(store)
    await act(store, running.campaign_id, action)

    assert not await append(store, running, 0, ["a.com"])

    assert await pool.fetchval("SELECT count(*) FROM domains") == 0


async def test_every_snapshot_of_a_growing_campaign_is_consistent(store: Store) -> None:
    running = await generating(store)

    async def grow() -> None:
        for number in range(150):
            assert await append(store, running, number, [f"{number}.com"])

    growing = asyncio.create_task(grow())
    seen = set()
    while not growing.done():
        campaign = await store.get(running.campaign_id)
        seen.add(campaign.name_count)
        # One event made the campaign, one started it, one took its names, and each name came with
        # one more.
        assert campaign.current.settled_count == campaign.name_count == campaign.revision - 3
    await growing
    assert len(seen) > 2


# Uploads.


async def upload(store: Store, running: RunningPhase, upload_id, offset: int, *names: str):  # type: ignore[no-untyped-def]
    return await store.names.append_upload(running, upload_id, offset, names)


async def test_an_open_upload_counts_what_it_has_accepted(store: Store) -> None:
    running = await generating(store, new_campaign(from_upload()))

    await upload(store, running, uuid4(), 0, "a.com", "b.com", "a.com")

    state = (await store.get(running.campaign_id)).current
    assert (state.name_count, state.settled_count) == (2, 2)


async def test_one_part_sent_many_times_at_once_is_stored_once(store: Store, pool: Pool) -> None:
    running = await generating(store, new_campaign(from_upload()))
    upload_id = uuid4()

    results = await at_once(
        *(upload(store, running, upload_id, 0, "a.com", "b.com") for _ in range(8))
    )

    assert sum(isinstance(result, UploadOffsetStored) for result in results) == 7
    assert await pool.fetchval("SELECT count(*) FROM domains") == 2


async def test_only_the_first_of_two_uploads_is_taken(store: Store) -> None:
    running = await generating(store, new_campaign(from_upload()))

    results = await at_once(*(upload(store, running, uuid4(), 0, "a.com") for _ in range(5)))

    assert sum(isinstance(result, UploadClosed) for result in results) == 4


async def test_a_gap_tells_where_to_go_on(store: Store) -> None:
    running = await generating(store, new_campaign(from_upload()))
    upload_id = uuid4()
    await upload(store, running, upload_id, 0, "a.com", "b.com")

    with pytest.raises(UploadOffsetGap) as refusal:
        await upload(store, running, upload_id, 3, "c.com")

    assert refusal.value.metadata["next_offset"] == "2"


async def test_parts_and_the_finish_sent_at_once_do_not_lock_each_other_out(store: Store) -> None:
    for _ in range(10):
        running = await generating(store, new_campaign(from_upload()))
        upload_id = uuid4()
        await upload(store, running, upload_id, 0, "a.com")

        results = await at_once(
            store.names.append_upload(running, upload_id, 1, ["b.com"], finish=True),
            upload(store, running, upload_id, 1, "b.com"),
            store.names.append_upload(running, upload_id, 2, [], finish=True),
            upload(store, running, upload_id, 1, "b.com"),
        )

        unexpected = [
            result
            for result in results
            if isinstance(result, BaseException)
            and not isinstance(result, UploadClosed | UploadOffsetStored | UploadOffsetGap)
        ]
        assert unexpected == []
        stored = await store.names.upload(running.campaign_no)
        campaign = await store.get(running.campaign_id)
        assert stored is not None
        assert stored.accepted_count == campaign.name_count == campaign.current.name_count


# Dispatching.


async def test_a_phase_completes_only_without_open_chunks(store: Store, pool: Pool) -> None:
    running = await validating(store, [f"{n}.com" for n in range(150)])
    first, second = await hand_out(store, [running], 2)
    attempts = [await claim(pool, key, "w") for key in (first, second)]

    assert await settle(pool, first, attempts[0], 100)
    assert not await store.ledger.complete(running)
    assert await settle(pool, second, attempts[1], 50)
    assert await store.ledger.complete(running)
    assert not await store.ledger.complete(running)

    assert (await kinds(store, running.campaign_no))[-2:] == ["2 COMPLETED", "campaign_finished"]
    state = (await store.get(running.campaign_id)).current
    assert (state.settled_count, state.status) == (150, Status.COMPLETED)


async def test_a_full_sequence_starts_the_next_phase_with_the_end_of_the_one_before(
    store: Store,
) -> None:
    running = await generating(store, new_campaign(mode=Mode.FULL_SEQUENCE))
    await append(store, running, 0, ["a.com"])
    await store.names.announce(running, 1, planned=True)

    results = await at_once(*(store.ledger.complete(running) for _ in range(3)))

    assert sorted(results) == [False, False, True]
    assert (await kinds(store, running.campaign_no))[-2:] == ["1 COMPLETED", "2 RUNNING"]
    events = await store.history.events(running.campaign_no, 0, 100)
    # now() is the transaction's: equal times mean one transaction.
    assert events[-1].create_time == events[-2].create_time
    assert (await store.get(running.campaign_id)).state(DNS).run == 1


async def test_step_by_step_waits_for_its_caller(store: Store) -> None:
    running = await generating(store)
    await append(store, running, 0, ["a.com"])

    assert await store.ledger.complete(running)

    current = (await store.get(running.campaign_id)).current
    assert (current.phase, current.status) == (DNS, Status.CONFIGURED)
    await act(store, running.campaign_id, Action.START, phase=DNS)
    assert [r.phase for r in await store.ledger.running_phases()] == [Phase.DNS_VALIDATION]


async def test_a_failure_is_told_whatever_its_text(store: Store) -> None:
    running = await generating(store)

    await store.ledger.fail(running, "no\0thing")

    assert (await store.get(running.campaign_id)).current.failure == "no\ufffdthing"


async def test_a_failed_phase_says_why_and_ends_the_campaign(store: Store) -> None:
    running = await generating(store)

    await store.ledger.fail(running, "no space left")
    await store.ledger.fail(running, "again")

    campaign = await store.get(running.campaign_id)
    assert campaign.is_finished
    assert (campaign.current.status, campaign.current.failure) == (Status.FAILED, "no space left")
    finished = (await history(store, campaign.no))[-1].campaign_finished
    assert finished.status == campaign_pb2.PHASE_STATUS_FAILED


@pytest.mark.parametrize("action", [Action.PAUSE, Action.CANCEL])
async def test_nothing_is_settled_after_a_pause_or_cancel(
    store: Store, pool: Pool, action: Action
) -> None:
    """Settlements and the transition race; whatever wins, the ledger and the events agree."""
    names = [f"{n}.com" for n in range(200)]
    running = await validating(store, names, chunk_size=10)
    keys = await hand_out(store, [running], 20)
    attempts = [await claim(pool, key, "w") for key in keys]

    async def settle_all() -> int:
        pairs = zip(keys, attempts, strict=True)
        return sum([await settle(pool, key, attempt or 0, 10) for key, attempt in pairs])

    settled, _ = await asyncio.gather(settle_all(), act(store, running.campaign_id, action))

    told = await kinds(store, running.campaign_no)
    end = told.index(f"2 {'PAUSED' if action is Action.PAUSE else 'CANCELLED'}")
    assert told[:end].count("chunk_settled") == settled + 1
    assert "chunk_settled" not in told[end:]
    tally = await store.tally(running.campaign_no, DNS, 1)
    assert tally.settled_count == 10 * settled
    assert tally.chunks_in_flight == 0


async def test_a_stale_attempt_may_not_settle(store: Store, pool: Pool) -> None:
    running = await validating(store, ["a.com"])
    (key,) = await hand_out(store, [running], 1)
    assert await claim(pool, key, "slow") == 1
    # As the dispatcher does when a worker is not heard of any more.
    await pool.execute("UPDATE chunks SET state = 'ready', claim_time = NULL, worker = NULL")
    assert await claim(pool, key, "other") == 2
    assert await claim(pool, key, "third") is None

    assert not await settle(pool, key, 1, 1)
    assert await settle(pool, key, 2, 1)
    assert not await settle(pool, key, 2, 1)

    assert (await store.tally(running.campaign_no, DNS, 1)).outcomes[0] == 1


async def test_a_chunk_is_settled_with_an_outcome_for_every_name_or_not_at_all(
    store: Store, pool: Pool
) -> None:
    running = await validating(store, ["a.com", "b.com"])
    (key,) = await hand_out(store, [running], 1)
    assert await claim(pool, key, "w") == 1

    with pytest.raises(asyncpg.RaiseError, match="one for every name"):
        await settle(pool, key, 1, 1)

    assert await settle(pool, key, 1, 2)


async def test_a_phase_that_was_just_paused_is_not_handed_out(store: Store) -> None:
    running = await validating(store, ["a.com"])
    await act(store, running.campaign_id, Action.PAUSE)

    assert await hand_out(store, [running], 1) == []


async def test_a_claim_from_before_a_pause_is_worth_nothing_after_it(
    store: Store, pool: Pool
) -> None:
    running = await validating(store, ["a.com"])
    (key,) = await hand_out(store, [running], 1)
    assert await claim(pool, key, "w") == 1
    await act(store, running.campaign_id, Action.PAUSE)
    assert await claim(pool, key, "w") is None
    await act(store, running.campaign_id, Action.RESUME)

    assert not await settle(pool, key, 1, 1)
    assert await hand_out(store, [running], 1) == [key]
    assert await claim(pool, key, "w") == 2


async def test_revisions_have_no_gap_whoever_appends(store: Store, pool: Pool) -> None:
    running = await validating(store, [f"{n}.com" for n in range(300)], chunk_size=10)
    keys = await hand_out(store, [running], 30)

    async def work(key: ChunkKey) -> bool:
        attempt = await claim(pool, key, "w")
        return await settle(pool, key, attempt or 0, 10)

    async def pause_and_resume() -> None:
        for _ in range(5):
            await act(store, running.campaign_id, Action.PAUSE)
            await act(store, running.campaign_id, Action.RESUME)

    async def take_back() -> None:
        for seen in await store.ledger.queued():
            await store.ledger.take_back_claims(running, [seen])

    await asyncio.gather(pause_and_resume(), take_back(), *map(work, keys))

    events = await history(store, running.campaign_no)
    assert len(events) == (await store.get(running.campaign_id)).revision
    stored = await store.history.events(running.campaign_no, 7, 3)
    assert [event.revision for event in stored] == [8, 9, 10]
