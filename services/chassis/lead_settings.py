"""What makes a lead, from messages: campaigns check it, validation decides by it."""

from domainflow.validation.v1 import lead_pb2
from services.chassis.leads import Thresholds

_DEFAULTS = Thresholds()


def thresholds_of(message: lead_pb2.LeadThresholds) -> Thresholds:
    """Thresholds with the defaults for what is left out."""
    given = {
        field: getattr(message, field)
        for field in ("match_score", "low_score_grace", "parked_confidence_floor")
        if message.HasField(field)
    }
    if "low_score_grace" not in given and "match_score" in given:
        # Whoever lowers the score of a lead means that of all leads.
        given["low_score_grace"] = min(_DEFAULTS.low_score_grace, given["match_score"])
    if message.min_content_bytes:
        given["min_content_bytes"] = message.min_content_bytes
    return Thresholds(require_structural_signals=not message.structure_optional, **given)
