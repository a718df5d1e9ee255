"""Pages for somebody who waits: asked for now, once, and looked at. Nothing is stored.

Who may be asked, and how politely, is the same as in campaigns. What is not there in time is a
TIMEOUT: nobody is asked again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

from domainflow.validation.v1 import dns_settings_pb2
from services.chassis.errors import PartUnavailable
from services.chassis.matching.choice import Keywords
from services.validation.dns import wire
from services.validation.dns.plan import Plan
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Evidence, Outcome
from services.validation.dns.verdict import Verdict as DnsVerdict
from services.validation.fetchers import Fetchers, excluded_by
from services.validation.http.failures import MachineExhausted
from services.validation.http.fetch import nothing_asked
from services.validation.http.turns import Turns
from services.validation.http.verdict import Verdict
from services.validation.http_plans import HttpPlan
from services.validation.plans import plan_of_settings
from services.validation.probe import Unable
from services.validation.sites import Site, SiteReader
from services.validation.suppression_store import Scope, Suppressed, Suppressions

# Somebody waits: a call takes so many seconds at most, and so does each page of a stream.
TIME_LIMIT = 25.0
# The last part of that is not for further pages of a site, whose front page is there already.
_LAST_LOOK = 0.1
# A thousand names need no more than one socket to each of a hundred resolvers.
ONE_SOCKET = EngineSettings(sockets_per_resolver=1)
# Pages that are read at once, over all calls of the process: each may hold what is read of it.
PAGES_AT_ONCE = 256
# Bytes of a page, with its further ones, that count as one.
_USUAL_PAGE = 1 << 20
Read = TypeVar("Read")


def machines_dns() -> Plan:
    """Asks the resolvers of this machine."""
    return plan_of_settings(dns_settings_pb2.DnsSettings(), ONE_SOCKET)


@dataclass(frozen=True, slots=True)
class PagePlan:
    """How the pages of one call are asked for, and what is looked for on them."""

    http: HttpPlan
    # Whom names are asked of that are not known yet.
    dns: Plan
    keywords: Keywords | None = None


class PageCheck:
    """Reads the sites of one call; made by `PageChecks.reading`."""

    def __init__(
        self,
        reader: SiteReader,
        plan: PagePlan,
        room: "Room",
        suppressions: Suppressions,
        limit: float,
    ) -> None:
        self._reader = reader
        self._suppressions = suppressions
        self._room = room
        self._limit = limit
        http = plan.http
        self._size = 1 + (http.settings.body_limit + http.budget.max_bytes) // _USUAL_PAGE
        self._window = asyncio.Semaphore(http.window)

    async def excluded(self, names: Collection[str]) -> dict[str, Suppressed]:
        """Those of the names that do not want to be asked, and the entry that says so."""
        return await self._suppressions.of_names(names, Scope.FETCH)

    async def of_outcome(
        self, outcome: Outcome, excluded: Suppressed | None, end: float | None = None
    ) -> Site:
        """The site of a name that resolves. `end`, a time of the loop: at the latest; None: a while
        after its turn has come. Raises PartUnavailable."""
        if excluded is not None:
            return exclusion(outcome.name, excluded)
        addresses, name_servers = addresses_of(outcome), name_servers_of(outcome)
        return await self._in_time(
            outcome.name,
            lambda until: self._reader.read(
                outcome.name, addresses=addresses, name_servers=name_servers, until=until
            ),
            end,
        )

    async def of_name(self, name: str, excluded: Suppressed | None, end: float) -> Site:
        """The site of a name, which is resolved for it. Raises PartUnavailable."""
        if excluded is not None:
            return exclusion(name, excluded)
        return await self._in_time(name, lambda until: self._reader.read(name, until=until), end)

    async def of_url(self, url: str, host: str, excluded: Suppressed | None, end: float) -> Site:
        """The page at a URL that was checked. Raises PartUnavailable."""
        if excluded is not None:
            return exclusion(host, excluded)
        return await self._in_time(host, lambda until: self._reader.read_url(url, until=until), end)

    async def _in_time(
        self, name: str, read: Callable[[float], Awaitable[Site]], end: float | None
    ) -> Site:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(end):
                async with self._window, self._room.taken(self._size):
                    latest = loop.time() + self._limit if end is None else end
                    async with asyncio.timeout_at(latest):
                        return await read(latest - _LAST_LOOK * self._limit)
        except TimeoutError:
            reason = f"the page was not there within {self._limit:g} s"
            return Site(nothing_asked(name, Verdict.TIMEOUT, reason))
        except (MachineExhausted, Unable) as problem:
            raise PartUnavailable(f"no page can be asked for now: {problem}") from None


class PageChecks:
    """Checks of pages by the process."""

    def __init__(
        self,
        fetchers: Fetchers,
        suppressions: Suppressions,
        *,
        limit: float = TIME_LIMIT,
        dns: Callable[[], Plan] = machines_dns,
    ) -> None:
        """`limit`: seconds for a call, or a page of a stream. `dns`: how hosts are resolved where a
        call does not say how."""
        self._fetchers = fetchers
        self._suppressions = suppressions
        self._limit = limit
        self.dns = dns
        self._room = Room(PAGES_AT_ONCE)
        # Large pages are looked at one after the other.
        self._heavy = asyncio.Lock()
        # All others in turns of the loop of their own.
        self._looks = Turns()

    def end(self) -> float:
        """When a call that begins now has to end, a time of the loop."""
        return asyncio.get_running_loop().time() + self._limit

    @asynccontextmanager
    async def reading(self, plan: PagePlan) -> AsyncIterator[PageCheck]:
        """Lend what reads sites as the plan says."""
        async with self._fetchers.use(plan.http, plan.dns) as fetcher:
            reader = SiteReader(
                fetcher,
                plan.http,
                keywords=plan.keywords,
                heavy=self._heavy,
                looks=self._looks,
            )
            yield PageCheck(reader, plan, self._room, self._suppressions, self._limit)


class Room:
    """So many places; who needs several waits until they are free, and nobody is overtaken."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._free = asyncio.Semaphore(places)
        # Held while places are gathered: two who wait for each other's would never get them.
        self._gathering = asyncio.Lock()

    @asynccontextmanager
    async def taken(self, places: int) -> AsyncIterator[None]:
        """Hold that many places, or all there are."""
        async with AsyncExitStack() as stack:
            async with self._gathering:
                for _ in range(min(places, self._places)):
                    await stack.enter_async_context(self._free)
            yield


async def gathered(reads: Sequence[Coroutine[Any, Any, Read]]) -> list[Read]:
    """All of them at once; the first failure ends the others and is raised by itself."""
    tasks = [asyncio.ensure_future(read) for read in reads]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def exclusion(name: str, entry: Suppressed) -> Site:
    """The site of a name that does not want to be asked."""
    return Site(nothing_asked(name, Verdict.EXCLUDED, excluded_by(entry.entry)))


def too_late(name: str) -> Outcome:
    """What is told of a name that DNS has said nothing final about when the call has to end."""
    evidence = Evidence(reason="there was no verdict when the call had to end")
    return Outcome(name, DnsVerdict.TIMEOUT, -1, (), (), -1, "", 0, 0, False, evidence=evidence)


def addresses_of(outcome: Outcome) -> tuple[str, ...]:
    """Those of the answer; its other data is none."""
    return tuple(it for it in outcome.addresses if _is_address(it))


def name_servers_of(outcome: Outcome) -> tuple[str, ...]:
    """Those of the delegation, where they were asked for."""
    records = outcome.evidence.records if outcome.evidence else ()
    return tuple(
        it.rstrip(".").lower() for each in records if each.qtype == wire.NS for it in each.records
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
