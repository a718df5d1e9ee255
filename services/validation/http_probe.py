"""The probe of the HTTP pool: names -> sites -> rows of http_results and pages."""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from math import ceil

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import dns_pb2
from services.chassis.http_settings import Network
from services.chassis.matching.choice import Keywords
from services.validation.content.clusters import ClusterIndex
from services.validation.content.sighting import clean
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers, excluded_by
from services.validation.http.failures import MachineExhausted
from services.validation.http.fetch import nothing_asked
from services.validation.http.retry import MAX_DELAY, LaneName, decide, lane_of
from services.validation.http.turns import Turns
from services.validation.http.urls import MAX_URL
from services.validation.http.verdict import Truncation, Verdict
from services.validation.http_plans import CrawlPolicy, HttpPlan, http_plan_of
from services.validation.http_rows import (
    HttpOutcome,
    PageFields,
    ResultFields,
    chunk_rows,
    encoded_page,
    encoded_result,
)
from services.validation.keyword_library import KeywordLibrary
from services.validation.load import EndpointCounts
from services.validation.plans import plan_of
from services.validation.probe import Check, Unable
from services.validation.resolver_news import ResolverNews
from services.validation.resolver_reports import Reporter
from services.validation.results import ChunkResults
from services.validation.site_evidence import http_evidence_to_pb, page_to_pb
from services.validation.site_store import Candidate
from services.validation.sites import Attempt, Site, SiteReader
from services.validation.store import Claim, Store
from services.validation.suppression_store import Scope
from services.validation.windows import Place, Windows

# Names in hand at most, and bytes of outcomes that wait for the rest of their chunks; whoever holds
# more takes no chunk. Repetitions come minutes later and keep their chunk in hand: at 500 names/s
# and 4 minutes that is 120,000 names.
NAMES_LIMIT = 150_000
HELD_LIMIT = 384 * 1024 * 1024


@dataclass(slots=True)
class _Asked:
    """A name on its way to a verdict."""

    index: int
    candidate: Candidate
    # Of the performance counter, when it was asked for first; 0 before.
    began: float = 0.0
    attempts: int = 0
    # Attempts that ended in each lane.
    tries: Counter[LaneName] = field(default_factory=Counter)
    earlier: list[Attempt] = field(default_factory=list)


