"""Fetchers of several plans in one process, over real sockets."""

import asyncio
from dataclasses import replace
from ipaddress import ip_network

import pytest

from services.validation.dns.plan import Plan
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http.addresses import AddressPolicy
from services.validation.http.fetch import Fetch
from services.validation.http.verdict import Verdict
from services.validation.http_plans import HttpPlan
from services.validation.plans import resolvers_of
from tests.validation.http.conftest import LOOPBACK, plain
from tests.validation.http.servers import page, serving

NAME = "site.example"
DNS = Plan(resolvers_of(["127.0.0.1:9"]))


def plan_of(port: int, agent: str = "one/1", **changes: object) -> HttpPlan:
    return HttpPlan(settings=plain(port, user_agent=agent, **changes), policy=LOOPBACK)


async def fetched(fetchers: Fetchers, plan: HttpPlan, name: str = NAME) -> Fetch:
    async with fetchers.use(plan, DNS) as fetcher:
        return await fetcher.fetch(name, plan.settings, addresses=["127.0.0.1"])


@pytest.mark.parametrize(
    ("limit", "names"), [("host_concurrency", [NAME]), ("address_concurrency", [NAME, "b.example"])]
)
async def test_a_host_and_an_address_are_asked_by_all_plans_together_no_more_at_once(
    engines: Engines, limit: str, names: list[str]
) -> None:
    there = most = 0

    async def answer(head, writer):
        nonlocal there, most
        there += 1
        most = max(most, there)
        await asyncio.sleep(0.02)
        there -= 1
        return page()

    async with serving(answer) as site, Fetchers(engines) as fetchers:
        fetches = await asyncio.gather(
            *(
                fetched(fetchers, plan_of(site.port, agent, **{limit: 2}), name)
                for name in names
                for agent in ("one/1", "two/1", "three/1")
                for _ in range(3)
            )
        )

    assert {fetch.verdict for fetch in fetches} == {Verdict.OK}
    assert most == 2
    assert len({head.partition("User-Agent: ")[2][:3] for head in site.requests}) == 3


async def test_a_rate_holds_for_all_plans_together(engines: Engines) -> None:
    times: list[float] = []

    async def answer(head, writer):
        times.append(asyncio.get_running_loop().time())
        return page()

    async with serving(answer) as site, Fetchers(engines) as fetchers:
        plans = [plan_of(site.port, agent, host_rate=50) for agent in ("one/1", "two/1")]
        await asyncio.gather(*(fetched(fetchers, plan) for plan in plans for _ in range(10)))

    # Twenty requests at 50 a second: nineteen gaps of 20 ms. The first may be seen late.
    assert times[-1] - times[0] > 0.34


async def test_a_denied_network_is_connected_to_by_no_plan(engines: Engines) -> None:
    denied = [ip_network("127.0.0.1/32")]
    async with serving(page()) as site, Fetchers(engines, denied=denied) as fetchers:
        plan = plan_of(site.port)
        usual = await fetched(fetchers, plan)
        own = await fetched(fetchers, replace(plan, policy=AddressPolicy(allowed=tuple(denied))))

    assert usual.verdict is own.verdict is Verdict.ADDRESS_NOT_ALLOWED
    assert usual.reason == "127.0.0.1 is in 127.0.0.1/32, denied by configuration"
    assert site.requests == []
