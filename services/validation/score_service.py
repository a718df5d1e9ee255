"""The part of ValidationService that explains scores."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import scoring_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from services.chassis.errors import CampaignNotFound, DomainNotFound, FieldViolation, NoPage
from services.chassis.server import Rules
from services.validation.analysis_store import Analyses, ExplainedPage
from services.validation.content.features import Features
from services.validation.content.scoring import explain
from services.validation.named_store import NamedStore
from services.validation.score_evidence import breakdown_to_pb
from services.validation.scoring_plans import scoring_profile_of

Context = Any


class ScoreService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    _analyses: Analyses
    _profiles: NamedStore

    async def ExplainScore(
        self, request: pb.ExplainScoreRequest, context: Context
    ) -> pb.ExplainScoreResponse:
        campaign_id, position = UUID(request.campaign_id), request.position
        if request.scoring_profile_id or request.HasField("settings"):
            profile_id, version, settings = await self._asked(request)
            page = _existing(await self._analyses.page(campaign_id, position), request)
            score_time = int(time.time())
        else:
            page = _existing(await self._analyses.scored(campaign_id, position), request)
            if page.scoring is None:
                raise NoPage(campaign_id, position)
            stored = campaign_pb2.AnalysisConfiguration.FromString(page.scoring.body)
            settings = stored.settings
            profile_id, version = stored.scoring_profile_id, stored.scoring_profile_version
            score_time = page.scoring.score_time
        if page.features is None:
            raise NoPage(campaign_id, position)
        try:
            features = Features.from_bytes(page.features)
        except ValueError:
            raise NoPage(campaign_id, position) from None
        breakdown = explain(features, scoring_profile_of(settings), now=score_time)
        return pb.ExplainScoreResponse(
            name=page.name or "",
            breakdown=breakdown_to_pb(
                breakdown, score_time=score_time, profile_id=profile_id, version=version
            ),
        )

    async def _asked(self, request: pb.ExplainScoreRequest) -> tuple[str, int, pb.ScoringSettings]:
        """The profile's id, its version, and its settings. Raises ResourceNotFound."""
        if not request.scoring_profile_id:
            return "", 0, request.settings
        stored = await self._profiles.get(UUID(request.scoring_profile_id))
        return str(stored.id), stored.version, pb.ScoringSettings.FromString(stored.body)


def _existing(page: ExplainedPage | None, request: pb.ExplainScoreRequest) -> ExplainedPage:
    """Raises CampaignNotFound, DomainNotFound."""
    if page is None:
        raise CampaignNotFound(request.campaign_id)
    if page.name is None:
        raise DomainNotFound(request.campaign_id, request.position)
    return page


def check_explain(request: pb.ExplainScoreRequest) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about ExplainScore."""
    if request.scoring_profile_id and request.HasField("settings"):
        yield FieldViolation("scoring_profile_id", "does not go with settings")


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {pb.ExplainScoreRequest: check_explain}
