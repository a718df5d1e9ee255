"""What the decisions on leads are called, what they rest on, and their audit. Pure.

Campaigns check thresholds and audit decisions, validation decides: both have to mean the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from services.chassis.errors import FieldViolation


class LeadStatus(IntEnum):
    """The numbers are those of domainflow.validation.v1.LeadStatus."""

    QUALIFIED = 1
    REJECTED = 2
    ERROR = 3
    TIMEOUT = 4


class LeadReason(IntEnum):
    """The numbers are those of domainflow.validation.v1.LeadReason."""

    QUALIFIED = 1
    LOW_SCORE = 2
    NO_KEYWORDS = 3
    PARKED = 4
    THIN_CONTENT = 5
    SUPPRESSED = 6
    DNS_ERROR = 7
    DNS_TIMEOUT = 8
    HTTP_ERROR = 9
    HTTP_TIMEOUT = 10
    DEAD_LETTER = 11


STATUS_OF: Mapping[LeadReason, LeadStatus] = {
    LeadReason.QUALIFIED: LeadStatus.QUALIFIED,
    LeadReason.LOW_SCORE: LeadStatus.REJECTED,
    LeadReason.NO_KEYWORDS: LeadStatus.REJECTED,
    LeadReason.PARKED: LeadStatus.REJECTED,
    LeadReason.THIN_CONTENT: LeadStatus.REJECTED,
    LeadReason.SUPPRESSED: LeadStatus.REJECTED,
    LeadReason.DNS_ERROR: LeadStatus.ERROR,
    LeadReason.DNS_TIMEOUT: LeadStatus.TIMEOUT,
    LeadReason.HTTP_ERROR: LeadStatus.ERROR,
    LeadReason.HTTP_TIMEOUT: LeadStatus.TIMEOUT,
    LeadReason.DEAD_LETTER: LeadStatus.ERROR,
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What makes a lead. `check` says what is wrong with one."""

    # Score from which on a page is a lead: 0.05-0.95.
    match_score: float = 0.27
    # Score from which on a page that is not thin is a lead as well: 0-0.6, at most match_score.
    low_score_grace: float = 0.24
    # Bytes after decoding below which a page is thin: 256-2,097,152.
    min_content_bytes: int = 1_024
    # Confidence from which on a page counts as parked: 0-1.
    parked_confidence_floor: float = 0.45
    # Whether a page has to have signs of structure (a heading, a link into the site).
    require_structural_signals: bool = True


# Field -> smallest and largest value.
_RANGES: Mapping[str, tuple[float, float]] = {
    "match_score": (0.05, 0.95),
    "low_score_grace": (0.0, 0.6),
    "min_content_bytes": (256, 2 * 1024 * 1024),
    "parked_confidence_floor": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Audit:
    """Where the names went that were decided on. analysed is the sum of the others."""

    analysed: int
    qualified: int
    # LOW_SCORE, PARKED, THIN_CONTENT and SUPPRESSED.
    rejected: int
    no_keyword: int
    # DNS_ERROR, HTTP_ERROR and DEAD_LETTER.
    error: int
    timeout: int


def check(thresholds: Thresholds, path: str) -> Iterator[FieldViolation]:
    """What is wrong with thresholds that stand at `path`: every bad field by its name."""
    bad = set()
    for field, (least, most) in _RANGES.items():
        value = getattr(thresholds, field)
        # Not a number is in no range.
        if not least <= value <= most:
            bad.add(field)
            yield FieldViolation(f"{path}.{field}", f"has to be from {least:g} to {most:,g}")
    if not bad & {"match_score", "low_score_grace"}:
        if thresholds.low_score_grace > thresholds.match_score:
            yield FieldViolation(
                f"{path}.low_score_grace",
                f"is more than match_score, {thresholds.match_score:g}",
            )


def audit(counts: Mapping[int, int]) -> Audit:
    """From names by reason. Every reason belongs to exactly one column, so the equation

        analysed = qualified + rejected + no keyword + error + timeout

    holds whatever the counts are. Raises ValueError for a number that is no reason (it would be
    counted nowhere) and for a negative count.
    """
    columns = dict.fromkeys(_COLUMNS, 0)
    for number, count in counts.items():
        reason = LeadReason(number)
        if count < 0:
            raise ValueError(f"{count} names cannot be {reason.name}")
        columns[_column(reason)] += count
    return Audit(analysed=sum(columns.values()), **columns)


_COLUMNS = ("qualified", "rejected", "no_keyword", "error", "timeout")


def _column(reason: LeadReason) -> str:
    if reason is LeadReason.NO_KEYWORDS:
        return "no_keyword"
    return STATUS_OF[reason].name.lower()
