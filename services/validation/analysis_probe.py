"""The probe of the pool of analysis and leads: what is stored of pages -> scores; scores -> leads.

Nothing is fetched. What is read comes with the items, so that a database that is away is no failure
of a name; what is reckoned from it is the check, which fails on the name it cannot bear.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from google.protobuf.message import DecodeError

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import lead_pb2, page_pb2
from services.chassis.lead_settings import thresholds_of
from services.chassis.leads import Thresholds
from services.validation.analysis_rows import (
    AnalysisOutcome,
    DecidedName,
    ScoredPage,
    analysis_rows,
    lead_rows,
)
from services.validation.analysis_store import Chunk, FetchedName, Scoring, StoredPage
from services.validation.content.features import tuple_of
from services.validation.content.scoring import scorer, warner
from services.validation.leads import addresses_of, decided, facts_of, given_up, may_qualify
from services.validation.load import EndpointCounts
from services.validation.probe import Check
from services.validation.results import ChunkResults
from services.validation.scoring_plans import scoring_profile_of
from services.validation.store import Claim, Store
from services.validation.suppression_store import Suppressed

log = logging.getLogger(__name__)

ANALYSIS = int(campaign_pb2.PHASE_CONTENT_ANALYSIS)
LEADS = int(campaign_pb2.PHASE_LEAD_EXTRACTION)
# Names that are checked at a time, some milliseconds' worth: claims are to be held meanwhile.
SLICE = 500
# Pages whose evidence is in memory at a time: with snippets of all hits it has 200 kB and more.
EVIDENCE_SLICE = 200
# Seconds for a name at the very most, and for a chunk whatever its size.
_NAME_LIMIT, _CHUNK_LIMIT = 0.01, 30.0

Vector: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PageItem:
    """A page that is to be scored, and how."""

    page: StoredPage
    scoring: Scoring


@dataclass(frozen=True, slots=True)
class NameItem:
    """A name that is to be decided on."""

    name: FetchedName
    thresholds: Thresholds
    # Whether all pages should have a score.
    analysed: bool
    # The entry of the suppression list; empty: none.
    suppressed_by: str = ""
    contacts: Sequence[lead_pb2.Contact] = ()
    # Addresses among the contacts that are on the suppression list.
    suppressed: frozenset[str] = frozenset()
    # What is wrong with what is stored; empty: nothing.
    problem: str = ""


Item: TypeAlias = PageItem | NameItem
Outcome: TypeAlias = ScoredPage | DecidedName


class AnalysisProbe:
    """Scores pages and decides on names."""

    pool = "analysis"
    phases = frozenset({ANALYSIS, LEADS})
    # Some 1 kB each, contacts included.
    names_limit = 50_000
    # A tenth of a second's worth.
    names_ahead = 4_000
    parking = None

    def __init__(self) -> None:
        self._waiting = 0

    def waiting(self) -> int:
        return self._waiting

    def endpoints(self) -> Iterable[EndpointCounts]:
        return ()

    async def attend(self, store: Store, worker_id: str, host: str) -> None:
        await asyncio.Event().wait()

    async def items(self, store: Store, claim: Claim) -> Sequence[Item]:
        if claim.key.phase == ANALYSIS:
            return await _pages(store, claim)
        return await _names(store, claim)

    def name(self, item: Item) -> str:
        return item.page.name if isinstance(item, PageItem) else item.name.name

    @asynccontextmanager
    async def prepare(self, claim: Claim) -> AsyncIterator[Check[Item, Outcome]]:
        yield self._check

    async def _check(self, items: Sequence[Item]) -> Sequence[Outcome]:
        self._waiting += len(items)
        left = len(items)
        outcomes: list[Outcome] = []
        try:
            for first in range(0, len(items), SLICE):
                some = items[first : first + SLICE]
                outcomes += map(_outcome, some)
                self._waiting -= len(some)
                left -= len(some)
                await asyncio.sleep(0)
        finally:
            self._waiting -= left
        return outcomes

    def results(self, claim: Claim, outcomes: Sequence[Outcome]) -> ChunkResults:
        key, now = claim.key, time.time_ns() // 1000
        if key.phase == ANALYSIS:
            pages = [it for it in outcomes if isinstance(it, ScoredPage)]
            return analysis_rows(key.campaign_no, key.run, pages, now)
        names = [it for it in outcomes if isinstance(it, DecidedName)]
        return lead_rows(key.campaign_no, key.run, names, now)

    def dead_letter(self, item: Item) -> Outcome:
        if isinstance(item, PageItem):
            return ScoredPage(item.page.position, item.page.name, AnalysisOutcome.ERROR)
        return given_up(item.name)

    def time_limit(self, claim: Claim) -> float:
        return _CHUNK_LIMIT + _NAME_LIMIT * claim.name_count


def _outcome(item: Item) -> Outcome:
    if isinstance(item, PageItem):
        return _scored(item.page, item.scoring)
    if item.problem:
        raise ValueError(item.problem)
    facts = facts_of(item.name, analysed=item.analysed, suppressed_by=item.suppressed_by)
    return decided(item.name, facts, item.thresholds, item.contacts, item.suppressed)


def _scored(page: StoredPage, scoring: Scoring) -> ScoredPage:
    position, name, features, keywords, hit_counts, is_match = page
    if features is None:
        log.warning("%s cannot be scored: nothing is stored of its page", name)
        return ScoredPage(position, name, AnalysisOutcome.ERROR)
    try:
        values = tuple_of(features)
    except ValueError as problem:
        log.warning("%s cannot be scored: %s", name, problem)
        return ScoredPage(position, name, AnalysisOutcome.ERROR)
    score_of, warnings_of = _scorers(scoring.body, scoring.score_time)
    return ScoredPage(
        position,
        name,
        AnalysisOutcome.WITH_KEYWORD if is_match else AnalysisOutcome.WITHOUT_KEYWORD,
        score_of(values),
        warnings_of(values),
        scoring.number,
        keywords,
        hit_counts,
    )


@lru_cache(maxsize=64)
def _scorers(
    configuration: bytes, score_time: int
) -> tuple[Callable[[Vector], int], Callable[[Vector], int]]:
    analysis = campaign_pb2.AnalysisConfiguration.FromString(configuration)
    profile = scoring_profile_of(analysis.settings)
    return scorer(profile, now=score_time), warner(profile)


async def _pages(store: Store, claim: Claim) -> Sequence[Item]:
    chunk, analysis = _chunk(claim), _configuration(claim).analysis
    body = analysis.SerializeToString(deterministic=True)
    scoring = await store.analyses.scoring(chunk, body, int(time.time()))
    return [PageItem(page, scoring) for page in await store.analyses.pages(chunk)]


async def _names(store: Store, claim: Claim) -> Sequence[Item]:
    chunk = _chunk(claim)
    thresholds = thresholds_of(_configuration(claim).lead.thresholds)
    names, analysed = await store.analyses.fetched(chunk)
    # Whoever does not want to be a lead is none under another name either.
    hosts = {it.name for it in names} | {it.led_to for it in names if it.led_to}
    listed = await store.suppressions.of_names(sorted(hosts))
    entries = {it.position: listed.get(it.name) or listed.get(it.led_to) for it in names}
    promising = [
        it.position for it in names if not entries[it.position] and may_qualify(it, thresholds)
    ]
    contacts: dict[int, Sequence[lead_pb2.Contact]] = {}
    problems: dict[int, str] = {}
    for first in range(0, len(promising), EVIDENCE_SLICE):
        some = promising[first : first + EVIDENCE_SLICE]
        for position, encoded in (await store.analyses.evidence(chunk, some)).items():
            try:
                contacts[position] = _contacts(encoded)
            except DecodeError as problem:
                problems[position] = f"the evidence of its page cannot be read: {problem}"
    addresses = {it for each in contacts.values() for it in addresses_of(each)}
    withheld = frozenset(await store.suppressions.of_addresses(addresses))
    return [
        NameItem(
            it,
            thresholds,
            analysed,
            _entry(entries[it.position]),
            contacts.get(it.position, ()),
            withheld,
            problems.get(it.position, ""),
        )
        for it in names
    ]


def _contacts(evidence: bytes) -> Sequence[lead_pb2.Contact]:
    """Raises DecodeError."""
    # A copy: the whole evidence is not to be kept for its contacts.
    return lead_pb2.Lead(contacts=page_pb2.PageEvidence.FromString(evidence).contacts).contacts


def _entry(suppressed: Suppressed | None) -> str:
    return suppressed.entry if suppressed else ""


def _chunk(claim: Claim) -> Chunk:
    key = claim.key
    # A chunk of consecutive names ends with its count.
    last = key.first_position + claim.name_count - 1
    if claim.last_position is not None:
        last = claim.last_position
    return Chunk(
        key.campaign_no, key.run, claim.source_run, key.first_position, last, claim.name_count
    )


def _configuration(claim: Claim) -> campaign_pb2.CampaignConfiguration:
    return campaign_pb2.CampaignConfiguration.FromString(claim.configuration)
