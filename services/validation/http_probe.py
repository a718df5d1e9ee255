"""The probe of the HTTP pool: names -> sites -> rows of http_results and pages."""

import asyncio
import logging
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
from services.validation.http.retry import Attempt, LaneName, decide, lane_of
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
from services.validation.parked import Waiting, decoded, encoded
from services.validation.plans import plan_of
from services.validation.probe import Check, Later, Unable
from services.validation.resolver_news import ResolverNews
from services.validation.resolver_reports import Reporter
from services.validation.results import ChunkResults
from services.validation.site_evidence import http_evidence_to_pb, page_to_pb
from services.validation.site_store import Candidate
from services.validation.sites import Site, SiteReader
from services.validation.store import Claim, Store
from services.validation.suppression_store import Scope
from services.validation.windows import Place, Windows

log = logging.getLogger(__name__)

# Names in hand at most, and bytes of outcomes that wait for the rest of their chunks; whoever holds
# more takes no chunk. A chunk waits for the slowest of its names: at 500 names/s and half a minute
# that is 15,000 names, and those of slow campaigns come on top.
NAMES_LIMIT = 50_000
HELD_LIMIT = 384 * 1024 * 1024
# Seconds that a name waits which this machine had no socket, port or memory for, at random so that
# all do not come back at once; and how often, before the chunk is given back with all that is known
# of it.
EXHAUSTED_DELAY = (0.5, 2.0)
EXHAUSTED_TRIES = 3
# Seconds until a name is asked for again whose check failed, when the others of its chunk are kept.
FAILED_DELAY = 0.5
# Seconds of an attempt in which nobody is asked, all in all, since the names that are left are to
# be asked for again: beyond that the chunk is set aside. Less is not worth its two transactions,
# and more would be lost in a pause or with the worker.
PARK_AFTER = 10.0


@dataclass(slots=True)
class _Asked:
    """A name on its way to a verdict."""

    index: int
    candidate: Candidate
    # Of the performance counter, when it was asked for first.
    began: float | None = None
    attempts: int = 0
    # Attempts that ended in each lane.
    tries: Counter[LaneName] = field(default_factory=Counter)
    earlier: list[Attempt] = field(default_factory=list)
    # How often this machine had nothing left to ask with.
    exhausted: int = 0


@dataclass(frozen=True, slots=True)
class _AskedLater(Later):
    """A name that waits in a lane."""

    waiting: Waiting


class HttpParking:
    """Names that wait in lanes, and those that are finished."""

    def is_finished(self, item: Candidate) -> bool:
        return item.finished is not None

    def progress(self, items: Sequence[Candidate], found: Sequence[HttpOutcome | Later]) -> bytes:
        new = [it for item, it in zip(items, found, strict=True) if item.finished is None]
        return encoded(
            [it for it in new if isinstance(it, HttpOutcome)],
            [it.waiting for it in new if isinstance(it, _AskedLater)],
            _now_us(),
        )


class HttpProbe:
    """Asks for the pages of a campaign's names."""

    pool = "http"
    phases = frozenset({int(campaign_pb2.PHASE_HTTP_VALIDATION)})
    # Enough for the time that a claim takes, few enough that other workers get their share.
    names_ahead = 500
    parking = HttpParking()

    def __init__(
        self,
        engines: Engines,
        fetchers: Fetchers,
        keywords: KeywordLibrary,
        *,
        networks: Sequence[Network] = (),
        park_after: float = PARK_AFTER,
    ) -> None:
        """`networks`: private ones that configurations may name; of others nothing is fetched."""
        self.engines = engines
        self.fetchers = fetchers
        self._keywords = keywords
        self._networks = networks
        self.park_after = park_after
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
        if suppressed:
            candidates = [
                replace(it, excluded=excluded_by(suppressed[it.name].entry))
                if it.name in suppressed
                else it
                for it in candidates
            ]
        if claim.parked:
            return _resumed(candidates, await store.progress(claim), claim)
        return candidates

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
        return chunk_rows(claim.key.campaign_no, claim.key.run, outcomes, _now_us())

    def dead_letter(self, item: Candidate) -> HttpOutcome:
        return outcome_of(item, Site(nothing_asked(item.name, Verdict.DEAD_LETTER, "")))

    def time_limit(self, claim: Claim) -> float:
        plan = http_plan_of(_configuration(claim).http.settings, self._networks)
        settings, retry = plan.settings, plan.retry
        pages = 1 if plan.crawl_policy is CrawlPolicy.NEVER else 1 + plan.budget.max_pages
        # One window after the other, every name of it mute as often as a lane bears it, or all of
        # them in line at one address; and one name that goes through all lanes. The last attempt
        # has further pages, each of which may have its time for nothing. Waits in lanes are in
        # these times, or else the chunk is set aside.
        windows = ceil(claim.name_count / min(plan.window, settings.address_concurrency))
        rates = [it for it in (settings.address_rate, settings.host_rate) if it]
        # robots.txt, https, http, and one more for each redirect.
        requests = claim.name_count * pages * (3 + settings.max_redirects)
        in_line = requests / min(rates) if rates else 0.0
        tries = min(max((it.tries for it in retry.lanes.values()), default=1), retry.total_tries)
        asking = settings.total_timeout * (windows * (tries - 1 + pages) + retry.total_tries - 1)
        return asking + in_line * tries + self.park_after


