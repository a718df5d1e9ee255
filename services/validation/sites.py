"""One site: its front page fetched and looked at, and further pages of it where those are needed.

What a site does wrong is a verdict. Raised is only what says nothing about it: MachineExhausted.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace

from services.validation.content.clusters import ClusterIndex
from services.validation.content.crawl import (
    NextPage,
    Subject,
    is_needed,
    is_worth_going_on,
    next_pages,
)
from services.validation.content.markup import host_of, same_site
from services.validation.http.fetch import Fetch, Fetcher, nothing_asked
from services.validation.http.retry import Attempt
from services.validation.http.turns import Place, Turns
from services.validation.http.urls import BadUrl
from services.validation.http.verdict import Truncation, Verdict
from services.validation.http_plans import CrawlPolicy, HttpPlan
from services.validation.page_look import Keywords, PageLook, RawPage, look, merged

# Where somebody to talk to is mostly found.
_WITH_CONTACTS = (Subject.CONTACT, Subject.IMPRINT)
# Bytes of a page from which on it is looked at in a thread: a page of 256 KiB, the default limit,
# takes the loop 10 ms, one of 16 MiB would take it most of a second.
_THREAD_SIZE = 1024 * 1024
# The key of the turns that looks are taken in.
_LOOK = "look"


@dataclass(frozen=True, slots=True)
class Crawled:
    """A further page that was asked for."""

    # After redirects.
    url: str
    verdict: Verdict
    # Decoded bytes that were looked at.
    byte_size: int
    subject: Subject


@dataclass(frozen=True, slots=True)
class Site:
    """Verdict and evidence of one name, and what was found on its pages."""

    # Without the body.
    fetch: Fetch
    # Of all pages together; None without a page.
    look: PageLook | None = None
    # Pages of this process that look like the front page lately, itself included; 0 without one.
    cluster_size: int = 0
    crawled: tuple[Crawled, ...] = ()
    # Attempts before the one above, in order.
    earlier: tuple[Attempt, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return self.fetch.verdict


class SiteReader:
    """Reads sites as a plan says. Not safe for threads."""

    def __init__(
        self,
        fetcher: Fetcher,
        plan: HttpPlan,
        *,
        keywords: Keywords | None = None,
        clusters: ClusterIndex | None = None,
        heavy: asyncio.Lock | None = None,
        looks: Turns | None = None,
    ) -> None:
        """Without `clusters` a page is compared with none. `heavy`: large pages are looked at while
        it is held, so that readers which share one need memory for one of them. `looks`: readers
        that share them look at one page in a turn of the loop, all together."""
        self._fetcher = fetcher
        self._plan = plan
        self._settings = plan.settings
        self._keywords = keywords
        self._clusters = clusters
        self._heavy = heavy or asyncio.Lock()
        # Without anybody in it, it is empty, and false.
        self._looks = Turns() if looks is None else looks

    async def read(
        self,
        name: str,
        *,
        addresses: Sequence[str] = (),
        name_servers: Sequence[str] = (),
        until: float | None = None,
        place: Place | None = None,
    ) -> Site:
        """Read the site of a name (A-labels, lower case).

        `addresses`: the name's, where they are known; else it is resolved. `name_servers`: those of
        its delegation, where they are known. `until`: a time of the loop, from which on no further
        page is waited for. `place`: of the name in a window. Raises MachineExhausted.
        """
        front = self._front(name, addresses, place)
        return await self._site(front, name, addresses, name_servers, until, place)

    async def read_url(self, url: str, *, until: float | None = None) -> Site:
        """Read the site whose front page has this URL. `until`: as in `read`. Raises
        MachineExhausted and BadUrl."""
        front = self._fetcher.fetch_url(url, self._settings)
        return await self._site(front, host_of(url), (), (), until, None)

    async def _front(self, name: str, addresses: Sequence[str], place: Place | None) -> Fetch:
        try:
            return await self._fetcher.fetch(name, self._settings, addresses=addresses, place=place)
        except BadUrl as problem:
            return nothing_asked(name, Verdict.UNREACHABLE, str(problem))

    async def _site(
        self,
        asked: Awaitable[Fetch],
        name: str,
        addresses: Sequence[str],
        name_servers: Sequence[str],
        until: float | None,
        place: Place | None,
    ) -> Site:
        fetch = await asked
        if fetch.verdict is not Verdict.OK:
            return Site(fetch)
        front = await self._look(fetch, fetch.body, name, name_servers)
        # Not held while further pages are asked for, nor by whoever called.
        fetch = fetch._replace(body=b"")
        size = self._clusters.add(front.fingerprint).size if self._clusters is not None else 1
        further, crawled = await self._crawl(front, name, addresses, until, place)
        whole = replace(merged(front, further, self._keywords), links=())
        return Site(fetch, whole, size, crawled)

    async def _crawl(
        self,
        front: PageLook,
        name: str,
        addresses: Sequence[str],
        until: float | None,
        place: Place | None,
    ) -> tuple[list[PageLook], tuple[Crawled, ...]]:
        """Further pages within the budget, one after the other, and what became of each."""
        looks: list[PageLook] = []
        crawled: list[Crawled] = []
        left = self._plan.budget.max_bytes
        known = set(_names(front))
        growth = [len(known)]
        host = host_of(front.url)
        for page in self._wanted(front):
            if left <= 0 or not is_worth_going_on(growth):
                break
            try:
                async with asyncio.timeout_at(until):
                    # Of the name, not of its "www." twin.
                    known_ones = addresses if host_of(page.url) == name else ()
                    fetch = await self._fetcher.fetch_url(
                        page.url, self._settings, addresses=known_ones, place=place
                    )
            except BadUrl:
                continue
            except TimeoutError:
                break
            url = fetch.final_url or page.url
            size = 0
            # What another site says is not this one's.
            if fetch.verdict is Verdict.OK and same_site(host_of(url), host):
                size = min(left, len(fetch.body))
                left -= size
                each = await self._look(fetch, fetch.body[:size], name, ())
                looks.append(replace(each, links=()))
                known.update(_names(each))
                growth.append(len(known))
            crawled.append(Crawled(url, fetch.verdict, size, page.subject))
            if fetch.verdict is Verdict.RATE_LIMITED:
                break
            # Not held while the next one is asked for.
            del fetch
        return looks, tuple(crawled)

    def _wanted(self, front: PageLook) -> Sequence[NextPage]:
        """The further pages to ask for, if any."""
        policy = self._plan.crawl_policy
        if policy is CrawlPolicy.NEVER or not front.links:
            return ()
        pages = next_pages(front.url, front.links, budget=self._plan.budget)
        if policy is CrawlPolicy.ALWAYS:
            return pages
        parked = front.classification.parked_confidence
        if is_needed(
            unique_keywords=front.unique_keywords,
            byte_size=front.byte_size,
            parked_confidence=parked,
        ):
            return pages
        if front.unique_keywords and not front.has_contact and not front.classification.is_parked:
            return [it for it in pages if it.subject in _WITH_CONTACTS][:1]
        return ()

    async def _look(
        self, fetch: Fetch, body: bytes, name: str, name_servers: Sequence[str]
    ) -> PageLook:
        page = RawPage(
            body,
            fetch.final_url,
            fetch.headers.content_type,
            fetch.headers.content_language,
            fetch.headers.last_modified,
            truncated=fetch.truncation is not Truncation.NONE or len(body) < len(fetch.body),
        )
        now = int(time.time())
        if len(body) < _THREAD_SIZE:
            # Pages that come together would be looked at in one turn of the loop: seconds in which
            # no request is sent, no answer is read and all clocks run.
            await self._looks.take(_LOOK, at_once=1)
            try:
                return look(
                    page, name=name, keywords=self._keywords, name_servers=name_servers, now=now
                )
            finally:
                asyncio.get_running_loop().call_soon(self._looks.give, _LOOK)
        async with self._heavy:
            return await asyncio.to_thread(
                look, page, name=name, keywords=self._keywords, name_servers=name_servers, now=now
            )


def _names(page: PageLook) -> list[str]:
    return [it.rule.name for it in page.hits.rules] if page.hits else []
