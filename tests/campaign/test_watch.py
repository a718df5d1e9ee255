"""WatchCampaigns through a real port: nothing missed, nothing twice, nothing out of order."""

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import grpc
import pytest

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1.campaign_service_pb2 import (
    WatchCampaignsRequest,
    WatchCampaignsResponse,
)
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub
from services.campaign.campaign import Action, Campaign
from services.campaign.catalogue import Change
from services.campaign.ingest import digest
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.campaign.watch import NEWS_PORTION, Hub
from tests.campaign.conftest import Serve
from tests.campaigns import (
    DNS,
    GENERATION,
    act,
    answer,
    create,
    from_upload,
    generating,
    new_campaign,
)
from tests.eventually import eventually
from tests.refusals import read, refused

Stub = CampaignServiceStub
Message = WatchCampaignsResponse
Call = Any


def watch(campaigns: Stub, *which: Campaign | RunningPhase, **more: Any) -> Call:
    ids = [
        str(one.id if isinstance(one, Campaign) else one.campaign_id)  # type: ignore[union-attr]
        for one in which
    ]
    return campaigns.WatchCampaigns(WatchCampaignsRequest(campaign_ids=ids, **more))


async def until(call: Call, found: Callable[[Message], bool]) -> list[Message]:
    """Every message up to the first that is looked for."""
    messages = []
    while True:
        message = await call.read()
        assert message is not grpc.aio.EOF, messages
        messages.append(message)
        if found(message):
            return messages


async def opened(call: Call) -> list[Message]:
    """The initial state with its bookmark."""
    return await until(call, lambda message: message.bookmark.initial_state_sent)


async def append(store: Store, running: RunningPhase, position: int) -> None:
    names = [f"n{position}.com"]
    assert await store.names.append_names(running, position, names, digest(names))


def revisions(messages: list[Message]) -> list[int]:
    return [message.event.revision for message in messages if message.HasField("event")]


@pytest.fixture
async def growing(store: Store) -> RunningPhase:
    """A campaign at revision 2 whose generation runs."""
    return await generating(store, new_campaign(from_upload()))


async def test_a_watcher_gets_the_present_state_and_a_bookmark(
    campaigns: Stub, store: Store
) -> None:
    one, other = await create(store), await create(store)
    await create(store)

    messages = await opened(watch(campaigns, one, other))

    states, bookmark = messages[:-1], messages[-1].bookmark
    assert {message.state.campaign_id for message in states} == {str(one.id), str(other.id)}
    assert all(message.state.revision == 1 for message in states)
    assert not any(message.state.HasField("configuration") for message in states)
    assert bookmark.revisions == {str(one.id): 1, str(other.id): 1}


async def test_events_come_in_order_without_gap_while_others_write(
    campaigns: Stub, store: Store, growing: RunningPhase
) -> None:
    async def write() -> None:
        for position in range(100):
            await append(store, growing, position)
            if position % 20 == 10:
                await act(store, growing.campaign_id, Action.PAUSE)
                await act(store, growing.campaign_id, Action.RESUME)

    writing = asyncio.create_task(write())
    call = watch(campaigns, growing)
    first = await opened(call)
    start = first[0].state.revision
    messages = await until(call, lambda message: message.event.revision == 112)
    await writing

    assert revisions(messages) == list(range(start + 1, 113))
    assert {m.event.campaign_id for m in messages if m.HasField("event")} == {
        str(growing.campaign_id)
    }
    # What the state counts and what the events bring make up the whole.
    settled = sum(message.event.chunk_settled.name_count for message in messages)
    assert first[0].state.name_count + settled == 100


async def test_progress_never_goes_back_and_ends_at_the_truth(
    campaigns: Stub, store: Store, growing: RunningPhase
) -> None:
    await store.names.announce(growing, 30, planned=False)
    call = watch(campaigns, growing)
    await opened(call)

    for position in range(30):
        await append(store, growing, position)
    messages = await until(call, lambda message: message.progress.settled_count == 30)

    counts = [m.progress.settled_count for m in messages if m.HasField("progress")]
    assert counts == sorted(counts)
    last = messages[-1].progress
    assert (last.name_count, last.status) == (30, pb.PHASE_STATUS_RUNNING)
    assert [(o.outcome, o.count) for o in last.outcomes] == [("GENERATED", 30)]


async def test_progress_is_told_four_times_a_second_at_most(
    campaigns: Stub, store: Store, growing: RunningPhase
) -> None:
    begun = time.monotonic()
    call = watch(campaigns, growing)
    await opened(call)
    told: list[float] = []
    positions = itertools.count()

    async def change() -> None:
        while len(told) < 9:
            await append(store, growing, next(positions))

    changing = asyncio.create_task(change())
    while len(told) < 9:
        if (await call.read()).HasField("progress"):
            told.append(time.monotonic() - begun)
    await changing

    # Two full seconds have to pass before the ninth.
    assert told[-1] >= 2, told


