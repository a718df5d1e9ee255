"""The sandbox's DNS server, asked by dnspython."""

import asyncio
import json
import signal
import ssl
import sys
from asyncio.subprocess import PIPE

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.sandbox.truth import AAAA, MX, NS, SOA, A, Behaviour, Mix, truth

MIX = Mix()
RCODES = {
    Behaviour.NXDOMAIN: dns.rcode.NXDOMAIN,
    Behaviour.DANGLING: dns.rcode.NXDOMAIN,
    Behaviour.SERVFAIL: dns.rcode.SERVFAIL,
    Behaviour.REFUSED: dns.rcode.REFUSED,
    Behaviour.UNUSABLE: dns.rcode.NOTIMP,
    Behaviour.BOGUS: dns.rcode.SERVFAIL,
}


def named(behaviour: Behaviour, mix: Mix = MIX) -> str:
    names = (f"name{number}.example" for number in range(100_000))
    return next(name for name in names if truth(name, 1, mix).behaviour is behaviour)


@pytest.fixture
async def server():
    async with SandboxDns() as opened:
        yield opened


async def ask(server, name, kind="A", *, tcp=False, timeout=3.0, **options):
    host, port = server.address
    query = dns.message.make_query(name, kind, **options)
    send = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await send(query, host, port=port, timeout=timeout)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("behaviour", sorted(set(Behaviour) - {Behaviour.MUTE}))
async def test_each_behaviour_is_answered_as_the_truth_says(server, behaviour, tcp):
    name = named(behaviour)
    known = truth(name, 1, MIX)

    response = await ask(server, name, tcp=tcp, use_edns=0, payload=1232)

    if behaviour is Behaviour.TRUNCATED and not tcp:
        assert response.flags & dns.flags.TC
        return
    records = [(rrset.rdtype, item) for rrset in response.answer for item in rrset]
    addresses = [item.address for kind, item in records if kind == dns.rdatatype.A]
    targets = [item.target for kind, item in records if kind == dns.rdatatype.CNAME]
    assert response.rcode() == RCODES.get(behaviour, dns.rcode.NOERROR)
    assert sorted(addresses) == sorted(known.addresses)
    assert tuple(target.to_text(omit_final_dot=True) for target in targets) == known.chain
    assert not response.flags & dns.flags.TC


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_a_mute_name_is_not_answered(server, tcp):
    with pytest.raises(dns.exception.Timeout):
        await ask(server, named(Behaviour.MUTE), tcp=tcp, timeout=0.2)


async def test_a_large_answer_without_edns_is_truncated(server):
    response = await ask(server, named(Behaviour.LARGE))

    assert response.flags & dns.flags.TC


TYPES = {"A": A, "AAAA": AAAA, "MX": MX, "NS": NS, "SOA": SOA}


@pytest.mark.parametrize("kind", [*TYPES, "TXT"])
async def test_each_type_is_answered_as_the_truth_says(server, kind):
    names = [f"name{number}.example" for number in range(300)]
    present = [name for name in names if truth(name, 1, MIX).behaviour is Behaviour.RESOLVES]
    for name in present:
        response = await ask(server, name, kind)
        found = [item.to_text().replace(".", "") for rrset in response.answer for item in rrset]
        due = truth(name, 1, MIX).records(TYPES.get(kind, 16))
        assert sorted(found) == sorted(text.replace(".", "") for text in due)
        if not due:
            assert response.authority[0].rdtype == dns.rdatatype.SOA
            assert response.authority[0].name.to_text(omit_final_dot=True) == name
    absent = await ask(server, named(Behaviour.NXDOMAIN), kind)
    assert absent.rcode() == dns.rcode.NXDOMAIN
    assert absent.authority[0].name.to_text() == "example."


async def test_broken_signatures_are_told_unless_checking_is_disabled(server):
    name = named(Behaviour.BOGUS)
    refused = await ask(server, name, use_edns=0)
    taken = await ask(server, name, use_edns=0, flags=dns.flags.RD | dns.flags.CD)

    assert refused.rcode() == dns.rcode.SERVFAIL
    assert [option.code for option in refused.extended_errors()] == [6]
    assert taken.flags & dns.flags.CD
    found = [item.address for rrset in taken.answer for item in rrset]
    assert sorted(found) == sorted(truth(name, 1, MIX).unchecked)


