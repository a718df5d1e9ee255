"""Durable events and coalesced progress -> one stream per watcher.

One hub reads the new events of all watched campaigns for everybody, as soon as it is told of them,
and keeps the newest in memory. A watcher that keeps up is sent those; one that is behind reads the
table in pages at its own pace, so it costs nothing but its own delay. Of progress each gets the
newest only.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from itertools import groupby
from uuid import UUID

from services.campaign.campaign import ENDED, PASSED, Status
from services.campaign.changes import Recent, changes
from services.campaign.events import proto_status
from services.campaign.gauges import Gauges
from services.campaign.history import SYSTEM, DeletionRow, Standing, StoredEvent
from services.campaign.messages import Message, deletion_message
from services.campaign.render import campaign_to_pb
from services.campaign.store import Store
from services.campaign.watcher import EVENT_PAGE, Ending, Watcher, change_of, require_kept
from services.chassis import jetstream, postgres
from services.chassis.errors import CampaignNotFound

log = logging.getLogger(__name__)

# The tables are looked at so often, seconds, without being told: what tells may be lost.
PERIOD = 0.25
# Progress is told in small portions, so that no event waits for many of them: so many messages at
# most, over all watchers, every so many seconds. With more to tell each campaign's turn comes less
# often.
PROGRESS_PORTION, PROGRESS_GAP = 125, 0.05
# Looks at the tables for new events are at least so far apart, seconds.
LOOK_GAP = 0.03
# Campaigns whose new events are read at once: after an outage everybody has many.
NEWS_PORTION = 50
# All campaigns are gone through so often for those who watch all, to find new ones that nobody
# told of.
SURVEY_PERIOD = 5.0
# And so soon after the one before when this process has changed something, seconds.
SURVEY_GAP = 1.0
# A watcher gets a bookmark at least this often, seconds: also while a running phase keeps it busy.
HEARTBEAT = 15.0
# Bytes of events kept in memory for all watchers together.
RECENT_SIZE = 8 * 2**20
# Campaigns whose initial state is read at once.
STATE_PAGE = 200
# Watchers that read the tables at the same time: the other calls need connections, too.
READER_LIMIT = 4


class Hub:
    """What all watchers of this process share."""

    def __init__(self, store: Store, *, heartbeat: float = HEARTBEAT) -> None:
        self._store = store
        self._history = store.history
        self._heartbeat = heartbeat
        self._readers = asyncio.Semaphore(READER_LIMIT)
        self.recent: Recent[Message] = Recent(RECENT_SIZE)
        self.gauges = Gauges(self._history, self.recent)
        self._ids: dict[int, UUID] = {}
        self._watchers: dict[int, set[Watcher]] = {}
        self._of_all: set[Watcher] = set()
        # Deletions on their way, and the newest message on each.
        self._deletions: dict[int, Message | None] = {}
        self._told_of: set[int] = set()
        self._compare = True
        self._compare_due = 0.0
        self._survey_due = 0.0
        self._survey_time = 0.0
        self._woken = asyncio.Event()
        self._watched = asyncio.Event()

    def wake(self, campaign_no: int | None = None) -> None:
        """There are new events: of one campaign, of the suite itself (SYSTEM), or of any (None)."""
        if campaign_no is None:
            self._compare = True
            self._survey_due = min(self._survey_due, self._survey_time + SURVEY_GAP)
        elif self._of_all or self.recent.newest(campaign_no) is not None:
            self._told_of.add(campaign_no)
        else:
            return
        self._woken.set()

    async def follow(self) -> None:
        """Keep events and progress fresh while anybody watches. Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_news())
            group.create_task(self._measure())

    async def _read_news(self) -> None:
        while True:
            jetstream.raise_if_cancelled()
            await self._watched.wait()
            try:
                await self._look()
            except postgres.AWAY as error:
                log.warning("watching waits: %s: %s", type(error).__name__, error)
                self._compare = True
                await asyncio.sleep(PERIOD)
            # Not faster than the gap, however often it is woken; not slower when it is not.
            await asyncio.sleep(LOOK_GAP)
            try:
                async with asyncio.timeout(max(0.0, self._compare_due - time.monotonic())):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        self._woken.clear()
        told_of, self._told_of = self._told_of, set()
        # Also while one campaign keeps it busy: another's news may have been lost.
        compare = self._compare or time.monotonic() >= self._compare_due
        if compare:
            self._compare, self._compare_due = False, time.monotonic() + PERIOD
            told_of |= await self._behind()
        if SYSTEM in told_of or compare:
            await self._look_at_system()
        if unknown := [no for no in told_of if no != SYSTEM and self.recent.newest(no) is None]:
            await self._meet(unknown)
        numbers = sorted(told_of - {SYSTEM})
        for first in range(0, len(numbers), NEWS_PORTION):
            positions = {
                no: newest
                for no in numbers[first : first + NEWS_PORTION]
                if (newest := self.recent.newest(no)) is not None
            }
            news = await self._history.news(positions, EVENT_PAGE) if positions else []
            for no, events in groupby(news, key=lambda event: event.campaign_no):
                await self._take(no, list(events))

    async def _behind(self) -> set[int]:
        """Numbers of the campaigns whose newest event is not known here."""
        known = [no for no in self.recent.followed if no != SYSTEM]
        numbers: list[int] | None = known
        if self._of_all:
            # Those that can have news without this process having a part in it; now and then all.
            numbers = [*self._watchers.keys() - {SYSTEM}, *self.gauges.followed, *self._deletions]
            if (now := time.monotonic()) >= self._survey_due:
                self._survey_time, self._survey_due = now, now + SURVEY_PERIOD
                numbers = None
        above = max(known, default=0) if self._of_all else None
        revisions = await self._history.revisions(numbers, above)
        for no in known if numbers is None else numbers:
            if no not in revisions and self.recent.newest(no) is not None:
                self._deletions.setdefault(no, None)
        return {no for no, newest in revisions.items() if newest > (self.recent.newest(no) or 0)}

    async def _meet(self, numbers: Sequence[int]) -> None:
        """Follow campaigns from their first event on that are new to those who watch all."""
        if not self._of_all:
            return
        standings = await self._history.standings_by_number(numbers)
        # Who watched all may have left meanwhile.
        for standing in standings if self._of_all else ():
            self._ids[standing.no] = standing.id
            self.recent.follow(standing.no, 0)

    async def _look_at_system(self) -> None:
        newest = self.recent.newest(SYSTEM)
        if newest is not None:
            events = await self._history.events(SYSTEM, newest, EVENT_PAGE)
            if events:
                await self._take(SYSTEM, events)

    async def _take(self, no: int, events: list[StoredEvent]) -> None:
        """Keep new events of a campaign, count them, and tell its watchers."""
        newest = self.recent.newest(no)
        if newest is None:
            return
        whole = events[0].revision == newest + 1 and events[-1].revision == newest + len(events)
        if len(events) >= EVENT_PAGE or not whole:
            # Far behind, and cut in the middle of a change: everybody reads the table himself.
            await self._jump(no)
        else:
            campaign_id = self._ids.get(no)
            for rows in changes(events):
                change = change_of(rows, campaign_id)
                self.recent.append(change)
                if campaign_id is not None:
                    self.gauges.take(change, campaign_id)
                if any(message.event.HasField("deletion_started") for message in change.messages):
                    self._deletions.setdefault(no, None)
        for watcher in self._watchers_of(no):
            watcher.hear_of(no)

    async def _jump(self, no: int) -> None:
        if no == SYSTEM:
            newest, _ = await self._history.system_position()
            if self.recent.newest(SYSTEM) is not None:
                self.recent.jump(SYSTEM, newest)
            return
        for standing in await self._history.standings_by_number([no]):
            if self.recent.newest(no) is not None:
                self.recent.jump(no, standing.revision)
                self.gauges.forget(no)
                self.gauges.begin(no, standing.id, standing.phase, standing.status)
                if standing.is_deleted:
                    self._deletions.setdefault(no, None)

    async def _measure(self) -> None:
        deletions_due = 0.0
        while True:
            jetstream.raise_if_cancelled()
            await self._watched.wait()
            try:
                await self.gauges.look(time.monotonic())
                self._tell_progress()
                if self._deletions and time.monotonic() >= deletions_due:
                    deletions_due = time.monotonic() + PERIOD
                    await self._follow_deletions()
            except postgres.AWAY as error:
                log.warning("measuring waits: %s: %s", type(error).__name__, error)
                await asyncio.sleep(PERIOD)
            await asyncio.sleep(PROGRESS_GAP)

    def _tell_progress(self) -> None:
        left = PROGRESS_PORTION
        for no, message in self.gauges.news(time.monotonic()):
            for watcher in self._watchers_of(no):
                watcher.hear_progress(no, message)
                left -= 1
            if left <= 0:
                return

    async def _follow_deletions(self) -> None:
        numbers = list(self._deletions)
        rows = {row.campaign_no: row for row in await self._history.deletions(numbers)}
        missing = [no for no in numbers if no not in rows]
        alive = await self._history.revisions(missing) if missing else dict[int, int]()
        for no in numbers:
            row, campaign_id = rows.get(no), self._ids.get(no)
            if no in alive or campaign_id is None:
                # Its deletion has not been written down yet, or nobody watches it any more.
                continue
            message = deletion_message(row or DeletionRow(no, campaign_id, 0, 0, True))
            if message != self._deletions.get(no):
                for watcher in self._watchers_of(no):
                    watcher.hear_deletion(no, message)
            if message.deletion.finished:
                self._forget(no)
                self._watchers.pop(no, None)
            elif no in self._deletions:
                self._deletions[no] = message

    def _watchers_of(self, no: int) -> Iterable[Watcher]:
        return (*self._watchers.get(no, ()), *self._of_all)

    async def watch(
        self,
        campaign_ids: Sequence[UUID],
        resume_revisions: Mapping[UUID, int],
        *,
        until_finished: bool,
        include_system: bool = False,
        resume_system_revision: int | None = None,
    ) -> AsyncGenerator[Message, None]:
        """Stream to one watcher; no ids mean all campaigns. Raises CampaignNotFound,
        RevisionOutOfRange."""
        standings = await self._history.standings(campaign_ids or None)
        gone = await self._gone(standings, campaign_ids, resume_revisions)
        system = None
        if include_system:
            system, forgotten = await self._history.system_position()
            if resume_system_revision is not None:
                require_kept("", resume_system_revision, system, forgotten)
        for standing in standings:
            if (resume := resume_revisions.get(standing.id)) is not None:
                newest, forgotten = standing.revision, standing.forgotten_revision
                require_kept(standing.id, resume, newest, forgotten)
        watcher = Watcher(self._history, self.recent, self._readers)
        numbers = frozenset(standing.no for standing in standings)
        try:
            # Without an await in between: what comes from now on is heard of.
            self._enter(watcher, None if not campaign_ids else numbers, standings)
            if system is not None:
                self._enter_system(watcher, system, resume_system_revision)
            for message in gone:
                yield message
            async for message in self._begin(watcher, standings, resume_revisions):
                yield message
            # The next one comes a little sooner, each stream's at a time of its own: after a
            # restart all begin together.
            bookmark_time = time.monotonic() - random.uniform(0, self._heartbeat / 4)
            yield watcher.bookmark(initial=True)
            while not (until_finished and watcher.is_done):
                async for message in watcher.catch_up():
                    yield message
                    if watcher.is_between_changes and self._is_due(bookmark_time):
                        bookmark_time = time.monotonic()
                        yield watcher.bookmark()
                if self._is_due(bookmark_time):
                    bookmark_time = time.monotonic()
                    yield watcher.bookmark()
                if not (until_finished and watcher.is_done):
                    await watcher.news(bookmark_time + self._heartbeat / 2 - time.monotonic())
        finally:
            self._leave(watcher, numbers)

    def _is_due(self, bookmark_time: float) -> bool:
        """Whether it is time for a bookmark: half a heartbeat after the one before."""
        return time.monotonic() - bookmark_time >= self._heartbeat / 2

    async def _gone(
        self,
        standings: Sequence[Standing],
        campaign_ids: Sequence[UUID],
        resume_revisions: Mapping[UUID, int],
    ) -> list[Message]:
        """What is to be told of campaigns that do not exist any more. Raises CampaignNotFound."""
        found = {standing.id for standing in standings}
        missing = [each for each in (campaign_ids or resume_revisions) if each not in found]
        if not missing:
            return []
        rows = {row.campaign_id: row for row in await self._history.deletions_of(missing)}
        for each in missing:
            if each not in rows:
                # Whoever watches all resumes from what he was told of: it has existed.
                if campaign_ids:
                    raise CampaignNotFound(each)
                rows[each] = DeletionRow(0, each, 0, 0, True)
        return [deletion_message(rows[each]) for each in dict.fromkeys(missing)]

    async def _begin(
        self,
        watcher: Watcher,
        standings: Sequence[Standing],
        resume_revisions: Mapping[UUID, int],
    ) -> AsyncIterator[Message]:
        """Set the watcher where it begins with each campaign; tells the present state of every one
        that is not resumed."""
        fresh = []
        for standing in standings:
            resume = resume_revisions.get(standing.id)
            if resume is None:
                fresh.append(standing)
            else:
                ended = _ended(standing.revision, standing.status)
                watcher.begin(standing.no, standing.id, resume, ended)
        for first in range(0, len(fresh), STATE_PAGE):
            page = {standing.no: standing for standing in fresh[first : first + STATE_PAGE]}
            for campaign in await self._store.by_number(list(page)):
                del page[campaign.no]
                ended = _ended(campaign.revision, campaign.current.status)
                watcher.begin(campaign.no, campaign.id, campaign.revision, ended)
                yield Message(state=campaign_to_pb(campaign, full=False))
            for standing in page.values():
                # Gone in between: of its deletion it is told.
                watcher.begin(standing.no, standing.id, standing.revision)
        for standing in standings:
            if (progress := self.gauges.told(standing.no)) is not None:
                watcher.hear_progress(standing.no, progress)
            if (deletion := self._deletions.get(standing.no)) is not None:
                watcher.hear_deletion(standing.no, deletion)

    def _enter(
        self, watcher: Watcher, numbers: frozenset[int] | None, standings: Sequence[Standing]
    ) -> None:
        for standing in standings:
            if self.recent.newest(standing.no) is None:
                self._ids[standing.no] = standing.id
                self.recent.follow(standing.no, standing.revision)
                self.gauges.begin(standing.no, standing.id, standing.phase, standing.status)
                if standing.is_deleted:
                    self._deletions.setdefault(standing.no, None)
        if numbers is None:
            self._of_all.add(watcher)
            self._survey_due = 0.0
            for no in self.recent.followed:
                watcher.hear_of(no)
        else:
            for no in numbers:
                self._watchers.setdefault(no, set()).add(watcher)
                watcher.hear_of(no)
        watcher.identify = self._ids.get
        self._watched.set()
        self.wake()

    def _enter_system(self, watcher: Watcher, newest: int, resume: int | None) -> None:
        self.recent.follow(SYSTEM, newest)
        self._watchers.setdefault(SYSTEM, set()).add(watcher)
        watcher.begin_system(newest if resume is None else resume)
        watcher.hear_of(SYSTEM)

    def _leave(self, watcher: Watcher, numbers: frozenset[int]) -> None:
        left = set(self.recent.followed) if watcher in self._of_all else numbers | {SYSTEM}
        self._of_all.discard(watcher)
        for no in (*numbers, SYSTEM):
            if (watchers := self._watchers.get(no)) is not None:
                watchers.discard(watcher)
                if not watchers:
                    del self._watchers[no]
        # Nothing is kept up that nobody watches.
        for no in left:
            if no not in self._watchers and (no == SYSTEM or not self._of_all):
                self._forget(no)
        if not self._of_all and not self._watchers:
            self._watched.clear()

    def _forget(self, no: int) -> None:
        self.recent.forget(no)
        self.gauges.forget(no)
        self._ids.pop(no, None)
        self._deletions.pop(no, None)


def _ended(revision: int, status: str) -> tuple[int, Ending] | None:
    """How a campaign ended whose current phase has this status at `revision`; none when it did
    not."""
    return (revision, proto_status(Status(status))) if status in PASSED | ENDED else None