class _Round:
    """One claim's names."""

    def __init__(self, probe: HttpProbe, plan: HttpPlan, reader: SiteReader) -> None:
        self._probe = probe
        self._windows = probe._windows
        self._plan = plan
        self._reader = reader
        # Bytes of outcomes.
        self.held = 0
        # Whether any name that was asked for has come to its end.
        self.is_any_done = False

    async def check(self, candidates: Sequence[Candidate]) -> list[HttpOutcome | Later]:
        """Ask for all pages; repetitions wait outside the window."""
        return await _Line(self, candidates).work()

    async def ask(self, asked: _Asked, place: Place) -> HttpOutcome | float:
        """The outcome, or the seconds until the name is asked for again."""
        candidate = asked.candidate
        began = time.perf_counter()
        if asked.began is None:
            asked.began = began
        try:
            site = await self._reader.read(
                candidate.name,
                addresses=candidate.addresses,
                name_servers=candidate.name_servers,
                place=place,
            )
        except MachineExhausted as error:
            asked.exhausted += 1
            if asked.exhausted > EXHAUSTED_TRIES:
                raise Unable(str(error)) from error
            return random.uniform(*EXHAUSTED_DELAY)
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


@dataclass(frozen=True, slots=True)
class _Late:
    """A name in a lane."""

    asked: _Asked
    # Of the monotonic clock.
    due: float
    timer: asyncio.TimerHandle


class _Line:
    """Names of one call, in line for places in the window."""

    def __init__(self, round_: _Round, candidates: Sequence[Candidate]) -> None:
        self._round = round_
        self._probe = round_._probe
        self._line: deque[_Asked] = deque()
        self._found: list[HttpOutcome | Later | None] = [None] * len(candidates)
        self._left = 0
        # Names in a lane.
        self._late: dict[int, _Late] = {}
        # Names whose check failed, and how.
        self._failed: list[tuple[_Asked, Exception]] = []
        self._moved = asyncio.Event()
        # Seconds in which nobody was asked.
        self._idle = 0.0
        for index, candidate in enumerate(candidates):
            if candidate.finished is not None:
                self._found[index] = candidate.finished
                round_.hold(candidate.finished.size)
            elif candidate.excluded:
                self._found[index] = _excluded(candidate)
            else:
                self._line.append(_asked(index, candidate))
                self._left += 1

    async def work(self) -> list[HttpOutcome | Later]:
        """Ask until every name has its outcome, or those that have none wait too long for it."""
        windows, plan = self._round._windows, self._round._plan
        self._probe._waiting += len(self._line)
        try:
            async with asyncio.TaskGroup() as group:
                while self._left:
                    if not self._line:
                        if not await self._wait():
                            # At once: the end of the group may take a turn of the loop, and whoever
                            # came back in it would be in nobody's hands.
                            self._stop_timers()
                            break
                        continue
                    place = await windows.enter(plan)
                    asked = self._line.popleft()
                    self._probe._waiting -= 1
                    group.create_task(self._ask(asked, place))
        finally:
            self._probe._waiting -= len(self._line)
            self._stop_timers()
        for index, late in self._late.items():
            self._found[index] = _AskedLater(late.due, _waiting(late.asked))
        if self._failed:
            self._set_failed_aside()
        return [it for it in self._found if it is not None]

    def _stop_timers(self) -> None:
        for late in self._late.values():
            late.timer.cancel()

    def _set_failed_aside(self) -> None:
        """What came of the others must not be lost with them: the chunk is set aside, and fails
        when nothing comes of it any more. Raises the first failure when it is so already, but
        rather one that blames no name."""
        if not (self._round.is_any_done or self._late):
            errors = [error for _, error in self._failed]
            raise next((it for it in errors if isinstance(it, Unable)), errors[0])
        for asked, error in self._failed:
            told = "%s is asked for again when the others of its chunk are kept: %s"
            # This machine may be unable to ask for any of them.
            shown = None if isinstance(error, Unable) else error
            log.warning(told, asked.candidate.name, error, exc_info=shown)
            due = time.monotonic() + FAILED_DELAY
            self._found[asked.index] = _AskedLater(due, _waiting(asked))

    async def _wait(self) -> bool:
        """Wait for a name to move on; False when it is not worth it."""
        nobody_is_asked = len(self._late) == self._left
        now = time.monotonic()
        if nobody_is_asked:
            soonest = min(late.due for late in self._late.values())
            if self._idle + soonest - now > self._probe.park_after:
                return False
        self._moved.clear()
        await self._moved.wait()
        if nobody_is_asked:
            self._idle += time.monotonic() - now
        return True

    async def _ask(self, asked: _Asked, place: Place) -> None:
        came: HttpOutcome | float | Exception
        try:
            came = await self._round.ask(asked, place)
        except Exception as error:
            # Of its own page, as far as anybody can tell, or of this machine: the others go on.
            came = error
        finally:
            place.leave()
        if isinstance(came, Exception):
            self._failed.append((asked, came))
            self._left -= 1
        elif isinstance(came, HttpOutcome):
            self._found[asked.index] = came
            self._round.is_any_done = True
            self._left -= 1
        else:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(came, self._come_back, asked)
            self._late[asked.index] = _Late(asked, time.monotonic() + came, timer)
        self._moved.set()

    def _come_back(self, asked: _Asked) -> None:
        del self._late[asked.index]
        self._line.append(asked)
        self._probe._waiting += 1
        self._moved.set()


