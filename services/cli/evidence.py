"""What stands behind a verdict, as tables for people."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from domainflow.query.v1 import query_service_pb2
from domainflow.validation.v1 import dns_pb2, http_pb2, lead_pb2, page_pb2
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
    if domain.HasField("http"):
        yield _http(domain.http)
    if domain.HasField("page"):
        yield _page(domain.page)
        if domain.page.rule_hits:
            yield _hits(domain.page)
        if domain.page.contacts:
            yield _contacts(domain.page)


def agreement(dns: dns_pb2.DnsResult) -> str:
    """Whether somebody else says the same; empty when nobody else was asked."""
    if not dns.agreement:
        return ""
    return terminal.label(dns_pb2.DnsAgreement.Name(dns.agreement), "DNS_AGREEMENT_")


def http_verdict_name(number: int) -> str:
    """`OK`; empty without a verdict, the number for one that this client does not know."""
    if not number:
        return ""
    try:
        name = http_pb2.HttpVerdict.Name(http_pb2.HttpVerdict.ValueType(number))
    except ValueError:
        return str(number)
    return name.removeprefix("HTTP_VERDICT_")


def _http(http: http_pb2.HttpResult) -> Table:
    evidence = http.evidence
    tls = evidence.tls
    trials = [
        f"{it.scheme}:{it.port} {http_verdict_name(it.verdict)}"
        + (f" ({it.reason})" if it.reason else "")
        for it in evidence.trials
    ]
    earlier = [http_verdict_name(it.verdict) for it in evidence.earlier_attempts]
    rows = {
        "verdict": http_verdict_name(http.verdict),
        "why": evidence.reason,
        "status": str(http.status_code or ""),
        "url": http.final_url,
        "redirects": " > ".join(f"{it.url} ({it.status_code})" for it in evidence.redirects),
        "asked": ", ".join(trials),
        "before that": ", ".join(earlier),
        "title": http.title,
        "size": f"{http.content_size:,} bytes" if http.content_size else "",
        "cut": evidence.truncation,
        "TLS": " ".join((tls.version, tls.cipher)).strip(),
        "certificate": tls.problem or ("valid" if tls.valid else ""),
        "address": evidence.address,
        "proxy": evidence.proxy,
        "server": evidence.server,
        "requests": str(http.attempt_count),
        "took": f"{http.duration.ToTimedelta().total_seconds() * 1000:,.1f} ms",
    }
    return _of_rows("HTTP", rows)


def _page(page: page_pb2.PageEvidence) -> Table:
    signals = [
        f"{signal.signal} {signal.weight:.2f}"
        for finding in page.findings
        for signal in finding.signals
    ]
    rows = {
        "kind": terminal.label(page_pb2.PageKind.Name(page.kind), "PAGE_KIND_"),
        "parked": f"{page.parked_confidence:.2f}" if page.parked_confidence else "",
        "signals": ", ".join(signals),
        "hit": "yes" if page.keyword_match else "no",
        "read in": page.encoding,
        "pages like it": f"{page.cluster_size - 1:,}" if page.cluster_size > 1 else "",
        "also read": ", ".join(it.url for it in page.crawled_pages),
    }
    return _of_rows("page", rows)


def _hits(page: page_pb2.PageEvidence) -> Table:
    made = terminal.table("keywords", ("rule", "category", "hits", "first"), right=("hits",))
    for each in page.rule_hits:
        first = next(iter(each.snippets), None)
        text = f"{first.before}[{first.hit}]{first.after}" if first else ""
        count = each.hit_count + each.title_hit_count
        made.add_row(escape(each.rule), escape(each.category), f"{count:,}", escape(text))
    return made


def _contacts(page: page_pb2.PageEvidence) -> Table:
    made = terminal.table("contacts", ("kind", "value", "sure", "found", "where"), right=("sure",))
    for each in page.contacts:
        kind = terminal.label(lead_pb2.ContactKind.Name(each.kind), "CONTACT_KIND_")
        row = (each.value, f"{each.confidence:.2f}", each.found, each.source_url)
        made.add_row(kind, *map(escape, row))
    return made


def _of_rows(title: str, rows: dict[str, str]) -> Table:
    """Names and values, without those that are empty."""
    made = terminal.table(title, ("", ""))
    for name, value in rows.items():
        if value:
            made.add_row(name, escape(value))
    return made


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