async def test_a_watcher_is_not_told_what_the_last_one_left(
    campaigns: Stub, store: Store, growing: RunningPhase
) -> None:
    last = watch(campaigns, growing)
    await append(store, growing, 0)
    await until(last, lambda message: message.progress.settled_count == 1)
    last.cancel()
    for position in range(1, 20):
        await append(store, growing, position)

    messages = await until(watch(campaigns, growing), lambda m: m.HasField("progress"))

    assert messages[-1].progress.settled_count == 20


async def test_a_watcher_resumes_after_the_revision_it_has_seen(
    campaigns: Stub, store: Store, growing: RunningPhase
) -> None:
    for position in range(10):
        await append(store, growing, position)

    call = watch(campaigns, growing, resume_revisions={str(growing.campaign_id): 4})
    messages = await until(call, lambda message: message.event.revision == 12)

    assert revisions(messages) == list(range(5, 13))
    assert not any(message.HasField("state") for message in messages)


async def test_a_watcher_that_has_seen_nothing_gets_every_event(
    campaigns: Stub, growing: RunningPhase
) -> None:
    call = watch(campaigns, growing, resume_revisions={str(growing.campaign_id): 0})

    messages = await until(call, lambda message: message.event.revision == 2)

    assert revisions(messages) == [1, 2]


async def test_a_revision_beyond_the_newest_is_out_of_range(
    campaigns: Stub, growing: RunningPhase
) -> None:
    call = watch(campaigns, growing, resume_revisions={str(growing.campaign_id): 3})

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await opened(call)

    refusal = read(caught.value)
    assert (refusal.code, refusal.reason) == ("OUT_OF_RANGE", "REVISION_OUT_OF_RANGE")
    assert refusal.metadata == {
        "campaign_id": str(growing.campaign_id),
        "revision": "3",
        "newest_revision": "2",
        "restart_revision": "0",
    }


async def test_an_unknown_campaign_cannot_be_watched(campaigns: Stub) -> None:
    call = campaigns.WatchCampaigns(WatchCampaignsRequest(campaign_ids=[str(uuid4())]))

    refusal = await refused(call.read())

    assert refusal.reason == "CAMPAIGN_NOT_FOUND"


async def test_until_finished_ends_with_the_last_campaign(campaigns: Stub, store: Store) -> None:
    over = await create(store)
    await act(store, over, Action.CANCEL)
    running = await generating(store, new_campaign(phases=[GENERATION]))
    call = watch(campaigns, over, running, until_finished=True)
    await opened(call)

    assert await store.ledger.complete(running)
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)

    events = [message.event for message in messages if message.HasField("event")]
    assert [event.WhichOneof("kind") for event in events] == ["phase_changed", "campaign_finished"]
    assert await call.code() == grpc.StatusCode.OK


async def test_until_finished_of_what_is_over_ends_at_once(campaigns: Stub, store: Store) -> None:
    over = await create(store)
    await act(store, over, Action.CANCEL)

    seen = [message async for message in watch(campaigns, over, until_finished=True)]
    again = [
        message
        async for message in watch(
            campaigns, over, until_finished=True, resume_revisions={str(over.id): 1}
        )
    ]

    assert [message.WhichOneof("kind") for message in seen] == ["state", "bookmark"]
    assert revisions(again) == [2, 3]


async def test_until_finished_ends_whatever_happened_since_the_end(
    campaigns: Stub, store: Store
) -> None:
    over = await create(store)
    await act(store, over, Action.CANCEL)
    # Neither makes it go on: the phase before is cancelled.
    await act(store, over, Action.SKIP, phase=DNS)
    await store.catalogue.update(
        over.id, Change(name="other"), etag="", reason="", key=None, answer=answer
    )

    again = watch(campaigns, over, until_finished=True, resume_revisions={str(over.id): 3})
    async with asyncio.timeout(30):
        messages = [message async for message in again]

    assert revisions(messages) == [4, 5]


async def test_until_finished_ends_also_when_a_later_phase_of_what_is_over_is_skipped(
    campaigns: Stub, store: Store
) -> None:
    over = await create(store)
    await act(store, over, Action.CANCEL)
    running = await generating(store, new_campaign(phases=[GENERATION]))
    call = watch(campaigns, over, running, until_finished=True)
    await opened(call)

    await act(store, over, Action.SKIP, phase=DNS)
    await until(call, lambda message: message.event.campaign_id == str(over.id))
    assert await store.ledger.complete(running)

    async with asyncio.timeout(30):
        while await call.read() is not grpc.aio.EOF:
            pass
    assert await call.code() == grpc.StatusCode.OK


async def test_until_finished_needs_campaigns(campaigns: Stub) -> None:
    refusal = await refused(watch(campaigns, until_finished=True).read())

    assert refusal.fields == {"until_finished"}


async def test_a_watcher_of_all_campaigns_sees_a_new_one(campaigns: Stub, store: Store) -> None:
    old = await create(store)
    call = watch(campaigns)
    assert (await opened(call))[0].state.campaign_id == str(old.id)

    new = await create(store)
    await act(store, new, Action.START)
    messages = await until(call, lambda message: message.event.revision == 2)

    assert revisions(messages) == [1, 2]
    assert messages[0].event.campaign_id == str(new.id)
    assert messages[0].event.campaign_created.name == "test"


