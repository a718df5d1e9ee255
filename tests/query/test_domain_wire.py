"""Bytes of domains are those that protobuf makes of the same values."""

import random
from typing import Any

import pytest
from google.protobuf.message import Message

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.validation.v1.analysis_pb2 import KeywordHit, PageAnalysis
from domainflow.validation.v1.dns_pb2 import (
    DNS_FACT_NO,
    DNS_FACT_UNSPECIFIED,
    DNS_FACT_YES,
    DnsResult,
)
from domainflow.validation.v1.http_pb2 import HttpResult
from domainflow.validation.v1.lead_pb2 import Lead
from services.query.domain_wire import (
    ANALYSIS_COLUMNS,
    DNS_COLUMNS,
    HTTP_COLUMNS,
    LEAD_COLUMNS,
    NAME_COLUMNS,
    domain_bytes,
    domain_wire,
)

FIRST = (*NAME_COLUMNS, *DNS_COLUMNS)
LATER = (*HTTP_COLUMNS, *ANALYSIS_COLUMNS, *LEAD_COLUMNS)
# Where varints become longer, and times have no fraction or but one.
EDGES = [0, 1, 127, 128, 16_383, 16_384, 2**21, 2**28 - 1, 2**28, 2**31 - 1]
TIMES = [0, 1, 268_435, 268_436, 999_999, 1_000_000, 1_790_000_000_000_000, 1_790_000_000_123_456]
# The verdicts that say whether a name resolves.
RESOLVING = {1: DNS_FACT_YES, 2: DNS_FACT_NO, 3: DNS_FACT_NO, 7: DNS_FACT_NO, 9: DNS_FACT_NO}


def any_values(random_: random.Random) -> dict[str, Any]:
    def some(*values: Any) -> Any:
        return random_.choice(values)

    def text() -> Any:
        return some(None, "", "a", "ä" * 64, "x" * 127, "y" * 128, "z" * 20_000)

    def name() -> str:
        return f"{random_.randbytes(4).hex()}.example"

    keywords = [text() or "k" for _ in range(random_.randrange(4))]
    return {
        "position": some(*EDGES),
        "name": name(),
        "verdict": random_.randrange(1, 13),
        "rcode": some(-1, 0, 3, 200),
        "attempt_count": some(*EDGES[:5]),
        "tcp": some(False, True),
        "duration_us": some(*TIMES[:6]),
        "check_time_us": some(*TIMES),
        "ttl": some(None, 0, 300, 2**31 - 1),
        "resolver": some(None, "192.0.2.53:53"),
        "addresses": some(None, "192.0.2.1", "192.0.2.1,2001:db8::1"),
        "cname_chain": some(None, name(), f"{name()},{name()}"),
        "authority": some(None, "example"),
        "agreement": some(None, 0, 1, 4),
        "registered": some(None, False, True),
        "delegated": some(None, False, True),
        "http_verdict": random_.randrange(1, 20),
        "status_code": some(None, 200, 999),
        "final_url": text(),
        "title": text(),
        "language": some(None, "en"),
        "content_size": some(None, *EDGES),
        "content_sha256": some(None, random_.randbytes(32)),
        "truncated": some(False, True),
        "http_attempt_count": some(0, 1, 5),
        "http_duration_us": some(*TIMES[:6]),
        "http_check_time_us": some(*TIMES),
        "score": some(0, 1, 333, 999, 1000),
        "warnings": some(0, 1, 2, 5, 1 << 30, random_.randrange(1 << 31)),
        "keywords": keywords or None,
        "hit_counts": [some(*EDGES) for _ in keywords] or None,
        "analysis_check_time_us": some(*TIMES),
        "lead_status": some(1, 4),
        "lead_reason": random_.randrange(1, 12),
        "lead_check_time_us": some(*TIMES),
    }


def without(values: dict[str, Any], *columns: tuple[str, ...]) -> dict[str, Any]:
    """As a row is where a phase has none."""
    return values | {name: None for some in columns for name in some}


