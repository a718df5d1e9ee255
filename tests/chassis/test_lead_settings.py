from domainflow.validation.v1.lead_pb2 import LeadThresholds
from services.chassis.lead_settings import thresholds_of
from services.chassis.leads import Thresholds


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
