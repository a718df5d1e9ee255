"""How promising a page is: profile and feature vector in, score and reasons out. Pure."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from enum import IntEnum

from services.validation.content.features import Features, Flag

_DAY = 86_400
_KILOBYTE = 1_024


class PageWarning(IntEnum):
    """The numbers are those of domainflow.validation.v1.PageWarning."""

    KEYWORD_STUFFING = 1
    REPETITION = 2
    MOSTLY_LINKS = 3
    TRUNCATED = 4


@dataclass(frozen=True, slots=True)
class Weights:
    """What each component counts, 0 or more; only their proportion matters. One must be over 0."""

    keyword_density: float = 0.35
    unique_keyword_coverage: float = 0.25
    non_parked: float = 0.10
    content_length_quality: float = 0.10
    title_keyword: float = 0.10
    freshness: float = 0.10
    # Off unless a profile asks for it.
    tf_lite: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoringProfile:
    """How pages are scored. Raises ValueError when a number is out of range."""

    name: str = "default"
    # Of this profile: a score is explained by the version that made it.
    version: int = 1
    weights: Weights = Weights()
    # What the score of a parked page is multiplied by, 0 to 1.
    parked_penalty_factor: float = 0.5
    # Only parked pages below this confidence are: the surer ones are no leads whatever they score.
    parked_penalty_below: float = 0.9
    # Hits per KB, different keywords and bytes from which on a component is 1.
    full_density: float = 3.0
    full_coverage: int = 5
    full_length: int = 50_000
    # Days up to which, and for the later ones before which, freshness is 1, 0.7 and 0.4; then 0.
    fresh_days: tuple[float, float, float] = (1.0, 7.0, 30.0)
    # Shares above which there is a warning.
    repetition_above: float = 0.30
    anchor_share_above: float = 0.40

    def __post_init__(self) -> None:
        weights = [getattr(self.weights, it.name) for it in fields(Weights)]
        if not all(math.isfinite(it) and 0 <= it <= 1_000 for it in weights) or not any(weights):
            raise ValueError("weights are 0 to 1,000 and one of them is over 0")
        if not (0 <= self.parked_penalty_factor <= 1 and 0 <= self.parked_penalty_below <= 1):
            raise ValueError("the parked penalty and its limit are 0 to 1")
        if not (self.full_density > 0 and self.full_coverage > 0 and self.full_length > 0):
            raise ValueError("what makes a component full is over 0")
        if not 0 <= self.fresh_days[0] <= self.fresh_days[1] <= self.fresh_days[2]:
            raise ValueError("days of freshness do not decrease")


@dataclass(frozen=True, slots=True)
class Component:
    name: str
    # As measured: hits per KB, keywords, bytes, days (-1: unknown), 0 or 1.
    raw: float
    # 0 to 1.
    normalised: float
    # Share of all weights, 0 to 1.
    weight: float
    # normalised * weight: what it adds to the score before penalties.
    contribution: float


@dataclass(frozen=True, slots=True)
class Penalty:
    name: str
    # What the score is multiplied by.
    factor: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A score and how it came to be: the contributions' sum times the penalties, rounded."""

    # Thousandths, 0 to 1,000.
    score: int
    components: tuple[Component, ...]
    penalties: tuple[Penalty, ...]
    warnings: tuple[PageWarning, ...]
    profile_version: int


DEFAULT_PROFILE = ScoringProfile()
_COMPONENTS = tuple(it.name for it in fields(Weights))


def explain(features: Features, profile: ScoringProfile, *, now: int) -> Breakdown:
    """Score a page and say why. `now` is Unix seconds: a page grows old without being fetched."""
    values = features.to_tuple()
    shares = _shares(profile)
    measured = _measured(features, profile, now)
    components = tuple(
        Component(name, raw, normalised, share, normalised * share)
        for name, share, (raw, normalised) in zip(_COMPONENTS, shares, measured, strict=True)
    )
    penalties = []
    if _is_penalised(features, profile):
        penalties.append(Penalty("parked", profile.parked_penalty_factor))
    return Breakdown(
        scorer(profile, now=now)(values),
        components,
        tuple(penalties),
        warnings_of(features, profile),
        profile.version,
    )


def score(features: Features, profile: ScoringProfile, *, now: int) -> int:
    """The score alone, in thousandths."""
    return scorer(profile, now=now)(features.to_tuple())


def rescore(vectors: Iterable[tuple[int, ...]], profile: ScoringProfile, *, now: int) -> list[int]:
    """Scores of many vectors (Features.to_tuple) in their order, in thousandths."""
    return list(map(scorer(profile, now=now), vectors))


