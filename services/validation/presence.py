"""Which workers live, judged by whether their reports change. Pure.

A row says when it was written by the database's clock, which may be set; so that time is only
taken as a mark that changes, and how long it has not changed is measured on the reader's own
monotonic clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

# Seconds without a report after which a worker is taken to be gone. They report every 5 s.
SEEN_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """A worker's row. `age` is how old its report is by the database's clock, in seconds."""

    worker_id: str
    report_time: datetime
    age: float


@dataclass(slots=True)
class _Seen:
    report_time: datetime
    since: float
    # False until it reports, of one whose row looked old when we first saw it.
    lives: bool


class Presence:
    """What one reader has seen of the workers. Times are seconds of its monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def look(self, now: float, rows: Iterable[Sighting]) -> tuple[dict[str, float], set[str]]:
        """Return the ids of those that live, with the seconds since we saw a new report of theirs,
        and of those that are gone for good.

        A row in neither looked old at first sight: its writer is gone or the database's clock was
        set, which its next report tells.
        """
        seen: dict[str, _Seen] = {}
        for row in rows:
            known = self._seen.get(row.worker_id)
            if known is None:
                known = _Seen(row.report_time, now, lives=row.age <= SEEN_WITHIN)
            elif known.report_time != row.report_time:
                known = _Seen(row.report_time, now, lives=True)
            seen[row.worker_id] = known
        self._seen = seen
        gone = {name for name, it in seen.items() if now - it.since > SEEN_WITHIN}
        living = {
            name: now - it.since for name, it in seen.items() if it.lives and name not in gone
        }
        return living, gone
