"""Servers over TCP, TLS and HTTPS that misbehave: no verdict is wrong, and nothing hangs."""

import asyncio
from random import Random

import pytest
from aiohttp import web

from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.dns_transports import identity
from services.validation.dns import wire
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.settings import EngineSettings
from services.validation.dns.streams import StreamChannel
from services.validation.dns.upstream import Upstreams
from services.validation.dns.verdict import Verdict
from tests.validation.dns.replies import QUICK, names, reply, truncated, until
from tests.validation.dns.test_transports import wrong
from tests.validation.dns.transports import MIX, framed, over_https, take, talking, web_server

ADDRESS = "192.0.2.7"
TLS = identity()
# With another resolver beside it, and alone.
BESIDE = EngineSettings(timeout=0.1, tries=10, soft_delay=0.001)
ALONE = EngineSettings(timeout=0.05, tries=2)


# Over TCP and TLS


async def close_at_once(reader, writer):
    await take(reader)


async def half_an_answer(reader, writer):
    answer = framed(reply(await take(reader), ADDRESS))
    writer.write(answer[: len(answer) // 2])
    await reader.read()


async def drop_by_drop(reader, writer):
    # Announces more than will ever come.
    writer.write(b"\xff\xff")
    while True:
        writer.write(b"\0")
        await asyncio.sleep(0.01)


async def too_short(reader, writer):
    writer.write(framed(reply(await take(reader), ADDRESS)[:11]))
    await reader.read()


async def garbage(reader, writer):
    await take(reader)
    writer.write(Random(1).randbytes(100_000))
    await reader.read()


async def foreign_ids(reader, writer):
    while True:
        question = await take(reader)
        answer = reply(question, ADDRESS)
        writer.write(framed(bytes((answer[0] ^ 0xFF, answer[1])) + answer[2:]))


async def other_questions(reader, writer):
    while True:
        question = await take(reader)
        other = question[:13] + bytes((question[13] ^ 1,)) + question[14:]
        writer.write(framed(reply(other, ADDRESS)))


async def never_reads(reader, writer):
    writer.transport.pause_reading()
    await asyncio.get_running_loop().create_future()


async def cut_short(reader, writer):
    while True:
        writer.write(framed(truncated(await take(reader))))


BROKEN = [
    close_at_once,
    half_an_answer,
    drop_by_drop,
    too_short,
    garbage,
    foreign_ids,
    other_questions,
    never_reads,
]


@pytest.mark.parametrize(
    ("talk", "over_tls"),
    [
        *((talk, False) for talk in (*BROKEN, cut_short)),
        *((talk, True) for talk in (close_at_once, half_an_answer, garbage, never_reads)),
    ],
)
async def test_a_broken_stream_changes_no_verdict(talk, over_tls):
    async with (
        talking(talk, TLS.context if over_tls else None) as address,
        SandboxDns(SandboxDnsSettings(mix=MIX)) as server,
    ):
        broken = Resolver(*address, Transport.TLS if over_tls else Transport.TCP, ca_pem=TLS.ca)
        async with Engine([broken, Resolver(*server.address)], BESIDE) as engine:
            assert wrong(await engine.resolve(names(100))) == []


@pytest.mark.parametrize("talk", BROKEN)
async def test_a_broken_stream_alone_is_mute(talk):
    async with talking(talk) as address:
        async with Engine([Resolver(*address, Transport.TCP)], ALONE) as engine:
            outcomes = await engine.resolve(names(5))

    assert {it.verdict for it in outcomes} == {Verdict.TIMEOUT}


async def test_an_answer_cut_short_over_tcp_is_an_error():
    async with talking(cut_short) as address:
        async with Engine([Resolver(*address, Transport.TCP)], QUICK) as engine:
            [outcome] = await engine.resolve(["name.example"])
            assert engine.stats().tcp == 0

    assert (outcome.verdict, outcome.addresses) == (Verdict.ERROR, ())


async def test_questions_share_a_connection_and_answers_come_in_any_order():
    connections = 0

    async def backwards(reader, writer):
        nonlocal connections
        connections += 1
        while True:
            questions = [await take(reader) for _ in range(50)]
            # In pieces that end anywhere.
            answers = b"".join(framed(reply(it, ADDRESS)) for it in reversed(questions))
            for at in range(0, len(answers), 777):
                writer.write(answers[at : at + 777])
                await writer.drain()

    settings = EngineSettings(sockets_per_resolver=1, timeout=10)
    async with talking(backwards) as address:
        async with Engine([Resolver(*address, Transport.TCP)], settings) as engine:
            # More than a channel has ids.
            outcomes = await engine.resolve(names(10_000))

    assert {(it.verdict, it.addresses, it.attempts) for it in outcomes} == {
        (Verdict.RESOLVED, (ADDRESS,), 1)
    }
    assert connections == 1


async def test_a_server_that_answers_once_per_connection_answers_all():
    async def once(reader, writer):
        writer.write(framed(reply(await take(reader), ADDRESS)))
        await writer.drain()
        writer.write_eof()

    settings = EngineSettings(timeout=10, tries=1)
    async with talking(once) as address:
        async with Engine([Resolver(*address, Transport.TCP)], settings) as engine:
            outcomes = await engine.resolve(names(30))

    assert {(it.verdict, it.attempts) for it in outcomes} == {(Verdict.RESOLVED, 1)}


async def test_a_resolver_that_comes_back_is_found_again():
    async with talking(half_an_answer) as address:
        pass
    async with Engine([Resolver(*address, Transport.TCP)], QUICK) as engine:
        [gone] = await engine.resolve(["name.example"])
        async with SandboxDns(SandboxDnsSettings(port=address[1], mix=MIX)):
            while True:
                [back] = await engine.resolve(["name.example"])
                if back.verdict is not Verdict.TIMEOUT:
                    break

    assert gone.verdict is Verdict.TIMEOUT
    assert wrong([back]) == []


class Asking:
    """A channel by itself, and what it gives."""

    def __init__(self, resolver: Resolver, **limits: float) -> None:
        self.answers: list[bytes] = []
        self.refusals = 0
        openers = {
            Transport.TCP: lambda upstream, ids, cases, drain: StreamChannel(
                upstream, cases, drain, **limits
            )
        }
        self.upstreams = Upstreams([resolver], QUICK, Random(1), self.drain, openers)
        self.channel = self.upstreams.all[0].channel(0)

    def ask(self, filling: bytes = b"") -> bytes:
        key = self.channel.ids.pop()
        self.channel.pending[key] = None
        self.channel.send(
            key + wire.HEADER + wire.Questions(wire.A).build("name.example") + filling
        )
        return key

    def drain(self, channel: object) -> None:
        while True:
            try:
                answer = self.channel.recv(4096)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self.refusals += 1
            else:
                self.answers.append(answer)
                del self.channel.pending[answer[:2]]

    async def close(self) -> None:
        self.upstreams.close()
        await self.upstreams.wait_closed()


async def test_an_idle_connection_is_closed_and_the_next_question_opens_another():
    ended = []

    async def answer(reader, writer):
        try:
            while True:
                writer.write(framed(reply(await take(reader), ADDRESS)))
        finally:
            ended.append(True)

    async with talking(answer) as address:
        asking = Asking(Resolver(*address, Transport.TCP), idle=0.05)
        for number in (1, 2):
            asking.ask()
            await until(lambda: len(ended) == number)  # noqa: B023
            assert len(asking.answers) == number
        await asking.close()
    assert asking.refusals == 0


async def test_a_connection_that_gives_no_answer_any_more_is_replaced():
    connections = 0

    async def answer(reader, writer):
        nonlocal connections
        connections += 1
        if connections == 1:
            writer.write(framed(reply(await take(reader), ADDRESS)))
            await reader.read()
        while True:
            writer.write(framed(reply(await take(reader), ADDRESS)))

    async with talking(answer) as address:
        asking = Asking(Resolver(*address, Transport.TCP), patience=0.05)
        asking.ask()
        await until(lambda: len(asking.answers) == 1)
        asking.ask()
        await until(lambda: len(asking.answers) == 2)
        await asking.close()
    assert connections == 2


async def test_a_connection_that_takes_no_more_is_given_up():
    connections = 0

    async def deaf(reader, writer):
        nonlocal connections
        connections += 1
        await never_reads(reader, writer)

    async with talking(deaf) as address:
        asking = Asking(Resolver(*address, Transport.TCP))
        asking.ask()
        await until(lambda: connections == 1)
        # More than the kernel holds for both ends.
        for number in range(400):
            asking.ask(bytes(60_000))
            if number % 10 == 0:
                await asyncio.sleep(0)
        await until(lambda: asking.refusals)
        assert asking.upstreams.all[0].trouble
        await asking.close()


# Over HTTPS


def answering(body: bytes = b"", status: int = 200, kind: str = "application/dns-message"):
    async def handler(request):
        return web.Response(body=body, status=status, content_type=kind)

    return handler


async def truth_of_another_type(request):
    return web.Response(body=reply(await request.read(), ADDRESS), content_type="text/html")


async def other_question(request):
    question = await request.read() or b"\0\0" + wire.HEADER + b"\7another\0\0\1\0\1"
    other = question[:13] + bytes((question[13] ^ 1,)) + question[14:]
    return web.Response(body=reply(other, ADDRESS), content_type="application/dns-message")


async def redirect(request):
    raise web.HTTPFound("https://127.0.0.1:1/dns-query")


async def hang(request):
    await asyncio.get_running_loop().create_future()


async def endless(request):
    response = web.StreamResponse()
    response.content_type = "application/dns-message"
    await response.prepare(request)
    while True:
        await response.write(bytes(10_000))


async def hang_up(request):
    request.transport.abort()
    return web.Response()


ANOTHER = b'{"Status":0,"Question":[{"name":"another.example.","type":1}],"Answer":[]}'
UNUSABLE = {
    "500": answering(status=500),
    "429": answering(status=429),
    "html": answering(b"<html>", kind="text/html"),
    "right answer, wrong type": truth_of_another_type,
    "empty": answering(),
    "short": answering(b"\0\0\x81\x80"),
    "no json": answering(b"{", kind="application/dns-json"),
    "json of another shape": answering(b"[1]", kind="application/dns-json"),
    "json for another name": answering(ANOTHER, kind="application/dns-json"),
    "garbage": answering(Random(1).randbytes(500)),
    "too long": answering(bytes(70_000)),
    "another question": other_question,
    "redirect": redirect,
    "hang": hang,
    "endless": endless,
    "hang up": hang_up,
}


IN_JSON = ["500", "html", "no json", "json of another shape", "json for another name", "too long"]


@pytest.mark.parametrize(
    ("what", "json"), [*((what, False) for what in UNUSABLE), *((what, True) for what in IN_JSON)]
)
async def test_an_unusable_answer_over_https_changes_no_verdict(what, json):
    async with (
        web_server(UNUSABLE[what], TLS) as address,
        SandboxDns(SandboxDnsSettings(mix=MIX)) as server,
    ):
        broken = over_https(address, TLS.ca, json=json)
        async with Engine([broken, Resolver(*server.address)], BESIDE) as engine:
            assert wrong(await engine.resolve(names(60))) == []
        async with Engine([broken], ALONE) as engine:
            alone = await engine.resolve(names(3))

    # Nothing was said, or nothing that can be read.
    assert {it.verdict for it in alone} <= {Verdict.TIMEOUT, Verdict.ERROR}
    assert {it.addresses for it in alone} == {()}


async def test_a_server_that_hangs_up_now_and_then_loses_nothing():
    seen = set()

    async def every_second_time(request):
        question = await request.read()
        if question not in seen:
            seen.add(question)
            return await hang_up(request)
        return web.Response(body=reply(question, ADDRESS), content_type="application/dns-message")

    settings = EngineSettings(timeout=10, tries=1)
    async with web_server(every_second_time, TLS) as address:
        async with Engine([over_https(address, TLS.ca)], settings) as engine:
            outcomes = await engine.resolve(names(30))

    assert {(it.verdict, it.attempts) for it in outcomes} == {(Verdict.RESOLVED, 1)}


async def test_a_request_names_the_host_of_the_url_and_goes_to_the_address():
    seen = []

    async def handler(request):
        seen.append((request.host, request.path, request.content_type, await request.read()))
        return web.Response(
            body=reply(seen[-1][3], ADDRESS), content_type="application/dns-message"
        )

    async with web_server(handler, TLS) as address:
        async with Engine([over_https(address, TLS.ca)], QUICK) as engine:
            [outcome] = await engine.resolve(["name.example"])

    host, path, kind, question = seen[0]
    assert (host, path, kind) == ("dns.sandbox", "/dns-query", "application/dns-message")
    # No id, which caches on the way would mind, and no length that tells the name's.
    assert question.startswith(b"\0\0")
    assert len(question) % 128 == 0
    assert outcome.addresses == (ADDRESS,)


async def test_questions_over_tls_are_all_of_the_same_length():
    lengths = set()

    async def answer(reader, writer):
        while True:
            question = await take(reader)
            lengths.add(len(question))
            writer.write(framed(reply(question, ADDRESS)))

    async with talking(answer, TLS.context) as address:
        resolver = Resolver(*address, Transport.TLS, ca_pem=TLS.ca)
        async with Engine([resolver], QUICK) as engine:
            outcomes = await engine.resolve([f"{'x' * length}.example" for length in range(1, 60)])

    assert {it.addresses for it in outcomes} == {(ADDRESS,)}
    assert lengths == {128}
