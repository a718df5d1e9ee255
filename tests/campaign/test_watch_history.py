"""What is kept of a history and what is not, the suite's own history, and campaigns that go."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest

from domainflow.campaign.v1 import event_pb2
from domainflow.campaign.v1.campaign_service_pb2 import (
    WatchCampaignsRequest,
    WatchCampaignsResponse,
)
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub
from services.campaign.campaign import Action, Campaign
from services.campaign.dispatcher import Dispatcher
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.campaign.watch import Hub
from services.chassis.postgres import Pool
from tests.campaign.conftest import Serve
from tests.campaigns import act, create, generating
from tests.eventually import eventually
from tests.queues import empty_queue
from tests.refusals import Refusal, read

Stub = CampaignServiceStub
Message = WatchCampaignsResponse
WEEK = timedelta(days=7)


def watch(stub: Stub, *ids: object, **more: Any) -> Any:
    return stub.WatchCampaigns(WatchCampaignsRequest(campaign_ids=map(str, ids), **more))


async def until(call: Any, kind: str, **values: object) -> list[Message]:
    """Every message up to the first of this kind with these values."""
    messages: list[Message] = []
    while True:
        message = await call.read()
        assert message is not grpc.aio.EOF, messages
        messages.append(message)
        found = getattr(message, kind)
        if message.WhichOneof("kind") == kind and all(
            getattr(found, name) == value for name, value in values.items()
        ):
            return messages


async def opened(call: Any) -> list[Message]:
    return await until(call, "bookmark", initial_state_sent=True)


async def rest(call: Any) -> list[Message]:
    messages: list[Message] = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(call)
    return read(caught.value)


def revisions(messages: list[Message]) -> list[int]:
    return [message.event.revision for message in messages if message.HasField("event")]


def system_revisions(messages: list[Message]) -> list[int]:
    return [m.system_event.revision for m in messages if m.HasField("system_event")]


async def append(pool: Pool, no: int, count: int, *, at_once: bool = False) -> None:
    """So many large events, in a transaction each or all in one."""
    retried = event_pb2.ChunkRetried(cause="r" * 500)
    body = event_pb2.Event(chunk_retried=retried).SerializeToString()
    if at_once:
        await pool.execute(
            "SELECT append_event($1, $2) FROM generate_series(1, $3)", no, body, count
        )
    else:
        await pool.execute(
            f"""DO $$ BEGIN FOR i IN 1..{count} LOOP
                PERFORM append_event({no}, '\\x{body.hex()}'::bytea); COMMIT;
            END LOOP; END $$"""
        )


async def append_system(pool: Pool, reason: str) -> None:
    decided = event_pb2.PoolDecided(pool="dns", host="here", process_count=2, reason=reason)
    event = event_pb2.SystemEvent(pool_decided=decided)
    await pool.execute("SELECT append_system_event($1)", event.SerializeToString())


async def age(pool: Pool, days: int = 10) -> None:
    for table in ("events", "system_events"):
        await pool.execute(
            f"UPDATE {table} SET create_time = create_time - make_interval(days => $1)", days
        )


@pytest.fixture
async def over(store: Store) -> Campaign:
    """A campaign at revision 3 that is cancelled."""
    campaign = await create(store)
    await act(store, campaign, Action.CANCEL)
    return await store.get(campaign.id)


async def forgotten(pool: Pool, campaign: Campaign | RunningPhase) -> int:
    no = campaign.no if isinstance(campaign, Campaign) else campaign.campaign_no
    revision: int = await pool.fetchval(
        "SELECT forgotten_revision FROM campaigns WHERE no = $1", no
    )
    return revision


async def test_old_events_of_what_is_over_go_from_the_beginning_on(
    store: Store, pool: Pool, over: Campaign
) -> None:
    await age(pool)

    dropped = [await store.history.forget_events(WEEK, 2) for _ in range(3)]

    assert dropped == [2, 1, 0]
    assert await forgotten(pool, over) == over.revision == 3
    assert await store.history.events(over.no, 0, 10) == []


async def test_a_portion_leaves_what_comes_after_it(
    store: Store, pool: Pool, over: Campaign
) -> None:
    await age(pool)
    await store.history.forget_events(WEEK, 2)

    kept = await store.history.events(over.no, 0, 10)

    assert [event.revision for event in kept] == [3]
    assert await forgotten(pool, over) == 2


async def test_old_events_are_dropped_after_their_time(
    store: Store, pool: Pool, nats_url: str, over: Campaign
) -> None:
    await age(pool, days=10)
    async with empty_queue(nats_url) as queue:
        keeping = asyncio.create_task(
            Dispatcher(store=store, queue=queue, event_retention=WEEK).dispatch()
        )

        async def is_dropped() -> None:
            assert await forgotten(pool, over) == over.revision

        await eventually(is_dropped)
        keeping.cancel()
        await asyncio.wait([keeping])

    assert await store.history.events(over.no, 0, 10) == []


async def test_events_stay_while_something_happens(store: Store, pool: Pool) -> None:
    running = await generating(store)
    over_lately = await create(store)
    await age(pool)
    await act(store, over_lately, Action.CANCEL)

    assert await store.history.forget_events(WEEK, 10) == 0
    assert await forgotten(pool, running) == 0


async def test_a_revision_that_is_not_kept_is_out_of_range(
    campaigns: Stub, store: Store, pool: Pool, over: Campaign
) -> None:
    await age(pool)
    await store.history.forget_events(WEEK, 2)

    for revision in (0, 1):
        refusal = await refused(
            watch(campaigns, over.id, resume_revisions={str(over.id): revision})
        )
        assert (refusal.code, refusal.reason) == ("OUT_OF_RANGE", "REVISION_OUT_OF_RANGE")
        assert refusal.metadata == {
            "campaign_id": str(over.id),
            "revision": str(revision),
            "newest_revision": "3",
            "restart_revision": "2",
        }

    restart = {str(over.id): int(refusal.metadata["restart_revision"])}
    again = await rest(watch(campaigns, over.id, resume_revisions=restart, until_finished=True))
    assert revisions(again) == [3]
    # And who resumes nothing has the state.
    fresh = await rest(watch(campaigns, over.id, until_finished=True))
    assert fresh[0].state.revision == 3


@pytest.mark.parametrize("kept", [0, 300])
async def test_a_watcher_whose_next_events_go_is_told_so(
    campaigns: Stub, store: Store, pool: Pool, over: Campaign, kept: int
) -> None:
    await append(pool, over.no, 1_000)
    await age(pool)
    # It reads nothing, so the server cannot have got far.
    call = watch(campaigns, over.id, resume_revisions={str(over.id): 0})
    await opened(call)
    assert await store.history.forget_events(WEEK, 1_003 - kept) == 1_003 - kept

    messages: list[Message] = []

    async def read_on() -> None:
        while True:
            messages.append(await call.read())

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_on()

    sent = revisions(messages)
    assert sent == list(range(1, len(sent) + 1))
    refusal = read(caught.value)
    assert refusal.reason == "REVISION_OUT_OF_RANGE"
    assert refusal.metadata["revision"] == str(len(sent))
    assert int(refusal.metadata["restart_revision"]) == 1_003 - kept > len(sent)


async def test_a_burst_that_memory_is_no_place_for_is_told_in_full(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    running = await generating(store)
    begin = (await store.get(running.campaign_id)).revision
    calls = [watch(campaigns, running.campaign_id) for _ in range(3)]
    for call in calls:
        await opened(call)

    await append(pool, running.campaign_no, 700)

    for call in calls:
        messages = await until(call, "event", revision=begin + 700)
        assert revisions(messages) == list(range(begin + 1, begin + 701))


async def test_a_transaction_of_many_pages_is_told_as_one(
    serve: Serve, store: Store, pool: Pool
) -> None:
    running = await generating(store)
    begin = (await store.get(running.campaign_id)).revision
    await append(pool, running.campaign_no, 450, at_once=True)
    await append(pool, running.campaign_no, 1)
    resume = {str(running.campaign_id): 0}
    async with serve(heartbeat=0.0) as campaigns:
        messages = await until(
            watch(campaigns, running.campaign_id, resume_revisions=resume),
            "event",
            revision=begin + 451,
        )

    assert revisions(messages) == list(range(1, begin + 452))
    bookmarked = {
        m.bookmark.revisions[str(running.campaign_id)] for m in messages if m.HasField("bookmark")
    }
    assert {1, begin, begin + 450} <= bookmarked
    assert not bookmarked & set(range(begin + 1, begin + 450))


async def test_a_campaign_that_a_watcher_is_behind_with_keeps_none_of_the_others_back(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    both = [await create(store) for _ in range(2)]
    for campaign in both:
        await append(pool, campaign.no, 1_000)
    resume = {str(campaign.id): 0 for campaign in both}
    call = watch(campaigns, *(campaign.id for campaign in both), resume_revisions=resume)

    seen: list[tuple[str, int]] = []
    while len(seen) < 2_002:
        event = (await call.read()).event
        if event.revision:
            seen.append((event.campaign_id, event.revision))

    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, (campaign_id, _) in enumerate(seen):
        last[campaign_id] = place
        first.setdefault(campaign_id, place)
    assert max(first.values()) < min(last.values())
    for campaign_id in resume:
        assert [revision for of, revision in seen if of == campaign_id] == list(range(1, 1_002))


async def test_the_suites_own_events_come_to_who_asks_for_them(
    campaigns: Stub, pool: Pool, over: Campaign
) -> None:
    await append_system(pool, "before")
    asking = watch(campaigns, over.id, include_system=True)
    other = watch(campaigns, over.id, resume_revisions={str(over.id): 0})
    assert (await opened(asking))[-1].bookmark.system_revision == 1

    await append_system(pool, "after")
    messages = await until(asking, "system_event")

    assert system_revisions(messages) == [2]
    assert messages[-1].system_event.pool_decided.reason == "after"
    seen = await until(other, "event", revision=3)
    assert system_revisions(seen) == []
    assert all(not m.bookmark.system_revision for m in seen)


async def test_the_suites_history_is_resumed_from_any_revision(
    campaigns: Stub, pool: Pool, over: Campaign
) -> None:
    # A bookmark at 0 is one to resume from, too.
    begun = watch(campaigns, over.id, include_system=True)
    assert (await opened(begun))[-1].bookmark.system_revision == 0
    for number in range(3):
        await append_system(pool, str(number))

    for revision in range(3):
        call = watch(campaigns, over.id, include_system=True, resume_system_revision=revision)
        messages = await until(call, "system_event", revision=3)
        assert system_revisions(messages) == list(range(revision + 1, 4))


async def test_a_lost_revision_of_the_suites_history_is_out_of_range(
    campaigns: Stub, store: Store, pool: Pool, over: Campaign
) -> None:
    for number in range(3):
        await append_system(pool, str(number))
    await age(pool)
    await append_system(pool, "new")
    assert [await store.history.forget_system_events(WEEK, 2) for _ in range(3)] == [2, 1, 0]

    for revision in (2, 5):
        refusal = await refused(
            watch(campaigns, over.id, include_system=True, resume_system_revision=revision)
        )
        assert (refusal.code, refusal.reason) == ("OUT_OF_RANGE", "REVISION_OUT_OF_RANGE")
        assert refusal.metadata == {
            "campaign_id": "",
            "revision": str(revision),
            "newest_revision": "4",
            "restart_revision": "3",
        }


async def begin_deletion(pool: Pool, campaign: Campaign, row_count: int) -> None:
    event = event_pb2.Event(deletion_started=event_pb2.DeletionStarted(actor="caller"))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO deletions (campaign_no, campaign_id, row_count) VALUES ($1, $2, $3)",
            campaign.no,
            campaign.id,
            row_count,
        )
        await connection.execute(
            "UPDATE campaigns SET delete_time = now() WHERE no = $1", campaign.no
        )
        await connection.execute(
            "SELECT append_event($1, $2)", campaign.no, event.SerializeToString()
        )


async def delete(pool: Pool, campaign: Campaign, deleted_count: int) -> None:
    await pool.execute(
        "UPDATE deletions SET deleted_count = $2 WHERE campaign_no = $1", campaign.no, deleted_count
    )
    await pool.execute("DELETE FROM events WHERE campaign_no = $1", campaign.no)


async def end_deletion(pool: Pool, campaign: Campaign) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            """UPDATE deletions SET deleted_count = row_count, finish_time = now()
               WHERE campaign_no = $1""",
            campaign.no,
        )
        await connection.execute("DELETE FROM campaigns WHERE no = $1", campaign.no)


async def test_a_deletion_is_told_to_its_end_and_the_campaign_leaves(
    serve: Serve, store: Store, pool: Pool, over: Campaign
) -> None:
    stays = await create(store)
    async with serve(heartbeat=0.1) as campaigns:
        some, every = watch(campaigns, over.id, stays.id), watch(campaigns)
        for call in (some, every):
            await opened(call)

        await begin_deletion(pool, over, 100)
        told = [await until(call, "deletion", deleted_count=0) for call in (some, every)]
        await delete(pool, over, 40)
        for call in (some, every):
            await until(call, "deletion", deleted_count=40)
        await end_deletion(pool, over)

        for call, before in zip((some, every), told, strict=True):
            assert revisions(before) == [4]
            events = [message.event for message in before if message.HasField("event")]
            assert events[-1].HasField("deletion_started")
            last = (await until(call, "deletion", finished=True))[-1].deletion
            assert (last.campaign_id, last.row_count, last.deleted_count) == (
                str(over.id),
                100,
                100,
            )
            bookmark = (await until(call, "bookmark"))[-1].bookmark
            assert dict(bookmark.revisions) == {str(stays.id): 1}


async def test_a_deleted_campaign_counts_as_over(campaigns: Stub, store: Store, pool: Pool) -> None:
    campaign = await create(store)
    call = watch(campaigns, campaign.id, until_finished=True)
    await opened(call)

    await begin_deletion(pool, campaign, 1)
    await end_deletion(pool, campaign)
    messages = await rest(call)

    assert messages[-1].deletion.finished
    assert [m.deletion.finished for m in messages if m.HasField("deletion")].count(True) == 1


async def test_who_comes_back_is_told_what_is_gone(
    campaigns: Stub, store: Store, pool: Pool, over: Campaign
) -> None:
    await begin_deletion(pool, over, 5)
    await end_deletion(pool, over)
    resume = {str(over.id): 3}

    messages = await rest(watch(campaigns, over.id, resume_revisions=resume, until_finished=True))
    assert [m.WhichOneof("kind") for m in messages] == ["deletion", "bookmark"]
    assert messages[0].deletion.finished

    # Also when nobody remembers that it was deleted: whoever watches all has been told of it.
    long_gone = {str(uuid4()): 7}
    first = (await opened(watch(campaigns, resume_revisions=long_gone)))[0]
    assert first.deletion.campaign_id in long_gone
    assert first.deletion.finished


async def test_a_watcher_that_is_behind_does_not_wait_for_what_was_deleted(
    campaigns: Stub, store: Store, pool: Pool, over: Campaign
) -> None:
    await append(pool, over.no, 1_000)
    call = watch(campaigns, over.id, resume_revisions={str(over.id): 0}, until_finished=True)
    await opened(call)
    await begin_deletion(pool, over, 5)
    await delete(pool, over, 4)
    await end_deletion(pool, over)

    async with asyncio.timeout(30):
        messages = await rest(call)

    # As much as was read before it went; nothing out of order, and its end.
    sent = revisions(messages)
    assert sent == sorted(set(sent))
    assert messages[-1].deletion.finished


async def test_a_campaign_that_goes_while_its_watch_begins_is_told_of(
    store: Store, pool: Pool, over: Campaign
) -> None:
    gone = await create(store)
    await begin_deletion(pool, gone, 1)
    await end_deletion(pool, gone)
    await begin_deletion(pool, over, 5)
    hub = Hub(store)
    following = asyncio.create_task(hub.follow())

    async def hub_is_done_with_it() -> None:
        assert hub.recent.newest(over.no) is None

    try:
        async with aclosing(hub.watch([gone.id, over.id], {}, until_finished=True)) as messages:
            first = await anext(messages)
            # The watch has found the campaign and has not yet told its present state.
            await end_deletion(pool, over)
            await eventually(hub_is_done_with_it)
            async with asyncio.timeout(30):
                told = [first, *[message async for message in messages]]
    finally:
        following.cancel()
        await asyncio.wait([following])

    ended = [m.deletion.campaign_id for m in told if m.deletion.finished]
    assert ended == [str(gone.id), str(over.id)]
