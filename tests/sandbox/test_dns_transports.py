"""The sandbox's resolver behind TLS and HTTPS, asked by dnspython and aiohttp."""

import asyncio
import base64
import ssl
from contextlib import AsyncExitStack

import aiohttp
import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.dns_transports import SandboxDnsOverHttps, SandboxDnsOverTls, identity
from services.sandbox.truth import Behaviour, Mix, truth

MIX = Mix()
TLS = identity()
TRUST = ssl.create_default_context(cadata=TLS.ca)


def named(behaviour: Behaviour) -> str:
    names = (f"name{number}.example" for number in range(100_000))
    return next(name for name in names if truth(name, 1, MIX).behaviour is behaviour)


@pytest.fixture
async def server():
    async with SandboxDns(SandboxDnsSettings(mix=MIX)) as opened:
        yield opened


@pytest.fixture
async def web(server):
    """Requests of paths of the server over HTTPS."""
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(SandboxDnsOverHttps(server, TLS))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                "https://{}:{}".format(*opened.address),
                connector=aiohttp.TCPConnector(ssl=TRUST),
            )
        )
        yield session


def addresses(response: dns.message.Message) -> list[str]:
    return [
        item.address
        for rrset in response.answer
        if rrset.rdtype == dns.rdatatype.A
        for item in rrset
    ]


@pytest.mark.parametrize("behaviour", [Behaviour.RESOLVES, Behaviour.TRUNCATED, Behaviour.CHAIN])
async def test_the_truth_comes_over_tls(server, behaviour):
    name = named(behaviour)
    async with SandboxDnsOverTls(server, TLS) as over_tls:
        host, port = over_tls.address
        query = dns.message.make_query(name, "A")
        response = await dns.asyncquery.tls(
            query, host, port=port, timeout=5, server_hostname="dns.sandbox", ssl_context=TRUST
        )

    assert sorted(addresses(response)) == sorted(truth(name, 1, MIX).addresses)


async def test_a_slow_name_keeps_no_other_waiting(server):
    slow, quick = named(Behaviour.SLOW), named(Behaviour.NXDOMAIN)
    async with SandboxDnsOverTls(server, None) as over_tcp:
        reader, writer = await asyncio.open_connection(*over_tcp.address)
        for name in (slow, quick):
            question = dns.message.make_query(name, "A").to_wire()
            writer.write(len(question).to_bytes(2, "big") + question)
        found = []
        for _ in range(2):
            length = int.from_bytes(await reader.readexactly(2), "big")
            response = dns.message.from_wire(await reader.readexactly(length))
            found.append(response.question[0].name.to_text(omit_final_dot=True))
        writer.close()
        await writer.wait_closed()

    assert found == [quick, slow]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_truth_comes_over_https(web, method):
    name = named(Behaviour.RESOLVES)
    question = dns.message.make_query(name, "A").to_wire()
    encoded = base64.urlsafe_b64encode(question).rstrip(b"=").decode()
    options = (
        {"params": {"dns": encoded}}
        if method == "GET"
        else {"data": question, "headers": {"Content-Type": "application/dns-message"}}
    )
    async with web.request(method, "/dns-query", **options) as response:
        assert response.content_type == "application/dns-message"
        found = dns.message.from_wire(await response.read())

    assert sorted(addresses(found)) == sorted(truth(name, 1, MIX).addresses)


async def test_the_truth_comes_as_json(web):
    name = named(Behaviour.RESOLVES)
    async with web.get("/resolve", params={"name": name, "type": "A"}) as response:
        assert response.content_type == "application/dns-json"
        found = await response.json(content_type=None)

    known = truth(name, 1, MIX)
    assert found["Status"] == dns.rcode.NOERROR
    assert found["Question"] == [{"name": f"{name}.", "type": 1}]
    assert sorted(it["data"] for it in found["Answer"]) == sorted(known.addresses)
    assert {it["TTL"] for it in found["Answer"]} == {known.ttl}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/dns-query?dns=AAAA", 400),
        ("/dns-query?dns=%%%", 400),
        ("/resolve?name=a..b", 400),
        ("/resolve?name=name.example&type=nonsense", 400),
        ("/elsewhere", 404),
    ],
)
async def test_what_is_no_question_is_refused_over_https(web, path, status):
    async with web.get(path) as response:
        assert response.status == status


async def test_questions_of_another_content_type_are_refused(web):
    async with web.post("/dns-query", data=b"question") as response:
        assert response.status == 415
