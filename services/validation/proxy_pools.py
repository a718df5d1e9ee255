"""Pools of proxies in a process that fetches: read from the tables again and again, judged by what
its own requests meet, and told of."""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg

from domainflow.campaign.v1 import event_pb2
from domainflow.validation.v1 import proxy_pb2 as pb
from services.chassis.config import BadEnvironment, read_settings
from services.chassis.dns_settings import seconds
from services.chassis.http_settings import Network, networks_of
from services.chassis.postgres import AWAY
from services.chassis.secrets import UnreadableSecret
from services.validation.http.addresses import PUBLIC_ONLY, AddressPolicy
from services.validation.http.proxy_pool import (
    Change,
    Health,
    HealthRules,
    Member,
    Pool,
    Result,
    Strategy,
    Use,
)
from services.validation.proxy_reports import ProxyReport
from services.validation.proxy_store import PoolRow, ProxyStore, StoredProxy

log = logging.getLogger(__name__)

# Seconds between two readings of the tables, and between two reports.
PERIOD = 3.0
# Seconds until what could not be told is told again.
AWAY_PERIOD = 1.0
# Characters of a reason that are told: events are short.
MAX_REASON = 300
# Changes kept for somebody to tell them.
MAX_CHANGES = 1000

_AWAY = (asyncpg.PostgresError, *AWAY)
_STRATEGIES = {
    pb.PROXY_STRATEGY_UNSPECIFIED: Strategy.ROUND_ROBIN,
    pb.PROXY_STRATEGY_ROUND_ROBIN: Strategy.ROUND_ROBIN,
    pb.PROXY_STRATEGY_RANDOM: Strategy.RANDOM,
    pb.PROXY_STRATEGY_LEAST_USED: Strategy.LEAST_USED,
    pb.PROXY_STRATEGY_WEIGHTED: Strategy.WEIGHTED,
}


class LivePool:
    """A pool that requests of this process go through; a source for Fetcher. Of one event loop."""

    def __init__(self, pool_id: UUID, news: "_News") -> None:
        self.id = pool_id
        self._news = news
        self._pool = Pool((), strategy=Strategy.ROUND_ROBIN, random=random.random)
        # By proxy: its row's version, itself, and why it cannot be used; empty when it can.
        self._known: dict[UUID, tuple[int, Member, str]] = {}
        # Why each failed last.
        self._failures: dict[str, str] = {}

    def choose(self, avoid: Collection[str] = ()) -> Use | None:
        """The proxy of the next fetch; None while none can be used."""
        chosen = self._pool.choose(time.monotonic(), avoid)
        return chosen[0] if chosen else None

    def give_back(self, use: Use, result: Result, reason: str) -> None:
        """The fetch is over, or its proxy failed."""
        if result is Result.FAILED:
            self._failures[use.member.proxy_id] = reason[:MAX_REASON]
        change = self._pool.give_back(use, result, time.monotonic())
        if change is not None:
            self._news.learn(self.id, use.member, change, reason)

    def refresh(
        self, row: PoolRow | None, members: Sequence[StoredProxy], store: ProxyStore
    ) -> None:
        """As the tables have it from now on: no row, no proxies. Who stays keeps its health."""
        known = {each.id: self._member(each, store) for each in members} if row else {}
        body = pb.ProxyPool.FromString(row.body) if row else pb.ProxyPool()
        self._known = known
        ids = {member.proxy_id for _, member, _ in known.values()}
        self._failures = {key: why for key, why in self._failures.items() if key in ids}
        self._pool.replace(
            [member for _, member, _ in known.values()],
            strategy=_STRATEGIES[body.strategy],
            rules=rules_of(body.health_rules),
        )

    def reports(self) -> list[ProxyReport]:
        """What is known of each member that is in use."""
        found = []
        for condition in self._pool.conditions():
            proxy_id = UUID(condition.proxy_id)
            _, member, problem = self._known[proxy_id]
            counts = condition.counters
            if problem:
                status = pb.ProxyStatus(health=pb.PROXY_HEALTH_DOWN)
            elif member.is_active or counts.in_flight_count:
                status = pb.ProxyStatus(health=pb.ProxyHealth.ValueType(condition.health))
            else:
                continue
            status.use_count = counts.use_count
            status.in_flight_count = counts.in_flight_count
            status.worked_count = counts.worked_count
            status.failed_count = counts.failed_count
            status.unknown_count = counts.unknown_count
            status.last_failure = problem or self._failures.get(condition.proxy_id, "")
            found.append(ProxyReport(self.id, proxy_id, status.SerializeToString()))
        return found

    def _member(self, stored: StoredProxy, store: ProxyStore) -> tuple[int, Member, str]:
        before = self._known.get(stored.id)
        # Passwords are opened once a version; one that did not open may when the keys are there.
        if before is not None and before[0] == stored.version and not before[2]:
            return before
        proxy, problem = stored.shown, ""
        try:
            proxy = store.open(stored)
        except UnreadableSecret as error:
            problem = f"its password: {error}"[:MAX_REASON]
        active = not stored.disabled and not problem
        return stored.version, Member(str(stored.id), proxy, stored.weight, active), problem