def message(v: dict[str, Any]) -> pb.Domain:
    fields: dict[str, Any] = {"position": v["position"], "name": v["name"]}
    if v["verdict"] is not None:
        facts = {None: DNS_FACT_UNSPECIFIED, False: DNS_FACT_NO, True: DNS_FACT_YES}
        fields["dns"] = {
            "verdict": v["verdict"],
            "rcode": v["rcode"],
            "addresses": (v["addresses"] or "").split(",") if v["addresses"] else (),
            "cname_chain": v["cname_chain"].split(",") if v["cname_chain"] else (),
            "ttl": None if v["ttl"] is None else {"seconds": v["ttl"]},
            "resolver": v["resolver"],
            "attempt_count": v["attempt_count"],
            "duration": moment(v["duration_us"]),
            "check_time": moment(v["check_time_us"]),
            "tcp": v["tcp"],
            "authority": v["authority"],
            "agreement": v["agreement"],
            "registered": facts[v["registered"]],
            "delegated": facts[v["delegated"]],
            "resolving": RESOLVING.get(v["verdict"], DNS_FACT_UNSPECIFIED),
        }
    if v["http_verdict"] is not None:
        fields["http"] = {
            "verdict": v["http_verdict"],
            "attempt_count": v["http_attempt_count"],
            "duration": moment(v["http_duration_us"]),
            "check_time": moment(v["http_check_time_us"]),
        } | {name: v[name] for name in HTTP_COLUMNS[1:8]}
    if v["score"] is not None:
        hits = zip(v["keywords"] or (), v["hit_counts"] or (), strict=True)
        fields["analysis"] = {
            "score": v["score"] / 1000,
            "keyword_hits": [{"keyword": word, "hit_count": times} for word, times in hits],
            "warnings": [bit + 1 for bit in range(31) if v["warnings"] >> bit & 1],
            "check_time": moment(v["analysis_check_time_us"]),
        }
    if v["lead_reason"] is not None:
        fields["lead"] = {
            "status": v["lead_status"],
            "reason": v["lead_reason"],
            "check_time": moment(v["lead_check_time_us"]),
        }
    return pb.Domain(**fields)


def moment(microseconds: int) -> dict[str, int]:
    return {"seconds": microseconds // 10**6, "nanos": microseconds % 10**6 * 1_000}


@pytest.mark.parametrize(
    "missing",
    [
        (),
        (DNS_COLUMNS,),
        (HTTP_COLUMNS, ANALYSIS_COLUMNS, LEAD_COLUMNS),
        (ANALYSIS_COLUMNS,),
        (DNS_COLUMNS, HTTP_COLUMNS, ANALYSIS_COLUMNS, LEAD_COLUMNS),
    ],
)
def test_bytes_are_those_of_the_message(missing: tuple[tuple[str, ...], ...]) -> None:
    for seed in range(400):
        values = without(any_values(random.Random(seed)), *missing)
        whole: Any = tuple(values[name] for name in (*FIRST, *LATER))
        first: Any = tuple(values[name] for name in FIRST)
        later: Any = (values["position"], *(values[name] for name in LATER))
        expected = message(values)

        assert domain_bytes(whole, whole) == expected.SerializeToString(), values
        assert domain_bytes(first, later) == expected.SerializeToString(), values
        page = pb.ListDomainsResponse.FromString(domain_wire(whole, whole))
        assert list(page.domains) == [expected]


# What a page does not say of a domain, in any of its messages.
LEFT_OUT: set[tuple[type[Message], str]] = {
    (pb.Domain, "page"),
    (DnsResult, "evidence"),
    (HttpResult, "evidence"),
    (Lead, "contacts"),
    (Lead, "detail"),
}


def test_every_field_of_the_contract_is_written_or_left_out_on_purpose() -> None:
    written: set[tuple[str, str]] = set()
    for seed in range(100):
        values = any_values(random.Random(seed))
        row: Any = tuple(values[name] for name in (*FIRST, *LATER))
        domain = pb.Domain.FromString(domain_bytes(row, row))
        parts = (domain, domain.dns, domain.http, domain.analysis, domain.lead)
        for part in (*parts, *domain.analysis.keyword_hits):
            written |= {(part.DESCRIPTOR.name, field.name) for field, _ in part.ListFields()}

    messages: tuple[type[Message], ...]
    messages = (pb.Domain, DnsResult, HttpResult, PageAnalysis, KeywordHit, Lead)
    assert {
        (each.DESCRIPTOR.name, field.name) for each in messages for field in each.DESCRIPTOR.fields
    } - written == {(each.DESCRIPTOR.name, name) for each, name in LEFT_OUT}


def test_without_a_row_of_later_phases_there_is_nothing_of_them() -> None:
    values = any_values(random.Random(1))
    first: Any = tuple(values[name] for name in FIRST)

    made = pb.Domain.FromString(domain_bytes(first, None))

    assert made == message(without(values, HTTP_COLUMNS, ANALYSIS_COLUMNS, LEAD_COLUMNS))
