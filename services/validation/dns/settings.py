"""How hard and how patiently an engine asks."""

from dataclasses import dataclass
from enum import IntEnum

from services.validation.dns.verdict import Verdict

SOFT_DELAY_LIMIT = 1.0


class Strategy(IntEnum):
    """Which resolver is next; the numbers are those of domainflow.validation.v1.DnsStrategy."""

    ROUND_ROBIN = 1
    RANDOM = 2
    WEIGHTED = 3
    FAILOVER = 4


@dataclass(frozen=True, slots=True)
class Lane:
    """What is done about answers of one kind that are not final. Raises ValueError."""

    # TIMEOUT, SERVFAIL, REFUSED or ERROR.
    reason: Verdict
    # So many before it is believed, 1-50.
    tries: int
    # Seconds before the first repetition, and at most: it doubles with each. 0-60.
    delay: float
    max_delay: float

    def __post_init__(self) -> None:
        reasons = (Verdict.TIMEOUT, Verdict.SERVFAIL, Verdict.REFUSED, Verdict.ERROR)
        if self.reason not in reasons:
            raise ValueError(f"there is no lane for {self.reason.name}")
        if not 1 <= self.tries <= 50:
            raise ValueError(f"tries is {self.tries}, not in 1-50")
        for field in ("delay", "max_delay"):
            if not 0 <= getattr(self, field) <= 60:
                raise ValueError(f"{field} is {getattr(self, field)}, not in 0-60")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How hard and how patiently to ask. Raises ValueError for a setting out of its limits."""

    # Names in flight, 1-10,000. About twice the rate wanted times the mean latency.
    window: int = 4000
    # Seconds to wait for an answer to one attempt, 0.01-60.
    timeout: float = 1.0
    # Questions asked about one name before its verdict rests on what came, 1-50.
    tries: int = 6
    # SERVFAIL, REFUSED and unusable answers before one is believed, 1-50; no more than `tries`.
    # Where 5% of answers are passing failures, 6 names in a million meet four in a row, and one in
    # 60 million meets six.
    soft_tries: int = 6
    # Seconds before the first retry after such an answer, 0-1; doubles with each, up to 1.
    soft_delay: float = 0.05
    # UDP sockets or connections per resolver, 1-64; fewer if all resolvers together had over 512.
    sockets_per_resolver: int = 4
    # Ids drawn per socket, 100-60,000; it is replaced after about 0.86 times as many questions
    # at the default, because ids that repeat are left out.
    queries_per_socket: int = 20_000
    # Truncated answers followed up over TCP at once, 1-1,000, and seconds for each, 0.01-60.
    tcp_limit: int = 64
    tcp_timeout: float = 3.0
    # Whether to vary the case of letters, which a forger must then guess too.
    vary_case: bool = True
    # Which resolver is asked next.
    strategy: Strategy = Strategy.ROUND_ROBIN
    # For reasons that are not listed: `tries` at once for TIMEOUT, soft_tries and soft_delay for
    # the others.
    lanes: tuple[Lane, ...] = ()
    # Questions per second, and unanswered at once, of each resolver that has no limit of its own;
    # 0: no limit but what loss and latency tell.
    rate_limit: int = 0
    in_flight_limit: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "window": (1, 10_000),
            "timeout": (0.01, 60),
            "tries": (1, 50),
            "soft_tries": (1, 50),
            "soft_delay": (0, SOFT_DELAY_LIMIT),
            "sockets_per_resolver": (1, 64),
            "queries_per_socket": (100, 60_000),
            "tcp_limit": (1, 1000),
            "tcp_timeout": (0.01, 60),
            "rate_limit": (0, 1_000_000),
            "in_flight_limit": (0, 10_000),
        }
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(f"{field} is {value}, not in {low}-{high}")
