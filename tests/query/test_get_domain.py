"""GetDomain: one name with all that stands behind its verdict."""

from uuid import uuid4

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.validation.v1 import dns_pb2, http_pb2, lead_pb2, page_pb2
from tests.query.conftest import Query, Writer
from tests.refusals import refused

RESOLVED, NXDOMAIN, TIMEOUT = 1, 2, 6
OK, NOT_FOUND = 1, 9


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


async def test_a_page_comes_with_what_was_found_on_it_in_the_run_that_is_shown(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(2)
    await writer.plan(made, 2, 2)
    await writer.settle(made, 0, [RESOLVED, RESOLVED])
    await writer.settle_http(made, {0: OK, 1: NOT_FOUND})
    evidence = http_pb2.HttpEvidence(server="nginx", address="192.0.2.1")
    page = page_pb2.PageEvidence(parked_confidence=0.75, hits_complete=True, cluster_size=3)
    contact = lead_pb2.Contact(kind=lead_pb2.CONTACT_KIND_EMAIL, value="info@name-0.example")
    page.contacts.append(contact)
    await writer.connection.execute(
        "UPDATE http_results SET evidence = $2 WHERE campaign_no = $1 AND position = 0",
        *(made.no, evidence.SerializeToString()),
    )
    await writer.connection.executemany(
        "INSERT INTO pages (campaign_no, run, position, kind, features, evidence) VALUES"
        " ($1, $2, 0, $3, '', $4)"
        " ON CONFLICT (campaign_no, run, position)"
        " DO UPDATE SET kind = excluded.kind, evidence = excluded.evidence",
        [
            (made.no, 1, page_pb2.PAGE_KIND_FOR_SALE, page.SerializeToString()),
            (made.no, 2, page_pb2.PAGE_KIND_LOGIN, None),
        ],
    )

    async def of(position: int) -> pb.Domain:
        request = pb.GetDomainRequest(campaign_id=str(made), position=position)
        return (await query.stub.GetDomain(request)).domain

    first, second = await of(0), await of(1)
    listed = await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))

    page.kind = page_pb2.PAGE_KIND_FOR_SALE
    assert first.page == page
    assert first.http.evidence == evidence
    assert first.http.title == "Page 0"
    assert second.http.verdict == NOT_FOUND
    assert not second.HasField("page")
    assert not second.http.HasField("evidence")
    for domain in listed.domains:
        assert not domain.HasField("page")
        assert not domain.http.HasField("evidence")


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