async def test_addresses_of_the_other_family_fail_alone(server):
    only, broken = named(Behaviour.V6_ONLY), named(Behaviour.V6_BROKEN)

    assert (await ask(server, only)).answer == []
    assert (await ask(server, only, "AAAA")).answer
    assert (await ask(server, broken)).answer
    assert (await ask(server, broken, "AAAA")).rcode() == dns.rcode.SERVFAIL


async def test_answers_from_a_pool_change(server):
    parents = (f"name{number}.example" for number in range(100_000))
    child = next(f"x.{parent}" for parent in parents if truth(f"x.{parent}", 1, MIX).shown)
    answers = [(await ask(server, child)).answer[0] for _ in range(10)]
    shown = [{item.address for item in answer} for answer in answers]

    assert {len(some) for some in shown} == {2}
    assert len(set().union(*shown)) > 2
    assert set().union(*shown) <= set(truth(child, 1, MIX).addresses)


async def test_the_case_of_the_question_is_kept_unless_told_otherwise(server):
    name = named(Behaviour.RESOLVES).upper()
    assert name in (await ask(server, name)).question[0].to_text()

    async with SandboxDns(SandboxDnsSettings(faults=Faults(fold_case=True))) as folding:
        assert name.lower() in (await ask(folding, name)).question[0].to_text()


async def test_a_liar_answers_for_names_that_do_not_exist():
    async with SandboxDns(SandboxDnsSettings(faults=Faults(lying=True))) as liar:
        response = await ask(liar, named(Behaviour.NXDOMAIN))

    assert response.rcode() == dns.rcode.NOERROR
    assert response.answer[0][0].address == "203.0.113.80"


async def test_a_server_can_begin_and_end_to_lie_about_some_names(server):
    absent = [f"{number:028}.com" for number in range(200)]

    async def lies() -> list[str]:
        return [name for name in absent if (await ask(server, name)).rcode() == dns.rcode.NOERROR]

    assert await lies() == []
    server.lie(0.3)
    some = await lies()
    assert 30 < len(some) < 90
    assert await lies() == some
    server.lie()
    assert await lies() == absent
    server.lie(0)
    assert await lies() == []


@pytest.mark.parametrize(
    "noise",
    [b"", b"\0" * 5, b"\0" * 12, b"\xff" * 40, b"\0\0\1\0\0\1\0\0\0\0\0\0\3abc",
     b"\0\0\x81\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"],
    ids=["empty", "short", "no question", "ones", "cut off", "an answer"],
)  # fmt: skip
async def test_what_is_not_a_question_gets_no_answer(server, noise):
    loop = asyncio.get_running_loop()
    received: list[bytes] = []

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            received.append(data)

    transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=server.address)
    transport.sendto(noise)
    await ask(server, named(Behaviour.RESOLVES))
    transport.close()

    assert received == []
    assert server.stats.answers == 1


async def test_loss_takes_the_fraction_asked_for():
    settings = SandboxDnsSettings(faults=Faults(loss=0.5), mix=Mix(mute=0, slow=0))
    async with SandboxDns(settings) as server:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=server.address
        )
        for number in range(400):
            transport.sendto(dns.message.make_query(f"name{number}.example", "A").to_wire())
        while server.stats.questions < 400:  # noqa: ASYNC110
            await asyncio.sleep(0)
        transport.close()

    assert 150 < server.stats.answers < 250


async def test_two_servers_of_one_seed_agree():
    async with SandboxDns() as first, SandboxDns(SandboxDnsSettings(fault_seed=9)) as second:
        name = named(Behaviour.RESOLVES)
        assert (await ask(first, name)).answer == (await ask(second, name)).answer


async def test_the_process_says_where_it_listens_and_ends_when_told():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.sandbox", "--dns-servers", "2", "--seed", "1",
        "--loss", "0", "--servfail", "0", "--lying", "--liars", "1", "--tls", "--https",
        "--die-with-parent", stdout=PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        assert len(ready["dns"]) == 2
        for address, honest in zip(ready["dns"], (True, False), strict=True):
            host, port = address.split(":")
            for name, resolves in ((named(Behaviour.RESOLVES), True), ("r" * 28 + ".com", False)):
                query = dns.message.make_query(name, "A")
                response = await dns.asyncquery.udp(query, host, port=int(port), timeout=3)
                assert bool(response.answer) == (resolves or not honest)
        trusting = ssl.create_default_context(cadata=ready["ca_pem"])
        for kind in ("tls", "https"):
            host, port = ready[kind].split(":")
            _, writer = await asyncio.open_connection(host, int(port), ssl=trusting)
            writer.close()
            await writer.wait_closed()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
