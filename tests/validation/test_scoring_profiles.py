"""Scoring profiles: each version stays readable, and any numbers that are accepted score."""

import math
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from domainflow.validation.v1.scoring_pb2 import (
    CreateScoringProfileRequest,
    DeleteScoringProfileRequest,
    GetScoringProfileRequest,
    ScoringProfile,
    ScoringSettings,
    ScoringWeights,
    UpdateScoringProfileRequest,
)
from domainflow.validation.v1.validation_service_pb2_grpc import ValidationServiceStub
from services.chassis.rules import ContractRules
from services.validation.content.features import Features
from services.validation.content.scoring import DEFAULT_PROFILE, explain
from services.validation.scoring_plans import scoring_profile_of
from tests.refusals import refused

Stub = ValidationServiceStub


async def test_every_version_stays_readable_also_when_the_profile_is_gone(stub: Stub) -> None:
    given = ScoringProfile(name="one", settings=ScoringSettings(full_coverage=1))
    request = CreateScoringProfileRequest(scoring_profile=given)
    made = (await stub.CreateScoringProfile(request)).scoring_profile
    changed = ScoringProfile()
    changed.CopyFrom(made)
    changed.name = "two"
    changed.settings.full_coverage = 2
    update = UpdateScoringProfileRequest(scoring_profile=changed)
    updated = (await stub.UpdateScoringProfile(update)).scoring_profile

    async def get(version: int) -> ScoringProfile:
        request = GetScoringProfileRequest(
            scoring_profile_id=made.scoring_profile_id, version=version
        )
        return (await stub.GetScoringProfile(request)).scoring_profile

    assert (made.version, updated.version) == (1, 2)
    assert await get(0) == await get(2) == updated
    assert await get(1) == made
    await stub.DeleteScoringProfile(
        DeleteScoringProfileRequest(scoring_profile_id=made.scoring_profile_id)
    )
    assert (await get(1), await get(2)) == (made, updated)
    assert (await refused(get(0))).reason == "RESOURCE_NOT_FOUND"
    assert (await refused(get(3))).reason == "RESOURCE_NOT_FOUND"


async def test_a_version_that_was_only_tried_is_not_kept(stub: Stub) -> None:
    profile = ScoringProfile(name="one")
    request = CreateScoringProfileRequest(scoring_profile=profile, validate_only=True)
    tried = (await stub.CreateScoringProfile(request)).scoring_profile

    get = GetScoringProfileRequest(scoring_profile_id=tried.scoring_profile_id, version=1)
    other = GetScoringProfileRequest(scoring_profile_id=str(uuid4()), version=1)

    assert (await refused(stub.GetScoringProfile(get))).reason == "RESOURCE_NOT_FOUND"
    assert (await refused(stub.GetScoringProfile(other))).reason == "RESOURCE_NOT_FOUND"


async def test_settings_out_of_their_limits_are_named(stub: Stub) -> None:
    settings = ScoringSettings(
        weights=ScoringWeights(freshness=math.nan, tf_lite=1001),
        parked_penalty_factor=1.5,
        full_density=math.inf,
        full_length=-1,
    )
    request = CreateScoringProfileRequest(
        scoring_profile=ScoringProfile(name="one", settings=settings)
    )

    refusal = await refused(stub.CreateScoringProfile(request))

    assert {field.removeprefix("scoring_profile.settings.") for field in refusal.fields} == {
        "weights.freshness",
        "weights.tf_lite",
        "parked_penalty_factor",
        "full_density",
        "full_length",
    }


# Profiles of settings.


def test_settings_that_say_nothing_are_the_defaults() -> None:
    assert scoring_profile_of(ScoringSettings()) == DEFAULT_PROFILE
    assert scoring_profile_of(ScoringSettings(weights=ScoringWeights())) == DEFAULT_PROFILE


def test_with_one_weight_those_left_out_count_nothing() -> None:
    weights = scoring_profile_of(ScoringSettings(weights=ScoringWeights(freshness=2))).weights

    assert weights.freshness == 2
    assert weights.keyword_density == weights.non_parked == 0


NUMBERS = st.floats(allow_nan=True) | st.sampled_from([0.0, 5e-324, 1.0, 1000.0])
SETTINGS = st.fixed_dictionaries(
    {
        "weights": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(ScoringWeights.DESCRIPTOR.fields_by_name, NUMBERS)
        ).map(lambda it: ScoringWeights(**it))
    },
    optional={
        "parked_penalty_factor": NUMBERS,
        "parked_penalty_below": NUMBERS,
        "full_density": NUMBERS,
        "full_coverage": st.integers(-1, 10_001),
        "full_length": st.integers(-1, 1 << 25),
        "repetition_above": NUMBERS,
        "anchor_share_above": NUMBERS,
    },
)
CONTRACT = ContractRules()


@given(SETTINGS)
def test_whatever_the_contract_accepts_scores(given: dict[str, Any]) -> None:
    settings = ScoringSettings(**given)
    if CONTRACT.violations(settings):
        return

    breakdown = explain(Features(), scoring_profile_of(settings), now=10**9)

    assert 0 <= breakdown.score <= 1000
    assert math.isclose(sum(each.weight for each in breakdown.components), 1)
