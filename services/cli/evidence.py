"""What stands behind a verdict, as tables for people."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from domainflow.query.v1 import query_service_pb2
from domainflow.validation.v1 import dns_pb2
from services.cli import export, terminal


def tables(domain: query_service_pb2.Domain) -> Iterator[Table]:
    """The verdict first, then one table per kind of evidence there is."""
    yield _verdict(domain)
    evidence = domain.dns.evidence
    if evidence.records:
        yield _records(evidence)
    if evidence.opinions:
        yield _opinions(evidence)
    if evidence.authority_steps:
        yield _steps(evidence)


def agreement(dns: dns_pb2.DnsResult) -> str:
    """Whether somebody else says the same; empty when nobody else was asked."""
    if not dns.agreement:
        return ""
    return terminal.label(dns_pb2.DnsAgreement.Name(dns.agreement), "DNS_AGREEMENT_")


def _verdict(domain: query_service_pb2.Domain) -> Table:
    made = terminal.table(escape(domain.name), ("", ""))
    dns = domain.dns
    if not domain.HasField("dns"):
        made.add_row("verdict", "(pending)")
        return made
    facts = {
        word: fact.removeprefix("DNS_FACT_").lower()
        for word, value in (
            ("registered", dns.registered),
            ("delegated", dns.delegated),
            ("resolving", dns.resolving),
        )
        if value and (fact := dns_pb2.DnsFact.Name(value))
    }
    wildcard = dns.evidence.wildcard
    rows = {
        "verdict": export.verdict_name(dns.verdict),
        "why": escape(dns.evidence.reason),
        **facts,
        "addresses": ", ".join(dns.addresses),
        "alias chain": " > ".join(map(escape, dns.cname_chain)),
        "ttl": f"{dns.ttl.seconds} s" if dns.HasField("ttl") else "",
        "response code": str(dns.rcode) if dns.rcode >= 0 else "no answer",
        "authority": escape(dns.authority),
        "resolver": escape(dns.resolver),
        "agreement": agreement(dns),
        "questions": str(dns.attempt_count),
        "took": f"{dns.duration.ToTimedelta().total_seconds() * 1000:,.1f} ms",
        "wildcard": (
            f"{escape(wildcard.parent)} answers {', '.join(map(escape, wildcard.answers))}"
            f" ({wildcard.probe_count} random names)"
            if wildcard.parent
            else ""
        ),
    }
    for word, text in rows.items():
        if text:
            made.add_row(word, text)
    return made


def _records(evidence: dns_pb2.DnsEvidence) -> Table:
    headings = ("type", "verdict", "data", "resolver", "tries")
    made = terminal.table("per type", headings, right=("tries",))
    for record in evidence.records:
        made.add_row(
            dns_pb2.RecordType.Name(record.type).removeprefix("RECORD_TYPE_"),
            export.verdict_name(record.verdict),
            escape(", ".join(record.records)),
            escape(record.resolver),
            str(record.attempt_count),
        )
    return made


def _opinions(evidence: dns_pb2.DnsEvidence) -> Table:
    headings = ("resolver", "operator", "said", "addresses", "times", "took")
    made = terminal.table("who said what", headings, right=("times", "took"))
    for opinion in evidence.opinions:
        seconds = opinion.duration.ToTimedelta().total_seconds()
        made.add_row(
            escape(opinion.resolver),
            escape(opinion.operator),
            export.verdict_name(opinion.verdict),
            ", ".join(opinion.addresses),
            str(opinion.count),
            f"{seconds * 1000:,.1f} ms" if opinion.HasField("duration") else "",
        )
    return made


def _steps(evidence: dns_pb2.DnsEvidence) -> Table:
    made = terminal.table("the delegation followed", ("zone", "server", "code", "said"))
    for step in evidence.authority_steps:
        code = str(step.rcode) if step.rcode >= 0 else "mute"
        made.add_row(escape(step.zone), escape(step.server), code, escape(step.answer))
    return made
