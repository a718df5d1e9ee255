"""Whether a name is a lead, and the one reason why. Pure: facts in, decision out.

The first of these that holds decides:

 1. SUPPRESSED: on the suppression list. First, because it is about the name and not about what the
    network said today: the answer is the same in every run, nothing of the name is retried, and no
    score makes it a lead.
 2. DEAD_LETTER, DNS_TIMEOUT, DNS_ERROR, then the same of HTTP: it could not be found out.
 3. PARKED: marked as parked, or the confidence reaches `parked_confidence_floor`.
 4. NO_KEYWORDS: keywords were looked for and none was found, or there was nothing to score.
 5. THIN_CONTENT: no sign of structure where one is required.
 6. QUALIFIED: the score reaches `match_score`.
 7. THIN_CONTENT: fewer bytes than `min_content_bytes`. A good score is believed on a short page, a
    middling one is not.
 8. QUALIFIED: the score reaches `low_score_grace`.
 9. LOW_SCORE.
"""

from dataclasses import dataclass
from enum import IntEnum
from math import isfinite

from services.chassis.leads import STATUS_OF, LeadReason, LeadStatus, Thresholds
from services.validation.dns.verdict import Verdict as DnsVerdict

__all__ = [
    "Decision",
    "Facts",
    "LeadReason",
    "LeadStatus",
    "PageFacts",
    "Stage",
    "Thresholds",
    "decide",
    "dns_stage",
    "http_stage",
]

# Of domainflow.validation.v1.HttpVerdict.
_HTTP_OK, _HTTP_TIMEOUT, _HTTP_DEAD_LETTER = 1, 2, 21


class Stage(IntEnum):
    """How far a name got in one phase."""

    PASSED = 1
    FAILED = 2
    TIMED_OUT = 3
    # The check itself failed as often as it was tried.
    DEAD_LETTER = 4


_OF_DNS = {
    Stage.FAILED: LeadReason.DNS_ERROR,
    Stage.TIMED_OUT: LeadReason.DNS_TIMEOUT,
    Stage.DEAD_LETTER: LeadReason.DEAD_LETTER,
}
_OF_HTTP = {
    Stage.FAILED: LeadReason.HTTP_ERROR,
    Stage.TIMED_OUT: LeadReason.HTTP_TIMEOUT,
    Stage.DEAD_LETTER: LeadReason.DEAD_LETTER,
}


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What the analysis knows of a name's page."""

    # Bytes after decoding.
    content_bytes: int
    # From 0 to 1; None where nothing was scored.
    score: float | None
    # Hits of all keywords; None where none were looked for.
    keyword_count: int | None = None
    is_parked: bool = False
    # From 0 to 1.
    parked_confidence: float = 0.0
    has_structure: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a name when it is decided on."""

    dns: Stage
    http: Stage
    # None where no page was analysed: after DNS or HTTP failed, or because the analysis did.
    page: PageFacts | None = None
    # The entry of the suppression list; empty: none.
    suppressed_by: str = ""
    # What HTTP came to, in words.
    http_words: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on one name."""

    reason: LeadReason
    # In words, with the figures that decided.
    detail: str

    @property
    def status(self) -> LeadStatus:
        return STATUS_OF[self.reason]


def dns_stage(verdict: int) -> Stage:
    """Of a DnsVerdict. A name passes when it resolves; a wildcard's answer is not its own."""
    if verdict == DnsVerdict.RESOLVED:
        return Stage.PASSED
    if verdict == DnsVerdict.TIMEOUT:
        return Stage.TIMED_OUT
    return Stage.DEAD_LETTER if verdict == DnsVerdict.DEAD_LETTER else Stage.FAILED


def http_stage(verdict: int) -> Stage:
    """Of an HttpVerdict."""
    if verdict == _HTTP_OK:
        return Stage.PASSED
    if verdict == _HTTP_TIMEOUT:
        return Stage.TIMED_OUT
    return Stage.DEAD_LETTER if verdict == _HTTP_DEAD_LETTER else Stage.FAILED


def decide(facts: Facts, thresholds: Thresholds) -> Decision:
    """The decision, whatever the facts."""
    if facts.suppressed_by:
        return Decision(LeadReason.SUPPRESSED, f"on the suppression list: {facts.suppressed_by}")
    if facts.dns != Stage.PASSED:
        return Decision(_OF_DNS[facts.dns], f"DNS: {_WORDS[facts.dns]}")
    if facts.http != Stage.PASSED:
        return Decision(_OF_HTTP[facts.http], f"HTTP: {facts.http_words or _WORDS[facts.http]}")
    if facts.page is None:
        return Decision(LeadReason.DEAD_LETTER, "the analysis could not score the page")
    return _of_page(facts.page, thresholds)


_WORDS = {
    Stage.FAILED: "failed",
    Stage.TIMED_OUT: "timed out",
    Stage.DEAD_LETTER: "the check failed as often as it was tried",
}


def _of_page(page: PageFacts, thresholds: Thresholds) -> Decision:
    floor = thresholds.parked_confidence_floor
    if page.is_parked or page.parked_confidence >= floor:
        return Decision(LeadReason.PARKED, f"parked with confidence {page.parked_confidence:.2f}")
    if page.keyword_count == 0:
        return Decision(LeadReason.NO_KEYWORDS, "none of the keywords was found")
    score = page.score
    if score is None or not isfinite(score):
        return Decision(LeadReason.NO_KEYWORDS, "there was nothing to score")
    if thresholds.require_structural_signals and not page.has_structure:
        return Decision(LeadReason.THIN_CONTENT, "has no heading and no link into the site")
    if score >= thresholds.match_score:
        return Decision(
            LeadReason.QUALIFIED, f"score {score:.3f} is at least {thresholds.match_score:g}"
        )
    if page.content_bytes < thresholds.min_content_bytes:
        return Decision(
            LeadReason.THIN_CONTENT,
            f"{page.content_bytes:,} bytes are fewer than {thresholds.min_content_bytes:,}, and"
            f" score {score:.3f} is below {thresholds.match_score:g}",
        )
    if score >= thresholds.low_score_grace:
        return Decision(
            LeadReason.QUALIFIED,
            f"score {score:.3f} is at least {thresholds.low_score_grace:g} on"
            f" {page.content_bytes:,} bytes",
        )
    return Decision(
        LeadReason.LOW_SCORE, f"score {score:.3f} is below {thresholds.low_score_grace:g}"
    )
