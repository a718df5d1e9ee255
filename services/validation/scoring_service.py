"""The part of ValidationService that keeps scoring profiles."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from domainflow.validation.v1 import scoring_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from services.chassis.errors import FieldViolation
from services.chassis.seal import Seal
from services.chassis.server import Rules
from services.validation.documents import Form
from services.validation.named_calls import NamedCalls, check_texts, fill, rules_of
from services.validation.named_store import NamedStore, New, Stored

_FORM = Form(
    "domainflow.scoring-profiles.v1",
    "scoring_profiles",
    pb.ScoringProfile,
    ("name", "description", "settings"),
)
_KIND = "scoring_profile"

Context = Any


class ScoringService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    _scoring_profiles: NamedCalls[pb.ScoringProfile]

    async def CreateScoringProfile(
        self, request: pb.CreateScoringProfileRequest, context: Context
    ) -> pb.CreateScoringProfileResponse:
        return await self._scoring_profiles.create(request, pb.CreateScoringProfileResponse)

    async def GetScoringProfile(
        self, request: pb.GetScoringProfileRequest, context: Context
    ) -> pb.GetScoringProfileResponse:
        if not request.version:
            return await self._scoring_profiles.get(request, pb.GetScoringProfileResponse)
        stored = await self._scoring_profiles.store.version(
            UUID(request.scoring_profile_id), request.version
        )
        return pb.GetScoringProfileResponse(scoring_profile=scoring_profile_to_pb(stored))

    async def ListScoringProfiles(
        self, request: pb.ListScoringProfilesRequest, context: Context
    ) -> pb.ListScoringProfilesResponse:
        return await self._scoring_profiles.list(request, pb.ListScoringProfilesResponse)

    async def UpdateScoringProfile(
        self, request: pb.UpdateScoringProfileRequest, context: Context
    ) -> pb.UpdateScoringProfileResponse:
        return await self._scoring_profiles.update(request, pb.UpdateScoringProfileResponse)

    async def DeleteScoringProfile(
        self, request: pb.DeleteScoringProfileRequest, context: Context
    ) -> pb.DeleteScoringProfileResponse:
        return await self._scoring_profiles.delete(request, pb.DeleteScoringProfileResponse)


def scoring_profile_calls(store: NamedStore, seal: Seal) -> NamedCalls[pb.ScoringProfile]:
    return NamedCalls(
        store,
        seal,
        kind=_KIND,
        form=_FORM,
        to_pb=scoring_profile_to_pb,
        to_new=_new,
        check=check_scoring_profile,
    )


def check_scoring_profile(profile: pb.ScoringProfile, path: str) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a profile that stands at `path`."""
    # They say all there is about its settings: any numbers within them make a profile.
    yield from check_texts(profile, path)


def scoring_profile_to_pb(profile: Stored) -> pb.ScoringProfile:
    message = pb.ScoringProfile(
        settings=pb.ScoringSettings.FromString(profile.body), version=profile.version
    )
    fill(message, profile, _KIND)
    return message


def _new(profile: pb.ScoringProfile) -> New:
    return New(
        profile.name,
        profile.description,
        profile.settings.SerializeToString(deterministic=True),
    )


# What the contract's own rules cannot say, by type of request.
RULES: Rules = rules_of(
    _KIND, pb.CreateScoringProfileRequest, pb.UpdateScoringProfileRequest, check_scoring_profile
)
