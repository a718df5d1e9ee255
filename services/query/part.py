"""What every part of the query service has in hand."""

from collections.abc import Sequence
from typing import Any, TypeAlias
from uuid import UUID

import grpc

from domainflow.query.v1.query_service_pb2_grpc import QueryServiceServicer
from services.chassis.errors import CampaignNotFound
from services.chassis.postgres import Beside
from services.chassis.seal import Seal
from services.query.campaigns import Campaign, read_campaigns
from services.query.reads import Read, Reads
from services.query.turns import Turns

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Part(QueryServiceServicer):
    """Some of the RPCs of QueryService, which is all parts together.

    `beside`: a connection to the primary that is free when all of the pool are taken.
    """

    def __init__(self, *, reads: Reads, seal: Seal, beside: Beside | None = None) -> None:
        self._reads = reads
        self._seal = seal
        # Of all bulk reads together, whichever part they are of.
        self._turns = Turns(reads.connections)
        self._beside = beside


async def the_campaign(read: Read, campaign_id: str) -> Campaign:
    """The campaign as it was when the read began. Raises CampaignNotFound."""
    if read.campaign is not None and read.campaign.id == UUID(campaign_id):
        return read.campaign
    found = await campaigns_of(read, [campaign_id])
    if not found:
        raise CampaignNotFound(campaign_id)
    return next(iter(found.values()))


async def campaigns_of(read: Read, campaign_ids: Sequence[str]) -> dict[UUID, Campaign]:
    """Those of the campaigns that exist; one that is being deleted does not."""
    return await read_campaigns(read.pool, [UUID(each) for each in campaign_ids])


def coerced(asked: int, default: int, largest: int) -> int:
    """A size as it is used: 0 is the default, more than the largest is the largest (AIP-158)."""
    return min(asked or default, largest)
