"""Which settled chunks may rest on a resolver that turns out to lie. Pure.

A worker remembers what it has settled lately, and since when it does not know better of each
resolver: both by its own monotonic clock, in seconds. It answers for nothing else: other workers
ask the same canaries.
"""

from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

# Chunks that are remembered: minutes of work. What a resolver said before its last good canary is
# not doubted, and that is half a minute ago by default.
MEMORY = 10_000
# Seconds after a lie was found, and after the end of the last check that was under way then, in
# which chunks are told of that may rest on it. They are looked at until they are seen to, however
# long the database is away.
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
    # What is checked later cannot rest on it.
    until: float
    # Chunks that are seen to.
    handled: set[Chunk] = field(default_factory=set)


class Withdrawals(Generic[Plan, Chunk]):
    """What was settled lately, and the lies that it may rest on."""

    def __init__(self) -> None:
        self._checked: deque[tuple[float, Plan, Chunk]] = deque(maxlen=MEMORY)
        self._lies: list[Lie[Plan, Chunk]] = []
        # Checks under way: since when.
        self._checking: dict[int, tuple[float, Plan]] = {}
        self._numbers = count()

    def begun(self, plan: Plan, now: float) -> int:
        """A check by this plan begins. Its number, for `ended`."""
        number = next(self._numbers)
        self._checking[number] = now, plan
        return number

    def ended(self, number: int, now: float) -> None:
        """The check is over. Parts of it may have been asked about long ago, at a limited rate."""
        began_at, plan = self._checking.pop(number)
        for lie in self._lies:
            if began_at <= lie.found_at and plan == lie.plan:
                lie.until = max(lie.until, now + LINGER)

    def checked(self, plan: Plan, chunk: Chunk, now: float) -> None:
        """The chunk's names were asked about by this plan, and are about to be stored."""
        self._checked.append((now, plan, chunk))

    def lied(self, plan: Plan, resolver: str, reason: str, since: float, now: float) -> None:
        """A resolver was found to lie; it was last known to tell the truth at `since`."""
        self._lies.append(Lie(plan, resolver, reason, since, now, now + LINGER))

    def is_waiting(self, now: float) -> bool:
        """Whether chunks are to be looked at because of a lie, or may still come."""
        self._lies = [lie for lie in self._lies if not self._is_over(lie, now)]
        return bool(self._lies)

    def due(self) -> list[tuple[Lie[Plan, Chunk], list[Chunk]]]:
        """The chunks that are to be looked at because of each lie."""
        found = [(lie, self._open(lie)) for lie in self._lies]
        return [(lie, chunks) for lie, chunks in found if chunks]

    def handled(self, lie: Lie[Plan, Chunk], chunks: Collection[Chunk]) -> None:
        """What was found to be seen to needs no second look."""
        lie.handled.update(chunks)

    def _open(self, lie: Lie[Plan, Chunk]) -> list[Chunk]:
        return [
            chunk
            for at, plan, chunk in self._checked
            if lie.since <= at <= lie.until and plan == lie.plan and chunk not in lie.handled
        ]

    def _is_over(self, lie: Lie[Plan, Chunk], now: float) -> bool:
        if now <= lie.until or any(
            began_at <= lie.found_at and plan == lie.plan
            for began_at, plan in self._checking.values()
        ):
            return False
        return not self._open(lie)
