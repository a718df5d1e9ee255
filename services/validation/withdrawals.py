"""Which settled chunks may rest on a resolver that turns out to lie. Pure.

A worker remembers what it has settled lately, and since when it does not know better of each
resolver: both by its own monotonic clock, in seconds. It answers for nothing else: other workers
ask the same canaries.
"""

from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

# Chunks that are remembered: minutes of work. What a resolver said before its last good canary is
# not doubted, and that is half a minute ago by default.
MEMORY = 10_000
# Seconds after a lie was found in which chunks checked before may still be stored.
LINGER = 30.0

# Says who was asked and how: only what was checked the same way can rest on the lie.
Plan = TypeVar("Plan", bound=Hashable)
# A chunk, and the attempt that settles it.
Chunk = TypeVar("Chunk", bound=Hashable)


@dataclass(slots=True)
class Lie(Generic[Plan, Chunk]):
    """A resolver that was found to lie, and when."""

    plan: Plan
    # Its label.
    resolver: str
    reason: str
    since: float
    found_at: float
    # Chunks that are seen to.
    handled: set[Chunk] = field(default_factory=set)


class Withdrawals(Generic[Plan, Chunk]):
    """What was settled lately, and the lies that it may rest on."""

    def __init__(self) -> None:
        self._checked: deque[tuple[float, Plan, Chunk]] = deque(maxlen=MEMORY)
        self._lies: list[Lie[Plan, Chunk]] = []

    def checked(self, plan: Plan, chunk: Chunk, now: float) -> None:
        """The chunk's names were asked about by this plan, and are about to be stored."""
        self._checked.append((now, plan, chunk))

    def lied(self, plan: Plan, resolver: str, reason: str, since: float, now: float) -> None:
        """A resolver was found to lie; it was last known to tell the truth at `since`."""
        self._lies.append(Lie(plan, resolver, reason, since, now))

    def is_waiting(self, now: float) -> bool:
        """Whether chunks may still be stored that rest on a lie."""
        return any(now - lie.found_at <= LINGER for lie in self._lies)

    def due(self, now: float) -> list[tuple[Lie[Plan, Chunk], list[Chunk]]]:
        """The chunks that are to be looked at because of each lie."""
        self._lies = [lie for lie in self._lies if now - lie.found_at <= LINGER]
        found = []
        for lie in self._lies:
            chunks = [
                chunk
                for at, plan, chunk in self._checked
                if at >= lie.since and plan == lie.plan and chunk not in lie.handled
            ]
            if chunks:
                found.append((lie, chunks))
        return found

    def handled(self, lie: Lie[Plan, Chunk], chunks: Collection[Chunk]) -> None:
        """What was found to be seen to needs no second look."""
        lie.handled.update(chunks)
