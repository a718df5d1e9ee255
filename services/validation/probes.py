"""The pools that there are workers for, and their probes."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from services.validation.analysis_probe import AnalysisProbe
from services.validation.dns_probe import DnsProbe
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http_probe import HttpProbe
from services.validation.keyword_library import KeywordLibrary
from services.validation.probe import Probe
from services.validation.proxy_pools import ProxyPools, machines_policy
from services.validation.store import Store

OpenProbe = Callable[[Store], AbstractAsyncContextManager[Probe[Any, Any]]]


class NoSuchPool(LookupError):
    """There are no workers for this pool; the text says for which."""


def probe_of(pool: str) -> OpenProbe:
    """How to open the probe of a pool. Raises NoSuchPool."""
    try:
        return _PROBES[pool]
    except KeyError:
        known = ", ".join(_PROBES)
        raise NoSuchPool(f"there are no workers for the pool {pool!r}, only for: {known}") from None


@asynccontextmanager
async def _dns(_: Store) -> AsyncIterator[DnsProbe]:
    async with Engines() as engines:
        yield DnsProbe(engines)


@asynccontextmanager
async def _analysis(_: Store) -> AsyncIterator[AnalysisProbe]:
    yield AnalysisProbe()


@asynccontextmanager
async def _http(store: Store) -> AsyncIterator[HttpProbe]:
    policy = machines_policy()
    async with (
        Engines() as engines,
        Fetchers(
            engines,
            suppressions=store.suppressions,
            proxy_pools=ProxyPools(store.proxies, policy=policy),
            denied=policy.denied,
        ) as fetchers,
    ):
        library = KeywordLibrary(store.keyword_sets)
        yield HttpProbe(engines, fetchers, library, networks=policy.allowed)


_PROBES: dict[str, OpenProbe] = {"dns": _dns, "http": _http, "analysis": _analysis}
