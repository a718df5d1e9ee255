"""Pools of proxies in a process that fetches: followed, judged, told of; through real proxies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from domainflow.campaign.v1.event_pb2 import ProxyChanged, SystemEvent
from domainflow.validation.v1 import proxy_pb2 as pb
from domainflow.validation.v1.http_settings_pb2 import HttpSettings
from services.chassis.http_settings import networks_of
from services.chassis.postgres import Pool
from services.chassis.seal import KEY_SIZE
from services.chassis.secrets import SecretBox
from services.validation.dns.plan import Plan
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http.addresses import AddressPolicy
from services.validation.http.fetch import Fetch
from services.validation.http.proxies import Proxy, Scheme
from services.validation.http.proxy_pool import Result
from services.validation.http.verdict import Verdict
from services.validation.http_plans import http_plan_of
from services.validation.plans import resolvers_of
from services.validation.proxy_pool_store import new_pool
from services.validation.proxy_pools import LivePool, ProxyPools
from services.validation.proxy_service import new_proxy
from services.validation.store import Store
from tests.eventually import eventually
from tests.validation.http.conftest import Names, fetching, plain
from tests.validation.http.proxies import ProxyServer, proxying
from tests.validation.http.servers import page, serving

BOX = SecretBox([b"k" * KEY_SIZE])
SECRET = "dn3-Zq!x7"
LOOPBACK = AddressPolicy.parse(allowed=["127.0.0.0/8"])
# Nothing waits for the next reading by itself.
SOON = 0.05


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool, box=BOX)


@pytest.fixture
def proxy_pools(store: Store) -> ProxyPools:
    return ProxyPools(store.proxies, policy=LOOPBACK, period=SOON)


@asynccontextmanager
async def telling(proxy_pools: ProxyPools, worker_id: str = "w1") -> AsyncIterator[None]:
    task = asyncio.create_task(proxy_pools.tell(worker_id))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def stored(store: Store, proxy: Proxy, **fields: Any) -> str:
    """The id of a proxy that is stored like this one."""
    given = pb.Proxy(url=proxy.label, user=proxy.user, **fields)
    if proxy.user:
        given.password = proxy.password.reveal()
    made: list[UUID] = []

    def answer(proxies: Any) -> bytes:
        made.append(proxies[0].id)
        return b""

    await store.proxies.create([new_proxy(given)], None, answer, validate_only=False)
    return str(made[0])


async def pooled(store: Store, *proxy_ids: str, **fields: Any) -> str:
    """The id of a pool of these proxies."""
    new = new_pool(pb.ProxyPool(name="main", proxy_ids=proxy_ids, **fields))
    await store.proxy_pools.create(new, None, lambda made: b"", validate_only=False)
    pools, _ = await store.proxy_pools.page(None, 1, 1_000_000)
    return str(pools[0].id)


async def change(store: Store, pool_id: str, *proxy_ids: str, **fields: Any) -> None:
    new = new_pool(pb.ProxyPool(name="main", proxy_ids=proxy_ids, **fields))
    await store.proxy_pools.update(
        UUID(pool_id), new, lambda made: b"", etag="", validate_only=False
    )


async def proxy_changes(pool: Pool) -> list[ProxyChanged]:
    rows = await pool.fetch("SELECT body FROM system_events ORDER BY revision")
    return [SystemEvent.FromString(row["body"]).proxy_changed for row in rows]


async def status_of(store: Store, proxy_id: str) -> pb.ProxyStatus:
    statuses = await store.proxies.reports.statuses([UUID(proxy_id)])
    assert UUID(proxy_id) in statuses
    return statuses[UUID(proxy_id)]


def used(live: LivePool, result: Result, reason: str = "") -> str:
    """The proxy of the next fetch, which ends like this; empty without one."""
    if (use := live.choose()) is None:
        return ""
    live.give_back(use, result, reason)
    return use.member.proxy_id


async def test_pages_come_through_a_stored_proxy_with_its_password(
    store: Store, proxy_pools: ProxyPools
) -> None:
    async with serving(page()) as site, proxying(user="u", password=SECRET) as server:
        pool_id = await pooled(store, await stored(store, server.proxy()))
        live = await proxy_pools.pool(pool_id)
        async with fetching(Names(), proxies=live) as fetcher:
            fetch = await fetcher.fetch("site.example", plain(site.port))

    assert (fetch.verdict, fetch.proxy) == (Verdict.OK, server.proxy().label)


async def test_a_pool_that_is_not_there_has_no_proxy(proxy_pools: ProxyPools) -> None:
    assert (await proxy_pools.pool(str(uuid4()))).choose() is None


async def test_changes_of_a_pool_are_followed_and_health_is_kept(
    store: Store, proxy_pools: ProxyPools
) -> None:
    bad, good, new = [
        await stored(store, Proxy(Scheme.HTTP, "192.0.2.1", port)) for port in (1, 2, 3)
    ]
    rules = pb.ProxyHealthRules(failure_limit=1)
    pool_id = await pooled(store, bad, good, health_rules=rules)
    live = await proxy_pools.pool(pool_id)
    while used(live, Result.WORKED) != good:
        pass
    assert used(live, Result.FAILED, "broken") == bad
    assert {used(live, Result.WORKED) for _ in range(4)} == {good}

    async with telling(proxy_pools):
        await change(store, pool_id, bad, good, new, health_rules=rules)

        async def joined() -> None:
            assert {used(live, Result.WORKED) for _ in range(4)} == {good, new}

        await eventually(joined)
        await store.proxies.update_all([UUID(new)], weight=0, disabled=True)

        async def left() -> None:
            assert {used(live, Result.WORKED) for _ in range(4)} == {good}

        await eventually(left)
        await change(
            store,
            pool_id,
            bad,
            good,
            new,
            health_rules=rules,
            strategy=pb.PROXY_STRATEGY_LEAST_USED,
        )
        await store.proxies.update_all([UUID(new)], weight=0, disabled=False)
        await eventually(joined)
        await store.proxies.delete_all([UUID(good), UUID(new)])

        async def empty() -> None:
            assert used(live, Result.WORKED) == ""

        await eventually(empty)
        await store.proxy_pools.delete(UUID(pool_id), etag="")
    assert await proxy_pools.pool(pool_id) is live


async def test_what_becomes_of_proxies_is_told(
    store: Store, proxy_pools: ProxyPools, pool: Pool
) -> None:
    async with serving(page()) as site:
        async with proxying(user="u", password=SECRET) as server:
            proxy = server.proxy()
        proxy_id = await stored(store, proxy)
        rules = pb.ProxyHealthRules(failure_limit=2, success_limit=1)
        rules.first_delay.FromSeconds(1)
        pool_id = await pooled(store, proxy_id, health_rules=rules)
        live = await proxy_pools.pool(pool_id)

        async def fetched() -> Fetch:
            async with fetching(Names(), proxies=live) as fetcher:
                return await fetcher.fetch("site.example", plain(site.port))

        async def is_down() -> None:
            status = await status_of(store, proxy_id)
            assert status.health == pb.PROXY_HEALTH_DOWN
            assert (status.use_count, status.failed_count, status.worked_count) == (2, 2, 0)
            assert status.last_failure == "the proxy: connection refused"

        async def is_up() -> None:
            assert (await fetched()).verdict is Verdict.OK
            assert (await status_of(store, proxy_id)).health == pb.PROXY_HEALTH_UP

        async def is_told(count: int) -> None:
            assert len(await proxy_changes(pool)) == count

        async with telling(proxy_pools):
            for _ in range(2):
                assert (await fetched()).verdict is Verdict.PROXY_ERROR
            await eventually(is_down)
            await eventually(lambda: is_told(1))
            assert (await fetched()).reason == "no proxy of the pool can be used now"
            # Who comes back is tried, and used again.
            async with proxying(port=server.port, user="u", password=SECRET):
                await eventually(is_up)
                await eventually(lambda: is_told(2))

    down, up = await proxy_changes(pool)
    assert (down.from_health, down.to_health) == (pb.PROXY_HEALTH_UP, pb.PROXY_HEALTH_DOWN)
    assert (up.from_health, up.to_health) == (pb.PROXY_HEALTH_ON_TRIAL, pb.PROXY_HEALTH_UP)
    assert (down.proxy_id, down.proxy_pool_id, down.worker_id) == (proxy_id, pool_id, "w1")
    assert (down.proxy, down.reason) == (proxy.label, "the proxy: connection refused")
    assert SECRET not in str(down) + str(up)
    # Who ended in order is forgotten.
    assert await store.proxies.reports.statuses([UUID(proxy_id)]) == {}


async def test_a_change_that_comes_while_another_is_told_is_told_too(
    store: Store, pool: Pool
) -> None:
    proxy_pools = ProxyPools(store.proxies, policy=LOOPBACK, period=SOON, max_changes=2)
    ids = [await stored(store, Proxy(Scheme.HTTP, "192.0.2.1", port)) for port in (1, 2, 3)]
    pool_id = await pooled(store, *ids, health_rules=pb.ProxyHealthRules(failure_limit=1))
    live = await proxy_pools.pool(pool_id)

    async def waits() -> None:
        assert await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")

    async def all_told() -> None:
        assert [each.proxy_id for each in await proxy_changes(pool)] == failed

    async with telling(proxy_pools):
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE system_events IN ACCESS EXCLUSIVE MODE")
            failed = [used(live, Result.FAILED, "broken")]
            await eventually(waits)
            # One more than are kept: the one that is being told makes room.
            failed += [used(live, Result.FAILED, "broken") for _ in range(2)]
        await eventually(all_told)
    assert set(failed) == set(ids)


async def test_what_processes_say_of_a_proxy_is_summed_up(store: Store) -> None:
    proxy_id = await stored(store, Proxy(Scheme.HTTP, "192.0.2.1", 1))
    pool_id = await pooled(store, proxy_id, health_rules=pb.ProxyHealthRules(failure_limit=1))
    one, other = (ProxyPools(store.proxies, period=SOON) for _ in range(2))
    worked, failed = await one.pool(pool_id), await other.pool(pool_id)
    for _ in range(3):
        used(worked, Result.WORKED)
    used(worked, Result.UNKNOWN)
    under_way = worked.choose()
    used(failed, Result.FAILED, "broken")

    async def summed() -> None:
        status = await status_of(store, proxy_id)
        assert status.health == pb.PROXY_HEALTH_DOWN
        assert (status.use_count, status.in_flight_count) == (6, 1)
        assert (status.worked_count, status.failed_count, status.unknown_count) == (3, 1, 1)
        assert status.last_failure == "broken"
        assert status.HasField("report_time")

    async with telling(one, "w1"), telling(other, "w2"):
        await eventually(summed)
    assert under_way is not None


async def test_a_proxy_whose_password_does_not_open_is_not_used(pool: Pool, store: Store) -> None:
    proxy_id = await stored(store, Proxy(Scheme.HTTP, "192.0.2.1", 1))
    locked = pb.Proxy(url="http://192.0.2.2:1", user="u", password=SECRET)
    await store.proxies.create([new_proxy(locked)], None, lambda made: b"", validate_only=False)
    (_, sealed), _ = await store.proxies.page(None, 10)
    pool_id = await pooled(store, proxy_id, str(sealed.id))
    stranger = Store(pool, box=SecretBox([b"o" * KEY_SIZE]))
    proxy_pools = ProxyPools(stranger.proxies, period=SOON)
    live = await proxy_pools.pool(pool_id)

    async def told() -> None:
        status = await status_of(store, str(sealed.id))
        assert status.health == pb.PROXY_HEALTH_DOWN
        assert status.last_failure.startswith("its password: sealed with the key ")

    async with telling(proxy_pools):
        await eventually(told)
    assert {used(live, Result.WORKED) for _ in range(3)} == {proxy_id}


async def test_a_plan_that_names_a_pool_never_goes_round_it(
    store: Store, engines: Engines, proxy_pools: ProxyPools
) -> None:
    dns = Plan(resolvers_of(["127.0.0.1:9"]))
    async with serving(page()) as site, proxying() as server:

        async def fetched(fetchers: Fetchers, pool_id: str) -> Fetch:
            settings = HttpSettings(
                proxy_pool_id=pool_id,
                allowed_networks=["127.0.0.1/32"],
                http_ports=[site.port],
                schemes=["http"],
            )
            plan = http_plan_of(settings, networks_of("127.0.0.0/8"))
            async with fetchers.use(plan, dns) as fetcher:
                return await fetcher.fetch(
                    "site.example", plain(site.port), addresses=["127.0.0.1"]
                )

        pool_id = await pooled(store, await stored(store, server.proxy("127.0.0.2")))
        async with Fetchers(engines, proxy_pools=proxy_pools) as fetchers:
            gone = await fetched(fetchers, str(uuid4()))
            # The proxy's network is the installation's to allow, not the campaign's.
            outside = await fetched(fetchers, pool_id)
        async with Fetchers(engines) as fetchers:
            without = await fetched(fetchers, pool_id)
        async with Fetchers(engines, proxy_pools=ProxyPools(store.proxies)) as fetchers:
            refused = await fetched(fetchers, pool_id)

    none = "no proxy of the pool can be used now"
    assert [fetch.verdict for fetch in (gone, without, refused)] == [Verdict.PROXY_ERROR] * 3
    assert (gone.reason, without.reason) == (none, none)
    assert "127.0.0.0/8" in refused.reason
    # 127.0.0.2 was let through; nobody listens there.
    assert outside.reason == "the proxy: connection refused"
    assert site.connections == 0


async def test_many_proxies_are_read_once_and_opened_once(
    store: Store, proxy_pools: ProxyPools
) -> None:
    servers = [ProxyServer(Scheme.HTTP, port=port, user="u", password="p") for port in (1, 2)]
    ids = [await stored(store, server.proxy("192.0.2.1")) for server in servers]
    live = await proxy_pools.pool(await pooled(store, *ids))
    before = [live.choose() for _ in ids]
    await proxy_pools.refresh()
    after = [live.choose() for _ in ids]

    assert {use.member.proxy.password.reveal() for use in before if use} == {"p"}
    assert {id(use.member) for use in before if use} == {id(use.member) for use in after if use}
