"""Names of the outcomes that the ledger counts by number, per phase, and the receipt made of them.
Pure."""

import hashlib
from collections.abc import Sequence

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import dns_pb2
from services.campaign.campaign import PASSED, Campaign, Phase, PhaseState, Status
from services.campaign.events import outcome_counts, proto_phase, proto_status
from services.campaign.names import Upload
from services.campaign.rows import Tally

# The outcome of a name whose check itself failed, in every phase that workers do.
DEAD_LETTER = "DEAD_LETTER"
# Outcome number -> name. Entry i of chunks.outcome_counts counts outcome i + 1.
OUTCOMES: dict[Phase, tuple[str, ...]] = {
    Phase.DOMAIN_GENERATION: ("GENERATED",),
    Phase.DNS_VALIDATION: tuple(
        name.removeprefix("DNS_VERDICT_")
        for name, number in sorted(dns_pb2.DnsVerdict.items(), key=lambda item: item[1])
        if number
    ),
}


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
    receipt.dead_letter_count = sum(
        outcome.count for outcome in receipt.outcomes if outcome.outcome == DEAD_LETTER
    )
    if upload is not None:
        receipt.duplicate_count = upload.duplicate_count
        receipt.rejected_count = upload.rejected_count
    return receipt


def balances(campaign: Campaign, receipts: Sequence[campaign_pb2.PhaseReceipt]) -> bool:
    """Whether every phase is over and each completed one has exactly one outcome for every name of
    the campaign."""
    if not campaign.is_finished or campaign.current.status not in PASSED:
        return False
    return all(
        sum(outcome.count for outcome in receipt.outcomes)
        == receipt.name_count
        == campaign.name_count
        for receipt in receipts
        if receipt.status == campaign_pb2.PHASE_STATUS_COMPLETED
    )
