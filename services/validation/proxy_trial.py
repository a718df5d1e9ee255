"""What proxies are capable of: one request through each, now."""

import asyncio
import socket
from collections.abc import Collection, Sequence
from datetime import timedelta

from domainflow.validation.v1 import proxy_pb2 as pb
from services.chassis.http_settings import HttpSettings
from services.chassis.secrets import UnreadableSecret
from services.validation.http import urls
from services.validation.http.addresses import AddressPolicy
from services.validation.http.dialing import Trust
from services.validation.http.failures import MachineExhausted
from services.validation.http.fetch import Fetch, Fetcher
from services.validation.http.proxies import Proxy
from services.validation.http.proxy_pool import Member, Result, Use
from services.validation.proxy_store import ProxyStore, StoredProxy

# Seconds for the whole of it.
TIME_LIMIT = 20.0
_CONNECT_LIMIT = 10.0


class _One:
    """A source of one proxy, for one fetch."""

    def __init__(self, proxy: Proxy) -> None:
        self._use: Use | None = Use(Member("", proxy), 0)

    def choose(self, avoid: Collection[str] = ()) -> Use | None:
        use, self._use = self._use, None
        return use

    def give_back(self, use: Use, result: Result, reason: str) -> None:
        """Nothing is learnt."""


async def try_proxies(
    proxies: Sequence[StoredProxy], url: str, store: ProxyStore, policy: AddressPolicy
) -> list[pb.ProxyTest]:
    """Ask for a URL through each of them, at once. `policy`: of the site's addresses and theirs."""
    port = urls.parse(url).port
    settings = HttpSettings(
        https_ports=(port,),
        http_ports=(port,),
        max_redirects=0,
        # Any answer will do.
        allowed_statuses=frozenset(range(100, 600)),
        connect_timeout=_CONNECT_LIMIT,
        first_byte_timeout=TIME_LIMIT,
        total_timeout=TIME_LIMIT,
        body_limit=1024,
        respect_robots=False,
        keep_alive=False,
    )
    trust = Trust()

    async def one(stored: StoredProxy) -> pb.ProxyTest:
        test = pb.ProxyTest(proxy_id=str(stored.id))
        try:
            source = _One(store.open(stored))
            async with Fetcher(
                _resolve, policy=policy, proxies=source, trust=trust, proxy_trust=trust
            ) as fetcher:
                fetch = await fetcher.fetch_url(url, settings)
        except UnreadableSecret as error:
            test.failure = f"its password: {error}"
        except MachineExhausted as error:
            test.failure = f"this machine: {error}"
        else:
            _fill(test, fetch)
        return test

    return list(await asyncio.gather(*map(one, proxies)))


def _fill(test: pb.ProxyTest, fetch: Fetch) -> None:
    test.worked = fetch.status > 0
    test.status_code = fetch.status
    test.failure = "" if test.worked else fetch.reason
    if test.worked:
        test.duration.FromTimedelta(timedelta(microseconds=fetch.connect_us + fetch.first_byte_us))


async def _resolve(host: str) -> Sequence[str]:
    """By the machine's own resolver: nothing says which one else."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(str(error)) from error
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))
