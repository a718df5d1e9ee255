"""What a verdict and its evidence say of the registrable domain. Pure."""

from services.validation.dns.verdict import Outcome, Verdict


def of(outcome: Outcome) -> tuple[bool | None, bool | None]:
    """Whether the registrable domain is registered, and delegated; None: cannot be told."""
    evidence = outcome.evidence
    if evidence is not None and evidence.registered is not None:
        return evidence.registered, evidence.delegated
    if outcome.verdict is Verdict.RESOLVED:
        return True, True
    return None, None