async def test_a_watcher_of_all_is_told_of_many_campaigns_at_once(
    campaigns: Stub, store: Store
) -> None:
    call = watch(campaigns)
    await opened(call)

    # Nobody tells the hub: they are found by its own look, all in one.
    made = [await create(store) for _ in range(2 * NEWS_PORTION + 1)]
    for campaign in made:
        await act(store, campaign, Action.START)
    waiting = {str(campaign.id): [1, 2, 3] for campaign in made}
    async with asyncio.timeout(30):
        while waiting:
            event = (await call.read()).event
            if event.campaign_id:
                assert waiting[event.campaign_id].pop(0) == event.revision
                if not waiting[event.campaign_id]:
                    del waiting[event.campaign_id]


async def test_bookmarks_come_also_while_events_do(
    serve: Serve, store: Store, growing: RunningPhase
) -> None:
    """With no pause between the messages that could be taken for silence."""
    for position in range(50):
        await append(store, growing, position)
    async with serve(heartbeat=0.0) as campaigns:
        call = watch(campaigns, growing, resume_revisions={str(growing.campaign_id): 0})
        messages = await until(call, lambda message: message.event.revision == 52)

    seen = 0
    bookmarks = []
    for message in messages:
        if message.HasField("event"):
            seen = message.event.revision
        elif message.HasField("bookmark") and not message.bookmark.initial_state_sent:
            # A bookmark says what was sent before it: resuming there misses nothing.
            assert message.bookmark.revisions == {str(growing.campaign_id): seen}
            bookmarks.append(seen)
    assert len(bookmarks) > 25


async def test_a_silent_campaign_still_sends_bookmarks(
    serve: Serve, store: Store, growing: RunningPhase
) -> None:
    async with serve(heartbeat=0.1) as campaigns:
        call = watch(campaigns, growing)
        await opened(call)

        for _ in range(3):
            await until(call, lambda message: message.HasField("bookmark"))


async def test_a_slow_watcher_reads_every_event_in_the_end(
    campaigns: Stub, store: Store, growing: RunningPhase
) -> None:
    slow, quick = watch(campaigns, growing), watch(campaigns, growing)
    await opened(slow)
    await opened(quick)

    # More than the connection's windows hold while nobody reads.
    reason = "r" * 500
    for _ in range(150):
        for action in (Action.PAUSE, Action.RESUME):
            await store.transition(
                growing.campaign_id,
                action,
                phase=None,
                reason=reason,
                key=None,
                answer=lambda _: b"",
            )
    assert revisions(await until(quick, lambda m: m.event.revision == 302))[-1] == 302
    messages = await until(slow, lambda message: message.event.revision == 302)

    assert revisions(messages) == list(range(3, 303))


async def test_a_watcher_that_hangs_up_leaves_nothing_behind(
    serve: Serve, store: Store, growing: RunningPhase
) -> None:
    async with serve() as campaigns:
        # Twice as many as the server admits at once.
        for _ in range(100):

            async def watched_once() -> None:
                call = watch(campaigns, growing)
                try:
                    await opened(call)
                except grpc.aio.AioRpcError as error:
                    raise AssertionError from error
                finally:
                    call.cancel()

            await eventually(watched_once)


async def test_news_that_nobody_told_of_are_found_while_others_are_told_of(store: Store) -> None:
    loud, quiet = await create(store), await create(store)
    hub = Hub(store)
    stop = asyncio.Event()

    async def tell() -> None:
        while not stop.is_set():
            hub.wake(loud.no)
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        following = group.create_task(hub.follow())
        group.create_task(tell())
        watch = hub.watch([loud.id, quiet.id], {}, until_finished=False)
        async with aclosing(watch) as messages, asyncio.timeout(20):
            async for message in messages:
                if message.bookmark.initial_state_sent:
                    await act(store, quiet, Action.START)
                # The first one may have been found because the watch was new.
                if message.event.phase_changed.to_status == pb.PHASE_STATUS_RUNNING:
                    await act(store, quiet, Action.CANCEL)
                if message.event.HasField("campaign_finished"):
                    break
        stop.set()
        following.cancel()


async def test_nothing_is_kept_up_that_nobody_watches(store: Store, growing: RunningPhase) -> None:
    hub = Hub(store)
    following = asyncio.create_task(hub.follow())
    some = hub.watch([growing.campaign_id], {}, until_finished=False, include_system=True)
    every = hub.watch([], {}, until_finished=False)
    for watch in (some, every):
        while not (await anext(watch)).bookmark.initial_state_sent:
            pass
    new = await create(store)

    async def is_followed() -> None:
        assert set(hub.recent.followed) == {0, growing.campaign_no, new.no}

    await eventually(is_followed)
    await every.aclose()
    assert set(hub.recent.followed) == {0, growing.campaign_no}
    assert set(hub.gauges.followed) == {growing.campaign_no}
    await some.aclose()
    assert set(hub.recent.followed) == set()
    assert set(hub.gauges.followed) == set()
    following.cancel()
    await asyncio.wait([following])
