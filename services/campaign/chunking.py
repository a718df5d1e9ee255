"""How many names make a chunk, and how many chunks are planned ahead. Pure, and explained."""

from dataclasses import dataclass
from math import ceil, inf


@dataclass(frozen=True, slots=True)
class Limits:
    """What a size of one pool's chunks stays within, and what makes it smaller."""

    # The contract's limits where it has a chunk_size.
    smallest: int
    largest: int
    # Until something is measured.
    default: int
    # Beyond these a chunk is halved, or quartered: more of its names wait for their last attempt,
    # and settle late. Share of questions without an answer, and mean seconds to one.
    loss: float = inf
    heavy_loss: float = inf
    latency: float = inf
    high_latency: float = inf


DNS = Limits(100, 5_000, 2_000, loss=0.05, heavy_loss=0.2, latency=0.5, high_latency=2.0)
# A page that does not come, or late, says something of its site and nothing of the way to it.
HTTP = Limits(100, 2_000, 500)
# What is stored is read and written again: only the round trips count, but for pages with a hundred
# keywords each. Of these 5,000 take seconds to store, and a pause waits for it.
STORED = Limits(200, 5_000, 2_000)
# How long one worker should have of a chunk, s: long enough that claiming and storing are nothing
# beside it, short enough that little is done again when a worker goes.
CHUNK_SECONDS = 3.0
# A campaign gives each worker at least this many chunks, so that all of them have work to its end.
CHUNKS_PER_WORKER = 4
# A size that is off by less than this factor stays: figures flutter.
CHANGE = 1.5

# Chunks planned at once, and for how long they last, s.
MOST_CHUNKS, FEWEST_CHUNKS = 200, 20
PORTION_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """The measured figures that a size rests on. 0 for what is not known."""

    # Names of the campaign that are in no chunk yet.
    names_left: int
    # Of the pool: workers alive, and what they do together.
    workers: int
    names_per_second: float
    # Share of questions without an answer, 0 to 1, and mean seconds to an answer.
    loss: float = 0.0
    latency: float = 0.0
    # Of the campaign, names per second; 0: none.
    name_rate_limit: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """Names per chunk, and why in words."""

    size: int
    reason: str


def chunk_size(load: Load, present: int = 0, limits: Limits = DNS) -> Decision:
    """Decide how many names the next chunks have; `present` is the size before, 0 at first.

    A size that would change by less than half stays as it is.
    """
    decision = _bounded(load, _by_throughput(load, limits), limits)
    if present and present / CHANGE < decision.size < present * CHANGE:
        return Decision(present, f"{decision.reason}; near enough to {present:,}")
    return decision


def _by_throughput(load: Load, limits: Limits) -> Decision:
    if load.names_per_second <= 0:
        return Decision(limits.default, "nothing is measured yet")
    each = load.names_per_second / max(load.workers, 1)
    size = _within(CHUNK_SECONDS * each, limits)
    return Decision(size, f"{size / each:.1f} s of one worker's work at {each:,.0f} names/s each")


def _bounded(load: Load, decision: Decision, limits: Limits) -> Decision:
    """Make it smaller for everything that speaks for smaller chunks; the last one is told."""
    for part, over, heavy, figure in (
        (load.loss, limits.loss, limits.heavy_loss, f"{load.loss:.1%} of questions lost"),
        (
            load.latency,
            limits.latency,
            limits.high_latency,
            f"answers take {load.latency * 1000:,.0f} ms",
        ),
    ):
        if part > over:
            share = 4 if part > heavy else 2
            what = "a quarter" if share == 4 else "half"
            reason = f"{what} of {decision.size:,} names because {figure}"
            decision = _smaller(decision, decision.size / share, reason, limits)
    if load.name_rate_limit:
        reason = f"one second at the limit of {load.name_rate_limit:,} names/s"
        decision = _smaller(decision, load.name_rate_limit, reason, limits)
    workers = max(load.workers, 1)
    of = f"{workers} worker{'s' if workers > 1 else ''}"
    reason = f"{load.names_left:,} names are left for {of}"
    return _smaller(decision, load.names_left / (workers * CHUNKS_PER_WORKER), reason, limits)


def _smaller(decision: Decision, size: float, reason: str, limits: Limits) -> Decision:
    bounded = _within(size, limits)
    return Decision(bounded, reason) if bounded < decision.size else decision


def _within(size: float, limits: Limits) -> int:
    """Whole tens within the limits."""
    return int(min(max(size // 10 * 10, limits.smallest), limits.largest))


def portion(load: Load, size: int, room: int, campaigns: int) -> int:
    """How many chunks of `size` names to plan now, when `room` names could go out at once, of which
    one of `campaigns` gets its share."""
    names = max(PORTION_SECONDS * load.names_per_second, room) / campaigns
    if load.name_rate_limit:
        names = min(names, PORTION_SECONDS * load.name_rate_limit)
    else:
        names = max(names, FEWEST_CHUNKS * size)
    return min(max(ceil(names / size), 1), MOST_CHUNKS)
