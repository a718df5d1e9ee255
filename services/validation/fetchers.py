"""One fetcher per way of asking: campaigns with equal plans share its connections and robots.txt.

Hosts that redirects lead to are resolved as the campaign's DNS plan says, after the list of those
who do not want to be asked was looked at.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import asyncpg

from services.chassis import postgres
from services.chassis.http_settings import Network
from services.validation.dns import wire
from services.validation.dns.examiner import Examiner
from services.validation.dns.plan import Plan
from services.validation.dns.verdict import Verdict
from services.validation.engines import Engines
from services.validation.http.dialing import Trust
from services.validation.http.fetch import Fetcher, HostExcluded
from services.validation.http.tunnels import NoProxies, ProxySource
from services.validation.http.turns import Turns
from services.validation.http_plans import HttpPlan
from services.validation.probe import Unable
from services.validation.proxy_pools import ProxyPools
from services.validation.suppression_store import Scope, Suppressions

# A fetcher that nobody used for this long is closed, seconds, and the longest idle ones beyond this
# many.
IDLE = 60.0
MAX_IDLE = 32

_Key = tuple[HttpPlan, Plan]


@dataclass(slots=True)
class _Entry:
    fetcher: Fetcher
    stack: AsyncExitStack
    # The DNS plan's, while anybody uses the fetcher.
    examiners: list[Examiner] = field(default_factory=list)
    idle_since: float = 0.0

    @property
    def users(self) -> int:
        return len(self.examiners)


class Fetchers:
    """Fetchers by plan. Open it with `async with`; one event loop only."""

    def __init__(
        self,
        engines: Engines,
        *,
        suppressions: Suppressions | None = None,
        proxy_pools: ProxyPools | None = None,
        denied: Sequence[Network] = (),
    ) -> None:
        """Hosts with an entry of scope FETCH in `suppressions` are not asked. Without `proxy_pools`
        plans that name a pool ask nobody. `denied`: networks that no plan connects to."""
        self._engines = engines
        self._suppressions = suppressions
        self.proxy_pools = proxy_pools
        self._denied = tuple(denied)
        self._entries: dict[_Key, _Entry] = {}
        self._opening = asyncio.Lock()
        # Hosts are asked politely whoever asks.
        self._turns = Turns()
        # Proxies are the installation's: what a plan trusts besides is for its sites.
        self._proxy_trust = Trust()

    async def __aenter__(self) -> "Fetchers":
        return self

    async def __aexit__(self, *_: object) -> None:
        for entry in self._entries.values():
            await entry.stack.aclose()
        self._entries.clear()

    @asynccontextmanager
    async def use(self, plan: HttpPlan, dns: Plan) -> AsyncIterator[Fetcher]:
        """Lend the fetcher of a plan; what it has to resolve is resolved as `dns` says."""
        key = plan, dns
        async with self._engines.use(dns) as examiner:
            async with self._opening:
                await self._close_idle()
                entry = self._entries.get(key)
                if entry is None:
                    entry = self._entries[key] = await self._open(plan)
                entry.examiners.append(examiner)
            try:
                yield entry.fetcher
            finally:
                entry.examiners.remove(examiner)
                entry.idle_since = time.monotonic()

    async def _open(self, plan: HttpPlan) -> _Entry:
        async def resolve(host: str) -> Sequence[str]:
            if reason := await self._excluded(host):
                raise HostExcluded(reason)
            return await addresses_of(host, entry.examiners[-1])

        proxies: ProxySource | None = None
        if plan.proxy_pool_id and self.proxy_pools is not None:
            proxies = await self.proxy_pools.pool(plan.proxy_pool_id)
        elif plan.proxy_pool_id:
            proxies = NoProxies()
        async with AsyncExitStack() as stack:
            fetcher = await stack.enter_async_context(
                Fetcher(
                    resolve,
                    policy=replace(plan.policy, denied=plan.policy.denied + self._denied),
                    turns=self._turns,
                    roots=plan.ca_pem,
                    proxies=proxies,
                    proxy_policy=self.proxy_pools.policy if self.proxy_pools else None,
                    proxy_trust=self._proxy_trust,
                )
            )
            entry = _Entry(fetcher, stack.pop_all())
        return entry

    async def _excluded(self, host: str) -> str:
        if self._suppressions is None:
            return ""
        try:
            found = await self._suppressions.of_names([host], Scope.FETCH)
        # Some are OSErrors, which would be taken to say something of the host.
        except (asyncpg.PostgresError, *postgres.AWAY) as error:
            raise Unable(f"{type(error).__name__}: {error}") from error
        return excluded_by(found[host].entry) if host in found else ""

    async def _close_idle(self) -> None:
        limit = time.monotonic() - IDLE
        idle = sorted(
            (entry.idle_since, number, key)
            for number, (key, entry) in enumerate(self._entries.items())
            if not entry.users
        )
        for place, (since, _, key) in enumerate(idle):
            if since < limit or place < len(idle) - MAX_IDLE:
                await self._entries.pop(key).stack.aclose()


def excluded_by(entry: str) -> str:
    """Why a name with this entry is not asked for."""
    return f"{entry} is on the suppression list"


async def addresses_of(host: str, examiner: Examiner) -> Sequence[str]:
    """The addresses of a host, IPv4 before IPv6; none where DNS says that there are none.

    Raises TimeoutError, and OSError when no usable answer came.
    """
    async with examiner.canaries.in_use():
        for qtype in (wire.A, wire.AAAA):
            (outcome,) = await examiner.engine.resolve([host], qtype=qtype)
            if outcome.verdict is not Verdict.NO_DATA:
                break
    if outcome.verdict is Verdict.RESOLVED:
        return outcome.addresses
    if outcome.verdict is Verdict.TIMEOUT:
        raise TimeoutError
    if outcome.verdict in (Verdict.NXDOMAIN, Verdict.NO_DATA, Verdict.CNAME_LOOP):
        return ()
    raise OSError(f"DNS says {outcome.verdict.name}")
