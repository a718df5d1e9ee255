"""The part of ValidationService that keeps proxies and their pools.

A password goes in and never comes out: neither in answers nor in refusals, events or logs.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from domainflow.validation.v1 import proxy_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from services.chassis.errors import FieldViolation, InvalidFields, InvalidToken
from services.chassis.requests import RequestKey, request_key
from services.chassis.seal import Seal, binding
from services.chassis.server import Rules
from services.validation.documents import Form
from services.validation.http import proxies as parsing
from services.validation.http import urls
from services.validation.http.addresses import AddressPolicy
from services.validation.http.proxies import ProxyList, Scheme
from services.validation.http.urls import BadUrl
from services.validation.named_calls import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    PAGE_BYTES,
    REQUEST_AGE,
    NamedCalls,
    check_texts,
    fill,
    rules_of,
)
from services.validation.named_page import Place
from services.validation.named_store import Stored
from services.validation.proxy_pool_store import ProxyPoolStore, new_pool
from services.validation.proxy_pools import rules_of as health_rules_of
from services.validation.proxy_store import NewProxy, ProxyStore, StoredProxy
from services.validation.proxy_trial import try_proxies

MAX_REJECTED = 100
_MAX_BULK = 1000
# No call has it: a password that is stored and not repeated has some length.
_SOME = "x"

Context = Any
Answer = TypeVar("Answer", bound=Message)


class ProxyService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    _proxies: ProxyStore
    _proxy_pools: NamedCalls[pb.ProxyPool]
    _seal: Seal
    # Of the addresses of proxies, and of what they are tried with.
    _policy: AddressPolicy

    async def CreateProxy(
        self, request: pb.CreateProxyRequest, context: Context
    ) -> pb.CreateProxyResponse:
        await self._proxy_pools.store.forget_requests(REQUEST_AGE)
        response = await self._proxies.create(
            [new_proxy(request.proxy)],
            _key(request),
            lambda stored: pb.CreateProxyResponse(proxy=proxy_to_pb(stored[0])).SerializeToString(),
            validate_only=request.validate_only,
        )
        return pb.CreateProxyResponse.FromString(response)

    async def GetProxy(self, request: pb.GetProxyRequest, context: Context) -> pb.GetProxyResponse:
        stored = await self._proxies.get(UUID(request.proxy_id))
        return pb.GetProxyResponse(proxy=(await self._shown([stored]))[0])

    async def ListProxies(
        self, request: pb.ListProxiesRequest, context: Context
    ) -> pb.ListProxiesResponse:
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        bound = binding("ListProxies", b"")
        token = request.page_token
        after = _place(Place.open(self._seal, token, bound)) if token else None
        stored, more = await self._proxies.page(after, size)
        response = pb.ListProxiesResponse()
        room = PAGE_BYTES
        for proxy in await self._shown(stored):
            room -= proxy.ByteSize()
            if response.proxies and room < 0:
                more = True
                break
            response.proxies.append(proxy)
        if more:
            last = stored[len(response.proxies) - 1].place
            response.next_page_token = Place(json.dumps(last)).seal(self._seal, bound)
        return response

    async def UpdateProxy(
        self, request: pb.UpdateProxyRequest, context: Context
    ) -> pb.UpdateProxyResponse:
        answer = await self._proxies.update(
            UUID(request.proxy.proxy_id),
            new_proxy(request.proxy),
            lambda stored: pb.UpdateProxyResponse(proxy=proxy_to_pb(stored[0])).SerializeToString(),
            etag=request.proxy.etag,
            validate_only=request.validate_only,
        )
        return pb.UpdateProxyResponse.FromString(answer)

    async def DeleteProxy(
        self, request: pb.DeleteProxyRequest, context: Context
    ) -> pb.DeleteProxyResponse:
        await self._proxies.delete(UUID(request.proxy_id), etag=request.etag)
        return pb.DeleteProxyResponse()

    async def BulkCreateProxies(
        self, request: pb.BulkCreateProxiesRequest, context: Context
    ) -> pb.BulkCreateProxiesResponse:
        response = await self._proxies.create(
            [new_proxy(proxy) for proxy in request.proxies],
            None,
            lambda stored: pb.BulkCreateProxiesResponse(
                proxies=map(proxy_to_pb, stored)
            ).SerializeToString(),
            validate_only=request.validate_only,
        )
        return pb.BulkCreateProxiesResponse.FromString(response)

    async def BulkUpdateProxies(
        self, request: pb.BulkUpdateProxiesRequest, context: Context
    ) -> pb.BulkUpdateProxiesResponse:
        updated = await self._proxies.update_all(
            [UUID(each) for each in request.proxy_ids],
            weight=request.weight,
            disabled=request.disabled if request.HasField("disabled") else None,
        )
        return pb.BulkUpdateProxiesResponse(updated_count=updated)

    async def BulkDeleteProxies(
        self, request: pb.BulkDeleteProxiesRequest, context: Context
    ) -> pb.BulkDeleteProxiesResponse:
        deleted = await self._proxies.delete_all([UUID(each) for each in request.proxy_ids])
        return pb.BulkDeleteProxiesResponse(deleted_count=deleted)

    async def ImportProxies(
        self, request: pb.ImportProxiesRequest, context: Context
    ) -> pb.ImportProxiesResponse:
        scheme = Scheme(request.default_scheme or Scheme.HTTP)
        # A megabyte takes long enough to stop the checks of others.
        found = await asyncio.to_thread(parsing.parse_list, request.document, scheme=scheme)
        pool_id = UUID(request.proxy_pool_id) if request.proxy_pool_id else None
        counts = await self._proxies.import_all(
            found.proxies, pool_id, validate_only=request.validate_only
        )
        rejected = list(rejected_lines(found))
        return pb.ImportProxiesResponse(
            created_count=counts.created,
            present_count=counts.present,
            duplicate_count=sum(bad.repeats > 0 for bad in found.bad_lines),
            rejected_lines=rejected[:MAX_REJECTED],
            rejected_count=len(rejected),
        )

    async def TestProxies(
        self, request: pb.TestProxiesRequest, context: Context
    ) -> pb.TestProxiesResponse:
        stored = await self._proxies.some([UUID(each) for each in request.proxy_ids])
        tests = await try_proxies(stored, request.url, self._proxies, self._policy)
        return pb.TestProxiesResponse(proxy_tests=tests)

    async def CreateProxyPool(
        self, request: pb.CreateProxyPoolRequest, context: Context
    ) -> pb.CreateProxyPoolResponse:
        return await self._proxy_pools.create(request, pb.CreateProxyPoolResponse)

    async def GetProxyPool(
        self, request: pb.GetProxyPoolRequest, context: Context
    ) -> pb.GetProxyPoolResponse:
        return await self._proxy_pools.get(request, pb.GetProxyPoolResponse)

    async def ListProxyPools(
        self, request: pb.ListProxyPoolsRequest, context: Context
    ) -> pb.ListProxyPoolsResponse:
        return await self._proxy_pools.list(request, pb.ListProxyPoolsResponse)

    async def UpdateProxyPool(
        self, request: pb.UpdateProxyPoolRequest, context: Context
    ) -> pb.UpdateProxyPoolResponse:
        return await self._proxy_pools.update(request, pb.UpdateProxyPoolResponse)

    async def DeleteProxyPool(
        self, request: pb.DeleteProxyPoolRequest, context: Context
    ) -> pb.DeleteProxyPoolResponse:
        return await self._proxy_pools.delete(request, pb.DeleteProxyPoolResponse)

    async def _shown(self, stored: Sequence[StoredProxy]) -> list[pb.Proxy]:
        """With what the processes that use them say."""
        statuses = await self._proxies.reports.statuses([each.id for each in stored])
        shown = [proxy_to_pb(each) for each in stored]
        for each, proxy in zip(stored, shown, strict=True):
            if (status := statuses.get(each.id)) is not None:
                proxy.status.CopyFrom(status)
        return shown


def proxy_pool_calls(store: ProxyPoolStore, seal: Seal) -> NamedCalls[pb.ProxyPool]:
    # No document of pools: their proxies have ids of this installation.
    form = Form("domainflow.proxy-pools.v1", "proxy_pools", pb.ProxyPool, ("name", "description"))
    return NamedCalls(
        store,
        seal,
        kind="proxy_pool",
        form=form,
        to_pb=_pool_to_pb,
        to_new=new_pool,
        check=check_pool,
    )


def proxy_to_pb(stored: StoredProxy) -> pb.Proxy:
    """A proxy without its password."""
    proxy = pb.Proxy(
        proxy_id=str(stored.id),
        url=stored.shown.label,
        user=stored.username,
        has_password=stored.password is not None,
        weight=stored.weight,
        disabled=stored.disabled,
        description=stored.description,
        etag=stored.etag,
    )
    proxy.create_time.FromDatetime(stored.create_time)
    proxy.update_time.FromDatetime(stored.update_time)
    return proxy


def new_proxy(proxy: pb.Proxy) -> NewProxy:
    """What a caller says of a proxy that was checked."""
    place = parsing.parse_url(proxy.url)
    given = parsing.make(
        place.scheme,
        place.host,
        place.port,
        proxy.user,
        # One that is stored is checked where it is known.
        proxy.password if proxy.HasField("password") else _SOME * bool(proxy.user),
    )
    if not proxy.HasField("password"):
        given = parsing.Proxy(given.scheme, given.host, given.port, given.user)
    return NewProxy(
        given, proxy.HasField("password"), proxy.weight or 1, proxy.disabled, proxy.description
    )


def rejected_lines(found: ProxyList) -> Iterator[pb.RejectedLine]:
    """One for each line that is no proxy, with all that is wrong with it."""
    bad = (each for each in found.bad_lines if not each.repeats)
    for line, problems in groupby(bad, key=lambda each: each.line):
        reason = "; ".join(f"{each.field} {each.problem}".lstrip() for each in problems)
        yield pb.RejectedLine(line_number=line, reason=reason)


def check_proxy(proxy: pb.Proxy, path: str, *, is_new: bool) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a proxy that stands at `path`."""
    for name in ("user", "password", "description"):
        if "\0" in getattr(proxy, name):
            yield FieldViolation(f"{path}.{name}", "has a NUL character, which no table takes")
            return
    try:
        place = parsing.parse_url(proxy.url)
    except InvalidFields as problem:
        for each in problem.violations:
            words = " ".join((each.field.removeprefix("url").lstrip("."), each.description))
            yield FieldViolation(f"{path}.url", words.strip())
        return
    if place.user or "@" in proxy.url:
        yield FieldViolation(f"{path}.url", "has credentials, whose place is user and password")
    password = proxy.password
    if not proxy.HasField("password") and not is_new:
        password = _SOME * bool(proxy.user)
    try:
        parsing.make(place.scheme, place.host, place.port, proxy.user, password, path=f"{path}.")
    except InvalidFields as problem:
        yield from problem.violations


