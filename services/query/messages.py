"""Domains as the contract's messages, and the filter of a request as plain values."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil, floor

import asyncpg

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter as FilterMessage
from domainflow.validation.v1.dns_pb2 import DnsResult
from domainflow.validation.v1.http_pb2 import HttpResult
from services.query.domain_wire import DNS_COLUMNS, HTTP_COLUMNS, dns_bytes, http_bytes
from services.query.page_plan import DomainFilter


def filter_of(chosen: FilterMessage) -> DomainFilter:
    """The filter as plain values. What is next to a thousandth in binary means it."""
    lowest, highest = chosen.min_score, chosen.max_score
    return DomainFilter(
        dns_verdicts=tuple(chosen.dns_verdicts),
        dns_pending=chosen.dns_pending,
        http_verdicts=tuple(chosen.http_verdicts),
        lead_statuses=tuple(chosen.lead_statuses),
        lead_reasons=tuple(chosen.lead_reasons),
        min_score=ceil(round(lowest * 1000, 6)) if chosen.HasField("min_score") else None,
        max_score=floor(round(highest * 1000, 6)) if chosen.HasField("max_score") else None,
        tlds=tuple(chosen.tlds),
        prefix=chosen.name_prefix,
        contains=chosen.name_contains,
        keywords=tuple(chosen.keywords),
        warnings=tuple(chosen.warnings),
        has_warnings=chosen.has_warnings if chosen.HasField("has_warnings") else None,
    )


# Domains that are parsed and tested before it is asked whether they are enough: 0.2 ms.
_TOGETHER = 64


def copied_that_match(chosen: DomainFilter, domains: Sequence[bytes], wanted: int) -> list[int]:
    """Which of these fields of ListDomainsResponse the filter lets through, by their places; when
    there are `wanted` it may be that not all were tested.

    As the tests of page_plan, but without a look-up by name for each: half of the time. What has
    not even the text that is asked for somewhere is not parsed: a tenth.
    """
    possible: Sequence[int] = range(len(domains))
    for texts in _texts(chosen):
        possible = [p for p in possible if any(text in domains[p] for text in texts)]
    tests = list(_message_tests(chosen))
    matching: list[int] = []
    for first in range(0, len(possible), _TOGETHER):
        places = possible[first : first + _TOGETHER]
        found = pb.ListDomainsResponse.FromString(b"".join(domains[p] for p in places)).domains
        pairs = list(zip(places, found, strict=True))
        for test in tests:
            pairs = [pair for pair in pairs if test(pair[1])]
        matching += [place for place, _ in pairs]
        if len(matching) >= wanted:
            break
    return matching


def _texts(chosen: DomainFilter) -> Iterator[Sequence[bytes]]:
    """Of each of these a domain that matches has one, as it goes over the wire."""
    if chosen.tlds:
        yield [tld.encode() for tld in chosen.tlds]
    if chosen.prefix:
        yield [chosen.prefix.encode()]
    if chosen.contains:
        yield [chosen.contains.encode()]
    if chosen.keywords:
        yield [keyword.encode() for keyword in chosen.keywords]


def copied_name(domain: bytes) -> str:
    """The name in such a field."""
    return pb.ListDomainsResponse.FromString(domain).domains[0].name


def _message_tests(chosen: DomainFilter) -> Iterator[Callable[[pb.Domain], bool]]:
    # What is not there has the numbers of nothing, and no filter asks for those.
    verdicts, http = frozenset(chosen.dns_verdicts), frozenset(chosen.http_verdicts)
    statuses, reasons = frozenset(chosen.lead_statuses), frozenset(chosen.lead_reasons)
    if verdicts:
        yield lambda d: d.dns.verdict in verdicts
    if chosen.dns_pending:
        yield lambda d: not d.dns.verdict
    if http:
        yield lambda d: d.http.verdict in http
    if statuses:
        yield lambda d: d.lead.status in statuses
    if reasons:
        yield lambda d: d.lead.reason in reasons
    tlds, prefix, contains = frozenset(chosen.tlds), chosen.prefix, chosen.contains
    if tlds:
        yield lambda d: d.name.rpartition(".")[2] in tlds
    if prefix:
        yield lambda d: d.name.startswith(prefix)
    if contains:
        yield lambda d: contains in d.name
    lowest, highest = chosen.scores
    if chosen.scored:
        yield (
            lambda d: d.HasField("analysis") and lowest <= round(d.analysis.score * 1000) <= highest
        )
    warnings, warned = frozenset(chosen.warnings), chosen.has_warnings
    if warnings:
        yield lambda d: not warnings.isdisjoint(d.analysis.warnings)
    if warned is not None:
        yield lambda d: d.HasField("analysis") and bool(d.analysis.warnings) is warned
    keywords = frozenset(chosen.keywords)
    if keywords:
        yield lambda d: any(hit.keyword in keywords for hit in d.analysis.keyword_hits)


def fill_evidence(made: pb.Domain, row: asyncpg.Record) -> None:
    """Add what only the row of a single domain has."""
    if row["dns_evidence"]:
        made.dns.evidence.MergeFromString(row["dns_evidence"])
    if row["http_evidence"]:
        made.http.evidence.MergeFromString(row["http_evidence"])
    if row["page_kind"] is not None:
        made.page.MergeFromString(row["page_evidence"] or b"")
        made.page.kind = row["page_kind"]
    if row["contacts"]:
        made.lead.MergeFromString(row["contacts"])


def fill_dns(result: DnsResult, row: asyncpg.Record) -> None:
    result.MergeFromString(dns_bytes([row[column] for column in DNS_COLUMNS]))


def fill_http(result: HttpResult, row: asyncpg.Record) -> None:
    result.MergeFromString(http_bytes([row[column] for column in HTTP_COLUMNS]))