class HttpProbe:
    """Asks for the pages of a campaign's names."""

    pool = "http"
    phases = frozenset({int(campaign_pb2.PHASE_HTTP_VALIDATION)})
    # Enough for the time that a claim takes, few enough that other workers get their share.
    names_ahead = 500

    def __init__(
        self,
        engines: Engines,
        fetchers: Fetchers,
        keywords: KeywordLibrary,
        *,
        networks: Sequence[Network] = (),
    ) -> None:
        """`networks`: private ones that configurations may name; of others nothing is fetched."""
        self.engines = engines
        self.fetchers = fetchers
        self._keywords = keywords
        self._networks = networks
        self._windows = Windows()
        self._clusters = ClusterIndex()
        self._heavy = asyncio.Lock()
        self._looks = Turns()
        # Names that wait for a place, not those that wait in a lane.
        self._waiting = 0
        # Bytes of outcomes in hand.
        self._held = 0

    @property
    def names_limit(self) -> int:
        return NAMES_LIMIT if self._held < HELD_LIMIT else 0

    def waiting(self) -> int:
        return self._waiting

    @property
    def in_flight(self) -> int:
        """Names that are asked about just now."""
        return self._windows.in_flight

    def endpoints(self) -> Iterable[EndpointCounts]:
        """None: that sites, or resolvers asked about where redirects lead, are mute says nothing
        about what this machine can take, and would be taken for its limit."""
        return ()

    async def attend(self, store: Store, worker_id: str, host: str) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ResolverNews(self.engines, store, Reporter(worker_id, host)).tell())
            if self.fetchers.proxy_pools is not None:
                group.create_task(self.fetchers.proxy_pools.tell(worker_id))

    async def items(self, store: Store, claim: Claim) -> Sequence[Candidate]:
        configuration = _configuration(claim)
        key, last = claim.key, claim.last_position
        candidates = await store.sites.candidates(
            key.campaign_no,
            claim.source_run,
            key.first_position,
            key.first_position + claim.name_count - 1 if last is None else last,
            limit=claim.name_count,
            with_evidence=dns_pb2.RECORD_TYPE_NS in configuration.dns.settings.record_types,
        )
        suppressed = await store.suppressions.of_names([it.name for it in candidates], Scope.FETCH)
        if not suppressed:
            return candidates
        return [
            replace(it, excluded=excluded_by(suppressed[it.name].entry))
            if it.name in suppressed
            else it
            for it in candidates
        ]

    def name(self, item: Candidate) -> str:
        return item.name

    @asynccontextmanager
    async def prepare(self, claim: Claim) -> AsyncIterator[Check[Candidate, HttpOutcome]]:
        configuration = _configuration(claim)
        http = configuration.http
        plan = http_plan_of(http.settings, self._networks)
        keywords: Keywords | None = await self._keywords.of_versions(
            http.keywords, http.keyword_set_versions, "http.keywords"
        )
        async with self.fetchers.use(plan, plan_of(configuration.dns)) as fetcher:
            reader = SiteReader(
                fetcher,
                plan,
                keywords=keywords or None,
                clusters=self._clusters,
                heavy=self._heavy,
                looks=self._looks,
            )
            round_ = _Round(self, plan, reader)
            try:
                yield round_.check
            finally:
                self._held -= round_.held

    def results(self, claim: Claim, outcomes: Sequence[HttpOutcome]) -> ChunkResults:
        now = time.time_ns() // 1000
        return chunk_rows(claim.key.campaign_no, claim.key.run, outcomes, now)

    def dead_letter(self, item: Candidate) -> HttpOutcome:
        return outcome_of(item, Site(nothing_asked(item.name, Verdict.DEAD_LETTER, "")))

    def time_limit(self, claim: Claim) -> float:
        plan = http_plan_of(_configuration(claim).http.settings, self._networks)
        settings, retry = plan.settings, plan.retry
        pages = 1 if plan.crawl_policy is CrawlPolicy.NEVER else 1 + plan.budget.max_pages
        # Of one attempt, with its further pages, each of which may have its time for nothing.
        once = settings.total_timeout * pages
        delays = max((lane.max_delay for lane in retry.lanes.values()), default=0.0)
        delay = min(max(delays, retry.max_retry_after) * (1 + retry.jitter), MAX_DELAY)
        # One window after the other, every name of it mute as often as a lane bears it, or all of
        # them in line at one address; and one name that goes through all lanes.
        windows = ceil(claim.name_count / min(plan.window, settings.address_concurrency))
        rates = [it for it in (settings.address_rate, settings.host_rate) if it]
        # robots.txt, https, http, and one more for each redirect.
        requests = claim.name_count * pages * (3 + settings.max_redirects)
        in_line = requests / min(rates) if rates else 0.0
        tries = min(max((it.tries for it in retry.lanes.values()), default=1), retry.total_tries)
        return (once * windows + in_line) * tries + (once + delay) * (retry.total_tries - 1)


class _Round:
    """One claim's names."""

    def __init__(self, probe: HttpProbe, plan: HttpPlan, reader: SiteReader) -> None:
        self._probe = probe
        self._windows = probe._windows
        self._plan = plan
        self._reader = reader
        # Bytes of outcomes.
        self.held = 0

    async def check(self, candidates: Sequence[Candidate]) -> list[HttpOutcome]:
        """Ask for all pages; repetitions wait outside the window."""
        return await _Line(self, candidates).work()

    async def ask(self, asked: _Asked, place: Place) -> HttpOutcome | float:
        """The outcome, or the seconds until the name is asked for again."""
        candidate = asked.candidate
        began = time.perf_counter()
        asked.began = asked.began or began
        try:
            site = await self._reader.read(
                candidate.name,
                addresses=candidate.addresses,
                name_servers=candidate.name_servers,
                place=place,
            )
        except MachineExhausted as error:
            raise Unable(str(error)) from error
        fetch = site.fetch
        asked.attempts += fetch.attempts
        lane = lane_of(fetch.verdict, fetch.status)
        if lane is not None:
            asked.tries[lane] += 1
            again = decide(
                self._plan.retry,
                fetch.verdict,
                status=fetch.status,
                tries=asked.tries,
                retry_after=fetch.retry_after,
                random=random.random(),
            )
            if again is not None:
                asked.earlier.append(Attempt(fetch.verdict, fetch.status, again.after))
                return again.after
        # Not until the page was looked at: that is our time, and it may have to wait for others.
        duration = int((began - asked.began) * 1e6) + fetch.duration_us
        fetch = fetch._replace(attempts=asked.attempts, duration_us=duration)
        outcome = outcome_of(candidate, replace(site, fetch=fetch, earlier=tuple(asked.earlier)))
        self.hold(outcome.size)
        return outcome

    def hold(self, size: int) -> None:
        self.held += size
        self._probe._held += size


