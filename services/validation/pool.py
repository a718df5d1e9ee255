"""How many worker processes a machine runs, and how many chunks each may have in hand. Pure.

The rules, the first that applies decides; every round looks at all of them anew:

1. Processes stay between the bounds.
2. When memory is short, processes end at once, as many as it takes; where no more may end, the
   others get fewer chunks.
3. When too many questions stay unanswered two rounds in a row, more load would only lose more:
   nothing grows, and the task limit is halved. If the loss stays the same though little is asked,
   it is not for the load: then that much is put up with.
4. When the loss is well below its limit, the task limit comes back in steps; all at once when
   nobody comes near it.
5. When the names that wait will last for longer than wanted two rounds in a row, processes are
   added: as many as the names call for and cores and memory admit, at most as many as there are.
6. When the names will not last that long and fewer processes could do the same work, for several
   rounds in a row, one process ends.
"""

import math
from dataclasses import dataclass, replace

# What a process is taken to need while none has told.
USUAL_MEMORY = 100 << 20
USUAL_CORES = 0.1


@dataclass(frozen=True, slots=True)
class Size:
    """A pool on one machine. `task_limit`: chunks in hand per process at most."""

    process_count: int
    task_limit: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most processes that may be decided on; 1 <= min <= max, or ValueError."""

    min_process_count: int
    max_process_count: int

    def __post_init__(self) -> None:
        if not 1 <= self.min_process_count <= self.max_process_count:
            raise ValueError(
                f"from {self.min_process_count} to {self.max_process_count} worker processes"
                " is no range of 1 or more"
            )


@dataclass(frozen=True, slots=True)
class Rules:
    """The figures in the rules above."""

    # Seconds that the names which wait may last without another process.
    grow_after: float = 10.0
    grow_rounds: int = 2
    # Share of the machine's cores that may be in use, a new process counted in.
    cpu_limit: float = 0.9
    # Share of the machine's memory that is left to others.
    memory_reserve: float = 0.05
    idle_rounds: int = 6
    # How busy the processes that stay may become when another one ends.
    busy_limit: float = 0.7
    # Share of unanswered questions.
    loss_limit: float = 0.2
    loss_rounds: int = 2
    # Loss well below its limit, and a task limit that nobody comes near, as shares of the limit.
    low_loss: float = 0.75
    near_limit: float = 0.5
    # Fewer questions per second than these are no load to anybody, however many are lost.
    quiet: float = 100.0
    # A loss that stays at this share of what it was, for so many rounds at the lowest limit, is
    # not for the load; one that exceeds it by the factor is again.
    same_loss: float = 0.7
    floor_rounds: int = 4
    more_loss: float = 1.5
    task_floor: int = 8
    task_top: int = 10_000
    task_step: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """What was measured: the pool's names and questions everywhere, the rest on this machine."""

    # Names of running phases without a verdict; of a campaign with a rate limit at most as many as
    # the limit lets through before it would be called waiting.
    backlog: int
    names_per_second: float = 0.0
    questions_per_second: float = 0.0
    # Share of questions without an answer, and the mean time of an answer in microseconds.
    loss: float = 0.0
    latency_us: int = 0
    cores: int = 1
    # Cores kept busy by all programs of the machine, and by one process of the pool.
    busy_cores: float = 0.0
    process_cores: float = 0.0
    # Bytes.
    memory_total: int = 0
    memory_free: int = 0
    process_memory: int = 0
    # Chunks in hand of the process that has the most.
    chunks_in_hand: int = 0

    @property
    def backlog_seconds(self) -> float:
        """How long the names will last; infinite while none is settled."""
        if self.backlog <= 0:
            return 0.0
        return self.backlog / self.names_per_second if self.names_per_second > 0 else math.inf


@dataclass(frozen=True, slots=True)
class History:
    """What a round leaves to the next: for how many rounds in a row something has been so."""

    long: int = 0
    idle: int = 0
    lossy: int = 0
    at_floor: int = 0
    # Loss when the task limit was first reduced, and loss that turned out not to be for the load.
    first_loss: float = 0.0
    own_loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """The size from now on. `reason` is empty exactly when nothing changes."""

    size: Size
    reason: str
    history: History