def scorer(profile: ScoringProfile, *, now: int) -> Callable[[tuple[int, ...]], int]:
    """A function from a vector to its score in thousandths, for many vectors of one profile.

    It does what `explain` does without keeping the parts; a test holds the two together.
    """
    density_share, cover_share, clean_share, length_share, title_share, fresh_share, tf_share = (
        _shares(profile)
    )
    full_density, full_coverage = profile.full_density, profile.full_coverage
    full_length = profile.full_length
    # In seconds, so that nothing is divided a million times.
    newest, newer, new = (it * _DAY for it in profile.fresh_days)
    factor = profile.parked_penalty_factor
    penalty_below = profile.parked_penalty_below * 1_000
    log1p = math.log1p
    title_hit, parked = int(Flag.TITLE_HIT), int(Flag.PARKED)

    def score_of(values: tuple[int, ...]) -> int:
        hits, unique, _, size = values[:4]
        cover = 1.0 if unique >= full_coverage else unique / full_coverage
        per_kilobyte = hits * _KILOBYTE / size if size else 0.0
        density = min(1.0, per_kilobyte / full_density) if size else cover
        total = density * density_share + cover * cover_share
        flags = values[16]
        if not flags & parked:
            total += clean_share
        total += (1.0 if size >= full_length else size / full_length) * length_share
        if flags & title_hit:
            total += title_share
        if then := values[10] or values[9]:
            age = now - then
            if age <= newest:
                total += fresh_share
            elif age < newer:
                total += 0.7 * fresh_share
            elif age < new:
                total += 0.4 * fresh_share
        if tf_share:
            total += min(1.0, per_kilobyte * log1p(unique)) * tf_share
        if flags & parked and values[11] < penalty_below:
            total *= factor
        # Half a thousandth goes up; the small part makes up for what sums of fractions lose.
        return int(total * 1_000 + 0.500_000_001)

    return score_of


def warnings_of(features: Features, profile: ScoringProfile) -> tuple[PageWarning, ...]:
    """What is odd about the page, in the order of their numbers."""
    bits = warner(profile)(features.to_tuple())
    return tuple(it for it in PageWarning if bits >> it - 1 & 1)


def warner(profile: ScoringProfile) -> Callable[[tuple[int, ...]], int]:
    """A function from a vector to what is odd about its page, for many vectors of one profile: bit
    n - 1 is warning n."""
    repetition, anchors = profile.repetition_above * 1_000, profile.anchor_share_above * 1_000
    truncated = int(Flag.TRUNCATED)

    def bits_of(values: tuple[int, ...]) -> int:
        stuffing, repeated, linked, _, flags = values[12:17]
        return (
            (stuffing > 0)
            | (repeated > repetition) << 1
            | (linked > anchors) << 2
            | bool(flags & truncated) << 3
        )

    return bits_of


def _shares(profile: ScoringProfile) -> tuple[float, ...]:
    weights = [getattr(profile.weights, name) for name in _COMPONENTS]
    total = sum(weights)
    return tuple(it / total for it in weights)


def _is_penalised(features: Features, profile: ScoringProfile) -> bool:
    return bool(
        features.flags & Flag.PARKED
        and features.parked_confidence < profile.parked_penalty_below * 1_000
    )


def _measured(
    features: Features, profile: ScoringProfile, now: int
) -> tuple[tuple[float, float], ...]:
    """Raw and normalised value of each component, in the order of the weights."""
    size = features.byte_size
    cover = min(1.0, features.unique_count / profile.full_coverage)
    per_kilobyte = features.hit_count * _KILOBYTE / size if size else 0.0
    # Without a size the density is not known, and the coverage stands for it.
    density = min(1.0, per_kilobyte / profile.full_density) if size else cover
    then = features.modified_time or features.fetch_time
    days = (now - then) / _DAY if then else -1.0
    clean = float(not features.flags & Flag.PARKED)
    title = float(bool(features.flags & Flag.TITLE_HIT))
    tf_lite = per_kilobyte * math.log1p(features.unique_count)
    return (
        (per_kilobyte, density),
        (features.unique_count, cover),
        (clean, clean),
        (size, min(1.0, size / profile.full_length)),
        (title, title),
        (days, _freshness(days, profile) if then else 0.0),
        (tf_lite, min(1.0, tf_lite)),
    )


def _freshness(days: float, profile: ScoringProfile) -> float:
    newest, newer, new = profile.fresh_days
    if days <= newest:
        return 1.0
    if days < newer:
        return 0.7
    return 0.4 if days < new else 0.0
