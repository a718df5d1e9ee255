"""What changed: StreamChanges and StreamDifferences."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any
from uuid import UUID

from domainflow.query.v1 import stream_pb2 as pb
from services.chassis.errors import CampaignNotFound, FieldViolation
from services.chassis.seal import binding
from services.query.ahead import ahead
from services.query.bulk import Costs
from services.query.change_token import ChangePlace, DifferencePlace
from services.query.change_walk import ChangeWalk, Found
from services.query.changes import Changes, Rows
from services.query.comparison import NOT_EARLIER, Comparison, two_runs
from services.query.differences import Differences
from services.query.outcomes import HTTP
from services.query.part import Context, Part, the_campaign

PREFETCHED = 2


class ChangeService(Part):
    """What changed since a revision, and on what two runs differ."""

    async def StreamChanges(
        self, request: pb.StreamChangesRequest, context: Context
    ) -> AsyncIterator[pb.StreamChangesResponse]:
        costs = Costs()
        bound = _binding("StreamChanges", request)
        place = ChangePlace.open(self._seal, request.cursor, bound) if request.cursor else None
        least = max(request.since_revision, place.revision if place else 0)
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id), least=least)
        changes = Changes(read.pool)
        turn = partial(self._turn, costs, request.priority)
        snapshot = await changes.snapshot(UUID(request.campaign_id))
        if snapshot is None:
            raise CampaignNotFound(request.campaign_id)
        walk = ChangeWalk(request, changes, snapshot.no, turn)
        place = place or walk.begin(snapshot)
        async with aclosing(ahead(walk.found(place), PREFETCHED)) as all_found:
            async for found in all_found:
                for rows in found.rows.fitting():
                    costs.rows += len(rows.positions)
                    resume = replace(found.place, position=rows.positions[-1] + 1)
                    yield _change_batch(found, rows, resume.seal(self._seal, bound))
        yield pb.StreamChangesResponse(
            summary=pb.ChangeSummary(
                row_count=costs.rows,
                revision=place.revision,
                performance=costs.performance(),
                freshness=read.freshness,
            )
        )

    @asynccontextmanager
    async def _turn(self, costs: Costs, priority: int) -> AsyncIterator[None]:
        """Wait for a turn with the database, and hold it."""
        asked = monotonic()
        async with self._turns.turn(priority):
            begun = monotonic()
            costs.queued += begun - asked
            try:
                yield
            finally:
                costs.database += monotonic() - begun

    async def StreamDifferences(
        self, request: pb.StreamDifferencesRequest, context: Context
    ) -> AsyncIterator[pb.StreamDifferencesResponse]:
        costs = Costs()
        bound = _binding("StreamDifferences", request)
        place = DifferencePlace.open(self._seal, request.cursor, bound) if request.cursor else None
        least = place.revision if place else 0
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id), least=least)
        campaign = await the_campaign(read, request.campaign_id)
        differences = Differences(read.pool)
        if place is None:
            shown = campaign.runs.http if request.phase == HTTP else campaign.runs.dns
            base_run, run = await two_runs(differences, campaign.no, request, shown)
            place = DifferencePlace(campaign.revision, base_run, run, campaign.name_count, 0)
        turn = partial(self._turn, costs, request.priority)
        comparison = Comparison(request, differences, campaign.no, turn, place)
        async with aclosing(ahead(comparison.found(), PREFETCHED)) as all_found:
            async for found in all_found:
                costs.rows += len(found)
                cursor = replace(place, position=found[-1].position + 1).seal(self._seal, bound)
                yield pb.StreamDifferencesResponse(
                    batch=pb.DifferenceBatch(differences=found, cursor=cursor)
                )
        report = comparison.report()
        report.performance.CopyFrom(costs.performance())
        report.freshness.CopyFrom(read.freshness)
        yield pb.StreamDifferencesResponse(report=report)


def check_differences(request: pb.StreamDifferencesRequest) -> list[FieldViolation]:
    if request.run and request.base_run >= request.run:
        return [NOT_EARLIER]
    return []


def _change_batch(found: Found, rows: Rows, cursor: str) -> pb.StreamChangesResponse:
    # Filled in place: a batch made apart would be copied into the response.
    response = pb.StreamChangesResponse()
    batch = response.batch
    batch.phase = found.place.phase  # type: ignore[assignment]  # a plain number
    batch.revision = found.revision
    batch.domain_count = len(rows.positions)
    batch.positions.extend(rows.positions)
    batch.names.extend(rows.names)
    batch.outcomes.extend(rows.outcomes)
    batch.cursor = cursor
    return response


def _binding(method: str, request: Any) -> bytes:
    """All that the request says but where it goes on, how much comes at once and how soon."""
    bound = type(request)()
    bound.CopyFrom(request)
    for free in ("cursor", "batch_size", "priority", "consistency"):
        bound.ClearField(free)
    return binding(method, bound.SerializeToString(deterministic=True))