def decide(
    load: PoolLoad,
    present: Size,
    bounds: Bounds,
    history: History | None = None,
    rules: Rules | None = None,
) -> Decision:
    """The size for the next round, and one sentence that says why."""
    rules = rules or Rules()
    history = _learn(load, present, history or History(), rules)
    for rule in (_keep_bounds, _save_memory, _yield_to_loss, _come_back, _grow, _shrink):
        found = rule(load, present, bounds, history, rules)
        if found is not None:
            return found
    return Decision(present, "", history)


def _learn(load: PoolLoad, present: Size, history: History, rules: Rules) -> History:
    """Count this round."""
    own = history.own_loss
    asked = load.questions_per_second >= rules.quiet
    if asked and load.loss < own * rules.same_loss:
        own = load.loss if load.loss > rules.loss_limit else 0.0
    lossy = asked and load.loss > _loss_limit(replace(history, own_loss=own), rules)
    at_floor = history.at_floor + 1 if lossy and present.task_limit <= rules.task_floor else 0
    if at_floor >= rules.floor_rounds and load.loss >= history.first_loss * rules.same_loss:
        own, lossy, at_floor = load.loss, False, 0
    long = not lossy and rules.grow_after < load.backlog_seconds < math.inf
    busy = load.process_cores * present.process_count
    idle = (
        load.backlog_seconds <= rules.grow_after
        and busy <= (present.process_count - 1) * rules.busy_limit
    )
    return History(
        long=history.long + 1 if long else 0,
        idle=history.idle + 1 if idle else 0,
        lossy=history.lossy + 1 if lossy else 0,
        at_floor=at_floor,
        first_loss=history.first_loss,
        own_loss=own,
    )


def _loss_limit(history: History, rules: Rules) -> float:
    return max(rules.loss_limit, history.own_loss * rules.more_loss)


def _keep_bounds(
    load: PoolLoad, present: Size, bounds: Bounds, history: History, rules: Rules
) -> Decision | None:
    low, high = bounds.min_process_count, bounds.max_process_count
    count = min(max(present.process_count, low), high)
    if count != present.process_count:
        return _processes(present, count, f"{low} to {high} are asked for", history)
    limit = min(max(present.task_limit, rules.task_floor), rules.task_top)
    if limit != present.task_limit:
        wanted = f"{rules.task_floor:,} to {rules.task_top:,} are allowed"
        return _tasks(present, limit, wanted, history)
    return None


def _save_memory(
    load: PoolLoad, present: Size, bounds: Bounds, history: History, rules: Rules
) -> Decision | None:
    reserve = load.memory_total * rules.memory_reserve
    missing = reserve - load.memory_free
    if missing <= 0:
        return None
    why = (
        f"{_bytes(load.memory_free)} of {_bytes(load.memory_total)} memory are free,"
        f" less than the {rules.memory_reserve:.0%} that are kept"
    )
    surplus = math.ceil(missing / (load.process_memory or USUAL_MEMORY))
    count = max(bounds.min_process_count, present.process_count - surplus)
    if count < present.process_count:
        return _processes(present, count, why, history)
    if present.task_limit > rules.task_floor:
        return _tasks(present, _fewer(load, present, rules), why, history)
    return None


def _yield_to_loss(
    load: PoolLoad, present: Size, bounds: Bounds, history: History, rules: Rules
) -> Decision | None:
    if history.lossy < rules.loss_rounds or present.task_limit <= rules.task_floor:
        return None
    why = (
        f"{load.loss:.1%} of {load.questions_per_second:,.0f} questions/s stay unanswered, more"
        f" than {_loss_limit(history, rules):.0%}; up to {load.chunks_in_hand:,} chunks in hand"
    )
    first = history.first_loss or load.loss
    # What this brings shows in a round or two.
    seen = replace(history, lossy=0, first_loss=first)
    return _tasks(present, _fewer(load, present, rules), why, seen)


