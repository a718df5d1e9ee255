"""Campaigns whose pages are fetched: rows as the HTTP workers store them, without a web."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.validation.v1 import lead_pb2, page_pb2
from services.campaign.campaign import Action, Mode, Phase
from services.campaign.ingest import digest
from services.campaign.ledger import ChunkKey
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.validation.content.features import Features, Flag
from services.validation.http.verdict import Verdict
from services.validation.http_rows import (
    HttpOutcome,
    PageFields,
    ResultFields,
    chunk_rows,
    encoded_page,
    encoded_result,
)
from services.validation.store import ChunkKey as WorkerKey
from services.validation.store import Store
from tests.campaigns import GENERATION, act, create, from_upload, hand_out, new_campaign

HTTP, ANALYSIS, LEADS = Phase.HTTP_VALIDATION, Phase.CONTENT_ANALYSIS, Phase.LEAD_EXTRACTION
# When the pages were fetched, Unix seconds.
FETCHED = 1_790_000_000
# A page of the usual size with some hits and a heading.
USUAL = Features(
    hit_count=6,
    unique_count=2,
    top_hit_count=4,
    byte_size=20_000,
    text_size=5_000,
    word_count=900,
    link_count=10,
    external_link_count=2,
    heading_count=3,
    fetch_time=FETCHED,
)


@dataclass(frozen=True, slots=True)
class Site:
    """What HTTP found for one name."""

    verdict: Verdict = Verdict.OK
    # None: the page was lost, though the verdict is OK.
    features: Features | None = USUAL
    hit_counts: Sequence[tuple[str, int]] = (("blue", 4), ("kite", 2))
    is_match: bool | None = True
    contacts: Sequence[lead_pb2.Contact] = ()
    evidence: bytes | None = None
    content_size: int = 20_000
    # Where its page came from; its own host by default.
    final_url: str = ""

    @property
    def has_page(self) -> bool:
        return self.verdict is Verdict.OK and self.features is not None


def email(address: str) -> lead_pb2.Contact:
    return lead_pb2.Contact(
        kind=lead_pb2.CONTACT_KIND_EMAIL,
        value=address,
        source_url="https://example.com/contact",
        snippet=f"Write to {address}",
        found="link",
        confidence=0.9,
    )


def random_features(random_: random.Random) -> Features:
    """Any vector, also of pages that no site would have."""
    flags = Flag(0)
    for flag in Flag:
        if random_.random() < 0.3:
            flags |= flag
    hits = random_.choice([0, 1, 3, 10, 1_000])
    return replace(
        USUAL,
        hit_count=hits,
        unique_count=min(hits, random_.randrange(12)),
        byte_size=random_.choice([0, 1, 700, 1_024, 49_999, 50_000, 3_000_000]),
        fetch_time=random_.choice([0, FETCHED, FETCHED - random_.randrange(60 * 86_400)]),
        modified_time=random_.choice([0, FETCHED - random_.randrange(60 * 86_400)]),
        parked_confidence=random_.randrange(1_001),
        stuffing_penalty=random_.choice([0, 0, 400]),
        repetition_index=random_.randrange(1_001),
        anchor_share=random_.randrange(1_001),
        flags=int(flags),
    )


async def fetched(
    campaign_store: CampaignStore,
    store: Store,
    sites: Mapping[str, Site],
    configuration: pb.CampaignConfiguration | None = None,
    *,
    phases: Sequence[Phase] = (HTTP, ANALYSIS, LEADS),
) -> RunningPhase:
    """A campaign with these names, whose pages are fetched; returns the next phase, that runs."""
    configuration = configuration or pb.CampaignConfiguration()
    configuration.MergeFrom(from_upload())
    for part in (configuration.http, configuration.analysis, configuration.lead):
        part.SetInParent()
    new = new_campaign(configuration, mode=Mode.FULL_SEQUENCE, phases=tuple(Phase))
    campaign = await create(campaign_store, new)
    for phase in Phase:
        if phase not in (GENERATION, *phases):
            await act(campaign_store, campaign, Action.SKIP, phase=phase)
    await act(campaign_store, campaign, Action.START)
    running = await campaign_store.names.running_phase(campaign.id, GENERATION)
    names = list(sites)
    assert await campaign_store.names.append_names(running, 0, names, digest(names))
    await campaign_store.names.announce(running, len(names), planned=True)
    assert await campaign_store.ledger.complete(running)
    running = await campaign_store.names.running_phase(running.campaign_id, HTTP)
    for key in await planned(campaign_store, running):
        claim = await store.claim(WorkerKey(*_run(key), key.first_position), "fetcher")
        assert claim is not None
        some = list(enumerate(names))[key.first_position :][: claim.name_count]
        outcomes = [_outcome(position, name, sites[name]) for position, name in some]
        assert await store.settle(claim, chunk_rows(key.campaign_no, key.run, outcomes, 1))
    assert await campaign_store.ledger.complete(running)
    return await campaign_store.names.running_phase(running.campaign_id, phases[1])


async def planned(
    campaign_store: CampaignStore, running: RunningPhase, chunk_size: int = 100
) -> list[ChunkKey]:
    """Plan a later phase, and hand all its chunks out."""
    await campaign_store.ledger.plan_candidates(running, chunk_size, 1_000)
    return await hand_out(campaign_store, [running])


async def outcomes(pool: Pool, running: RunningPhase) -> list[int]:
    """Names by outcome of a run, from its chunks."""
    rows = await pool.fetch(
        """SELECT outcome_counts FROM chunks
           WHERE campaign_no = $1 AND phase = $2 AND run = $3""",
        running.campaign_no,
        int(running.phase),
        running.run,
    )
    return [sum(counts) for counts in zip(*(row[0] for row in rows), strict=True)]


def _run(key: ChunkKey) -> tuple[int, int, int]:
    return key.campaign_no, key.phase, key.run


def _outcome(position: int, name: str, site: Site) -> HttpOutcome:
    result = ResultFields()
    page = None
    if site.verdict is Verdict.OK:
        url = site.final_url or f"https://{name}/"
        result = ResultFields(200, url, "A title", content_size=site.content_size)
    if site.has_page:
        assert site.features is not None
        evidence = page_pb2.PageEvidence(contacts=site.contacts).SerializeToString()
        page = encoded_page(
            PageFields(
                1,
                site.features.to_bytes(),
                site.hit_counts,
                site.is_match,
                evidence if site.evidence is None else site.evidence,
            )
        )
    return HttpOutcome(position, name, site.verdict, 1, 5_000, encoded_result(result), page)
