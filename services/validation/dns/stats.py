"""What an engine says of itself while it works."""

from dataclasses import dataclass
from enum import IntEnum


class ResolverState(IntEnum):
    """How far a resolver is relied on."""

    ADMITTED = 1
    # It says nothing, and gets a name now and then only.
    SUSPECT = 2
    # Taken out from outside: it is asked by name alone, unless all are.
    QUARANTINED = 3


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
    state: ResolverState = ResolverState.ADMITTED
    operator: str = ""
    # Answers with these codes, whatever became of the names.
    servfail: int = 0
    refused: int = 0
    # Questions it may have to answer at once, and the share lately left without an answer, 0-1.
    window: int = 0
    loss: float = 0.0
    # Why there is no connection, or no answer over it; empty once there is, and over UDP.
    trouble: str = ""


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
