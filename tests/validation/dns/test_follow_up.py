"""Answers that are not the ordinary one: failures, truncation, late and broken datagrams."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest

from services.validation.dns.engine import Engine, EngineClosed
from services.validation.dns.settings import EngineSettings
from services.validation.dns.upstream import RETIRED_LIMIT
from services.validation.dns.verdict import Verdict
from tests.eventually import eventually
from tests.validation.dns.replies import QUICK, names, reply, truncated, until


@asynccontextmanager
async def tcp(answer: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[int]:
    """Answer one question a connection; just end it where `answer` is empty. Yields the port."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = int.from_bytes(await reader.readexactly(2), "big")
            response = await answer(await reader.readexactly(length))
            if response:
                writer.write(len(response).to_bytes(2, "big") + response)
        finally:
            writer.close()

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_truncation_without_tcp_is_an_error(scripted):
    async with (
        scripted(lambda question: [truncated(question)]) as resolver,
        Engine([resolver], QUICK) as engine,
    ):
        (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.attempts) == (Verdict.ERROR, 3)


@pytest.mark.parametrize(
    ("rcode", "verdict"),
    [(1, Verdict.ERROR), (2, Verdict.SERVFAIL), (4, Verdict.ERROR), (5, Verdict.REFUSED)],
)
async def test_a_lasting_failure_is_believed_after_some_tries(scripted, rcode, verdict):
    asked = []

    def fail(question: bytes) -> list[bytes]:
        asked.append(question)
        return [reply(question, rcode=rcode)]

    async with scripted(fail) as resolver:
        async with Engine([resolver], EngineSettings(soft_tries=3, soft_delay=0.01)) as engine:
            (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.rcode, len(asked)) == (verdict, rcode, 3)


async def test_two_passing_failures_of_four_answers_are_not_believed(scripted):
    said = iter([2, 2, 5, 5, 5, 5])

    async with scripted(lambda question: [reply(question, rcode=next(said))]) as resolver:
        async with Engine([resolver], EngineSettings(soft_tries=4, soft_delay=0.01)) as engine:
            (outcome,) = await engine.resolve(["a.example"])

    assert (outcome.verdict, outcome.rcode, outcome.attempts) == (Verdict.REFUSED, 5, 6)


async def test_a_server_that_knows_no_edns_is_asked_without(scripted):
    def old(question: bytes) -> list[bytes]:
        return [reply(question, rcode=1) if question[11] else reply(question, "192.0.2.1")]

    async with scripted(old) as resolver, Engine([resolver], QUICK) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.attempts) == (Verdict.RESOLVED, 2)


async def test_a_malformed_answer_counts_only_if_nothing_better_comes(scripted):
    def broken(question: bytes) -> list[bytes]:
        return [reply(question, "192.0.2.1")[:-2]]

    async with scripted(broken) as resolver, Engine([resolver], QUICK) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert outcome.verdict is Verdict.ERROR


async def test_an_answer_to_an_earlier_attempt_still_counts(scripted):
    held = []

    def late(question: bytes) -> list[bytes]:
        held.append(question)
        # The second question brings the answer to the first.
        return [reply(held[0], "192.0.2.1")] if len(held) == 2 else []

    settings = EngineSettings(timeout=0.15, sockets_per_resolver=1)
    async with scripted(late) as resolver, Engine([resolver], settings) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.attempts) == (Verdict.RESOLVED, 2)


async def test_one_failure_in_several_copies_counts_once(scripted):
    asked = []

    def fail_once(question: bytes) -> list[bytes]:
        asked.append(question)
        return [reply(question, rcode=2)] * 5 if len(asked) == 1 else [reply(question, "192.0.2.1")]

    settings = EngineSettings(soft_tries=4, soft_delay=0.01)
    async with scripted(fail_once) as resolver, Engine([resolver], settings) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.attempts) == (Verdict.RESOLVED, 2)


async def test_a_late_failure_does_not_end_the_last_attempt(scripted):
    asked = []

    def late_failure(question: bytes) -> list[bytes]:
        asked.append(question)
        if len(asked) == 1:
            return []
        return [reply(asked[0], rcode=2), reply(question, "192.0.2.1")]

    settings = EngineSettings(timeout=0.15, tries=2, sockets_per_resolver=1)
    async with scripted(late_failure) as resolver, Engine([resolver], settings) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.attempts) == (Verdict.RESOLVED, 2)


# TCP


async def test_a_server_that_knows_no_edns_is_asked_without_over_tcp_too(scripted):
    def old(question: bytes) -> list[bytes]:
        return [reply(question, rcode=1) if question[11] else truncated(question)]

    async def old_tcp(question: bytes) -> bytes:
        return reply(question, rcode=1) if question[11] else reply(question, "192.0.2.1")

    async with tcp(old_tcp) as port, scripted(old, port=port) as resolver:
        async with Engine([resolver], QUICK) as engine:
            (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.tcp) == (Verdict.RESOLVED, True)


