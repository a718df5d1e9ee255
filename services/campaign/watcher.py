"""One stream of a watch: what it has sent, what it has heard of since, and how it catches up."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias
from uuid import UUID

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from services.campaign.changes import Change, Recent, changes
from services.campaign.history import SYSTEM, History, StoredEvent
from services.campaign.messages import Message, event_message
from services.chassis.errors import RevisionOutOfRange

# Events read from the table at once: by a watcher that is behind, and of each campaign by the hub.
EVENT_PAGE = 200
# Changes that one watcher takes out of memory at once; a stalled one keeps no more from being
# freed.
TAKE_LIMIT = 32
# Messages on one campaign, to the end of a change, before others have their turn.
TURN = 100
# Bytes that a message in memory takes besides those of its contents, measured.
MESSAGE_OVERHEAD = 1_600


Ending: TypeAlias = "campaign_pb2.PhaseStatus.ValueType"

_FAILED_OR_CANCELLED = {campaign_pb2.PHASE_STATUS_FAILED, campaign_pb2.PHASE_STATUS_CANCELLED}
_AHEAD = {campaign_pb2.PHASE_STATUS_NOT_STARTED, campaign_pb2.PHASE_STATUS_CONFIGURED}
_STILL_AHEAD = {campaign_pb2.PHASE_STATUS_CONFIGURED, campaign_pb2.PHASE_STATUS_SKIPPED}


class Watcher:
    """What one stream has sent so far, and what it has heard of since."""

    def __init__(
        self, history: History, recent: Recent[Message], readers: asyncio.Semaphore
    ) -> None:
        self._history = history
        self._recent = recent
        self._readers = readers
        self.identify: Callable[[int], UUID | None] = lambda no: None
        self._ids: dict[int, UUID] = {}
        # The newest revision sent; campaigns without an entry are not told of.
        self._sent: dict[int, int] = {}
        # How those ended that are over as far as told; and for one that was over when the watch
        # began, the revision at which it was.
        self._ended: dict[int, Ending] = {}
        self._over_at: dict[int, tuple[int, Ending]] = {}
        # Campaigns that there is something to tell of, in the order heard of.
        self._heard_of: dict[int, None] = {}
        self._progress: dict[int, Message] = {}
        self._deletions: dict[int, Message] = {}
        self._news = asyncio.Event()
        self.is_between_changes = True

    def hear_of(self, no: int) -> None:
        """A campaign may have new events."""
        self._heard_of[no] = None
        self._news.set()

    def hear_progress(self, no: int, message: Message) -> None:
        """Take the newest progress of a campaign instead of an older one."""
        self._progress[no] = message
        self.hear_of(no)

    def hear_deletion(self, no: int, message: Message) -> None:
        """Take the newest message on a deletion instead of an older one."""
        self._deletions[no] = message
        self.hear_of(no)

    def begin(
        self, no: int, campaign_id: UUID, revision: int, ended: tuple[int, Ending] | None = None
    ) -> None:
        """Tell of a campaign, from the event after `revision` on. `ended`: a revision, not an
        earlier one, at which the campaign is over, and how it ended."""
        self._ids[no], self._sent[no] = campaign_id, revision
        if ended is not None:
            # Its end may have been told before; what follows need not tell it again.
            self._over_at[no] = ended
            self._note_end(no, revision)

    def begin_system(self, revision: int) -> None:
        """Tell of the suite itself, from the event after `revision` on."""
        self._sent[SYSTEM] = revision

    @property
    def is_done(self) -> bool:
        """Whether every campaign is over and everything that is known of it is told."""
        return not self._heard_of and all(map(self._is_told, self._ids))

    def _is_told(self, no: int) -> bool:
        newest = self._recent.newest(no)
        # One that is gone is told of by the end of its deletion.
        return no in self._ended and newest is not None and self._sent[no] >= newest

    async def news(self, timeout: float) -> None:
        """Return when there is something to tell of, or after `timeout` seconds."""
        if self._heard_of:
            return
        self._news.clear()
        try:
            async with asyncio.timeout(max(0.0, timeout)):
                await self._news.wait()
        except TimeoutError:
            pass

    def bookmark(self, *, initial: bool = False) -> Message:
        """Where to resume from."""
        revisions = {str(self._ids[no]): sent for no, sent in self._sent.items() if no != SYSTEM}
        return Message(
            bookmark=event_pb2.Bookmark(
                revisions=revisions,
                initial_state_sent=initial,
                system_revision=self._sent.get(SYSTEM, 0),
            )
        )

    async def catch_up(self) -> AsyncIterator[Message]:
        """Everything that was heard of: campaign by campaign its events, in turns where there are
        many, then the newest progress and deletion."""
        while self._heard_of:
            no = next(iter(self._heard_of))
            del self._heard_of[no]
            if no not in self._sent:
                campaign_id = self.identify(no)
                if campaign_id is None:
                    self._progress.pop(no, None)
                    self._deletions.pop(no, None)
                    continue
                self._ids[no], self._sent[no] = campaign_id, 0
            left = TURN
            async with aclosing(self._changes(no)) as news:
                async for change in news:
                    for message in change.messages:
                        revision = message.event.revision or message.system_event.revision
                        self.is_between_changes = revision == change.last
                        self._note(no, revision, message)
                        yield message
                    left -= len(change.messages)
                    if left <= 0 and self._heard_of.keys() - {no}:
                        break
            if left <= 0 and self._is_behind(no):
                # The others first: who reads slowly would hear of a busy one only.
                self._heard_of.pop(no, None)
                self._heard_of[no] = None
                continue
            if (progress := self._progress.pop(no, None)) is not None:
                yield progress
            if (deletion := self._deletions.pop(no, None)) is not None:
                if deletion.deletion.finished:
                    self._drop(no)
                yield deletion

    def _is_behind(self, no: int) -> bool:
        newest = self._recent.newest(no)
        return newest is not None and self._sent[no] < newest

    def _note(self, no: int, revision: int, message: Message) -> None:
        self._sent[no] = revision
        event = message.event
        if event.HasField("campaign_finished"):
            self._ended[no] = event.campaign_finished.status
        elif event.HasField("phase_changed") and no in self._ended:
            if goes_on(self._ended[no], event.phase_changed):
                del self._ended[no]
        self._note_end(no, revision)

    def _note_end(self, no: int, revision: int) -> None:
        if no in self._over_at and self._over_at[no][0] == revision:
            self._ended[no] = self._over_at.pop(no)[1]

    def _drop(self, no: int) -> None:
        """The campaign is gone."""
        del self._ids[no], self._sent[no]
        self._ended.pop(no, None)
        self._over_at.pop(no, None)
        self._heard_of.pop(no, None)
        self._progress.pop(no, None)

    async def _changes(self, no: int) -> AsyncGenerator[Change[Message], None]:
        """What is to be sent of a campaign, out of memory or from the table."""
        while (recent := self._recent.after(no, self._sent[no], TAKE_LIMIT)) != []:
            if recent is None:
                before = self._sent[no]
                async for change in self._stored(no):
                    yield change
                if self._sent[no] == before:
                    # The campaign is being deleted, with what was not read of it.
                    return
            else:
                for change in recent:
                    yield change

    async def _stored(self, no: int) -> AsyncIterator[Change[Message]]:
        """Read the table up to its end. Raises RevisionOutOfRange when what comes next is not kept
        any more."""
        sent, open_ = self._sent[no], list[StoredEvent]()
        while True:
            async with self._readers:
                page = await self._history.events(no, sent, EVENT_PAGE)
            if not page or page[0].revision != sent + 1:
                if open_:
                    yield change_of(open_, self._ids.get(no))
                await self._require_next(no, sent)
                return
            # The last change may go on in the next page.
            *whole, open_ = [*changes([*open_, *page])]
            sent = page[-1].revision
            if len(page) < EVENT_PAGE:
                whole.append(open_)
            for rows in whole:
                yield change_of(rows, self._ids.get(no))
            if len(page) < EVENT_PAGE:
                return

    async def _require_next(self, no: int, sent: int) -> None:
        """Find out why the event after `sent` is not there."""
        if no == SYSTEM:
            newest, forgotten = await self._history.system_position()
            require_kept("", sent, newest, forgotten)
            return
        for standing in await self._history.standings_by_number([no]):
            if not standing.is_deleted:
                newest, forgotten = standing.revision, standing.forgotten_revision
                require_kept(standing.id, sent, newest, forgotten)


def goes_on(ended: Ending, changed: event_pb2.PhaseChanged) -> bool:
    """Whether a campaign that ended so is not over any more after this change of a phase."""
    if ended not in _FAILED_OR_CANCELLED:
        # A later phase was added to it, or one runs again.
        return True
    # The phases behind the one it ended with may be configured and left out.
    return not (changed.from_status in _AHEAD and changed.to_status in _STILL_AHEAD)


def change_of(rows: Sequence[StoredEvent], campaign_id: UUID | None) -> Change[Message]:
    """The messages of one change, made of its events."""
    messages = [event_message(row, campaign_id) for row in rows]
    size = sum(message.ByteSize() + MESSAGE_OVERHEAD for message in messages)
    return Change(rows[0].campaign_no, rows[0].revision, rows[-1].revision, messages, size)


def require_kept(campaign_id: UUID | str, revision: int, newest: int, forgotten: int) -> None:
    """Raise RevisionOutOfRange unless all events after `revision` are kept."""
    if forgotten <= revision <= newest:
        return
    if revision > newest:
        why = f"revision {revision} is after the newest one, {newest}"
    else:
        why = f"the events after revision {revision} are kept from {forgotten + 1} on only"
    raise RevisionOutOfRange(
        why,
        campaign_id=campaign_id,
        revision=revision,
        newest_revision=newest,
        restart_revision=forgotten,
    )
