"""Registered and delegated, from what was said of a name."""

from dataclasses import replace

import pytest

from services.validation.dns import facts, wire
from services.validation.dns.records import record_of
from services.validation.dns.verdict import Evidence, Outcome, Verdict, WildcardProof

UNKNOWN, YES, NO = (None, None), (True, True), (False, False)


def outcome(name: str, verdict: Verdict, authority: str = "", **fields) -> Outcome:
    plain = Outcome(name, verdict, 0, (), (), -1, "", 1, 0, False, authority)
    return plain._replace(**fields)


@pytest.mark.parametrize(
    ("name", "verdict", "authority", "fact"),
    [
        ("shop.com", Verdict.RESOLVED, "", YES),
        ("www.shop.co.uk", Verdict.RESOLVED, "", YES),
        ("shop.com", Verdict.NXDOMAIN, "com", NO),
        ("www.shop.com", Verdict.NXDOMAIN, "com", NO),
        ("shop.co.uk", Verdict.NXDOMAIN, "co.uk", NO),
        ("shop.co.uk", Verdict.NXDOMAIN, "uk", NO),
        ("shop.nonsense", Verdict.NXDOMAIN, ".", NO),
        ("www.shop.com", Verdict.NXDOMAIN, "shop.com", YES),
        ("a.www.shop.com", Verdict.NXDOMAIN, "www.shop.com", YES),
        ("shop.com", Verdict.NXDOMAIN, "", UNKNOWN),
        # A zone that has nothing to do with the name.
        ("shop.com", Verdict.NXDOMAIN, "shop.net", UNKNOWN),
        ("notshop.com", Verdict.NXDOMAIN, "shop.com", UNKNOWN),
        ("shop.com", Verdict.NO_DATA, "shop.com", YES),
        ("www.shop.com", Verdict.NO_DATA, "shop.com", YES),
        ("shop.com", Verdict.NO_DATA, "com", UNKNOWN),
        ("shop.com", Verdict.NO_DATA, "", UNKNOWN),
        ("shop.com", Verdict.SERVFAIL, "", UNKNOWN),
        ("shop.com", Verdict.TIMEOUT, "", UNKNOWN),
        ("shop.com", Verdict.BOGUS, "", UNKNOWN),
        ("shop.com", Verdict.CNAME_LOOP, "", YES),
        # Public suffixes are nobody's.
        ("com", Verdict.RESOLVED, "", UNKNOWN),
        ("co.uk", Verdict.NXDOMAIN, "uk", UNKNOWN),
    ],
)
def test_facts_follow_from_the_verdict_and_the_zone(name, verdict, authority, fact):
    plain = outcome(name, verdict, authority)

    assert facts.of(plain) == fact
    assert facts.of(plain._replace(evidence=Evidence())) == fact


def test_an_alias_exists_whatever_it_points_to():
    chain = ("gone.net",)

    assert facts.of(outcome("shop.com", Verdict.NXDOMAIN, "net", chain=chain)) == YES
    assert facts.of(outcome("shop.com", Verdict.NO_DATA, "net", chain=chain)) == YES


@pytest.mark.parametrize(("parent", "fact"), [("ws", NO), ("shop.ws", YES), ("a.shop.ws", YES)])
def test_a_wildcard_registers_nothing_but_what_it_is_below(parent, fact):
    proof = WildcardProof(parent, ("192.0.2.1",), 3)

    said = outcome("www.a.shop.ws", Verdict.WILDCARD, evidence=Evidence(wildcard=proof))

    assert facts.of(said) == fact


@pytest.mark.parametrize("qtype", [wire.NS, wire.SOA])
def test_name_servers_of_its_own_make_a_domain_registered(qtype):
    failed = outcome("shop.com", Verdict.SERVFAIL)
    own = record_of(qtype, failed._replace(verdict=Verdict.RESOLVED, addresses=("ns.shop.com",)))

    assert facts.of(failed._replace(evidence=Evidence(records=(own,)))) == YES
    behind = replace(own, chain=("elsewhere.net",))
    assert facts.of(failed._replace(evidence=Evidence(records=(behind,)))) == UNKNOWN


def test_what_the_authority_told_counts_first():
    said = outcome("shop.com", Verdict.SERVFAIL)
    told = Evidence(registered=True, delegated=True)

    assert facts.of(said._replace(evidence=told)) == YES
