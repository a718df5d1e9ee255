"""Events as the transactions that recorded them, and the newest of them in memory. Pure.

What one transaction recorded of a campaign has consecutive revisions (it holds the campaign's row)
and one `create_time` (the transaction's start). Two transactions of one campaign that began in the
same microsecond count as one, which does no harm.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar


class Recorded(Protocol):
    """What makes an event part of a change."""

    @property
    def revision(self) -> int: ...
    @property
    def create_time(self) -> datetime: ...


Row = TypeVar("Row", bound=Recorded)
Message = TypeVar("Message")


def changes(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Group the events of one campaign, given in order, into changes."""
    open_: list[Row] = []
    for row in rows:
        if open_ and row.create_time != open_[-1].create_time:
            yield open_
            open_ = []
        open_.append(row)
    if open_:
        yield open_


@dataclass(frozen=True, slots=True)
class Change(Generic[Message]):
    """Revisions `first` to `last` of one campaign, which are told together."""

    campaign_no: int
    first: int
    last: int
    messages: Sequence[Message]
    # Bytes, about.
    size: int


class Recent(Generic[Message]):
    """The newest changes of the campaigns that are followed, at most `size_limit` bytes of them.

    Each campaign's are consecutive and end at its `newest` revision.
    """

    def __init__(self, size_limit: int) -> None:
        self._size_limit = size_limit
        self._size = 0
        self._newest: dict[int, int] = {}
        self._kept: dict[int, deque[Change[Message]]] = {}
        # All that is kept, by campaign and first revision, oldest first.
        self._order: OrderedDict[tuple[int, int], Change[Message]] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes kept, about."""
        return self._size

    @property
    def followed(self) -> Iterable[int]:
        """The campaigns that are followed."""
        return self._newest.keys()

    def newest(self, campaign_no: int) -> int | None:
        """The newest revision known of a campaign; none when it is not followed."""
        return self._newest.get(campaign_no)

    def follow(self, campaign_no: int, revision: int) -> None:
        """Follow a campaign from a revision on; no effect when it is followed already."""
        self._newest.setdefault(campaign_no, revision)

    def jump(self, campaign_no: int, revision: int) -> None:
        """Go on at a later revision: what lies before is not kept."""
        self._drop(campaign_no)
        self._newest[campaign_no] = revision

    def forget(self, campaign_no: int) -> None:
        """Follow a campaign no more."""
        self._drop(campaign_no)
        self._newest.pop(campaign_no, None)

    def append(self, change: Change[Message]) -> None:
        """Keep the change that follows the campaign's newest one, and drop the oldest of all."""
        assert change.first == self._newest[change.campaign_no] + 1, change
        self._newest[change.campaign_no] = change.last
        self._kept.setdefault(change.campaign_no, deque()).append(change)
        self._order[change.campaign_no, change.first] = change
        self._size += change.size
        while self._size > self._size_limit:
            _, oldest = self._order.popitem(last=False)
            self._kept[oldest.campaign_no].popleft()
            self._size -= oldest.size

    def after(self, campaign_no: int, revision: int, limit: int) -> list[Change[Message]] | None:
        """Up to `limit` changes after a revision, oldest first; none when not all of them are
        kept."""
        newest = self._newest.get(campaign_no)
        if newest is None or revision >= newest:
            return [] if newest is not None else None
        kept = self._kept.get(campaign_no, ())
        # Whoever keeps up looks for one of the last.
        for index in range(len(kept) - 1, -1, -1):
            if kept[index].first <= revision + 1:
                if kept[index].first < revision + 1:
                    # In the middle of a change: the tables know it by the event.
                    return None
                return [kept[i] for i in range(index, min(index + limit, len(kept)))]
        return None

    def _drop(self, campaign_no: int) -> None:
        for change in self._kept.pop(campaign_no, ()):
            self._size -= change.size
            del self._order[campaign_no, change.first]
