"""What an engine says of itself while it works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResolverStats:
    """Counts since the engine was opened; `answered` counts verdicts, not datagrams."""

    resolver: str
    suspect: bool
    sent: int
    answered: int
    timeouts: int
    # Answers whose time was taken, a sample, and nanoseconds from question to answer in all.
    timed: int = 0
    waited_ns: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment; counts since it was opened."""

    in_flight: int
    # Names handed to resolve() and not yet asked about.
    waiting: int
    sent: int
    answered: int
    timeouts: int
    retries: int
    tcp: int
    # Datagrams that answered no question of ours.
    stray: int
    resolvers: tuple[ResolverStats, ...]
