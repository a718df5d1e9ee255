"""Scores and how they came to be -> messages."""

from domainflow.validation.v1 import analysis_pb2, scoring_pb2
from services.validation.content.scoring import Breakdown


def breakdown_to_pb(
    breakdown: Breakdown, *, score_time: int, profile_id: str = "", version: int = 0
) -> scoring_pb2.ScoreBreakdown:
    """`score_time`: Unix seconds that the age of the page was reckoned to. `profile_id` and
    `version`: of the stored profile that made it; without one, empty and 0."""
    message = scoring_pb2.ScoreBreakdown(
        score=breakdown.score / 1_000,
        warnings=[analysis_pb2.PageWarning.ValueType(it) for it in breakdown.warnings],
        scoring_profile_id=profile_id,
        version=version,
    )
    for each in breakdown.components:
        message.components.add(
            component=each.name,
            raw=each.raw,
            normalised=each.normalised,
            weight=each.weight,
            contribution=each.contribution,
        )
    for penalty in breakdown.penalties:
        message.penalties.add(penalty=penalty.name, factor=penalty.factor)
    message.score_time.FromSeconds(score_time)
    return message