class _Line:
    """Names of one call, in line for places in the window."""

    def __init__(self, round_: _Round, candidates: Sequence[Candidate]) -> None:
        self._round = round_
        self._probe = round_._probe
        self._line: deque[_Asked] = deque()
        self._outcomes: list[HttpOutcome | None] = [None] * len(candidates)
        self._left = 0
        # Names in a lane: their timers.
        self._late: dict[int, asyncio.TimerHandle] = {}
        self._moved = asyncio.Event()
        for index, candidate in enumerate(candidates):
            if candidate.excluded:
                fetch = nothing_asked(candidate.name, Verdict.EXCLUDED, candidate.excluded)
                self._outcomes[index] = outcome_of(candidate, Site(fetch))
            else:
                self._line.append(_Asked(index, candidate))
                self._left += 1

    async def work(self) -> list[HttpOutcome]:
        windows, plan = self._round._windows, self._round._plan
        self._probe._waiting += len(self._line)
        try:
            async with asyncio.TaskGroup() as group:
                while self._left:
                    if not self._line:
                        self._moved.clear()
                        await self._moved.wait()
                        continue
                    place = await windows.enter(plan)
                    asked = self._line.popleft()
                    self._probe._waiting -= 1
                    group.create_task(self._ask(asked, place))
        finally:
            self._probe._waiting -= len(self._line)
            for timer in self._late.values():
                timer.cancel()
        return [outcome for outcome in self._outcomes if outcome is not None]

    async def _ask(self, asked: _Asked, place: Place) -> None:
        try:
            came = await self._round.ask(asked, place)
        finally:
            place.leave()
        if isinstance(came, HttpOutcome):
            self._outcomes[asked.index] = came
            self._left -= 1
            self._moved.set()
        else:
            loop = asyncio.get_running_loop()
            self._late[asked.index] = loop.call_later(came, self._come_back, asked)

    def _come_back(self, asked: _Asked) -> None:
        del self._late[asked.index]
        self._line.append(asked)
        self._probe._waiting += 1
        self._moved.set()


def outcome_of(candidate: Candidate, site: Site) -> HttpOutcome:
    """A name's verdict with its columns."""
    fetch, look = site.fetch, site.look
    result = ResultFields(
        status=fetch.status,
        final_url=clean(fetch.final_url, MAX_URL),
        truncated=fetch.truncation is not Truncation.NONE,
        evidence=http_evidence_to_pb(site).SerializeToString(),
    )
    page = None
    if look is not None:
        result = replace(
            result,
            title=clean(look.title, 500),
            language=look.language,
            content_size=look.byte_size,
            sha256=look.sha256,
        )
        evidence = page_to_pb(site)
        # It has a column.
        evidence.ClearField("kind")
        hits = look.hits.rules if look.hits is not None else ()
        page = encoded_page(
            PageFields(
                kind=look.classification.kind,
                features=look.features.to_bytes(),
                hit_counts=[(it.rule.name, it.count + it.title_count) for it in hits],
                is_match=look.is_match if look.hits is not None else None,
                evidence=evidence.SerializeToString(),
            )
        )
    return HttpOutcome(
        candidate.position,
        candidate.name,
        fetch.verdict,
        fetch.attempts,
        fetch.duration_us,
        encoded_result(result),
        page,
    )


def _configuration(claim: Claim) -> campaign_pb2.CampaignConfiguration:
    return campaign_pb2.CampaignConfiguration.FromString(claim.configuration)
