"""What fetching a page came to. Pure: statuses and failures in, verdicts out."""

from collections.abc import Collection
from enum import IntEnum


class Verdict(IntEnum):
    """The numbers are those of domainflow.validation.v1.HttpVerdict."""

    OK = 1
    TIMEOUT = 2
    CONNECTION_REFUSED = 3
    CONNECTION_RESET = 4
    UNREACHABLE = 5
    TLS_HANDSHAKE = 6
    TLS_CERTIFICATE = 7
    PROXY_ERROR = 8
    NOT_FOUND = 9
    GONE = 10
    UNAUTHORIZED = 11
    FORBIDDEN = 12
    RATE_LIMITED = 13
    UNAVAILABLE_FOR_LEGAL_REASONS = 14
    SERVER_ERROR = 15
    STATUS_NOT_ALLOWED = 16
    TOO_MANY_REDIRECTS = 17
    ADDRESS_NOT_ALLOWED = 18
    EXCLUDED = 19
    PROTOCOL_ERROR = 20
    # Given by the worker, never by a fetch: the check itself failed as often as it was tried.
    DEAD_LETTER = 21


class Truncation(IntEnum):
    """What cut a page that is used as far as it came."""

    NONE = 0
    # More decoded bytes than the limit.
    SIZE = 1
    # The time for the whole fetch was over.
    TIME = 2
    # The server cut the connection, or framing or coding broke.
    BROKEN = 3


REDIRECTS = frozenset((301, 302, 303, 307, 308))
_OF_STATUS = {
    401: Verdict.UNAUTHORIZED,
    403: Verdict.FORBIDDEN,
    404: Verdict.NOT_FOUND,
    410: Verdict.GONE,
    429: Verdict.RATE_LIMITED,
    451: Verdict.UNAVAILABLE_FOR_LEGAL_REASONS,
}
# How near a failed attempt came to a page, the nearest first: what is said of a name is what the
# scheme said that came nearest. These are also the failures after which another scheme is tried;
# an address that is not allowed or a page that is excluded is not asked for in another way.
_NEARNESS = (
    Verdict.PROTOCOL_ERROR,
    Verdict.TLS_HANDSHAKE,
    Verdict.CONNECTION_RESET,
    Verdict.TIMEOUT,
    Verdict.PROXY_ERROR,
    Verdict.CONNECTION_REFUSED,
    Verdict.UNREACHABLE,
)


def of_status(status: int, allowed: Collection[int]) -> Verdict:
    """Of a final response."""
    if status in allowed:
        return Verdict.OK
    if status in _OF_STATUS:
        return _OF_STATUS[status]
    return Verdict.SERVER_ERROR if 500 <= status <= 599 else Verdict.STATUS_NOT_ALLOWED


def falls_back(verdict: Verdict) -> bool:
    """Whether the next scheme or port is tried after a verdict."""
    return verdict in _NEARNESS


def nearer(verdict: Verdict, other: Verdict) -> bool:
    """Whether a failure came strictly nearer to a page than another failure."""
    return _NEARNESS.index(verdict) < _NEARNESS.index(other)
