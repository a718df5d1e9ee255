"""The pools that there are workers for, and their probes."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from services.validation.dns_probe import DnsProbe
from services.validation.engines import Engines
from services.validation.probe import Probe
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


_PROBES: dict[str, OpenProbe] = {"dns": _dns}
