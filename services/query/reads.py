"""Where a read goes, and how fresh it is."""

from dataclasses import dataclass
from uuid import UUID

from domainflow.query.v1 import consistency_pb2 as pb
from services.chassis.postgres import Pool


@dataclass(frozen=True, slots=True)
class Read:
    """One read: the pool that answers all its statements, and how fresh that is."""

    pool: Pool
    freshness: pb.Freshness


class Reads:
    """Chooses the server for each read."""

    def __init__(self, primary: Pool) -> None:
        self._primary = primary

    async def begin(
        self, consistency: pb.Consistency, campaign_id: UUID | None = None, *, least: int = 0
    ) -> Read:
        """A server that meets `consistency` and has seen revision `least` of the campaign.

        `least` is what a token promises that leads to this read. Raises RevisionOutOfRange when the
        primary has not got so far as the caller asks.
        """
        return Read(self._primary, pb.Freshness(source=pb.READ_SOURCE_PRIMARY))
