"""What a worker measures of itself, over the time since it last reported."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from domainflow.validation.v1 import task_pb2
from services.validation import machine

# Endpoints that are told of, the worst first.
MAX_ENDPOINTS = 10
# What a lost question counts among slow ones, microseconds: the time it was waited for, by default.
LOST_US = 1_000_000


class Counts(NamedTuple):
    """What was counted of one resolver or host so far; only grows while `source` lives."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    # Answers whose time was taken, and nanoseconds they took in all.
    timed: int = 0
    waited_ns: int = 0

    def since(self, earlier: "Counts") -> "Counts":
        """What came after `earlier`; nothing is negative."""
        return Counts(*(max(0, now - then) for now, then in zip(self, earlier, strict=True)))

    def plus(self, other: "Counts") -> "Counts":
        return Counts(*(one + more for one, more in zip(self, other, strict=True)))

    @property
    def loss(self) -> float:
        """Share of the questions that are over by now which nobody answered."""
        over = self.answered + self.lost
        return self.lost / over if over else 0.0

    @property
    def latency_us(self) -> int:
        """Mean time of an answer; 0 while unknown."""
        return self.waited_ns // self.timed // 1000 if self.timed else 0


@dataclass(frozen=True, slots=True)
class EndpointCounts:
    """One resolver or host as one `source` has it, such as an engine: its counts end with it."""

    source: int
    # "address:port".
    endpoint: str
    counts: Counts


class LoadMeter:
    """Turns what has been counted since the start into figures over the last period."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._cpu = machine.process_seconds()
        self._settled = 0
        self._counts: dict[tuple[int, str], Counts] = {}

    def measure(
        self,
        *,
        settled: int,
        in_flight: int,
        task_limit: int,
        endpoints: Iterable[EndpointCounts],
    ) -> task_pb2.WorkerLoad:
        """The load since the last call. `settled` counts names since the worker's start."""
        now, cpu = time.monotonic(), machine.process_seconds()
        elapsed = max(now - self._at, 1e-3)
        counts = {(it.source, it.endpoint): it.counts for it in endpoints}
        lately: dict[str, Counts] = {}
        for key, total in counts.items():
            fresh = total.since(self._counts.get(key, Counts()))
            lately[key[1]] = lately.get(key[1], Counts()).plus(fresh)
        whole = Counts()
        for fresh in lately.values():
            whole = whole.plus(fresh)
        load = task_pb2.WorkerLoad(
            cpu_cores=(cpu - self._cpu) / elapsed,
            memory_bytes=machine.process_memory(),
            task_limit=task_limit,
            names_in_flight=in_flight,
            names_per_second=(settled - self._settled) / elapsed,
            loss=whole.loss,
            latency_us=whole.latency_us,
            endpoints=_worst(lately, elapsed),
        )
        self._at, self._cpu, self._settled, self._counts = now, cpu, settled, counts
        return load


def _worst(lately: dict[str, Counts], elapsed: float) -> list[task_pb2.EndpointLoad]:
    """Those that a question waits for longest, a lost one for its whole time-out."""
    asked = [(name, it) for name, it in lately.items() if it.sent or it.answered or it.lost]
    asked.sort(key=lambda entry: -(entry[1].latency_us + entry[1].loss * LOST_US))
    return [
        task_pb2.EndpointLoad(
            endpoint=name,
            questions_per_second=it.sent / elapsed,
            loss=it.loss,
            latency_us=it.latency_us,
        )
        for name, it in asked[:MAX_ENDPOINTS]
    ]
