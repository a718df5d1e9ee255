"""Examiners are shared by equal plans and closed when nobody uses them."""

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.sandbox.dns_server import SandboxDns
from services.validation.dns.engine import EngineClosed
from services.validation.dns.examiner import Examiner
from services.validation.dns.plan import Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.engines import Engines
from services.validation.plans import plan_of


async def test_equal_plans_share_an_examiner(engines: Engines, sandbox: SandboxDns) -> None:
    resolvers = (Resolver(*sandbox.address),)

    async with engines.use(Plan(resolvers)) as one:
        async with engines.use(Plan(resolvers)) as same:
            assert same is one
        async with engines.use(Plan(resolvers, EngineSettings(tries=2))) as other:
            assert other is not one
        (outcome,) = await one.examine(["a.com"])

    assert outcome.name == "a.com"


async def test_an_examiner_is_closed_although_whoever_closes_it_is_cancelled(
    sandbox: SandboxDns,
) -> None:
    examiner = Examiner(Plan((Resolver(*sandbox.address),)))
    await examiner.__aenter__()
    await examiner.examine(["a.com"])
    closing = asyncio.create_task(examiner.__aexit__(None, None, None))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])

    with pytest.raises(EngineClosed):
        await examiner.engine.resolve(["a.com"])


def test_what_a_campaign_leaves_open_takes_the_defaults() -> None:
    assert plan_of(DnsConfiguration(resolvers=["192.0.2.1"])) == Plan((Resolver("192.0.2.1"),))
    asked = plan_of(
        DnsConfiguration(window=7, attempt_limit=2, timeout=Duration(nanos=250_000_000))
    ).engine
    assert (asked.window, asked.tries, asked.timeout) == (7, 2, 0.25)
