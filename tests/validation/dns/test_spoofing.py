"""Forged answers: whatever is wrong with one it is not accepted, and the right one after it is."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest

from services.validation.dns import wire
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Verdict
from tests.validation.dns.replies import QUICK, names, reply

POISON, RIGHT = "203.0.113.1", "192.0.2.1"
Forge = Callable[[bytes], bytes]


def other_case(question: bytes) -> bytes:
    return question[:12] + question[12:].swapcase()


FORGERIES: dict[str, Forge] = {
    "another id": lambda q: bytes((q[0] ^ 1, q[1])) + reply(q, POISON)[2:],
    "another name": lambda q: reply(q[:13] + b"z" + q[14:], POISON),
    "a name above": lambda q: reply(q[:12] + q[13 + q[12] :], POISON),
    "another type": lambda q: reply(q, POISON).replace(b"\0\1\0\1\xc0", b"\0\x0f\0\1\xc0"),
    "another class": lambda q: reply(q, POISON).replace(b"\0\1\0\1\xc0", b"\0\1\0\3\xc0"),
    "another case": lambda q: reply(other_case(q), POISON),
    "a question": lambda q: q,
    "another opcode": lambda q: q[:2] + b"\xa9" + reply(q, POISON)[3:],
    "a bare header": lambda q: q[:2] + b"\x81\x83" + bytes(8),
    "a bare refusal": lambda q: q[:2] + b"\x81\x85" + bytes(8),
    "no question": lambda q: q[:2] + b"\x81\x80\0\0\0\1" + bytes(4) + reply(q, POISON)[-16:],
    "two questions": lambda q: q[:2] + b"\x81\x80\0\2" + reply(q, POISON)[6:],
    "another name's address": lambda q: reply(q, POISON).replace(
        b"\xc0\x0c\0\1", bytes((0xC0, 13 + q[12])) + b"\0\1"
    ),
    "cut off": lambda q: reply(q, POISON)[:-3],
    "nothing": lambda q: b"",
}
# Well-formed answers from the right address to the right question, which say something else: there
# is no address of this name. Everything else is forged at every place it could be sent from.
BELIEVED = {"another name's address"}


@pytest.mark.parametrize("kind", sorted(FORGERIES.keys() - BELIEVED))
async def test_a_forged_answer_is_never_accepted(scripted, kind):
    def script(question: bytes) -> list[bytes]:
        return [FORGERIES[kind](question), reply(question, RIGHT)]

    async with scripted(script) as resolver, Engine([resolver], QUICK) as engine:
        outcomes = await engine.resolve(names(200, "long-enough-for-case.example"))

    assert {outcome.addresses for outcome in outcomes} == {(RIGHT,)}


@pytest.mark.parametrize("kind", sorted(FORGERIES.keys() - BELIEVED - {"another case"}))
async def test_a_forged_answer_alone_is_no_answer(scripted, kind):
    async with scripted(lambda question: [FORGERIES[kind](question)]) as resolver:
        async with Engine([resolver], EngineSettings(timeout=0.1, tries=2)) as engine:
            (outcome,) = await engine.resolve(["long-enough-for-case.example"])

    assert outcome.verdict in (Verdict.TIMEOUT, Verdict.ERROR, Verdict.REFUSED)
    assert (outcome.addresses, outcome.attempts) == ((), 2)


def bound(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    return sock


@asynccontextmanager
async def flooded(forgeries: list[Forge], number: int) -> AsyncIterator[Resolver]:
    """A resolver each of whose answers comes after `number` forged ones.

    Of these some come from its own address, some from another port, some from another host.
    """
    loop = asyncio.get_running_loop()
    random = Random(1)

    async def serve(server: socket.socket, others: list[socket.socket]) -> None:
        while True:
            question, client = await loop.sock_recvfrom(server, 512)
            for count in range(number):
                forge = random.choice(forgeries)
                random.choice([server, *others]).sendto(forge(question), client)
                if not count % 50:
                    # What is sent at once must fit into the client's buffer.
                    await asyncio.sleep(0)
            for other in others:
                other.sendto(reply(question, POISON), client)
            server.sendto(reply(question, RIGHT), client)
            # What comes after the answer comes too late.
            server.sendto(reply(question, POISON), client)

    with bound() as server, bound() as port, bound("127.0.0.2") as host:
        serving = asyncio.create_task(serve(server, [port, host]))
        try:
            yield Resolver(*server.getsockname())
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


def guessed_id(question: bytes) -> bytes:
    """The right answer to everything, but for the id: one of those a forger tries in turn."""
    guess = guesses.randrange(65536).to_bytes(2, "big")
    return (guess if guess != question[:2] else bytes(2)) + reply(question, POISON)[2:]


guesses = Random(2)


async def test_a_thousand_forgeries_before_each_answer_change_none():
    forgeries = [forge for kind, forge in FORGERIES.items() if kind not in BELIEVED]
    settings = EngineSettings(window=1, timeout=5)
    async with flooded(forgeries, 1000) as resolver, Engine([resolver], settings) as engine:
        outcomes = await engine.resolve(names(20, "long-enough-for-case.example"))

        assert engine.stats().stray > 1000

    assert {(outcome.verdict, outcome.addresses) for outcome in outcomes} == {
        (Verdict.RESOLVED, (RIGHT,))
    }
    assert {outcome.attempts for outcome in outcomes} == {1}


async def test_a_thousand_guessed_ids_before_each_answer_are_all_stray():
    settings = EngineSettings(window=1, timeout=5)
    async with flooded([guessed_id], 1000) as resolver, Engine([resolver], settings) as engine:
        outcomes = await engine.resolve(names(20))

        # A third of them come from the right address.
        assert engine.stats().stray > 5000

    assert {outcome.addresses for outcome in outcomes} == {(RIGHT,)}


async def test_a_late_copy_of_an_answer_answers_no_other_question(scripted):
    answers: list[bytes] = []

    def replay(question: bytes) -> list[bytes]:
        # All that was ever answered, under its own id, before the answer to this one.
        new = reply(question, POISON if b"poisoned" in question.lower() else RIGHT)
        answers.append(new)
        return [*answers[:-1][-50:], new, new]

    settings = EngineSettings(window=20, sockets_per_resolver=1)
    async with scripted(replay) as resolver, Engine([resolver], settings) as engine:
        first = await engine.resolve(names(50, "poisoned.example"))
        second = await engine.resolve(names(200))

    assert {outcome.addresses for outcome in first} == {(POISON,)}
    assert {outcome.addresses for outcome in second} == {(RIGHT,)}


async def test_forged_failures_without_a_question_count_once_an_attempt(scripted):
    asked = []

    def refuse(question: bytes) -> list[bytes]:
        asked.append(question)
        bare = [FORGERIES["a bare refusal"](question)] * 20
        return bare if len(asked) < 3 else [*bare, reply(question, RIGHT)]

    settings = EngineSettings(timeout=0.1, tries=4)
    async with scripted(refuse) as resolver, Engine([resolver], settings) as engine:
        (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.addresses, outcome.attempts) == ((RIGHT,), 3)
    assert outcome.evidence is not None
    assert [(it.verdict, it.count) for it in outcome.evidence.opinions] == [
        (Verdict.REFUSED, 2),
        (Verdict.RESOLVED, 1),
    ]


async def test_addresses_of_another_name_are_not_this_one_s(scripted):
    forge = FORGERIES["another name's address"]
    async with scripted(lambda question: [forge(question)]) as resolver:
        async with Engine([resolver], QUICK) as engine:
            (outcome,) = await engine.resolve(["x.example"])

    assert (outcome.verdict, outcome.addresses) == (Verdict.NO_DATA, ())


@pytest.mark.parametrize("qtype", wire.QTYPES)
async def test_an_answer_to_another_type_is_no_answer_to_this_one(scripted, qtype):
    def wrong_type(question: bytes) -> list[bytes]:
        end = question.index(b"\0", 12) + 1
        other = wire.MX if qtype != wire.MX else wire.A
        changed = question[:end] + other.to_bytes(2, "big") + question[end + 2 :]
        return [reply(changed, POISON), reply(question, rcode=3)]

    async with scripted(wrong_type) as resolver, Engine([resolver], QUICK) as engine:
        (outcome,) = await engine.resolve(["x.example"], qtype=qtype)

    assert outcome.verdict is Verdict.NXDOMAIN
