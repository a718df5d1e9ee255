"""The six promises of a watch, on everything that real streams sent, against the table of events.

One recording serves all tests: campaigns that several writers work on at once through the real
ledger, and watchers that read quickly, slowly, and with cuts.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Any

import grpc
import pytest

from domainflow.campaign.v1.campaign_service_pb2 import (
    WatchCampaignsRequest,
    WatchCampaignsResponse,
)
from domainflow.campaign.v1.event_pb2 import Event
from services.campaign.campaign import Action, Mode
from services.campaign.history import StoredEvent
from services.campaign.ingest import digest
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from tests.campaign.conftest import Serve
from tests.campaigns import act, generating, new_campaign

CAMPAIGNS, PARTS = 4, 25
# Bookmarks, of all that were sent, that are resumed from.
TRIED_BOOKMARKS = 20

Message = WatchCampaignsResponse


@dataclass
class Stream:
    """What one call sent, in order. `resumed` maps campaign ids to revisions."""

    client: str
    resumed: dict[str, int]
    messages: list[Message] = field(default_factory=list)
    # Whether it ended by itself, with every campaign over.
    complete: bool = False

    def begins(self) -> dict[str, int]:
        """Where each campaign begins on this stream."""
        states = [m.state for m in self.messages if m.HasField("state")]
        return {**self.resumed, **{s.campaign_id: s.revision for s in states}}

    def events(self) -> list[Event]:
        return [message.event for message in self.messages if message.HasField("event")]


@dataclass
class Recording:
    """The table of events by campaign id, and every stream."""

    table: dict[str, list[StoredEvent]]
    streams: list[Stream]
    # Streams opened afterwards from bookmarks that were sent.
    from_bookmarks: list[Stream]


_recorded: list[Recording] = []


@pytest.fixture
async def recorded(serve: Serve, store: Store) -> None:
    _recorded.append(await record(serve, store))


@pytest.fixture
def recording(request: pytest.FixtureRequest) -> Recording:
    if not _recorded:
        request.getfixturevalue("recorded")
    return _recorded[0]


async def record(serve: Serve, store: Store) -> Recording:
    works = [
        await generating(store, new_campaign(mode=Mode.FULL_SEQUENCE)) for _ in range(CAMPAIGNS)
    ]
    ids = [str(work.campaign_id) for work in works]
    streams: list[Stream] = []
    # Bookmarks come as often as there is anything between them.
    async with serve(heartbeat=0.02) as stub:

        async def watch(client: str, resumed: dict[str, int], reads: int, pause: float) -> Stream:
            """Read up to `reads` messages, or to the end."""
            stream = Stream(client, dict(resumed))
            streams.append(stream)
            call: Any = stub.WatchCampaigns(
                WatchCampaignsRequest(
                    campaign_ids=ids, resume_revisions=resumed, until_finished=True
                )
            )
            while len(stream.messages) < reads:
                message = await call.read()
                if message is grpc.aio.EOF:
                    stream.complete = True
                    break
                stream.messages.append(message)
                await asyncio.sleep(pause)
            call.cancel()
            return stream

        async def watch_with_cuts(client: str, where: Callable[[Stream], dict[str, int]]) -> None:
            dice, seen = random.Random(client), dict.fromkeys(ids, 0)
            while not (stream := await watch(client, seen, dice.randint(10, 60), 0)).complete:
                seen |= where(stream)

        whole = dict.fromkeys(ids, 0)
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(write(store, work))
            group.create_task(watch("quick", {}, 1_000_000, 0))
            group.create_task(watch("quick from the beginning", whole, 1_000_000, 0))
            group.create_task(watch("slow", whole, 1_000_000, 0.004))
            group.create_task(watch_with_cuts("cut, from bookmarks", last_bookmark))
            group.create_task(watch_with_cuts("cut, from events", last_events))
        sent = list(streams)
        bookmarks = [
            dict(message.bookmark.revisions)
            for stream in sent
            for message in stream.messages
            if message.HasField("bookmark")
        ]
        from_bookmarks = [
            await watch("from a bookmark", bookmark, 1_000_000, 0)
            for bookmark in random.Random(1).sample(bookmarks, TRIED_BOOKMARKS)
        ]
    table = {
        str(work.campaign_id): await store.history.events(work.campaign_no, 0, 100_000)
        for work in works
    }
    return Recording(table, sent, from_bookmarks)


async def write(store: Store, work: RunningPhase) -> None:
    """Store names with pauses in between, go on to the next phase, and end there."""
    for position in range(PARTS):
        names = [f"n{position}.com"]
        assert await store.names.append_names(work, position, names, digest(names))
        if position % 7 == work.campaign_no % 7:
            await act(store, work.campaign_id, Action.PAUSE)
            await act(store, work.campaign_id, Action.RESUME)
    # Two events of one transaction each: the end of a phase with the begin of the next, and the
    # end of that one with the campaign's.
    assert await store.ledger.complete(work)
    await act(store, work.campaign_id, Action.CANCEL)


def last_bookmark(stream: Stream) -> dict[str, int]:
    found = [dict(m.bookmark.revisions) for m in stream.messages if m.HasField("bookmark")]
    return found[-1] if found else {}


def last_events(stream: Stream) -> dict[str, int]:
    return {event.campaign_id: event.revision for event in stream.events()}


def stored(event: Event) -> tuple[int, datetime, bytes]:
    """The row that an event was made of."""
    body = Event.FromString(event.SerializeToString())
    time = event.create_time.ToDatetime(UTC)
    for column in ("campaign_id", "revision", "create_time"):
        body.ClearField(column)  # type: ignore[arg-type]
    return event.revision, time, body.SerializeToString()


def rows(events: Sequence[StoredEvent]) -> list[tuple[int, datetime, bytes]]:
    return [(event.revision, event.create_time, event.body) for event in events]


def test_the_recording_has_what_the_promises_are_about(recording: Recording) -> None:
    clients = {stream.client for stream in recording.streams}
    assert len(clients) == 5
    assert len(recording.streams) > 10
    # Several events of one transaction, and bookmarks in the midst of the events.
    for events in recording.table.values():
        assert len({event.create_time for event in events}) < len(events)
    bookmarked = {
        revision
        for stream in recording.streams
        for message in stream.messages
        for revision in message.bookmark.revisions.values()
    }
    assert len(bookmarked) > 10


def test_ordered_events_of_a_campaign_come_in_order_of_revision(recording: Recording) -> None:
    for stream in [*recording.streams, *recording.from_bookmarks]:
        for campaign_id in recording.table:
            sent = [e.revision for e in stream.events() if e.campaign_id == campaign_id]
            assert sent == sorted(sent), stream.client


def test_unique_no_event_comes_twice(recording: Recording) -> None:
    for stream in [*recording.streams, *recording.from_bookmarks]:
        sent = [(event.campaign_id, event.revision) for event in stream.events()]
        assert len(sent) == len(set(sent)), stream.client


def test_reliable_no_event_is_left_out_or_changed(recording: Recording) -> None:
    for stream in [*recording.streams, *recording.from_bookmarks]:
        for campaign_id, events in recording.table.items():
            begin = stream.begins().get(campaign_id)
            sent = [stored(e) for e in stream.events() if e.campaign_id == campaign_id]
            if begin is None:
                # Cut before its state came.
                assert not sent
                continue
            expected = rows(events)[begin:]
            assert sent == (expected if stream.complete else expected[: len(sent)]), stream.client


def test_atomic_events_of_one_transaction_come_together(recording: Recording) -> None:
    for stream in [*recording.streams, *recording.from_bookmarks]:
        for message, following in pairwise(stream.messages):
            if not message.HasField("event"):
                continue
            event = message.event
            events = recording.table[event.campaign_id]
            if event.revision < len(events):
                # Revision r is row r - 1, so this is the event after it.
                after = events[event.revision]
                if after.create_time == event.create_time.ToDatetime(UTC):
                    assert following.event.campaign_id == event.campaign_id, stream.client
                    assert following.event.revision == event.revision + 1, stream.client


def test_atomic_no_bookmark_falls_into_a_transaction(recording: Recording) -> None:
    ends: dict[str, set[int]] = {}
    for campaign_id, events in recording.table.items():
        groups = [[*group] for _, group in groupby(events, key=lambda e: e.create_time)]
        ends[campaign_id] = {0, *(group[-1].revision for group in groups)}
    for stream in [*recording.streams, *recording.from_bookmarks]:
        for message in stream.messages:
            for campaign_id, revision in message.bookmark.revisions.items():
                # But a caller may resume from anywhere, and nothing else may have come since.
                if revision != stream.resumed.get(campaign_id):
                    assert revision in ends[campaign_id], stream.client


def test_resumable_cut_streams_make_up_one_whole(recording: Recording) -> None:
    for client in ("cut, from bookmarks", "cut, from events"):
        streams = [stream for stream in recording.streams if stream.client == client]
        assert streams[-1].complete
        assert len(streams) > 2
        for campaign_id, events in recording.table.items():
            seen: list[Any] = []
            for stream in streams:
                # What came after the point that the next one resumed from comes again.
                del seen[stream.resumed[campaign_id] :]
                seen += [stored(e) for e in stream.events() if e.campaign_id == campaign_id]
            assert seen == rows(events)


def test_bookmarkable_a_bookmark_tells_exactly_what_was_sent_before_it(
    recording: Recording,
) -> None:
    for stream in [*recording.streams, *recording.from_bookmarks]:
        sent = dict(stream.resumed)
        for message in stream.messages:
            if message.HasField("state"):
                sent[message.state.campaign_id] = message.state.revision
            elif message.HasField("event"):
                sent[message.event.campaign_id] = message.event.revision
            elif message.HasField("bookmark"):
                assert dict(message.bookmark.revisions) == sent, stream.client


def test_bookmarkable_exactly_the_rest_follows_a_bookmark(recording: Recording) -> None:
    assert len(recording.from_bookmarks) == TRIED_BOOKMARKS
    for stream in recording.from_bookmarks:
        assert stream.complete
        for campaign_id, events in recording.table.items():
            sent = [stored(e) for e in stream.events() if e.campaign_id == campaign_id]
            assert sent == rows(events)[stream.resumed[campaign_id] :]


def test_progress_counts_in_no_event_that_was_not_sent(recording: Recording) -> None:
    for stream in recording.streams:
        sent = stream.begins()
        for message in stream.messages:
            if message.HasField("event"):
                sent[message.event.campaign_id] = message.event.revision
            elif message.HasField("progress"):
                progress = message.progress
                assert progress.revision <= sent[progress.campaign_id], stream.client
