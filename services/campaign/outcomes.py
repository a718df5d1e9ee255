"""Names of the outcomes that the ledger counts by number, per phase, and the receipt made of them.
Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import dns_pb2, http_pb2, lead_pb2
from services.campaign.campaign import PASSED, Campaign, Phase, PhaseState, Status
from services.campaign.candidates import SOURCES
from services.campaign.events import outcome_counts, proto_phase, proto_status
from services.campaign.names import Upload
from services.campaign.rows import Tally
from services.chassis.leads import LeadReason, audit


def _names(values: Iterable[tuple[str, int]], prefix: str) -> tuple[str, ...]:
    numbered = sorted((number, name) for name, number in values if number)
    return tuple(name.removeprefix(prefix) for _, name in numbered)


# Outcome number -> name. Entry i of chunks.outcome_counts counts outcome i + 1.
OUTCOMES: dict[Phase, tuple[str, ...]] = {
    Phase.DOMAIN_GENERATION: ("GENERATED",),
    Phase.DNS_VALIDATION: _names(dns_pb2.DnsVerdict.items(), "DNS_VERDICT_"),
    Phase.HTTP_VALIDATION: _names(http_pb2.HttpVerdict.items(), "HTTP_VERDICT_"),
    Phase.CONTENT_ANALYSIS: ("WITH_KEYWORD", "WITHOUT_KEYWORD", "ERROR"),
    Phase.LEAD_EXTRACTION: _names(lead_pb2.LeadReason.items(), "LEAD_REASON_"),
}
# Of the phases that find out which names a later phase works on: RESOLVED, and OK.
_PASSED = 0


def named(phase: Phase, counts: Sequence[int]) -> list[campaign_pb2.OutcomeCount]:
    """The outcomes that occurred, with their names."""
    return outcome_counts(list(zip(OUTCOMES.get(phase, ()), counts, strict=False)))


def phase_receipt(
    state: PhaseState, tally: Tally, digests: Sequence[bytes | None], upload: Upload | None
) -> campaign_pb2.PhaseReceipt:
    """How the names of one phase ended. `digests` are the chunks' content hashes in order."""
    receipt = campaign_pb2.PhaseReceipt(
        phase=proto_phase(state.phase),
        run=state.run,
        status=proto_status(state.status),
        name_count=state.name_count,
        outcomes=named(state.phase, tally.outcomes),
        unsettled_count=state.name_count - tally.settled_count,
        missing_count=state.missing_count,
    )
    if state.status is Status.COMPLETED:
        receipt.content_sha256 = hashlib.sha256(b"".join(filter(None, digests))).hexdigest()
    receipt.dead_letter_count = tally.dead_letter_count
    if state.phase is Phase.LEAD_EXTRACTION:
        receipt.audit.CopyFrom(_audit(tally.outcomes))
    if upload is not None:
        receipt.duplicate_count = upload.duplicate_count
        receipt.rejected_count = upload.rejected_count
    return receipt


def _audit(counts: Sequence[int]) -> campaign_pb2.LeadAudit:
    """Where the names went that were decided on. Its equation holds whatever the counts are."""
    known = {int(reason): counts[reason - 1] for reason in LeadReason if reason <= len(counts)}
    found = audit(known)
    return campaign_pb2.LeadAudit(
        analysed_count=found.analysed,
        qualified_count=found.qualified,
        rejected_count=found.rejected,
        no_keyword_count=found.no_keyword,
        error_count=found.error,
        timeout_count=found.timeout,
    )


def balances(campaign: Campaign, receipts: Sequence[campaign_pb2.PhaseReceipt]) -> bool:
    """Whether every phase is over and each completed one has exactly one outcome for every name
    that it had to settle: all names of the campaign in generation and DNS; in HTTP those that DNS
    found RESOLVED; those whose page came in the analysis; all that HTTP settled in the leads."""
    if not campaign.is_finished or campaign.current.status not in PASSED:
        return False
    completed = {
        Phase(receipt.phase): receipt
        for receipt in receipts
        if receipt.status == campaign_pb2.PHASE_STATUS_COMPLETED
    }
    return all(
        _settled(receipt) == receipt.name_count
        and receipt.name_count == _expected(phase, campaign, completed, receipt)
        and (phase is not Phase.LEAD_EXTRACTION or _is_audited(receipt))
        for phase, receipt in completed.items()
    )


def _settled(receipt: campaign_pb2.PhaseReceipt) -> int:
    return sum(outcome.count for outcome in receipt.outcomes)


def _expected(
    phase: Phase,
    campaign: Campaign,
    completed: Mapping[Phase, campaign_pb2.PhaseReceipt],
    receipt: campaign_pb2.PhaseReceipt,
) -> int:
    """The names that came to a phase; of one after another that was left out, those it says."""
    if phase in {Phase.DOMAIN_GENERATION, Phase.DNS_VALIDATION}:
        return campaign.name_count
    source = SOURCES[phase]
    before = completed.get(source)
    if before is None:
        return receipt.name_count
    if phase is Phase.LEAD_EXTRACTION:
        return _settled(before)
    passed = OUTCOMES[source][_PASSED]
    return sum(outcome.count for outcome in before.outcomes if outcome.outcome == passed)


def _is_audited(receipt: campaign_pb2.PhaseReceipt) -> bool:
    audit_ = receipt.audit
    parts = (
        audit_.qualified_count,
        audit_.rejected_count,
        audit_.no_keyword_count,
        audit_.error_count,
        audit_.timeout_count,
    )
    return audit_.analysed_count == sum(parts) == receipt.name_count
