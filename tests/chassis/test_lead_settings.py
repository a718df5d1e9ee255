from domainflow.validation.v1.lead_pb2 import LeadThresholds
from services.chassis.lead_settings import thresholds_of
from services.chassis.leads import Thresholds, check


def test_what_is_left_out_takes_its_default() -> None:
    assert thresholds_of(LeadThresholds()) == Thresholds()


def test_every_field_has_its_effect_a_zero_too() -> None:
    message = LeadThresholds(
        match_score=0.3,
        low_score_grace=0,
        min_content_bytes=300,
        parked_confidence_floor=0,
        structure_optional=True,
    )

    assert thresholds_of(message) == Thresholds(0.3, 0.0, 300, 0.0, False)


def test_a_low_score_of_a_lead_is_no_lower_than_the_grace_that_nobody_gave() -> None:
    low = thresholds_of(LeadThresholds(match_score=0.1))

    assert (low.match_score, low.low_score_grace) == (0.1, 0.1)
    assert list(check(low, "thresholds")) == []
    assert thresholds_of(LeadThresholds(match_score=0.5)).low_score_grace == 0.24
    given = thresholds_of(LeadThresholds(match_score=0.1, low_score_grace=0.2))
    assert [it.field for it in check(given, "thresholds")] == ["thresholds.low_score_grace"]
