"""Scores explained through a real port: exactly those that are stored."""

import random
from uuid import uuid4

import pytest
from nats.aio.client import Client

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import scoring_pb2 as pb
from domainflow.validation.v1.analysis_pb2 import PAGE_WARNING_REPETITION
from domainflow.validation.v1.validation_service_pb2_grpc import ValidationServiceStub
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.validation.analysis_probe import AnalysisProbe
from services.validation.attempt import End, check_and_settle, stored_items
from services.validation.http.verdict import Verdict
from services.validation.pacing import Pace
from services.validation.store import ChunkKey, Store
from tests.pages import FETCHED, USUAL, Site, fetched, planned, random_features
from tests.refusals import refused

Stub = ValidationServiceStub


async def analyse(campaigns: CampaignStore, store: Store, running: RunningPhase) -> None:
    """Score all pages, as a worker does."""
    probe = AnalysisProbe()
    for key in await planned(campaigns, running):
        ours = ChunkKey(key.campaign_no, key.phase, key.run, key.first_position)
        claim = await store.claim(ours, "worker")
        assert claim is not None
        items = await stored_items(store, probe, claim)
        end = await check_and_settle(store, probe, claim, items, Pace(0, 0.0))
        assert end is End.SETTLED


async def store_profile(stub: Stub, settings: pb.ScoringSettings) -> pb.ScoringProfile:
    profile = pb.ScoringProfile(name="ours", settings=settings)
    request = pb.CreateScoringProfileRequest(scoring_profile=profile)
    return (await stub.CreateScoringProfile(request)).scoring_profile


async def explained(
    stub: Stub, running: RunningPhase, position: int, **asked: object
) -> pb.ExplainScoreResponse:
    request = pb.ExplainScoreRequest(campaign_id=str(running.campaign_id), position=position)
    request.MergeFrom(pb.ExplainScoreRequest(**asked))  # type: ignore[arg-type]
    return await stub.ExplainScore(request)


async def test_every_stored_score_is_what_its_explanation_adds_up_to(
    campaign_store: CampaignStore, store: Store, pool: Pool, stub: Stub
) -> None:
    dice = random.Random(4)
    sites = {f"name-{n}.com": Site(features=random_features(dice)) for n in range(200)}
    settings = pb.ScoringSettings(
        weights=pb.ScoringWeights(keyword_density=2, freshness=0.7, tf_lite=1, non_parked=0.1),
        parked_penalty_factor=0.3,
        repetition_above=0,
    )
    profile = await store_profile(stub, settings)
    configuration = campaign_pb2.CampaignConfiguration()
    configuration.analysis.scoring_profile_id = profile.scoring_profile_id
    running = await fetched(campaign_store, store, sites, configuration)
    taken = campaign_pb2.CampaignConfiguration.FromString(running.configuration).analysis
    # What becomes of the profile later changes no score, nor what explains it.
    request = pb.DeleteScoringProfileRequest(scoring_profile_id=profile.scoring_profile_id)
    await stub.DeleteScoringProfile(request)
    # So that pages have an age, as if they were scored soon.
    await pool.execute(
        """INSERT INTO scorings SELECT $1, $2, 1, 1, $3, $4""",
        running.campaign_no,
        running.run,
        FETCHED + 86_400,
        taken.SerializeToString(deterministic=True),
    )
    await analyse(campaign_store, store, running)

    rows = await pool.fetch("SELECT position, score, warnings FROM page_analyses")
    assert len(rows) == 200
    for position, score, warnings in rows:
        response = await explained(stub, running, position)
        breakdown = response.breakdown
        assert response.name == f"name-{position}.com"
        assert breakdown.score == score / 1_000
        assert sum(1 << (it - 1) for it in breakdown.warnings) == warnings
        total = sum(it.contribution for it in breakdown.components)
        for penalty in breakdown.penalties:
            total *= penalty.factor
        assert abs(total - breakdown.score) <= 0.000_501
        assert sum(it.weight for it in breakdown.components) == pytest.approx(1)
        assert breakdown.scoring_profile_id == profile.scoring_profile_id
        assert breakdown.version == profile.version
        assert breakdown.score_time.seconds == FETCHED + 86_400
    assert any(row["warnings"] >> (PAGE_WARNING_REPETITION - 1) & 1 for row in rows)
    assert len({row["score"] for row in rows}) > 20


async def test_another_profile_or_settings_are_tried_without_storing_anything(
    campaign_store: CampaignStore, store: Store, pool: Pool, stub: Stub
) -> None:
    running = await fetched(campaign_store, store, {"a.com": Site(features=USUAL)})
    settings = pb.ScoringSettings(weights=pb.ScoringWeights(non_parked=1))
    profile = await store_profile(stub, settings)

    # Before anything is scored, too.
    by_settings = await explained(stub, running, 0, settings=settings)
    by_profile = await explained(stub, running, 0, scoring_profile_id=profile.scoring_profile_id)

    assert by_settings.breakdown.score == by_profile.breakdown.score == 1
    assert by_settings.breakdown.scoring_profile_id == ""
    assert by_profile.breakdown.scoring_profile_id == profile.scoring_profile_id
    assert by_profile.breakdown.version == profile.version
    assert not await pool.fetch("SELECT FROM scorings")


async def test_names_without_a_page_and_pages_without_a_score_say_so(
    campaign_store: CampaignStore, store: Store, stub: Stub, queue: Client
) -> None:
    sites = {"a.com": Site(), "slow.com": Site(Verdict.TIMEOUT)}
    running = await fetched(campaign_store, store, sites)

    unscored = await refused(explained(stub, running, 0))
    await analyse(campaign_store, store, running)
    without_page = await refused(explained(stub, running, 1))
    still_without = await refused(explained(stub, running, 1, settings=pb.ScoringSettings()))
    nobody = await refused(explained(stub, running, 2))
    stranger = await refused(
        stub.ExplainScore(pb.ExplainScoreRequest(campaign_id=str(uuid4()), position=0))
    )
    no_profile = await refused(explained(stub, running, 0, scoring_profile_id=str(uuid4())))
    both = await refused(
        explained(stub, running, 0, scoring_profile_id=str(uuid4()), settings=pb.ScoringSettings())
    )

    refusals = (unscored, without_page, still_without, nobody, stranger, no_profile)
    assert [(it.code, it.reason) for it in refusals] == [
        ("FAILED_PRECONDITION", "NO_PAGE"),
        ("FAILED_PRECONDITION", "NO_PAGE"),
        ("FAILED_PRECONDITION", "NO_PAGE"),
        ("NOT_FOUND", "DOMAIN_NOT_FOUND"),
        ("NOT_FOUND", "CAMPAIGN_NOT_FOUND"),
        ("NOT_FOUND", "RESOURCE_NOT_FOUND"),
    ]
    assert unscored.metadata == {"campaign_id": str(running.campaign_id), "position": "0"}
    assert both.fields == {"scoring_profile_id"}
    assert (await explained(stub, running, 0)).breakdown.score > 0
