"""What is known of a name -> the decision on it, and whom to talk to."""

from collections.abc import Collection, Mapping, Sequence

from domainflow.validation.v1 import http_pb2, lead_pb2
from services.chassis.leads import LeadReason, Thresholds
from services.validation.analysis_rows import DecidedName
from services.validation.analysis_store import FetchedName
from services.validation.content.decision import (
    Decision,
    Facts,
    PageFacts,
    Stage,
    decide,
    http_stage,
)
from services.validation.content.features import Flag, tuple_of

_SHARE = 1_000
_PREFIX = "HTTP_VERDICT_"
_VERDICTS: Mapping[int, str] = {
    number: name.removeprefix(_PREFIX).lower().replace("_", " ")
    for name, number in http_pb2.HttpVerdict.items()
}


def facts_of(name: FetchedName, *, analysed: bool, suppressed_by: str = "") -> Facts:
    """What a decision rests on; `analysed`: whether all pages should have a score.

    Names come here past DNS only: those of HTTP are the ones that it resolved, or DNS was left out.
    """
    return Facts(
        dns=Stage.PASSED,
        http=http_stage(name.verdict),
        page=_page_of(name, analysed),
        suppressed_by=suppressed_by,
        http_words=_VERDICTS.get(name.verdict, ""),
    )


def may_qualify(name: FetchedName, thresholds: Thresholds) -> bool:
    """Whether the name could be a lead as far as its score goes: only then its contacts matter."""
    least = min(thresholds.low_score_grace, thresholds.match_score)
    return name.score is not None and name.score / _SHARE >= least


def decided(
    name: FetchedName,
    facts: Facts,
    thresholds: Thresholds,
    contacts: Sequence[lead_pb2.Contact] = (),
    suppressed: Collection[str] = (),
) -> DecidedName:
    """Decide. A lead is stored with its contacts, but for the `suppressed` addresses."""
    decision = decide(facts, thresholds)
    lead = lead_pb2.Lead(detail=decision.detail)
    if decision.reason is LeadReason.QUALIFIED:
        free = [it for it in contacts if not _is_withheld(it, suppressed)]
        lead.contacts.extend(free)
        if withheld := len(contacts) - len(free):
            lead.detail = f"{decision.detail}; addresses on the suppression list: {withheld}"
    return DecidedName(name.position, name.name, decision.reason, lead.SerializeToString())


def given_up(name: FetchedName) -> DecidedName:
    """The decision on a name whose decision failed."""
    decision = Decision(LeadReason.DEAD_LETTER, "the check failed as often as it was tried")
    lead = lead_pb2.Lead(detail=decision.detail)
    return DecidedName(name.position, name.name, decision.reason, lead.SerializeToString())


def addresses_of(contacts: Sequence[lead_pb2.Contact]) -> list[str]:
    """The e-mail addresses among contacts."""
    return [it.value for it in contacts if it.kind == lead_pb2.CONTACT_KIND_EMAIL]


def _page_of(name: FetchedName, analysed: bool) -> PageFacts | None:
    if name.features is None or (analysed and name.score is None):
        return None
    values = tuple_of(name.features)
    link_count, external_count, heading_count = values[6:9]
    return PageFacts(
        content_bytes=name.content_size,
        score=None if name.score is None else name.score / _SHARE,
        # How many does not matter, only whether there is one.
        keyword_count=None if name.keyword_match is None else int(name.keyword_match),
        is_parked=bool(values[16] & Flag.PARKED),
        parked_confidence=values[11] / _SHARE,
        has_structure=heading_count > 0 or link_count > external_count,
    )


def _is_withheld(contact: lead_pb2.Contact, suppressed: Collection[str]) -> bool:
    return contact.kind == lead_pb2.CONTACT_KIND_EMAIL and contact.value in suppressed
