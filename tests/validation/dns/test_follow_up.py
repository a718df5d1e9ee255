"""Answers that are not the ordinary one: failures, truncation, late and broken datagrams."""

import pytest

from services.validation.dns.engine import Engine
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Verdict
from tests.validation.dns.replies import QUICK, reply


async def test_truncation_without_tcp_is_an_error(scripted):
    def truncated(question: bytes) -> list[bytes]:
        answer = reply(question)
        return [answer[:2] + bytes((answer[2] | 2,)) + answer[3:]]

    async with scripted(truncated) as resolver, Engine([resolver], QUICK) as engine:
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
