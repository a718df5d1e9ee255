"""What a pattern would give a campaign that starts now, and what that would take. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from services.campaign.allotment import Allotment, Asked
from services.campaign.pattern import Pattern

# Bytes of a stored name beside its characters, and of a DNS result, their indexes included. From
# 200,000 rows each, PostgreSQL 18 with the product's schema: names of 8 to 80 characters took 76 to
# 151 bytes, results 148 (no name resolves) to 180 (every name does). docs/performance.md.
NAME_BYTES = 68
DNS_RESULT_BYTES = 165
# Names a second, until this suite has measured its own: docs/performance.md, on a busy machine.
GENERATION_RATE = 500_000.0
DNS_RATE = 30_000.0
# Whoever leaves fewer names than this should know that the pattern ends.
SCARCE = 10_000


@dataclass(frozen=True, slots=True)
class Survey:
    """What a campaign would find if it started now."""

    allotment: Allotment
    # The offset after all names that are taken.
    next_free_offset: int
    # Campaigns that have names of the pattern.
    campaign_count: int
    # Names a second that were measured here; None while nothing was.
    generation_rate: float | None = None
    dns_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """The answer to PreviewPattern; every field is as there."""

    combination_count: int
    exact_combination_count: str
    next_free_offset: int
    free_count: int
    allotment: Allotment
    exhaustion_warning: bool
    campaign_count: int
    sample: tuple[str, ...]
    last_name: str
    storage_bytes: int
    generation_duration: timedelta
    dns_duration: timedelta
    measured: bool


def preview(asked: Asked, survey: Survey, sample_size: int) -> Preview:
    """Put together what is known of the pattern and of those who have names of it."""
    pattern, allotment = asked.pattern, survey.allotment
    count, next_free = allotment.name_count, min(survey.next_free_offset, asked.end)
    left = asked.end - max(next_free, allotment.end)
    return Preview(
        combination_count=asked.end,
        exact_combination_count=str(pattern.combinations),
        next_free_offset=next_free,
        free_count=asked.end - next_free,
        allotment=allotment,
        exhaustion_warning=allotment.missing_count > 0 or left < SCARCE,
        campaign_count=survey.campaign_count,
        sample=tuple(_names(pattern, allotment.first_offset, min(sample_size, count))),
        last_name=pattern.name(allotment.end - 1) if count else "",
        storage_bytes=round(count * (NAME_BYTES + _mean_length(pattern) + DNS_RESULT_BYTES)),
        generation_duration=_span(count, survey.generation_rate or GENERATION_RATE),
        dns_duration=_span(count, survey.dns_rate or DNS_RATE),
        measured=survey.generation_rate is not None and survey.dns_rate is not None,
    )


def _names(pattern: Pattern, first: int, count: int) -> Iterator[str]:
    return (pattern.name(offset) for offset in range(first, first + count))


def _mean_length(pattern: Pattern) -> float:
    label = pattern.prefix_length + len(pattern.constant) + pattern.suffix_length
    return label + sum(map(len, pattern.tlds)) / len(pattern.tlds)


def _span(count: int, rate: float) -> timedelta:
    return timedelta(seconds=count / rate)
