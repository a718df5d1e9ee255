"""Answers about several types of record, and the one verdict on the name they make. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from services.validation.dns import wire
from services.validation.dns.verdict import Evidence, Outcome, RecordEvidence, Verdict

ADDRESS_TYPES = (wire.A, wire.AAAA)
# Failures after which the other type of address is asked for all the same. Not TIMEOUT: servers
# mute to one type are mute to the other, and waiting for that twice would hold up a whole chunk.
FAILED = (Verdict.SERVFAIL, Verdict.REFUSED, Verdict.ERROR)


def record_of(qtype: int, outcome: Outcome) -> RecordEvidence:
    """What an outcome says of the type asked for."""
    return RecordEvidence(
        qtype,
        outcome.verdict,
        outcome.rcode,
        outcome.addresses,
        outcome.chain,
        outcome.ttl,
        outcome.resolver,
        outcome.attempts,
        outcome.duration_us,
        outcome.tcp,
        outcome.authority,
    )


def missing(outcome: Outcome, qtypes: Sequence[int], first: int) -> tuple[int, ...]:
    """The types to be asked for after `first`.

    All for a name that exists; for one that could not be asked about, those of addresses.
    """
    if outcome.verdict is Verdict.RESOLVED or outcome.verdict is Verdict.NO_DATA:
        wanted = tuple(qtypes)
    elif outcome.verdict in FAILED and outcome.attempts:
        wanted = tuple(qtype for qtype in qtypes if qtype in ADDRESS_TYPES)
    else:
        return ()
    known = {it.qtype for it in outcome.evidence.records} if outcome.evidence else set()
    known.add(first)
    return tuple(qtype for qtype in wanted if qtype not in known)


def deciding(outcome: Outcome, first: int) -> int:
    """The type whose answer is the name's verdict; `first` where only that was asked for."""
    records = outcome.evidence.records if outcome.evidence else ()
    return _deciding(records).qtype if records else first


def combine(outcome: Outcome, records: tuple[RecordEvidence, ...]) -> Outcome:
    """The outcome that these records support; the first of them is of the first type asked for.

    Addresses of any type resolve a name. Without any, the first type's verdict is the name's: what
    another type failed with hides nothing, and proves nothing. `attempts` stays the caller's.
    """
    first = records[0]
    it = _deciding(records)
    evidence = outcome.evidence or Evidence()
    if it.verdict is not Verdict.RESOLVED:
        addresses: tuple[str, ...] = it.records
    else:
        kinds = ADDRESS_TYPES if it.qtype in ADDRESS_TYPES else (it.qtype,)
        addresses = tuple(
            address
            for record in records
            if record.qtype in kinds and record.verdict is Verdict.RESOLVED
            for address in record.records
        )
    reason = evidence.reason
    if it is not first:
        remark = f"{_name(first.qtype)} is {first.verdict.name}, {_name(it.qtype)} has addresses"
        if remark not in reason:
            reason = "; ".join(filter(None, (reason, remark)))
    return outcome._replace(
        verdict=it.verdict,
        rcode=it.rcode,
        addresses=addresses,
        chain=it.chain,
        ttl=it.ttl,
        resolver=it.resolver,
        duration_us=it.duration_us if it is first else first.duration_us + it.duration_us,
        tcp=it.tcp,
        authority=it.authority,
        evidence=replace(evidence, records=records, reason=reason),
    )


def _deciding(records: Sequence[RecordEvidence]) -> RecordEvidence:
    for it in records:
        if it.verdict is Verdict.RESOLVED and it.qtype in ADDRESS_TYPES:
            return it
    return records[0]


def _name(qtype: int) -> str:
    return {wire.A: "A", wire.AAAA: "AAAA"}.get(qtype, str(qtype))
