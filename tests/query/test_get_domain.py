"""GetDomain: one name with all that stands behind its verdict."""

from uuid import uuid4

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.validation.v1 import dns_pb2
from tests.query.conftest import Query, Writer
from tests.refusals import refused

RESOLVED, NXDOMAIN, TIMEOUT = 1, 2, 6


async def test_a_domain_comes_with_its_evidence(query: Query, writer: Writer) -> None:
    made = await writer.campaign(3)
    await writer.plan(made, 3, 3)
    await writer.settle(made, 0, [RESOLVED, NXDOMAIN, TIMEOUT])

    found = [
        (await query.stub.GetDomain(pb.GetDomainRequest(campaign_id=str(made), position=n))).domain
        for n in range(3)
    ]

    assert [domain.name for domain in found] == [f"name-{n}.example" for n in range(3)]
    assert [domain.dns.verdict for domain in found] == [RESOLVED, NXDOMAIN, TIMEOUT]
    assert found[0].dns.evidence == dns_pb2.DnsEvidence(reason="said by two")
    assert found[0].dns.agreement == dns_pb2.DNS_AGREEMENT_CONFIRMED
    assert found[1].dns.authority == "example"
    assert not found[1].dns.HasField("evidence")
    facts = [(it.dns.registered, it.dns.delegated, it.dns.resolving) for it in found]
    assert facts == [
        (dns_pb2.DNS_FACT_YES,) * 3,
        (dns_pb2.DNS_FACT_NO,) * 3,
        (dns_pb2.DNS_FACT_UNSPECIFIED,) * 3,
    ]


async def test_a_list_has_the_facts_without_the_evidence(query: Query, writer: Writer) -> None:
    made = await writer.campaign(1)
    await writer.plan(made, 1, 1)
    await writer.settle(made, 0, [RESOLVED])

    page = await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))

    assert page.domains[0].dns.registered == dns_pb2.DNS_FACT_YES
    assert not page.domains[0].dns.HasField("evidence")


async def test_a_name_that_is_not_settled_has_no_result(query: Query, writer: Writer) -> None:
    made = await writer.campaign(1)

    answer = await query.stub.GetDomain(pb.GetDomainRequest(campaign_id=str(made), position=0))

    assert answer.domain.name == "name-0.example"
    assert not answer.domain.HasField("dns")


async def test_what_is_not_there_is_said_to_be_missing(query: Query, writer: Writer) -> None:
    made = await writer.campaign(1)

    nowhere = await refused(
        query.stub.GetDomain(pb.GetDomainRequest(campaign_id=str(made), position=1))
    )
    unknown = await refused(query.stub.GetDomain(pb.GetDomainRequest(campaign_id=str(uuid4()))))

    assert (nowhere.code, nowhere.reason) == ("NOT_FOUND", "DOMAIN_NOT_FOUND")
    assert nowhere.metadata["position"] == "1"
    assert (unknown.code, unknown.reason) == ("NOT_FOUND", "CAMPAIGN_NOT_FOUND")
