"""A campaign whose pages come through proxies, with a real queue and the sandbox's web."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.validation.v1 import http_pb2, proxy_pb2
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.chassis.secrets import SecretBox, new_key
from services.sandbox.dns_server import SandboxDns, SandboxDnsSettings
from services.sandbox.web_server import SandboxWeb, SandboxWebSettings
from services.sandbox.web_truth import Web
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http.addresses import AddressPolicy
from services.validation.http.proxies import Scheme
from services.validation.http.verdict import Verdict
from services.validation.http_probe import HttpProbe
from services.validation.keyword_library import KeywordLibrary
from services.validation.proxy_pool_store import new_pool
from services.validation.proxy_pools import ProxyPools
from services.validation.proxy_service import new_proxy
from services.validation.store import Store
from services.validation.worker import Worker
from tests.campaigns import hand_out
from tests.eventually import eventually
from tests.queues import publish
from tests.validation.conftest import asking
from tests.validation.fetching import (
    EVERY_KIND,
    NAMES_MIX,
    fetching,
    http_configuration,
    names_of,
    truth_of,
)
from tests.validation.http.proxies import ProxyServer, proxying

# What a site does shows through a proxy as it does without; a refused connection does not.
KINDS = (
    Web.PAGE,
    Web.NOT_FOUND,
    Web.CHAIN,
    Web.MOVED_PRIVATE,
    Web.RESET,
    Web.GZIP_BOMB,
    Web.HEADER_FLOOD,
    Web.EXPIRED,
)
LOOPBACK = AddressPolicy.parse(allowed=["127.0.0.0/8"])


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool, box=SecretBox([new_key()]))


@pytest.fixture
async def probe(store: Store, engines: Engines) -> AsyncIterator[HttpProbe]:
    proxy_pools = ProxyPools(store.proxies, policy=LOOPBACK, period=0.1)
    async with Fetchers(engines, proxy_pools=proxy_pools) as fetchers:
        library = KeywordLibrary(store.keyword_sets)
        yield HttpProbe(engines, fetchers, library, networks=LOOPBACK.allowed)


async def pooled(store: Store, *servers: ProxyServer) -> str:
    """The id of a pool of these."""
    given = [
        new_proxy(proxy_pb2.Proxy(url=it.proxy().label, user=it.user, password=it.password))
        for it in servers
    ]
    await store.proxies.create(given, None, lambda made: b"", validate_only=False)
    stored, _ = await store.proxies.page(None, 10)
    new = new_pool(proxy_pb2.ProxyPool(name="main", proxy_ids=[str(it.id) for it in stored]))
    await store.proxy_pools.create(new, None, lambda made: b"", validate_only=False)
    ((made,), _) = await store.proxy_pools.page(None, 1, 1_000_000)
    return str(made.id)


async def test_pages_of_a_campaign_come_through_its_pool_and_never_round_it(
    campaign_store: CampaignStore, store: Store, pool: Pool, queue: Client, probe: HttpProbe
) -> None:
    async with (
        SandboxDns(SandboxDnsSettings(mix=NAMES_MIX)) as dns,
        SandboxWeb(SandboxWebSettings(mix=NAMES_MIX, web=EVERY_KIND)) as web,
        proxying(user="u", password="p") as one,
        proxying(Scheme.SOCKS5, user="u", password="p") as other,
    ):
        pool_id = await pooled(store, one, other)
        names = names_of(web.world, 40, *KINDS)
        http = http_configuration(web, proxy_pool_id=pool_id)
        asked: pb.DnsConfiguration = asking("{}:{}".format(*dns.address))
        running = await fetching(campaign_store, store, web.world, names, http, asked)
        await publish(queue, *await hand_out(campaign_store, [running]), pool="http")
        worker = Worker(store=store, queue=queue, probe=probe, worker_id="w", host="h", pid=7)
        task = asyncio.create_task(worker.work())

        async def done() -> None:
            assert not await pool.fetchval("SELECT count(*) FROM chunks WHERE state <> 'done'")

        async def reported() -> None:
            stored, _ = await store.proxies.page(None, 10)
            statuses = await store.proxies.reports.statuses([it.id for it in stored])
            assert sum(it.use_count for it in statuses.values()) == len(names)
            assert sum(it.failed_count for it in statuses.values()) == 0

        try:
            await eventually(done, within=45)
            await eventually(reported)
        finally:
            task.cancel()
            await asyncio.wait([task])

    rows = await pool.fetch("SELECT verdict, evidence FROM http_results ORDER BY position")
    evidence = [http_pb2.HttpEvidence.FromString(row["evidence"]) for row in rows]
    assert [Verdict(row["verdict"]) for row in rows] == [
        truth_of(web.world, name).verdict() for name in names
    ]
    assert {it.proxy for it in evidence} == {one.proxy().label, other.proxy().label}
    # They were told addresses, of which some came again in redirects, and no private one.
    places = one.places + other.places
    assert len(places) >= len(names)
    assert {place.split(".")[0] for place in places} == {"127"}
