"""Outcomes of the phases: what their numbers in counters mean."""

from collections.abc import Mapping

from domainflow.validation.v1 import dns_pb2, http_pb2, lead_pb2

PHASES = range(1, 6)
GENERATION, DNS, HTTP, ANALYSIS, LEADS = PHASES

# Of the analysis, which has no enum of its own: pages with a keyword, without one, and pages that
# could not be analysed. The latter have an outcome in the ledger and no row in page_analyses.
ANALYSIS_WITH_KEYWORD, ANALYSIS_WITHOUT_KEYWORD, ANALYSIS_ERROR = 1, 2, 3

_NAMES: Mapping[int, Mapping[int, str]] = {
    GENERATION: {1: "GENERATED"},
    DNS: {n: name.removeprefix("DNS_VERDICT_") for name, n in dns_pb2.DnsVerdict.items() if n},
    HTTP: {n: name.removeprefix("HTTP_VERDICT_") for name, n in http_pb2.HttpVerdict.items() if n},
    ANALYSIS: {
        ANALYSIS_WITH_KEYWORD: "WITH_KEYWORD",
        ANALYSIS_WITHOUT_KEYWORD: "WITHOUT_KEYWORD",
        ANALYSIS_ERROR: "ERROR",
    },
    LEADS: {n: name.removeprefix("LEAD_REASON_") for name, n in lead_pb2.LeadReason.items() if n},
}

# The decision that goes with a reason (lead.proto).
LEAD_STATUSES: Mapping[int, lead_pb2.LeadStatus.ValueType] = {
    lead_pb2.LEAD_REASON_QUALIFIED: lead_pb2.LEAD_STATUS_QUALIFIED,
    lead_pb2.LEAD_REASON_LOW_SCORE: lead_pb2.LEAD_STATUS_REJECTED,
    lead_pb2.LEAD_REASON_NO_KEYWORDS: lead_pb2.LEAD_STATUS_REJECTED,
    lead_pb2.LEAD_REASON_PARKED: lead_pb2.LEAD_STATUS_REJECTED,
    lead_pb2.LEAD_REASON_THIN_CONTENT: lead_pb2.LEAD_STATUS_REJECTED,
    lead_pb2.LEAD_REASON_SUPPRESSED: lead_pb2.LEAD_STATUS_REJECTED,
    lead_pb2.LEAD_REASON_DNS_ERROR: lead_pb2.LEAD_STATUS_ERROR,
    lead_pb2.LEAD_REASON_DNS_TIMEOUT: lead_pb2.LEAD_STATUS_TIMEOUT,
    lead_pb2.LEAD_REASON_HTTP_ERROR: lead_pb2.LEAD_STATUS_ERROR,
    lead_pb2.LEAD_REASON_HTTP_TIMEOUT: lead_pb2.LEAD_STATUS_TIMEOUT,
    lead_pb2.LEAD_REASON_DEAD_LETTER: lead_pb2.LEAD_STATUS_ERROR,
}


def outcome_name(phase: int, outcome: int) -> str:
    """As in the campaign's receipt; the number for one that this version does not know."""
    return _NAMES.get(phase, {}).get(outcome, str(outcome))
