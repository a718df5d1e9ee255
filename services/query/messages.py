"""Rows as the contract's messages."""

import asyncpg

from domainflow.query.v1 import query_service_pb2 as pb
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


def domain(row: asyncpg.Record) -> pb.Domain:
    made = pb.Domain(position=row["position"], name=row["name"])
    if row["verdict"] is not None:
        fill_dns(made.dns, row)
    return made


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
    result.duration.FromMicroseconds(row["duration_us"])
    result.duration.SetInParent()
    result.check_time.FromMicroseconds(row["check_time_us"])
    result.tcp = row["tcp"]
    result.authority = row["authority"] or ""
    result.agreement = row["agreement"] or DNS_AGREEMENT_UNSPECIFIED
    result.registered, result.delegated = _FACTS[row["registered"]], _FACTS[row["delegated"]]
    result.resolving = _RESOLVING.get(row["verdict"], DNS_FACT_UNSPECIFIED)


_FACTS = {None: DNS_FACT_UNSPECIFIED, False: DNS_FACT_NO, True: DNS_FACT_YES}
# Of the other verdicts it could not be found out.
_RESOLVING = {
    DNS_VERDICT_RESOLVED: DNS_FACT_YES,
    DNS_VERDICT_NXDOMAIN: DNS_FACT_NO,
    DNS_VERDICT_NO_DATA: DNS_FACT_NO,
    DNS_VERDICT_WILDCARD: DNS_FACT_NO,
    DNS_VERDICT_CNAME_LOOP: DNS_FACT_NO,
}