def check_pool(pool: pb.ProxyPool, path: str) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a pool that stands at `path`."""
    yield from check_texts(pool, path)
    seen: dict[str, int] = {}
    for index, proxy_id in enumerate(pool.proxy_ids):
        first = seen.setdefault(proxy_id.lower(), index)
        if first != index:
            problem = f"is that of {path}.proxy_ids[{first}] already"
            yield FieldViolation(f"{path}.proxy_ids[{index}]", problem)
    rules = health_rules_of(pool.health_rules)
    if rules.max_delay < rules.first_delay:
        problem = f"has to be from first_delay, {rules.first_delay:g} s, on"
        yield FieldViolation(f"{path}.health_rules.max_delay", problem)


def _pool_to_pb(stored: Stored) -> pb.ProxyPool:
    pool = pb.ProxyPool.FromString(stored.body)
    fill(pool, stored, "proxy_pool")
    return pool


def _key(request: pb.CreateProxyRequest) -> RequestKey | None:
    """Without the password: a digest of it could be guessed."""
    masked = pb.CreateProxyRequest()
    masked.CopyFrom(request)
    masked.proxy.ClearField("password")
    return request_key(masked)


def _place(place: Place) -> tuple[str, str, int, str]:
    try:
        scheme, host, port, user = json.loads(place.name)
    except ValueError:
        raise InvalidToken("is of another list", field="page_token") from None
    return scheme, host, port, user


def _check_create(request: pb.CreateProxyRequest) -> Iterator[FieldViolation]:
    if request.HasField("proxy"):
        yield from check_proxy(request.proxy, "proxy", is_new=True)


def _check_update(request: pb.UpdateProxyRequest) -> Iterator[FieldViolation]:
    if not request.HasField("proxy"):
        return
    try:
        UUID(request.proxy.proxy_id)
    except ValueError:
        yield FieldViolation("proxy.proxy_id", "is no UUID")
    yield from check_proxy(request.proxy, "proxy", is_new=False)


def _check_bulk_create(request: pb.BulkCreateProxiesRequest) -> Iterator[FieldViolation]:
    first_at: dict[object, int] = {}
    # The contract's rules speak about the ones beyond.
    for index, proxy in enumerate(request.proxies[:_MAX_BULK]):
        path = f"proxies[{index}]"
        if violations := list(check_proxy(proxy, path, is_new=True)):
            yield from violations
            continue
        first = first_at.setdefault(new_proxy(proxy).proxy.identity, index)
        if first != index:
            yield FieldViolation(f"{path}.url", f"is that of proxies[{first}], for the same user")


def _unique(field: str) -> Callable[[Any], Iterator[FieldViolation]]:
    """Ids that differ in their letters' case only are equal."""

    def check(request: Any) -> Iterator[FieldViolation]:
        seen: dict[str, int] = {}
        for index, each in enumerate(getattr(request, field)[:_MAX_BULK]):
            first = seen.setdefault(each.lower(), index)
            if first != index:
                yield FieldViolation(f"{field}[{index}]", f"is that of {field}[{first}] already")

    return check


def _check_test(request: pb.TestProxiesRequest) -> Iterator[FieldViolation]:
    yield from _unique("proxy_ids")(request)
    try:
        urls.parse(request.url)
    except BadUrl as problem:
        yield FieldViolation("url", str(problem))


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {
    pb.CreateProxyRequest: _check_create,
    pb.UpdateProxyRequest: _check_update,
    pb.BulkCreateProxiesRequest: _check_bulk_create,
    pb.BulkUpdateProxiesRequest: _unique("proxy_ids"),
    pb.BulkDeleteProxiesRequest: _unique("proxy_ids"),
    pb.TestProxiesRequest: _check_test,
    **rules_of("proxy_pool", pb.CreateProxyPoolRequest, pb.UpdateProxyPoolRequest, check_pool),
}
