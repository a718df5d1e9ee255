"""Verdicts and evidence -> messages."""

from domainflow.validation.v1 import dns_pb2
from services.validation.dns import facts
from services.validation.dns.verdict import (
    AuthorityStep,
    Evidence,
    Opinion,
    Outcome,
    RecordEvidence,
    WildcardProof,
)
from services.validation.dns.verdict import Verdict as V

# Data of one type, opinions, answers of a wildcard: more than anybody reads, and a row stays small.
MAX_RECORDS = 100


def evidence_to_bytes(evidence: Evidence) -> bytes:
    """A DnsEvidence as stored; empty when the columns of its row say all there is."""
    return evidence_to_pb(evidence).SerializeToString()


def evidence_to_pb(evidence: Evidence) -> dns_pb2.DnsEvidence:
    message = dns_pb2.DnsEvidence(reason=evidence.reason)
    for record in evidence.records:
        _fill_record(message.records.add(), record)
    for opinion in evidence.opinions:
        _fill_opinion(message.opinions.add(), opinion)
    if evidence.wildcard is not None:
        _fill_wildcard(message.wildcard, evidence.wildcard)
    for step in evidence.walk:
        _fill_step(message.authority_steps.add(), step)
    return message


def outcome_to_pb(outcome: Outcome, check_time_ns: int) -> dns_pb2.DnsResult:
    """Verdict and evidence."""
    result = dns_pb2.DnsResult(
        verdict=dns_pb2.DnsVerdict.ValueType(outcome.verdict),
        rcode=outcome.rcode,
        addresses=outcome.addresses,
        cname_chain=outcome.chain,
        # Without an answer no resolver has decided anything.
        resolver=outcome.resolver if outcome.rcode >= 0 else "",
        attempt_count=outcome.attempts,
        tcp=outcome.tcp,
        authority=outcome.authority,
        resolving=resolving(outcome.verdict),
    )
    if outcome.ttl >= 0:
        result.ttl.FromSeconds(outcome.ttl)
    result.duration.FromMicroseconds(outcome.duration_us)
    result.check_time.FromNanoseconds(check_time_ns)
    registered, delegated = facts.of(outcome)
    result.registered, result.delegated = _fact(registered), _fact(delegated)
    if outcome.evidence is not None:
        result.agreement = dns_pb2.DnsAgreement.ValueType(outcome.evidence.agreement)
        result.evidence.CopyFrom(evidence_to_pb(outcome.evidence))
    return result


_RESOLVING = {
    V.RESOLVED: dns_pb2.DNS_FACT_YES,
    V.NXDOMAIN: dns_pb2.DNS_FACT_NO,
    V.NO_DATA: dns_pb2.DNS_FACT_NO,
    V.WILDCARD: dns_pb2.DNS_FACT_NO,
    V.CNAME_LOOP: dns_pb2.DNS_FACT_NO,
}


def resolving(verdict: int) -> "dns_pb2.DnsFact.ValueType":
    """Whether the name has an address of its own; the others could not be found out."""
    return _RESOLVING.get(V(verdict), dns_pb2.DNS_FACT_UNSPECIFIED)


def _fact(known: bool | None) -> "dns_pb2.DnsFact.ValueType":
    if known is None:
        return dns_pb2.DNS_FACT_UNSPECIFIED
    return dns_pb2.DNS_FACT_YES if known else dns_pb2.DNS_FACT_NO


def _fill_record(message: dns_pb2.RecordResult, record: RecordEvidence) -> None:
    message.type = dns_pb2.RecordType.ValueType(record.qtype)
    message.verdict = dns_pb2.DnsVerdict.ValueType(record.verdict)
    message.rcode = record.rcode
    message.records.extend(record.records[:MAX_RECORDS])
    message.cname_chain.extend(record.chain)
    if record.ttl >= 0:
        message.ttl.FromSeconds(record.ttl)
    message.resolver = record.resolver if record.rcode >= 0 else ""
    message.attempt_count = record.attempts
    message.duration.FromMicroseconds(record.duration_us)
    message.tcp = record.tcp
    message.authority = record.authority


def _fill_opinion(message: dns_pb2.DnsOpinion, opinion: Opinion) -> None:
    message.resolver = opinion.resolver
    message.operator = opinion.operator
    message.verdict = dns_pb2.DnsVerdict.ValueType(opinion.verdict)
    message.rcode = opinion.rcode
    message.addresses.extend(opinion.addresses[:MAX_RECORDS])
    message.count = opinion.count
    if opinion.duration_us >= 0:
        message.duration.FromMicroseconds(opinion.duration_us)


def _fill_wildcard(message: dns_pb2.WildcardEvidence, proof: WildcardProof) -> None:
    message.parent = proof.parent
    message.answers.extend(proof.answers[:MAX_RECORDS])
    message.probe_count = proof.probes


def _fill_step(message: dns_pb2.AuthorityStep, step: AuthorityStep) -> None:
    message.zone, message.server = step.zone, step.server
    message.rcode, message.answer = step.rcode, step.answer
