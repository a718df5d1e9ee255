"""Rows as the contract's messages."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil, floor
from typing import Any, TypeAlias

import asyncpg

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter as FilterMessage
from domainflow.validation.v1.dns_pb2 import (
    DNS_FACT_NO,
    DNS_FACT_UNSPECIFIED,
    DNS_FACT_YES,
    DNS_VERDICT_CNAME_LOOP,
    DNS_VERDICT_NO_DATA,
    DNS_VERDICT_NXDOMAIN,
    DNS_VERDICT_RESOLVED,
    DNS_VERDICT_WILDCARD,
    DnsResult,
)
from domainflow.validation.v1.http_pb2 import HttpResult
from services.query.page_plan import DomainFilter

_Fields: TypeAlias = dict[str, Any]


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


def domain_fields(row: asyncpg.Record, later: asyncpg.Record | None) -> _Fields:
    """The fields of a Domain; `later`: the row with what the phases after DNS found, if anything.

    Messages are made of plain values in one call, which takes half as long as field by field.
    """
    fields: _Fields = {"position": row["position"], "name": row["name"]}
    if row["verdict"] is not None:
        fields["dns"] = _dns_fields(row)
    if later is None:
        return fields
    if later["http_verdict"] is not None:
        fields["http"] = _http_fields(later)
    if later["score"] is not None:
        fields["analysis"] = _analysis_fields(later)
    if later["lead_reason"] is not None:
        fields["lead"] = {
            "status": later["lead_status"],
            "reason": later["lead_reason"],
            "check_time": _time(later["lead_check_time_us"]),
        }
    return fields


def domain_wire(row: asyncpg.Record, later: asyncpg.Record | None) -> bytes:
    """A Domain as a field of ListDomainsResponse."""
    # Fields are made messages with the answer, at once: the stubs know nothing of that.
    fields: Any = domain_fields(row, later)
    return pb.ListDomainsResponse(domains=[fields]).SerializeToString()


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
        made.page.MergeFromString(row["page"] or b"")
        made.page.kind = row["page_kind"]
    if row["contacts"]:
        made.lead.MergeFromString(row["contacts"])


def fill_dns(result: DnsResult, row: asyncpg.Record) -> None:
    result.MergeFrom(DnsResult(**_dns_fields(row)))


def fill_http(result: HttpResult, row: asyncpg.Record) -> None:
    result.MergeFrom(HttpResult(**_http_fields(row)))


def _dns_fields(row: asyncpg.Record) -> _Fields:
    addresses, chain, ttl = row["addresses"], row["cname_chain"], row["ttl"]
    verdict = row["verdict"]
    return {
        "verdict": verdict,
        "rcode": row["rcode"],
        "addresses": addresses.split(",") if addresses else (),
        "cname_chain": chain.split(",") if chain else (),
        "ttl": None if ttl is None else {"seconds": ttl},
        "resolver": row["resolver"],
        "attempt_count": row["attempt_count"],
        "duration": _time(row["duration_us"]),
        "check_time": _time(row["check_time_us"]),
        "tcp": row["tcp"],
        "authority": row["authority"],
        "agreement": row["agreement"],
        "registered": _FACTS[row["registered"]],
        "delegated": _FACTS[row["delegated"]],
        "resolving": _RESOLVING.get(verdict, DNS_FACT_UNSPECIFIED),
    }


def _http_fields(row: asyncpg.Record) -> _Fields:
    return {
        "verdict": row["http_verdict"],
        "status_code": row["status_code"],
        "final_url": row["final_url"],
        "title": row["title"],
        "language": row["language"],
        "content_size": row["content_size"],
        "content_sha256": row["content_sha256"],
        "truncated": row["truncated"],
        "attempt_count": row["http_attempt_count"],
        "duration": _time(row["http_duration_us"]),
        "check_time": _time(row["http_check_time_us"]),
    }


def _analysis_fields(row: asyncpg.Record) -> _Fields:
    hits = zip(row["keywords"] or (), row["hit_counts"] or (), strict=True)
    warnings = row["warnings"]
    return {
        "score": row["score"] / 1000,
        "keyword_hits": [{"keyword": keyword, "hit_count": count} for keyword, count in hits],
        "warnings": [bit + 1 for bit in range(warnings.bit_length()) if warnings >> bit & 1],
        "check_time": _time(row["analysis_check_time_us"]),
    }


def _time(microseconds: int) -> _Fields:
    """Fields of a Timestamp or Duration."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return {"seconds": seconds, "nanos": rest * 1_000}


_FACTS = {None: DNS_FACT_UNSPECIFIED, False: DNS_FACT_NO, True: DNS_FACT_YES}
# Of the other verdicts it could not be found out.
_RESOLVING = {
    DNS_VERDICT_RESOLVED: DNS_FACT_YES,
    DNS_VERDICT_NXDOMAIN: DNS_FACT_NO,
    DNS_VERDICT_NO_DATA: DNS_FACT_NO,
    DNS_VERDICT_WILDCARD: DNS_FACT_NO,
    DNS_VERDICT_CNAME_LOOP: DNS_FACT_NO,
}