async def test_a_connection_that_brings_nothing_is_no_sign_of_life(scripted):
    asked = []
    ended = asyncio.Event()

    def only_first(question: bytes) -> list[bytes]:
        asked.append(question)
        return [truncated(question)] if len(asked) == 1 else []

    async def nothing(_: bytes) -> bytes:
        await ended.wait()
        return b""

    settings = EngineSettings(timeout=0.05, tries=4, soft_delay=0.001)
    async with tcp(nothing) as port, scripted(only_first, port=port) as resolver:
        async with Engine([resolver], settings) as engine:
            first = asyncio.create_task(engine.resolve(["x.example"]))
            await until(lambda: engine.stats().tcp)
            await engine.resolve(names(20))
            assert engine.stats().resolvers[0].suspect
            ended.set()
            await first
            assert engine.stats().resolvers[0].suspect


async def test_an_engine_that_is_closing_takes_no_more_names(scripted):
    async def never(_: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with tcp(never) as port:
        async with scripted(lambda question: [truncated(question)], port=port) as resolver:
            engine = await Engine([resolver], QUICK).__aenter__()
            stuck = asyncio.create_task(engine.resolve(["x.example"]))
            await until(lambda: engine.stats().tcp)
            closing = asyncio.create_task(engine.__aexit__(None, None, None))
            await asyncio.sleep(0)
            assert not closing.done()
            with pytest.raises(EngineClosed):
                await engine.resolve(["y.example"])
            with pytest.raises(EngineClosed):
                await stuck
            await closing


async def test_names_that_take_long_hold_few_replaced_sockets(scripted):
    async def never(_: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    asked = count()

    def some_truncated(question: bytes) -> list[bytes]:
        # One on each socket, about.
        return [truncated(question) if next(asked) % 90 == 0 else reply(question, rcode=3)]

    # Few at once: a question lost in the server's buffer would hold its socket for the time-out.
    settings = EngineSettings(
        in_flight_limit=30,
        timeout=60,
        tcp_timeout=60,
        tcp_limit=1,
        sockets_per_resolver=1,
        queries_per_socket=100,
    )
    async with tcp(never) as port, scripted(some_truncated, port=port) as resolver:
        async with Engine([resolver], settings) as engine:
            before = len(os.listdir("/dev/fd"))
            stuck = asyncio.create_task(engine.resolve(names(4500)))
            await until(lambda: engine.stats().answered + engine.stats().in_flight == 4500)
            assert engine.stats().in_flight > 40
            # One in use, and one connection with both its ends.
            await until(lambda: len(os.listdir("/dev/fd")) - before <= RETIRED_LIMIT + 3)
            stuck.cancel()
            await asyncio.wait([stuck])


async def test_names_outlast_a_path_that_is_cut_for_a_while(scripted):
    cut = False

    def answer(question: bytes) -> list[bytes]:
        return [] if cut else [reply(question, rcode=3)]

    asked = names(60)
    settings = EngineSettings(timeout=0.05, tries=3)
    async with scripted(answer) as resolver, Engine([resolver], settings) as engine:
        await engine.resolve(asked)
        cut = True
        sent = engine.stats().sent
        asking = asyncio.create_task(engine.resolve(asked))

        async def asked_more_often_than_silence_takes() -> None:
            assert engine.stats().sent >= sent + 5 * len(asked)

        await eventually(asked_more_often_than_silence_takes)
        cut = False
        outcomes = await asking

    assert {outcome.verdict for outcome in outcomes} == {Verdict.NXDOMAIN}


async def test_names_end_although_the_path_stays_cut(scripted):
    cut = False

    def answer(question: bytes) -> list[bytes]:
        return [] if cut else [reply(question, rcode=3)]

    asked = names(40)
    settings = EngineSettings(timeout=0.02, tries=1, soft_delay=0.001)
    async with scripted(answer) as resolver, Engine([resolver], settings) as engine:
        await engine.resolve(asked)
        cut = True
        outcomes = await engine.resolve(asked)

    assert {outcome.verdict for outcome in outcomes} == {Verdict.TIMEOUT}


async def test_names_that_are_mute_one_after_the_other_are_no_cut_path(scripted):
    def answer(question: bytes) -> list[bytes]:
        return [] if b"mute" in question.lower() else [reply(question, rcode=3)]

    settings = EngineSettings(timeout=0.2, tries=3)
    async with scripted(answer) as resolver, Engine([resolver], settings) as engine:
        await engine.resolve(names(60))
        outcomes = await engine.resolve([f"mute{number}.example" for number in range(60)])

    assert {outcome.verdict for outcome in outcomes} == {Verdict.TIMEOUT}
    # Of twelve, if nobody had answered meanwhile.
    assert max(outcome.attempts for outcome in outcomes) <= 6
