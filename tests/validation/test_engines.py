"""Engines are shared by equal settings and closed when nobody uses them."""

from google.protobuf.duration_pb2 import Duration

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.sandbox.dns_server import SandboxDns
from services.validation.dns.engine import EngineSettings
from services.validation.engines import Engines, engine_settings


async def test_equal_settings_share_an_engine(engines: Engines, sandbox: SandboxDns) -> None:
    resolvers = ["{}:{}".format(*sandbox.address)]

    async with engines.use(resolvers, EngineSettings()) as one:
        async with engines.use(resolvers, EngineSettings()) as same:
            assert same is one
        async with engines.use(resolvers, EngineSettings(tries=2)) as other:
            assert other is not one
        (outcome,) = await one.resolve(["a.com"])

    assert outcome.name == "a.com"


def test_what_a_campaign_leaves_open_takes_the_defaults() -> None:
    defaults = EngineSettings()

    assert engine_settings(DnsConfiguration()) == defaults
    asked = engine_settings(
        DnsConfiguration(window=7, attempt_limit=2, timeout=Duration(nanos=250_000_000))
    )
    assert (asked.window, asked.tries, asked.timeout) == (7, 2, 0.25)
