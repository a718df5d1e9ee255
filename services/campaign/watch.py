"""Durable events and coalesced progress -> one stream per watcher.

One hub looks at the tables for everybody: which campaigns have new events, how far the running
phases are. Each watcher reads its
own events from the table at its own pace, so a slow one costs nothing but its own delay, and takes
the newest progress only.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from domainflow.campaign.v1 import campaign_service_pb2, event_pb2
from services.campaign.campaign import Campaign, PhaseState, Status
from services.campaign.events import proto_phase, proto_status
from services.campaign.outcomes import named
from services.campaign.render import campaign_to_pb
from services.campaign.store import Store, StoredEvent
from services.chassis import postgres
from services.chassis.errors import CampaignNotFound, RevisionOutOfRange

log = logging.getLogger(__name__)

Message = campaign_service_pb2.WatchCampaignsResponse

# At most 4 progress messages a second and campaign.
PERIOD = 0.25
# A watcher gets a bookmark at least this often, seconds: also while a running phase keeps it busy.
HEARTBEAT = 15.0
EVENT_PAGE = 200
# Rates are taken over this many seconds.
RATE_WINDOW = 10.0


@dataclass(slots=True)
class _Pace:
    """Settled counts of one run over the last seconds."""

    run: tuple[int, int]
    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def rate(self, now: float, settled: int) -> float:
        """Names per second since the oldest sample in the window."""
        self.samples.append((now, settled))
        while self.samples[0][0] < now - RATE_WINDOW:
            self.samples.popleft()
        begin, before = self.samples[0]
        return (settled - before) / (now - begin) if now > begin else 0.0


class Hub:
    """What all watchers of this process share."""

    def __init__(self, store: Store, *, heartbeat: float = HEARTBEAT) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._watched: dict[object, frozenset[int] | None] = {}
        self._wake = asyncio.Event()
        self._ticked = asyncio.Condition()
        self._paces: dict[int, _Pace] = {}
        self.revisions: dict[int, int] = {}
        self.progress: dict[int, event_pb2.Progress] = {}

    def wake(self) -> None:
        """A campaign has a new event: look at once."""
        self._wake.set()

    async def follow(self) -> None:
        """Keep `revisions` and `progress` fresh while anybody watches. Runs until cancelled."""
        while True:
            try:
                if self._watched:
                    await self._tick()
            except postgres.AWAY as error:
                log.warning("watching waits: %s: %s", type(error).__name__, error)
            # Not faster than the period, however often it is woken; not slower when it is not.
            await asyncio.sleep(PERIOD)
            if not self._watched:
                self._wake.clear()
                await self._wake.wait()

    async def _tick(self) -> None:
        numbers = self._union()
        revisions = await self._store.revisions(numbers)
        changed = [no for no, revision in revisions.items() if self.revisions.get(no) != revision]
        active = [no for no in self._paces if no in revisions]
        for campaign in await self._store.by_number(sorted({*changed, *active})):
            await self._measure(campaign)
        self.revisions = revisions
        self.progress = {no: p for no, p in self.progress.items() if no in revisions}
        async with self._ticked:
            self._ticked.notify_all()

    def _union(self) -> Sequence[int] | None:
        if any(numbers is None for numbers in self._watched.values()):
            return None
        return sorted({no for numbers in self._watched.values() for no in numbers or ()})

    async def _measure(self, campaign: Campaign) -> None:
        state = campaign.current
        run = (state.phase, state.run)
        pace = self._paces.get(campaign.no)
        if state.status not in {Status.RUNNING, Status.PAUSED}:
            self._paces.pop(campaign.no, None)
            if pace is None or pace.run != run:
                self.progress.pop(campaign.no, None)
                return
            # The last word on a phase that was followed to its end.
        if pace is None or pace.run != run:
            pace = self._paces[campaign.no] = _Pace(run)
        self.progress[campaign.no] = await self._progress(campaign, state, pace)

    async def _progress(
        self, campaign: Campaign, state: PhaseState, pace: _Pace
    ) -> event_pb2.Progress:
        tally = await self._store.tally(campaign.no, state.phase, state.run)
        rate = pace.rate(time.monotonic(), tally.settled_count)
        progress = event_pb2.Progress(
            campaign_id=str(campaign.id),
            revision=campaign.revision,
            phase=proto_phase(state.phase),
            status=proto_status(state.status),
            run=state.run,
            # The tally is read after the state, and an upload may have grown in between.
            name_count=max(state.name_count, tally.settled_count),
            settled_count=tally.settled_count,
            outcomes=named(state.phase, tally.outcomes),
            names_per_second=rate,
            chunks_in_flight=tally.chunks_in_flight,
            retry_count=tally.retry_count,
        )
        if rate > 0 and state.status is Status.RUNNING:
            left = max(0, state.name_count - tally.settled_count)
            progress.remaining.FromMilliseconds(int(1000 * left / rate))
        return progress

    async def watch(
        self,
        campaign_ids: Sequence[UUID],
        resume_revisions: Mapping[UUID, int],
        *,
        until_finished: bool,
    ) -> AsyncGenerator[Message, None]:
        """Stream to one watcher. Raises CampaignNotFound, RevisionOutOfRange."""
        watcher = _Watcher(self._store, self._heartbeat)
        numbers = await self._numbers(campaign_ids)
        token = object()
        self._watched[token] = numbers
        self.wake()
        try:
            for message in await watcher.begin(numbers, resume_revisions):
                yield message
            while not (until_finished and watcher.all_finished):
                # First of all: what the last watcher left behind may be hours old.
                await self._next_tick()
                async for message in watcher.catch_up(self.revisions, self.progress, numbers):
                    yield message
                    for bookmark in watcher.bookmark_due(time.monotonic()):
                        yield bookmark
                for bookmark in watcher.bookmark_due(time.monotonic()):
                    yield bookmark
        finally:
            del self._watched[token]

    async def _next_tick(self) -> None:
        try:
            async with asyncio.timeout(self._heartbeat / 2), self._ticked:
                await self._ticked.wait()
        except TimeoutError:
            pass

    async def _numbers(self, campaign_ids: Sequence[UUID]) -> frozenset[int] | None:
        if not campaign_ids:
            return None
        numbers = await self._store.numbers(campaign_ids)
        for campaign_id in campaign_ids:
            if campaign_id not in numbers:
                raise CampaignNotFound(campaign_id)
        return frozenset(numbers.values())


class _Watcher:
    """What one stream has sent so far."""

    def __init__(self, store: Store, heartbeat: float) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._ids: dict[int, UUID] = {}
        self._sent: dict[int, int] = {}
        self._progress_sent: dict[int, event_pb2.Progress] = {}
        self._finished: set[int] = set()
        self._bookmark_time = 0.0

    @property
    def all_finished(self) -> bool:
        return self._finished == self._sent.keys()

    async def begin(
        self, numbers: Iterable[int] | None, resume_revisions: Mapping[UUID, int]
    ) -> list[Message]:
        """The present state of every campaign that is not resumed, then a bookmark."""
        messages = []
        campaigns = await self._store.by_number(None if numbers is None else sorted(numbers))
        for campaign in campaigns:
            revision = resume_revisions.get(campaign.id)
            if revision is None:
                messages.append(Message(state=campaign_to_pb(campaign, full=False)))
            elif revision > campaign.revision:
                raise RevisionOutOfRange(
                    f"revision {revision} is after the newest one, {campaign.revision}",
                    campaign_id=campaign.id,
                    revision=revision,
                    newest_revision=campaign.revision,
                )
            self._start(campaign, campaign.revision if revision is None else revision)
        return [*messages, self._bookmark(time.monotonic(), initial=True)]

    def _start(self, campaign: Campaign, revision: int) -> None:
        self._ids[campaign.no] = campaign.id
        self._sent[campaign.no] = revision
        if campaign.is_finished and revision == campaign.revision:
            self._finished.add(campaign.no)

    async def catch_up(
        self,
        revisions: Mapping[int, int],
        progress: Mapping[int, event_pb2.Progress],
        numbers: frozenset[int] | None,
    ) -> AsyncIterator[Message]:
        """Every event after what was sent, campaign by campaign, then the newest progress."""
        for no, newest in list(revisions.items()):
            if numbers is not None and no not in numbers:
                continue
            if no not in self._sent:
                (campaign,) = await self._store.by_number([no])
                self._ids[no], self._sent[no] = campaign.id, 0
            while self._sent[no] < newest:
                events = await self._store.events(no, self._sent[no], EVENT_PAGE)
                for event in events:
                    yield self._event(event)
                if not events:
                    break
            latest = progress.get(no)
            if latest is not None and latest != self._progress_sent.get(no):
                self._progress_sent[no] = latest
                yield Message(progress=latest)

    def _event(self, stored: StoredEvent) -> Message:
        event = event_pb2.Event.FromString(stored.body)
        event.campaign_id = str(self._ids[stored.campaign_no])
        event.revision = stored.revision
        event.create_time.FromDatetime(stored.create_time)
        if event.WhichOneof("kind") == "campaign_finished":
            self._finished.add(stored.campaign_no)
        self._sent[stored.campaign_no] = stored.revision
        return Message(event=event)

    def bookmark_due(self, now: float) -> Iterable[Message]:
        """A bookmark, half a heartbeat after the one before."""
        if now - self._bookmark_time >= self._heartbeat / 2:
            yield self._bookmark(now, initial=False)

    def _bookmark(self, now: float, *, initial: bool) -> Message:
        self._bookmark_time = now
        revisions = {str(self._ids[no]): revision for no, revision in self._sent.items()}
        return Message(bookmark=event_pb2.Bookmark(revisions=revisions, initial_state_sent=initial))
