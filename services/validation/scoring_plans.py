"""Scoring profiles from messages: what a campaign, a stored profile or a call leaves open takes the
defaults."""

from dataclasses import fields

from domainflow.validation.v1 import scoring_pb2
from services.validation.content.scoring import DEFAULT_PROFILE, ScoringProfile, Weights

_WEIGHTS = tuple(it.name for it in fields(Weights))


def scoring_profile_of(settings: scoring_pb2.ScoringSettings) -> ScoringProfile:
    """The profile that the settings describe. Raises ValueError for numbers out of range."""
    weights = {name: getattr(settings.weights, name) for name in _WEIGHTS}
    base = DEFAULT_PROFILE
    given = {
        field: getattr(settings, field)
        for field in (
            "parked_penalty_factor",
            "parked_penalty_below",
            "repetition_above",
            "anchor_share_above",
        )
        if settings.HasField(field)
    }
    return ScoringProfile(
        # Without any weight the defaults apply; with one, what is left out counts nothing.
        weights=Weights(**weights) if any(weights.values()) else base.weights,
        full_density=settings.full_density or base.full_density,
        full_coverage=settings.full_coverage or base.full_coverage,
        full_length=settings.full_length or base.full_length,
        **given,
    )