def _asked(index: int, candidate: Candidate) -> _Asked:
    """A name that is to be asked for: for the first time, or as if it had waited in hand."""
    waiting = candidate.waiting
    if waiting is None:
        return _Asked(index, candidate)
    began = time.perf_counter() - _elapsed_us(waiting) / 1e6
    tries = Counter(waiting.tries)
    return _Asked(index, candidate, began, waiting.attempts, tries, list(waiting.earlier))


def _waiting(asked: _Asked) -> Waiting:
    assert asked.began is not None
    return Waiting(
        position=asked.candidate.position,
        attempts=asked.attempts,
        elapsed_us=int((time.perf_counter() - asked.began) * 1e6),
        tries=asked.tries,
        earlier=asked.earlier,
        time_us=_now_us(),
    )


def _excluded(candidate: Candidate) -> HttpOutcome:
    """Also of a name that was asked for before it came on the list: not once more."""
    fetch = nothing_asked(candidate.name, Verdict.EXCLUDED, candidate.excluded)
    if (waiting := candidate.waiting) is None:
        return outcome_of(candidate, Site(fetch))
    fetch = fetch._replace(attempts=waiting.attempts, duration_us=_elapsed_us(waiting))
    return outcome_of(candidate, Site(fetch, earlier=tuple(waiting.earlier)))


def _elapsed_us(waiting: Waiting) -> int:
    """Microseconds since it was asked for first. Of the time when its chunk was set aside only the
    clocks on the wall know, which may be set back."""
    return waiting.elapsed_us + max(0, _now_us() - waiting.time_us)


def _resumed(
    candidates: Sequence[Candidate], parts: Sequence[bytes], claim: Claim
) -> Sequence[Candidate]:
    """The candidates with what is known of them. Who is finished stays so, as in a chunk that is
    settled, whatever came on the suppression list since; who waits is judged anew."""
    names = {it.position: it.name for it in candidates}
    finished: dict[int, HttpOutcome] = {}
    waiting: dict[int, Waiting] = {}
    for part in parts:
        progress = decoded(part, names)
        if progress is None:
            log.warning("what was kept of %s cannot be read: those begin anew", claim.label)
            continue
        finished.update(progress.finished)
        waiting.update(progress.waiting)
    return [
        replace(it, finished=finished.get(it.position), waiting=waiting.get(it.position))
        for it in candidates
    ]


def _now_us() -> int:
    return time.time_ns() // 1000


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
