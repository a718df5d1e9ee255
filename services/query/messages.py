"""Rows as the contract's messages."""

from datetime import UTC, datetime, timedelta
from math import ceil, floor

import asyncpg
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter as FilterMessage
from domainflow.validation.v1.analysis_pb2 import PageAnalysis, PageWarning
from domainflow.validation.v1.dns_pb2 import (
    DNS_AGREEMENT_UNSPECIFIED,
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


def domain(row: asyncpg.Record, later: asyncpg.Record | None) -> pb.Domain:
    """`later`: the row with what the phases after DNS found, if they found anything."""
    made = pb.Domain(position=row["position"], name=row["name"])
    if row["verdict"] is not None:
        fill_dns(made.dns, row)
    if row["settle_time"] is not None:
        _set(made.settle_time, (row["settle_time"] - _EPOCH) // _MICROSECOND)
    if later is None:
        return made
    if later["http_verdict"] is not None:
        fill_http(made.http, later)
    if later["score"] is not None:
        _fill_analysis(made.analysis, later)
    if later["lead_reason"] is not None:
        made.lead.status, made.lead.reason = later["lead_status"], later["lead_reason"]
        _set(made.lead.check_time, later["lead_check_time_us"])
    return made


def fill_evidence(made: pb.Domain, row: asyncpg.Record) -> None:
    """Add what only the row of a single domain has."""
    if row["dns_evidence"]:
        made.dns.evidence.MergeFromString(row["dns_evidence"])
    if row["http_evidence"]:
        made.http.MergeFromString(row["http_evidence"])
    if row["contacts"]:
        made.lead.MergeFromString(row["contacts"])


def fill_http(result: HttpResult, row: asyncpg.Record) -> None:
    result.verdict = row["http_verdict"]
    result.status_code = row["status_code"] or 0
    result.final_url = row["final_url"] or ""
    result.title = row["title"] or ""
    result.language = row["language"] or ""
    result.content_size = row["content_size"] or 0
    result.content_sha256 = row["content_sha256"] or b""
    result.truncated = row["truncated"]
    result.attempt_count = row["http_attempt_count"]
    _set(result.duration, row["http_duration_us"])
    result.duration.SetInParent()
    _set(result.check_time, row["http_check_time_us"])


def _fill_analysis(analysis: PageAnalysis, row: asyncpg.Record) -> None:
    analysis.score = row["score"] / 1000
    for keyword, count in zip(row["keywords"] or (), row["hit_counts"] or (), strict=True):
        analysis.keyword_hits.add(keyword=keyword, hit_count=count)
    warnings = row["warnings"]
    if warnings:
        bits = range(warnings.bit_length())
        analysis.warnings.extend([PageWarning.ValueType(b + 1) for b in bits if warnings >> b & 1])
    _set(analysis.check_time, row["analysis_check_time_us"])


def fill_dns(result: DnsResult, row: asyncpg.Record) -> None:
    result.verdict = row["verdict"]
    result.rcode = row["rcode"]
    if row["addresses"]:
        result.addresses.extend(row["addresses"].split(","))
    if row["cname_chain"]:
        result.cname_chain.extend(row["cname_chain"].split(","))
    if row["ttl"] is not None:
        result.ttl.seconds = row["ttl"]
        result.ttl.SetInParent()
    result.resolver = row["resolver"] or ""
    result.attempt_count = row["attempt_count"]
    _set(result.duration, row["duration_us"])
    result.duration.SetInParent()
    _set(result.check_time, row["check_time_us"])
    result.tcp = row["tcp"]
    result.authority = row["authority"] or ""
    result.agreement = row["agreement"] or DNS_AGREEMENT_UNSPECIFIED
    result.registered, result.delegated = _FACTS[row["registered"]], _FACTS[row["delegated"]]
    result.resolving = _RESOLVING.get(row["verdict"], DNS_FACT_UNSPECIFIED)


def _set(made: Duration | Timestamp, microseconds: int) -> None:
    # As their own FromMicroseconds, which takes five times as long to do it.
    made.seconds, rest = divmod(microseconds, 1_000_000)
    made.nanos = rest * 1_000


_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_FACTS = {None: DNS_FACT_UNSPECIFIED, False: DNS_FACT_NO, True: DNS_FACT_YES}
# Of the other verdicts it could not be found out.
_RESOLVING = {
    DNS_VERDICT_RESOLVED: DNS_FACT_YES,
    DNS_VERDICT_NXDOMAIN: DNS_FACT_NO,
    DNS_VERDICT_NO_DATA: DNS_FACT_NO,
    DNS_VERDICT_WILDCARD: DNS_FACT_NO,
    DNS_VERDICT_CNAME_LOOP: DNS_FACT_NO,
}
