"""The sandbox's authority tree, walked by dnspython."""

import sys
from collections.abc import AsyncIterator

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from services.sandbox.authority import AuthorityTree
from services.sandbox.dns_server import SandboxDns
from services.sandbox.truth import (
    ROOT_HOST,
    TLD_HOST,
    ZONE_HOST,
    ZONE_SERVER,
    Behaviour,
    Mix,
    truth,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux listens on all of 127.0.0.0/8"
)
NAMES = [f"name{number}.com" for number in range(3000)]


@pytest.fixture
async def tree() -> AsyncIterator[AuthorityTree]:
    async with AuthorityTree() as opened:
        yield opened


async def ask(host: str, tree: AuthorityTree, name: str, kind: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=0, payload=1232, flags=0)
    send, port = dns.asyncquery.udp, tree.root_address[1]
    response = await send(query, host, port=port, timeout=5)
    if response.flags & dns.flags.TC:
        response = await dns.asyncquery.tcp(query, host, port=port, timeout=5)
    return response


def behaving(behaviour: Behaviour) -> str:
    return next(name for name in NAMES if truth(name, 1, Mix()).behaviour is behaviour)


def referred(response: dns.message.Message) -> tuple[str, str, list[str]]:
    """The zone, its server, and the addresses given along."""
    assert not response.flags & (dns.flags.AA | dns.flags.RA)
    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
    (servers,) = response.authority
    assert servers.rdtype == dns.rdatatype.NS
    glue = [item.address for rrset in response.additional for item in rrset]
    return str(servers.name), str(servers[0].target), glue


async def test_the_root_refers_to_the_registry(tree: AuthorityTree) -> None:
    for name in ("x.com", "a.b.example", "com"):
        zone, _, glue = referred(await ask(ROOT_HOST, tree, name))
        assert (zone, glue) == (name.rpartition(".")[2] + ".", [TLD_HOST])


async def test_the_registry_refers_to_the_servers_of_registered_domains(
    tree: AuthorityTree,
) -> None:
    glued = set()
    for name in [name for name in NAMES if truth(name, 1, Mix()).registered][:100]:
        zone, server, glue = referred(await ask(TLD_HOST, tree, f"www.{name}"))
        assert zone == name + "."
        assert glue == ([] if server == f"{ZONE_SERVER}." else [ZONE_HOST])
        glued.add(bool(glue))
    assert glued == {True, False}

    zone, _, glue = referred(await ask(TLD_HOST, tree, ZONE_SERVER))
    assert (zone, glue) == ("zone-servers.sandbox.", [ZONE_HOST])
    address = await ask(ZONE_HOST, tree, ZONE_SERVER)
    assert address.answer[0][0].address == ZONE_HOST


async def test_the_registry_answers_for_what_is_not_registered(tree: AuthorityTree) -> None:
    absent = await ask(TLD_HOST, tree, "x." + behaving(Behaviour.NXDOMAIN))
    parked = await ask(TLD_HOST, tree, f"{'r' * 28}.ws")

    assert absent.rcode() == dns.rcode.NXDOMAIN
    assert str(absent.authority[0].name) == "com."
    assert parked.answer[0][0].address == truth(f"{'r' * 28}.ws", 1, Mix()).addresses[0]
    assert absent.flags & parked.flags & dns.flags.AA


async def test_the_name_server_tells_the_truth(tree: AuthorityTree) -> None:
    for behaviour in set(Behaviour) - {Behaviour.NXDOMAIN, Behaviour.MUTE, Behaviour.SLOW}:
        name = behaving(behaviour)
        known = truth(name, 1, Mix())
        response = await ask(ZONE_HOST, tree, name)
        found = [
            item.address
            for rrset in response.answer
            for item in rrset
            if item.rdtype == dns.rdatatype.A
        ]
        assert sorted(found) == sorted(known.addresses or known.unchecked)
        if behaviour is Behaviour.SERVFAIL:
            assert response.rcode() == dns.rcode.SERVFAIL
        elif behaviour is Behaviour.REFUSED:
            assert response.rcode() == dns.rcode.REFUSED
        else:
            assert response.flags & dns.flags.AA
            assert not response.flags & dns.flags.RA


async def test_nobody_speaks_of_what_is_not_theirs(tree: AuthorityTree) -> None:
    response = await ask(ZONE_HOST, tree, behaving(Behaviour.NXDOMAIN))

    assert response.rcode() == dns.rcode.REFUSED


async def test_the_resolver_and_the_tree_agree(tree: AuthorityTree) -> None:
    async with SandboxDns() as resolver:
        host, port = resolver.address
        for kind in ("A", "NS", "SOA", "MX"):
            name = behaving(Behaviour.RESOLVES)
            query = dns.message.make_query(name, kind, use_edns=0)
            recursed = await dns.asyncquery.udp(query, host, port=port, timeout=5)
            assert (await ask(ZONE_HOST, tree, name, kind)).answer == recursed.answer