def _fewer(load: PoolLoad, present: Size, rules: Rules) -> int:
    """Half of the limit, or of what is in hand where that is less: so it is felt at once."""
    used = load.chunks_in_hand if load.chunks_in_hand > 0 else present.task_limit
    return max(rules.task_floor, min(present.task_limit, used) // 2)


def _come_back(
    load: PoolLoad, present: Size, bounds: Bounds, history: History, rules: Rules
) -> Decision | None:
    if present.task_limit >= rules.task_top or history.lossy:
        return None
    memory_is_short = load.memory_free < 2 * load.memory_total * rules.memory_reserve
    if load.loss > _loss_limit(history, rules) * rules.low_loss or memory_is_short:
        return None
    loss = f"{load.loss:.1%} of the questions stay unanswered"
    if history.own_loss:
        loss += ", as many as when little was asked: it is not for the load"
    if load.chunks_in_hand <= present.task_limit * rules.near_limit:
        why = f"{loss}, and no process has more than {load.chunks_in_hand:,} chunks in hand"
        return _tasks(present, rules.task_top, why, replace(history, first_loss=0.0))
    limit = min(present.task_limit + rules.task_step, rules.task_top)
    return _tasks(present, limit, loss, history)


def _grow(
    load: PoolLoad, present: Size, bounds: Bounds, history: History, rules: Rules
) -> Decision | None:
    count = present.process_count
    if history.long < rules.grow_rounds:
        return None
    cpu_left = load.cores * rules.cpu_limit - load.busy_cores
    memory_left = load.memory_free - load.memory_total * rules.memory_reserve
    more = min(
        math.ceil(count * load.backlog_seconds / rules.grow_after) - count,
        math.floor(cpu_left / max(load.process_cores, USUAL_CORES)),
        math.floor(memory_left / (load.process_memory or USUAL_MEMORY)),
        count,
        bounds.max_process_count - count,
    )
    if more < 1:
        return None
    why = (
        f"{_names(load.backlog)} wait, {load.backlog_seconds:,.0f} s at"
        f" {load.names_per_second:,.0f}/s; {load.busy_cores / load.cores:.0%} of"
        f" {load.cores} cores in use, {_bytes(load.memory_free)} memory free,"
        f" loss {load.loss:.1%}"
    )
    if load.latency_us:
        why += f", answers in {load.latency_us / 1000:,.1f} ms"
    return _processes(present, count + more, why, history)


def _shrink(
    load: PoolLoad, present: Size, bounds: Bounds, history: History, rules: Rules
) -> Decision | None:
    count = present.process_count
    if history.idle < rules.idle_rounds or count <= bounds.min_process_count:
        return None
    why = (
        f"{_names(load.backlog)} wait, and {count} processes keep"
        f" {load.process_cores * count:.1f} cores busy, {history.idle} rounds in a row"
    )
    return _processes(present, count - 1, why, history)


def _processes(present: Size, count: int, why: str, history: History) -> Decision:
    # What follows is measured with the new size.
    fresh = replace(history, long=0, idle=0)
    plural = "process" if count == 1 else "processes"
    reason = f"{present.process_count} -> {count} {plural}: {why}"
    return Decision(replace(present, process_count=count), reason, fresh)


def _tasks(present: Size, limit: int, why: str, history: History) -> Decision:
    reason = f"task limit {present.task_limit:,} -> {limit:,}: {why}"
    return Decision(replace(present, task_limit=limit), reason, history)


def _names(count: int) -> str:
    shown = f"{count / 1e6:,.1f}M" if count >= 1_000_000 else f"{count:,}"
    return f"{shown} {'name' if count == 1 else 'names'}"


def _bytes(count: int) -> str:
    return f"{count / 1024**3:,.1f} GB" if count >= 1024**3 else f"{count / 1024**2:,.0f} MB"
