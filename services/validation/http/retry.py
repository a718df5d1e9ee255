"""When a name whose fetch failed is asked again, later in the same campaign: each kind of failure
has a lane with its own budget. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

from services.validation.http.verdict import Verdict

# Seconds; servers ask for a year.
MAX_DELAY = 24 * 3600.0


class LaneName(StrEnum):
    """Kinds of failures that may pass."""

    # 429, and 503: the server says it is asked too much, often with Retry-After.
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    TLS = "tls"
    # Cut, refused, or nobody there.
    RESET = "reset"
    # 5xx but 503.
    SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True)
class Lane:
    """What is done about failures of one kind. Raises ValueError."""

    # Attempts that end in this lane before the last one is believed, 1-20; 1: no repetition.
    tries: int
    # Seconds before the first repetition, and at most: it doubles with each. 0-86,400.
    delay: float
    max_delay: float

    def __post_init__(self) -> None:
        if not 1 <= self.tries <= 20:
            raise ValueError(f"tries is {self.tries}, not in 1-20")
        for name in ("delay", "max_delay"):
            if not 0 <= getattr(self, name) <= MAX_DELAY:
                raise ValueError(f"{name} is {getattr(self, name)}, not in 0-{MAX_DELAY:g}")


DEFAULT_LANES: Mapping[LaneName, Lane] = {
    LaneName.RATE_LIMITED: Lane(tries=4, delay=30, max_delay=900),
    LaneName.TIMEOUT: Lane(tries=2, delay=60, max_delay=600),
    LaneName.TLS: Lane(tries=2, delay=60, max_delay=600),
    LaneName.RESET: Lane(tries=3, delay=20, max_delay=600),
    LaneName.SERVER_ERROR: Lane(tries=2, delay=60, max_delay=600),
}


@dataclass(frozen=True, slots=True)
class Again:
    """Ask again."""

    # Seconds from now.
    after: float
    lane: LaneName


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The lanes, and what bounds them together."""

    lanes: Mapping[LaneName, Lane] = field(default_factory=lambda: DEFAULT_LANES)
    # Attempts in all lanes together, 1-50: a name may wander from lane to lane.
    total_tries: int = 6
    # Longest Retry-After that is waited for, in seconds: what asks for more is final.
    max_retry_after: float = 600.0
    # Share of the delay that is spread at random, 0-1, so that what failed together does not come
    # back together.
    jitter: float = 0.25


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that was repeated."""

    verdict: Verdict
    # Of its last response; 0 without one.
    status: int
    # Seconds until the next one.
    delay: float


def lane_of(verdict: Verdict, status: int = 0) -> LaneName | None:
    """The lane of a verdict; None for a final one. `status`: of the response, 0 without one."""
    if verdict is Verdict.RATE_LIMITED or (verdict is Verdict.SERVER_ERROR and status == 503):
        return LaneName.RATE_LIMITED
    if verdict is Verdict.TIMEOUT:
        return LaneName.TIMEOUT
    if verdict is Verdict.TLS_HANDSHAKE:
        return LaneName.TLS
    if verdict in (
        Verdict.CONNECTION_RESET,
        Verdict.CONNECTION_REFUSED,
        Verdict.UNREACHABLE,
        Verdict.PROXY_ERROR,
    ):
        return LaneName.RESET
    if verdict is Verdict.SERVER_ERROR:
        return LaneName.SERVER_ERROR
    return None


def decide(
    policy: RetryPolicy,
    verdict: Verdict,
    *,
    status: int = 0,
    tries: Mapping[LaneName, int],
    retry_after: float | None = None,
    random: float,
) -> Again | None:
    """When to ask again, or None: the verdict is final.

    `tries`: attempts of this name that ended in each lane, this one included. `retry_after`:
    seconds the server asked for. `random`: from 0 to 1, drawn by the caller.
    """
    lane_name = lane_of(verdict, status)
    lane = policy.lanes.get(lane_name) if lane_name else None
    if lane_name is None or lane is None:
        return None
    used = max(1, tries.get(lane_name, 0))
    if used >= lane.tries or sum(tries.values()) >= policy.total_tries:
        return None
    if retry_after is not None and retry_after > policy.max_retry_after:
        return None
    delay = min(lane.delay * 2 ** (used - 1), lane.max_delay)
    # Never before the time the server named, and spread after it.
    start = max(delay, retry_after or 0.0)
    return Again(min(start * (1 + policy.jitter * random), MAX_DELAY), lane_name)


def retry_after_of(header: str, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3): a number or a date; None for
    anything else. `now` with a time zone, of the clock that dates are written in."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    if not text or len(text) > 60:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        # asctime's form names no zone; all three are in UTC.
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
