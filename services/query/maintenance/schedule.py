"""When which job gets its turn. Told the time, in seconds of one process's monotonic clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Looks that find nothing take at most this share of the time, however many campaigns there are.
LOOKING_SHARE = 0.05
# Of the time, at most this share is work: the rest belongs to everybody else.
WORKING_SHARE = 0.5
# Seconds. A rest is no longer, so that a long piece does not keep what is due next waiting.
LONGEST_REST = 1.0
# Seconds before a campaign on which a job failed is tried again.
RETRY = 60.0


@dataclass(slots=True)
class Agenda:
    """Turns of jobs, by name: whoever has been due for longest is next.

    A job that found work is due again at once, behind all that are due already; one that found
    none, after its period.
    """

    # Seconds between two looks of a job that find nothing.
    periods: Mapping[str, float]
    _due: dict[str, float] = field(default_factory=dict)
    _aside: dict[tuple[str, int], float] = field(default_factory=dict)

    def next(self, now: float) -> tuple[str, float]:
        """The job whose turn is next, and in how many seconds: 0 when it is due."""
        job = min(self.periods, key=lambda name: self._due.get(name, float("-inf")))
        return job, max(0.0, self._due.get(job, now) - now)

    def worked(self, job: str, now: float) -> None:
        """The job found something to do at `now` and may find more."""
        self._due[job] = now

    def found_nothing(self, job: str, now: float, took: float) -> None:
        """The job has looked, for `took` seconds, and there was nothing to do."""
        self._due[job] = now + max(self.periods[job], took / LOOKING_SHARE)

    def failed(self, job: str, campaign: int, now: float) -> None:
        """The job failed on this campaign: it is left out for a while, the others are not."""
        self._aside[job, campaign] = now + RETRY

    def aside(self, job: str, now: float) -> list[int]:
        """Campaigns that this job leaves out at present."""
        self._aside = {key: until for key, until in self._aside.items() if until > now}
        return [campaign for name, campaign in self._aside if name == job]


def rest(took: float) -> float:
    """Seconds to rest after `took` seconds of work."""
    return min(took * (1 - WORKING_SHARE) / WORKING_SHARE, LONGEST_REST)
