"""Who else is asked about a name, and what their answers make of the first one. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum, auto
from zlib import crc32

from services.validation.dns.plan import OpinionPolicy
from services.validation.dns.verdict import (
    DNSSEC_ERRORS,
    Agreement,
    Evidence,
    Opinion,
    Outcome,
    Verdict,
    is_final,
)

# Opinions kept of one name.
LIMIT = 10
# Of equally frequent answers the one that says more counts.
_WEIGHT = {Verdict.TIMEOUT: 0, Verdict.ERROR: 1, Verdict.REFUSED: 2, Verdict.SERVFAIL: 3}


class Standing(Enum):
    """How a first answer stands after a second."""

    CONFIRMED = auto()
    # The second was no usable answer.
    UNCONFIRMED = auto()
    # The second resolver found broken signatures.
    UNMASKED = auto()
    # The first was no usable answer, and the second says something else.
    OPEN = auto()
    # Both are usable, and they exclude each other.
    CONTRADICTED = auto()


def policy_of(asked: OpinionPolicy, operators: int) -> OpinionPolicy:
    """What is done: with one operator there is nobody else to ask."""
    if operators < 2:
        return OpinionPolicy.NONE
    return OpinionPolicy.POSITIVES_AND_ODD if asked is OpinionPolicy.AUTOMATIC else asked


def wanted(outcomes: Sequence[Outcome], policy: OpinionPolicy, positive_percent: int) -> list[int]:
    """Indexes of the outcomes that get a second opinion."""
    if policy is OpinionPolicy.NONE:
        return []
    resolved, absent = Verdict.RESOLVED, Verdict.NXDOMAIN
    everything = policy is OpinionPolicy.ALL
    positives = policy in (OpinionPolicy.POSITIVES_AND_ODD, OpinionPolicy.ALL)
    found = []
    for index, outcome in enumerate(outcomes):
        verdict = outcome[1]
        if verdict is absent:
            if everything:
                found.append(index)
        elif verdict is resolved:
            if positives and (
                positive_percent >= 100 or crc32(outcome[0].encode()) % 100 < positive_percent
            ):
                found.append(index)
        elif outcome.attempts:
            found.append(index)
    return found


def compare(first: Outcome, second: Outcome) -> Standing:
    """Addresses may differ: many names have other ones for every network that asks."""
    a, b = first.verdict, second.verdict
    if a is b:
        return Standing.CONFIRMED
    if a is Verdict.BOGUS:
        # Only a resolver that validates can tell, and it says SERVFAIL.
        return Standing.CONFIRMED if b is Verdict.SERVFAIL else Standing.UNCONFIRMED
    if b is Verdict.BOGUS:
        return Standing.UNMASKED
    if not is_final(a):
        return Standing.OPEN
    return Standing.CONTRADICTED if is_final(b) else Standing.UNCONFIRMED


def is_shared(outcome: Outcome) -> bool:
    """Whether resolvers of two operators failed at the name in the same way already."""
    evidence = outcome.evidence
    verdict = outcome.verdict
    if evidence is None:
        return False
    if verdict is Verdict.BOGUS:
        said = {it.operator for it in evidence.opinions if it.ede in DNSSEC_ERRORS}
    elif is_final(verdict):
        return False
    else:
        said = {it.operator for it in evidence.opinions if it.verdict is verdict}
    return len(said) > 1


def majority(heard: Sequence[Outcome]) -> Outcome:
    """What most say; of equally frequent ones what says more, of those the earlier."""

    def weight(outcome: Outcome) -> tuple[int, int]:
        count = sum(other.verdict is outcome.verdict for other in heard)
        return count, _WEIGHT.get(outcome.verdict, 4)

    return max(heard, key=weight)


def settled(heard: Sequence[Outcome]) -> Outcome | None:
    """The usable answer that two of those heard give, and no other two."""
    it = majority(heard)
    agreed = sum(other.verdict is it.verdict for other in heard)
    return it if is_final(it.verdict) and 2 <= agreed > len(heard) - agreed else None


def opinion_of(outcome: Outcome, operator: str) -> Opinion:
    return Opinion(
        outcome.resolver,
        operator,
        outcome.verdict,
        outcome.rcode,
        outcome.addresses,
        1,
        outcome.duration_us,
    )


def with_opinions(
    outcome: Outcome,
    agreement: Agreement,
    opinions: tuple[Opinion, ...],
    *,
    reason: str = "",
    attempts: int = 0,
    duration_us: int = 0,
) -> Outcome:
    """The outcome with what others say; they took so many questions and so much time more."""
    evidence = outcome.evidence
    if evidence is None:
        evidence = Evidence(agreement, opinions=opinions, reason=reason)
    else:
        evidence = replace(
            evidence,
            agreement=agreement,
            opinions=(*evidence.opinions, *opinions)[-LIMIT:],
            reason="; ".join(filter(None, (evidence.reason, reason))),
        )
    return outcome._replace(
        attempts=outcome.attempts + attempts,
        duration_us=outcome.duration_us + duration_us,
        evidence=evidence,
    )


def confirmed(first: Outcome, second: Outcome, operator: str) -> Outcome:
    """A first outcome without evidence, with a second that says the same. Made for speed: it is
    called for every name that resolves."""
    # fmt: off
    name, verdict, rcode, addresses, chain, ttl, resolver, attempts, duration, tcp, zone, _ = first
    # fmt: on
    opinion = Opinion(second[6], operator, second[1], second[2], second[3], 1, second[8])
    reason = "" if addresses == second[3] else difference(first, second)
    evidence = Evidence(Agreement.CONFIRMED, None, None, (), (opinion,), None, (), reason)
    attempts += second[7]
    duration += second[8]
    return Outcome(
        name,
        verdict,
        rcode,
        addresses,
        chain,
        ttl,
        resolver,
        attempts,
        duration,
        tcp,
        zone,
        evidence,
    )


def difference(first: Outcome, second: Outcome) -> str:
    """A remark where both resolve, and to nothing in common."""
    if first.addresses and second.addresses and set(first.addresses).isdisjoint(second.addresses):
        return "the resolvers give different addresses"
    return ""
