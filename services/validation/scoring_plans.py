"""Scoring profiles from messages: what a campaign, a stored profile or a call leaves open takes the
defaults."""

from dataclasses import fields

from domainflow.validation.v1 import lead_pb2, scoring_pb2
from services.chassis.leads import Thresholds
from services.validation.content.scoring import DEFAULT_PROFILE, ScoringProfile, Weights

_WEIGHTS = tuple(it.name for it in fields(Weights))
_LEADS = Thresholds()


def scoring_profile_of(settings: scoring_pb2.ScoringSettings) -> ScoringProfile:
    """The profile that the settings describe. Raises ValueError for numbers out of range."""
    weights = {name: getattr(settings.weights, name) for name in _WEIGHTS}
    base = DEFAULT_PROFILE
    return ScoringProfile(
        # Without any weight the defaults apply; with one, what is left out counts nothing.
        weights=Weights(**weights) if any(weights.values()) else base.weights,
        parked_penalty_factor=_given(settings, "parked_penalty_factor"),
        parked_penalty_below=_given(settings, "parked_penalty_below"),
        full_density=settings.full_density or base.full_density,
        full_coverage=settings.full_coverage or base.full_coverage,
        full_length=settings.full_length or base.full_length,
        repetition_above=_given(settings, "repetition_above"),
        anchor_share_above=_given(settings, "anchor_share_above"),
    )


def thresholds_of(thresholds: lead_pb2.LeadThresholds) -> Thresholds:
    """What makes a lead; fields left out take their defaults."""

    def given(field: str) -> float:
        value: float = getattr(thresholds if thresholds.HasField(field) else _LEADS, field)
        return value

    return Thresholds(
        match_score=given("match_score"),
        low_score_grace=given("low_score_grace"),
        min_content_bytes=thresholds.min_content_bytes or _LEADS.min_content_bytes,
        parked_confidence_floor=given("parked_confidence_floor"),
        require_structural_signals=not thresholds.structure_optional,
    )


def _given(settings: scoring_pb2.ScoringSettings, field: str) -> float:
    value: float = getattr(settings if settings.HasField(field) else DEFAULT_PROFILE, field)
    return value
