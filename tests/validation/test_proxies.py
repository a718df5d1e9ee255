"""Proxies and their pools through a real port: kept, imported, tried, and their passwords never
told."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from domainflow.validation.v1 import proxy_pb2 as pb
from domainflow.validation.v1.validation_service_pb2_grpc import (
    ValidationServiceStub,
    add_ValidationServiceServicer_to_server,
)
from services.chassis.postgres import Pool
from services.chassis.seal import Seal
from services.chassis.secrets import SecretBox, new_key
from services.chassis.server import CallGuard
from services.validation.engines import Engines
from services.validation.http.addresses import AddressPolicy
from services.validation.http.proxies import Scheme
from services.validation.persona_store import Personas
from services.validation.proxy_service import new_proxy
from services.validation.service import RULES, ValidationService
from services.validation.store import Store
from tests.refusals import refused
from tests.validation.http.proxies import proxying
from tests.validation.http.servers import page, serving

Stub = ValidationServiceStub
# Nothing else has it.
SECRET = "dn3-Zq!x7"


@asynccontextmanager
async def serving_calls(pool: Pool, engines: Engines, box: SecretBox | None) -> AsyncIterator[Stub]:
    server = grpc.aio.server(interceptors=[CallGuard(rules=RULES, max_calls=10, max_streams=10)])
    service = ValidationService(
        store=Store(pool, box=box),
        engines=engines,
        personas=Personas(pool),
        seal=Seal([b"k" * 32]),
        policy=AddressPolicy.parse(allowed=["127.0.0.0/8"]),
    )
    add_ValidationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield ValidationServiceStub(channel)
    await server.stop(0)


@pytest.fixture
def box() -> SecretBox:
    return SecretBox([new_key()])


@pytest.fixture
async def stub(pool: Pool, engines: Engines, box: SecretBox) -> AsyncIterator[Stub]:
    async with serving_calls(pool, engines, box) as stub:
        yield stub


async def create(stub: Stub, url: str = "http://192.0.2.1:3128", **fields) -> pb.Proxy:
    request = pb.CreateProxyRequest(proxy=pb.Proxy(url=url, **fields))
    return (await stub.CreateProxy(request)).proxy


async def get(stub: Stub, proxy_id: str) -> pb.Proxy:
    return (await stub.GetProxy(pb.GetProxyRequest(proxy_id=proxy_id))).proxy


async def listed(stub: Stub) -> list[str]:
    answer = await stub.ListProxies(pb.ListProxiesRequest())
    return [proxy.url for proxy in answer.proxies]


async def create_pool(stub: Stub, name: str = "main", **fields) -> pb.ProxyPool:
    request = pb.CreateProxyPoolRequest(proxy_pool=pb.ProxyPool(name=name, **fields))
    return (await stub.CreateProxyPool(request)).proxy_pool


async def get_pool(stub: Stub, pool_id: str) -> pb.ProxyPool:
    return (await stub.GetProxyPool(pb.GetProxyPoolRequest(proxy_pool_id=pool_id))).proxy_pool


# Keeping proxies


async def test_a_proxy_is_kept_without_showing_its_password(stub, pool, box):
    made = await create(stub, "https://Proxy.Example:8443/", user="u", password=SECRET, weight=7)

    assert made == await get(stub, made.proxy_id)
    assert (made.url, made.user, made.weight) == ("https://proxy.example:8443", "u", 7)
    assert made.has_password
    assert not made.HasField("password")
    stored = await Store(pool, box=box).proxies.get(await pool.fetchval("SELECT id FROM proxies"))
    assert Store(pool, box=box).proxies.open(stored).password.reveal() == SECRET


async def test_a_repeated_create_returns_the_first_answer(stub):
    request = pb.CreateProxyRequest(
        proxy=pb.Proxy(url="http://192.0.2.1:1", user="u", password=SECRET),
        request_id=str(uuid4()),
    )
    first = await stub.CreateProxy(request)

    assert await stub.CreateProxy(request) == first
    assert len(await listed(stub)) == 1
    request.proxy.url = "http://192.0.2.1:2"
    assert (await refused(stub.CreateProxy(request))).reason == "REQUEST_ID_REUSED"


async def test_url_and_user_together_are_unique(stub):
    made = await create(stub, user="u", password="p")
    await create(stub, user="v", password="p")
    refusal = await refused(
        stub.CreateProxy(pb.CreateProxyRequest(proxy=pb.Proxy(url=made.url, user="u")))
    )

    assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "RESOURCE_EXISTS")
    assert refusal.metadata["id"] == made.proxy_id
    assert refusal.metadata["resource"] == "proxy"


async def test_an_update_keeps_the_password_unless_another_is_given(stub, pool, box):
    async def password() -> str:
        store = Store(pool, box=box).proxies
        row = await store.get(await pool.fetchval("SELECT id FROM proxies"))
        return store.open(row).password.reveal()

    made = await create(stub, "socks5://192.0.2.1:1080", user="u", password=SECRET)

    async def update(**fields) -> pb.Proxy:
        changed = pb.Proxy(proxy_id=made.proxy_id, url=made.url, **fields)
        return (await stub.UpdateProxy(pb.UpdateProxyRequest(proxy=changed))).proxy

    kept = await update(user="u", description="d")
    assert (kept.has_password, kept.description, await password()) == (True, "d", SECRET)
    assert kept.etag != made.etag
    await update(user="u", password="other")
    assert await password() == "other"
    assert not (await update()).has_password
    # SOCKS5 has no user without a password, and now there is none.
    changed = pb.Proxy(proxy_id=made.proxy_id, url=made.url, user="u")
    refusal = await refused(stub.UpdateProxy(pb.UpdateProxyRequest(proxy=changed)))
    assert refusal.fields == {"proxy.password"}


@pytest.mark.parametrize(
    "url", ["http://203.0.113.9:8080", "http://192.0.2.1:8081", "https://192.0.2.1:8080"]
)
async def test_a_stored_password_goes_to_no_other_place(stub, pool, box, url):
    made = await create(stub, "http://192.0.2.1:8080", user="u", password=SECRET)

    def moved(**fields) -> pb.UpdateProxyRequest:
        return pb.UpdateProxyRequest(proxy=pb.Proxy(proxy_id=made.proxy_id, url=url, **fields))

    refusal = await refused(stub.UpdateProxy(moved(user="u")))
    other_user = await refused(stub.UpdateProxy(moved(user="v")))
    kept = (await stub.GetProxy(pb.GetProxyRequest(proxy_id=made.proxy_id))).proxy
    repeated = (await stub.UpdateProxy(moved(user="u", password=SECRET))).proxy
    without = (await stub.UpdateProxy(moved(user="u", password=""))).proxy

    assert refusal.fields == other_user.fields == {"proxy.password"}
    assert (kept.url, kept.etag) == (made.url, made.etag)
    assert (repeated.url, repeated.has_password) == (url, True)
    assert not without.has_password
    # There is nothing to give away any more.
    back = pb.Proxy(proxy_id=made.proxy_id, url=made.url, user="u")
    assert (await stub.UpdateProxy(pb.UpdateProxyRequest(proxy=back))).proxy.url == made.url


async def test_an_update_of_what_changed_meanwhile_is_refused(stub):
    made = await create(stub)
    changed = pb.Proxy(proxy_id=made.proxy_id, url=made.url, etag='"99"')
    refusal = await refused(stub.UpdateProxy(pb.UpdateProxyRequest(proxy=changed)))
    gone = await refused(stub.GetProxy(pb.GetProxyRequest(proxy_id=str(uuid4()))))
    request = pb.DeleteProxyRequest(proxy_id=made.proxy_id, etag='"99"')

    assert (refusal.code, refusal.metadata["etag"]) == ("ABORTED", made.etag)
    assert (await refused(stub.DeleteProxy(request))).code == "ABORTED"
    assert (gone.code, gone.reason) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")


BAD = [
    ({"url": "ftp://192.0.2.1:21"}, {"proxy.url"}),
    ({"url": "http://192.0.2.1"}, {"proxy.url"}),
    ({"url": f"http://u:{SECRET}@192.0.2.1:1"}, {"proxy.url"}),
    ({"url": f"http://{SECRET}"}, {"proxy.url"}),
    ({"url": "http://192.0.2.1:1/path"}, {"proxy.url"}),
    ({"url": "http://192.0.2.1:1", "password": SECRET}, {"proxy.user"}),
    ({"url": "http://192.0.2.1:1", "user": "a:b", "password": SECRET}, {"proxy.user"}),
    ({"url": "socks5://192.0.2.1:1", "user": "u"}, {"proxy.password"}),
    ({"url": "http://192.0.2.1:1", "user": "u", "password": SECRET + "\n"}, {"proxy.password"}),
    ({"url": "http://192.0.2.1:1", "user": "u", "password": SECRET * 60}, {"proxy.password"}),
    ({"url": "http://192.0.2.1:1", "description": "\0"}, {"proxy.description"}),
    ({"url": "http://192.0.2.1:1", "weight": 1001}, {"proxy.weight"}),
]


@pytest.mark.parametrize(("fields", "named"), BAD)
async def test_what_is_wrong_with_a_proxy_is_named_and_not_repeated(stub, fields, named):
    refusal = await refused(stub.CreateProxy(pb.CreateProxyRequest(proxy=pb.Proxy(**fields))))

    assert refusal.fields == named
    assert SECRET not in refusal.message


async def test_proxies_are_listed_in_pages_by_place(stub):
    urls = [f"http://192.0.2.{number}:8080" for number in range(1, 6)]
    await stub.BulkCreateProxies(
        pb.BulkCreateProxiesRequest(proxies=[pb.Proxy(url=url) for url in reversed(urls)])
    )
    found, token = [], ""
    while True:
        answer = await stub.ListProxies(pb.ListProxiesRequest(page_size=2, page_token=token))
        assert len(answer.proxies) <= 2
        found += [proxy.url for proxy in answer.proxies]
        if not (token := answer.next_page_token):
            break

    assert found == urls


async def test_a_page_of_long_descriptions_fits_into_an_answer(stub):
    proxies = [
        pb.Proxy(url=f"http://192.0.2.1:{port}", description="ü" * 2000) for port in range(1, 701)
    ]
    await stub.BulkCreateProxies(pb.BulkCreateProxiesRequest(proxies=proxies))
    answer = await stub.ListProxies(pb.ListProxiesRequest(page_size=1000))
    rest = pb.ListProxiesRequest(page_size=1000, page_token=answer.next_page_token)

    assert answer.ByteSize() < 3 * 1024 * 1024
    assert len(answer.proxies) + len((await stub.ListProxies(rest)).proxies) == 700


async def test_bulk_creation_is_all_or_nothing(stub):
    await create(stub, "http://192.0.2.1:1")
    proxies = [pb.Proxy(url=f"http://192.0.2.1:{port}") for port in (2, 1)]
    taken = await refused(stub.BulkCreateProxies(pb.BulkCreateProxiesRequest(proxies=proxies)))
    twice = [pb.Proxy(url="http://192.0.2.1:3"), pb.Proxy(url="http://192.0.2.1:3/")]
    repeated = await refused(stub.BulkCreateProxies(pb.BulkCreateProxiesRequest(proxies=twice)))

    assert taken.reason == "RESOURCE_EXISTS"
    assert repeated.fields == {"proxies[1].url"}
    assert await listed(stub) == ["http://192.0.2.1:1"]


async def test_bulk_changes_change_what_differs(stub):
    ids = [(await create(stub, f"http://192.0.2.1:{port}")).proxy_id for port in (1, 2)]

    async def update(proxy_ids, **fields) -> int:
        request = pb.BulkUpdateProxiesRequest(proxy_ids=proxy_ids, **fields)
        return (await stub.BulkUpdateProxies(request)).updated_count

    assert await update(ids, disabled=True) == 2
    assert await update(ids[:1], weight=5) == 1
    assert await update(ids, weight=5) == 1
    first = await get(stub, ids[0])
    assert (first.weight, first.disabled) == (5, True)
    missing = pb.BulkUpdateProxiesRequest(proxy_ids=[ids[0], str(uuid4())], weight=9)
    assert (await refused(stub.BulkUpdateProxies(missing))).reason == "RESOURCE_NOT_FOUND"
    assert (await get(stub, ids[0])).weight == 5
    request = pb.BulkDeleteProxiesRequest(proxy_ids=[*ids, str(uuid4())])
    assert (await stub.BulkDeleteProxies(request)).deleted_count == 2
    assert await listed(stub) == []


async def test_validate_only_stores_nothing(stub):
    proxy = pb.Proxy(url="http://192.0.2.1:1")
    await stub.CreateProxy(pb.CreateProxyRequest(proxy=proxy, validate_only=True))
    await stub.BulkCreateProxies(pb.BulkCreateProxiesRequest(proxies=[proxy], validate_only=True))
    request = pb.ImportProxiesRequest(document="192.0.2.1:1", validate_only=True)
    assert (await stub.ImportProxies(request)).created_count == 1

    assert await listed(stub) == []


async def test_without_a_key_a_password_is_refused(pool, engines):
    async with serving_calls(pool, engines, None) as stub:
        await create(stub)
        proxy = pb.Proxy(url="http://192.0.2.1:1", user="u", password=SECRET)
        refusal = await refused(stub.CreateProxy(pb.CreateProxyRequest(proxy=proxy)))
        request = pb.ImportProxiesRequest(document=f"192.0.2.1:1:u:{SECRET}")
        imported = await refused(stub.ImportProxies(request))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "NO_SECRET_KEY")
    assert imported.reason == "NO_SECRET_KEY"


# Lists


async def test_a_list_is_taken_over_with_what_is_wrong_in_it(stub, pool, box):
    there = await create(stub, "http://192.0.2.1:8080", user="u", password="old")
    members = await create_pool(stub, proxy_ids=[])
    document = f"""
