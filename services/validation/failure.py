"""What follows when an attempt at a chunk fails. Pure.

A failure is an error of the check itself or the end of the process that made it. A part that is
away for a while is none: then the claim is given back and nothing is counted. Neither is a worker
that was not heard of again: it takes all its chunks down, and which of them was at fault nobody
can tell.
"""

from dataclasses import dataclass

# Attempts at a chunk that may fail before the names in it are told apart.
FAILURE_LIMIT = 3
# Seconds before a chunk that failed is handed out again; doubles with each failure.
FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0
# A chunk that lost this many workers may be what ends them.
SUSPECT_LOSSES = 2


@dataclass(frozen=True, slots=True)
class Retry:
    """Hand the chunk out again, `delay` seconds from now."""

    delay: float


@dataclass(frozen=True, slots=True)
class Split:
    """Replace the chunk by its halves. They keep its failures: one more splits them too."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Settle the chunk's only name as a dead letter."""


def after_failure(
    failure_count: int, name_count: int, *, names_blamed: bool = True
) -> Retry | Split | GiveUp:
    """Decide after the chunk's failure number `failure_count`, 1 for the first.

    `names_blamed` is false when the attempt failed before a name was looked at: what is wrong
    then, such as a setting, is wrong for every name, and halving would only bury them all.
    """
    if failure_count < FAILURE_LIMIT or not names_blamed:
        return Retry(min(FIRST_DELAY * 2 ** min(failure_count - 1, 30), LONGEST_DELAY))
    return Split() if name_count > 1 else GiveUp()


def is_suspect(lost_count: int) -> bool:
    """Whether the chunk's next attempt needs a process of its own, which may end alone."""
    return lost_count >= SUSPECT_LOSSES