class _News:
    """Changes of proxies, until they are told."""

    def __init__(self, limit: int) -> None:
        self.untold: deque[event_pb2.ProxyChanged] = deque(maxlen=limit)
        self.came = asyncio.Event()

    def learn(self, pool_id: UUID, member: Member, change: Change, reason: str) -> None:
        """A trial that begins or fails changes nothing for anybody: it is not told."""
        if Health.UP not in (change.before, change.after):
            return
        if change.after is Health.UP:
            reason = "it carried requests again"
        self.untold.append(
            event_pb2.ProxyChanged(
                proxy_id=change.proxy_id,
                proxy=member.proxy.label,
                proxy_pool_id=str(pool_id),
                from_health=pb.ProxyHealth.ValueType(change.before),
                to_health=pb.ProxyHealth.ValueType(change.after),
                reason=reason[:MAX_REASON],
            )
        )
        self.came.set()


class ProxyPools:
    """The pools that this process uses. A pool is kept as long as somebody holds it."""

    def __init__(
        self,
        store: ProxyStore,
        *,
        policy: AddressPolicy = PUBLIC_ONLY,
        period: float = PERIOD,
        max_changes: int = MAX_CHANGES,
    ) -> None:
        """`policy`: of the proxies' own addresses. `max_changes`: kept until they are told; then
        the oldest are forgotten."""
        self.policy = policy
        self._store = store
        self._period = period
        self._pools: WeakValueDictionary[UUID, LivePool] = WeakValueDictionary()
        self._reading = asyncio.Lock()
        self._news = _News(max_changes)

    async def pool(self, proxy_pool_id: str) -> LivePool:
        """The pool of this id; one that does not exist has no proxies. Raises what the database
        does when it is away, the first time."""
        pool_id = UUID(proxy_pool_id)
        async with self._reading:
            found = self._pools.get(pool_id)
            if found is None:
                found = LivePool(pool_id, self._news)
                await self._read([found])
                self._pools[pool_id] = found
        return found

    async def refresh(self) -> None:
        """Read all pools in use again."""
        async with self._reading:
            if pools := list(self._pools.values()):
                await self._read(pools)

    async def tell(self, worker_id: str) -> None:
        """Keep pools as the tables have them, and tell what becomes of proxies, until cancelled;
        then what was reported is removed."""
        due, reported = 0.0, False
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - time.monotonic())):
                        await self._news.came.wait()
                self._news.came.clear()
                try:
                    await self._tell_changes(worker_id)
                    if time.monotonic() >= due:
                        await self.refresh()
                        reports = _reports(self._pools.values())
                        # Most processes go through no proxies at all.
                        if reports or reported:
                            await self._store.reports.report(worker_id, reports)
                        reported = bool(reports)
                        due = time.monotonic() + self._period
                except _AWAY as error:
                    log.warning("what is known of proxies waits: %s", error)
                    await asyncio.sleep(AWAY_PERIOD)
        finally:
            with contextlib.suppress(*_AWAY):
                await self._store.reports.sign_off(worker_id)

    async def _tell_changes(self, worker_id: str) -> None:
        while self._news.untold:
            change = self._news.untold[0]
            change.worker_id = worker_id
            await self._store.reports.changed(event_pb2.SystemEvent(proxy_changed=change))
            # It may have made room for a newer one meanwhile.
            if self._news.untold and self._news.untold[0] is change:
                self._news.untold.popleft()

    async def _read(self, pools: Sequence[LivePool]) -> None:
        rows, seats = await self._store.pools([pool.id for pool in pools])
        row_of = {row.id: row for row in rows}
        members: dict[UUID, list[StoredProxy]] = {}
        for seat in seats:
            members.setdefault(seat.pool_id, []).append(seat.stored)
        for pool in pools:
            pool.refresh(row_of.get(pool.id), members.get(pool.id, ()), self._store)


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Environment of every role that connects to sites or proxies; names in upper case.

    Lists of networks, comma-separated ("10.0.0.0/8"); empty: none.
    """

    # Private ones that settings of HTTP may name, and proxies may be in.
    http_allowed_networks: str = ""
    # Public ones that nothing connects to, such as one's own.
    http_denied_networks: str = ""


def machines_policy(environment: Mapping[str, str] | None = None) -> AddressPolicy:
    """What this process was started to allow and to deny. It is that of the proxies' own addresses:
    they belong to whoever runs this, and campaigns that go through one of his network need not be
    let into it. Raises BadEnvironment."""
    settings = read_settings(NetworkSettings, environment)
    return AddressPolicy(
        _networks("HTTP_ALLOWED_NETWORKS", settings.http_allowed_networks),
        _networks("HTTP_DENIED_NETWORKS", settings.http_denied_networks),
    )


def _networks(variable: str, text: str) -> tuple[Network, ...]:
    try:
        return networks_of(text)
    except ValueError as problem:
        raise BadEnvironment(f"{variable}: {problem}") from None


def rules_of(rules: pb.ProxyHealthRules) -> HealthRules:
    """Rules of a message, with the defaults for what it leaves out."""
    default = HealthRules()
    first_delay = seconds(rules.first_delay) or default.first_delay
    longest = seconds(rules.max_delay)
    return HealthRules(
        failures=rules.failure_limit or default.failures,
        successes=rules.success_limit or default.successes,
        first_delay=first_delay,
        max_delay=longest or max(default.max_delay, first_delay),
    )


def _reports(pools: Iterable[LivePool]) -> list[ProxyReport]:
    return [report for pool in list(pools) for report in pool.reports()]