# What somebody sent.
192.0.2.1:8080:u:{SECRET}
socks5://v:{SECRET}@192.0.2.2:1080
https://proxy.example:443
192.0.2.3
192.0.2.4:99999:w:{SECRET}
HTTPS://proxy.example:443/
"""
    request = pb.ImportProxiesRequest(
        document=document, proxy_pool_id=members.proxy_pool_id, default_scheme="http"
    )
    answer = await stub.ImportProxies(request)

    assert (answer.created_count, answer.present_count, answer.duplicate_count) == (2, 1, 1)
    assert [bad.line_number for bad in answer.rejected_lines] == [6, 7]
    assert answer.rejected_count == 2
    assert SECRET not in str(answer)
    joined = (await get_pool(stub, members.proxy_pool_id)).proxy_ids
    assert joined[0] == there.proxy_id
    assert len(joined) == 3
    store = Store(pool, box=box).proxies
    opened = [store.open(each) for each in (await store.page(None, 10))[0]]
    assert [proxy.password.reveal() for proxy in opened] == [SECRET, "", SECRET]

    again = await stub.ImportProxies(request)
    assert (again.created_count, again.present_count) == (0, 3)
    assert (await get_pool(stub, members.proxy_pool_id)).proxy_ids == joined


async def test_ten_thousand_lines_are_taken_over_and_a_pool_takes_a_thousand(stub):
    document = "\n".join(
        f"10.{number // 250}.{number % 250}.1:8080:user:{SECRET}" for number in range(10_000)
    )
    pool_id = (await create_pool(stub)).proxy_pool_id
    request = pb.ImportProxiesRequest(document=document, proxy_pool_id=pool_id)
    refusal = await refused(stub.ImportProxies(request))
    answer = await stub.ImportProxies(pb.ImportProxiesRequest(document=document))

    assert refusal.fields == {"proxy_pool_id"}
    assert (answer.created_count, answer.rejected_count) == (10_000, 0)


# Pools


async def test_a_pool_keeps_its_proxies_in_their_order(stub):
    ids = [(await create(stub, f"http://192.0.2.1:{port}")).proxy_id for port in range(1, 5)]
    rules = pb.ProxyHealthRules(failure_limit=5, first_delay=Duration(seconds=3))
    made = await create_pool(
        stub,
        proxy_ids=[ids[2], ids[0], ids[3]],
        strategy=pb.PROXY_STRATEGY_WEIGHTED,
        health_rules=rules,
        description="d",
    )

    assert made == await get_pool(stub, made.proxy_pool_id)
    assert list(made.proxy_ids) == [ids[2], ids[0], ids[3]]
    assert (made.strategy, made.health_rules) == (pb.PROXY_STRATEGY_WEIGHTED, rules)
    assert list((await stub.ListProxyPools(pb.ListProxyPoolsRequest())).proxy_pools) == [made]

    # One that is deleted leaves its pools, which are other ones then.
    await stub.DeleteProxy(pb.DeleteProxyRequest(proxy_id=ids[0]))
    smaller = await get_pool(stub, made.proxy_pool_id)
    assert list(smaller.proxy_ids) == [ids[2], ids[3]]
    assert smaller.etag != made.etag

    same = await stub.UpdateProxyPool(pb.UpdateProxyPoolRequest(proxy_pool=smaller))
    assert same.proxy_pool == smaller
    smaller.proxy_ids[:] = [ids[1]]
    await stub.UpdateProxyPool(pb.UpdateProxyPoolRequest(proxy_pool=smaller))
    assert list((await get_pool(stub, made.proxy_pool_id)).proxy_ids) == [ids[1]]
    stale = await refused(stub.UpdateProxyPool(pb.UpdateProxyPoolRequest(proxy_pool=smaller)))
    assert (stale.code, stale.metadata["resource"]) == ("ABORTED", "proxy_pool")
    await stub.DeleteProxyPool(pb.DeleteProxyPoolRequest(proxy_pool_id=made.proxy_pool_id))
    gone = await refused(
        stub.GetProxyPool(pb.GetProxyPoolRequest(proxy_pool_id=made.proxy_pool_id))
    )
    assert gone.metadata["resource"] == "proxy_pool"


async def test_a_pool_of_proxies_that_there_are_not_is_refused(stub):
    missing = str(uuid4())
    pool = pb.ProxyPool(name="a", proxy_ids=[missing])
    refusal = await refused(stub.CreateProxyPool(pb.CreateProxyPoolRequest(proxy_pool=pool)))
    twice = pb.ProxyPool(name="a", proxy_ids=[missing, missing.upper()])
    repeated = await refused(stub.CreateProxyPool(pb.CreateProxyPoolRequest(proxy_pool=twice)))
    rules = pb.ProxyHealthRules(first_delay=Duration(seconds=100), max_delay=Duration(seconds=50))
    crossed = pb.ProxyPool(name="a", health_rules=rules)
    endless = pb.ProxyHealthRules(first_delay=Duration(seconds=1 << 62))
    for_ever = await refused(
        stub.CreateProxyPool(
            pb.CreateProxyPoolRequest(proxy_pool=pb.ProxyPool(name="a", health_rules=endless))
        )
    )
    delays = await refused(stub.CreateProxyPool(pb.CreateProxyPoolRequest(proxy_pool=crossed)))

    assert (refusal.reason, refusal.metadata["id"]) == ("RESOURCE_NOT_FOUND", missing)
    assert repeated.fields == {"proxy_pool.proxy_ids[1]"}
    assert delays.fields == {"proxy_pool.health_rules.max_delay"}
    assert "proxy_pool.health_rules.first_delay" in for_ever.fields


# Trials


async def test_proxies_are_tried(stub):
    async with (
        serving(page(status="404 Not Found")) as site,
        proxying(user="u", password=SECRET) as right,
        proxying(Scheme.SOCKS5, user="u", password="another") as wrong,
    ):
        ids = [
            (await create(stub, server.proxy().label, user="u", password=SECRET)).proxy_id
            for server in (right, wrong)
        ]
        url = f"http://127.0.0.1:{site.port}/"
        answer = await stub.TestProxies(pb.TestProxiesRequest(proxy_ids=ids, url=url))
        private = pb.TestProxiesRequest(proxy_ids=ids[:1], url="http://10.0.0.1/")
        (inside,) = (await stub.TestProxies(private)).proxy_tests

    works, fails = answer.proxy_tests
    assert [test.proxy_id for test in answer.proxy_tests] == ids
    assert (works.worked, works.status_code, works.failure) == (True, 404, "")
    assert works.duration.ToNanoseconds() > 0
    assert (fails.worked, fails.status_code) == (False, 0)
    assert fails.failure == "the proxy does not take these credentials"
    assert not inside.worked
    assert "10.0.0.0/8" in inside.failure
    # The one of the first trial only.
    assert right.places == [f"127.0.0.1:{site.port}"]


async def test_a_trial_of_nonsense_is_refused(stub):
    made = await create(stub)
    for request in (
        pb.TestProxiesRequest(proxy_ids=[made.proxy_id], url="ftp://example.com/"),
        pb.TestProxiesRequest(proxy_ids=[made.proxy_id], url="nonsense"),
    ):
        assert (await refused(stub.TestProxies(request))).fields == {"url"}
    missing = pb.TestProxiesRequest(proxy_ids=[str(uuid4())], url="http://example.com/")
    assert (await refused(stub.TestProxies(missing))).reason == "RESOURCE_NOT_FOUND"


# Secrets


async def test_passwords_are_sealed_anew_when_there_is_a_newer_key(pool):
    old, new = new_key(), new_key()
    given = [new_proxy(pb.Proxy(url="http://192.0.2.1:1", user="u", password=SECRET))]
    before = Store(pool, box=SecretBox([old])).proxies
    await before.create(given, None, lambda made: b"", validate_only=False)
    both = Store(pool, box=SecretBox([new, old])).proxies
    after = Store(pool, box=SecretBox([new])).proxies
    assert await after.seal_anew() == 0
    assert [await both.seal_anew(), await both.seal_anew()] == [1, 0]
    (stored,), _ = await after.page(None, 10)

    assert after.open(stored).password.reveal() == SECRET
    assert stored.version == 1


async def test_a_password_is_found_nowhere(stub, pool, caplog):
    """In all tables, answers, refusals and log lines, whatever is done with it."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    async with serving(page()) as site, proxying(user="u", password=SECRET) as server:
        request = pb.CreateProxyRequest(
            proxy=pb.Proxy(url=server.proxy().label, user="u", password=SECRET),
            request_id=str(uuid4()),
        )
        made = (await stub.CreateProxy(request)).proxy
        said.append(str(made))
        said.append(
            (
                await refused(
                    stub.BulkCreateProxies(pb.BulkCreateProxiesRequest(proxies=[request.proxy]))
                )
            ).message
        )
        broken = pb.Proxy(url="http://192.0.2.1:1", user="u\n", password=SECRET)
        said.append((await refused(stub.CreateProxy(pb.CreateProxyRequest(proxy=broken)))).message)
        document = f"192.0.2.7:1:u:{SECRET}\n192.0.2.8:x:u:{SECRET}\nhttp://u:{SECRET}@\n{SECRET}"
        said.append(str(await stub.ImportProxies(pb.ImportProxiesRequest(document=document))))
        url = f"http://127.0.0.1:{site.port}/"
        ids = [each.proxy_id for each in (await stub.ListProxies(pb.ListProxiesRequest())).proxies]
        said.append(str(await stub.TestProxies(pb.TestProxiesRequest(proxy_ids=ids[:1], url=url))))
        said.append(str(await stub.ListProxies(pb.ListProxiesRequest())))
    store = Store(pool).proxies
    said += [repr(each) for each in (await store.page(None, 10))[0]]
    said += [record.getMessage() for record in caplog.records]

    assert not [each for each in said if SECRET in each]
    assert not [table async for table in tables_with(pool, SECRET.encode())]


async def tables_with(pool: Pool, text: bytes) -> AsyncIterator[str]:
    """Tables that have it in any form that is no cipher."""
    rows = await pool.fetch(
        """SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n
           ON n.oid = relnamespace WHERE relkind = 'r' AND nspname = 'public'"""
    )
    for row in rows:
        # bytea is shown in hexadecimal.
        dumped = await pool.fetch(f"SELECT t::text AS row FROM {row['name']} t")
        if any(text.decode() in it["row"] or text.hex() in it["row"] for it in dumped):
            yield row["name"]
