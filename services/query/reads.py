"""Where a read goes, and how fresh it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import asyncpg

from domainflow.query.v1 import consistency_pb2 as pb
from services.chassis.errors import (
    FieldViolation,
    InvalidFields,
    PartUnavailable,
    RevisionOutOfRange,
)
from services.chassis.postgres import AWAY, Connection, Pool
from services.query.campaigns import Campaign, read_campaigns
from services.query.replica import Replica

# A replica that has no connection to give for so many seconds is passed over.
PATIENCE = 2.0
# A statement that is wrong fails on the primary again, so nothing needs to be told apart: a
# replica may be dead, have ended a statement that stood in the way of replaying (40001, 57014), or
# have fewer tables than the primary.
FAILED = (*AWAY, asyncpg.PostgresError)


@dataclass(frozen=True, slots=True)
class Read:
    """One read: the pool that answers all its statements, and how fresh that is.

    When a replica fails, the primary answers the statement that failed and all later ones, and
    `freshness` says so from then on.
    """

    pool: Pool
    freshness: pb.Freshness
    # The campaign that the read is about, as it was when the read began; None: there is none.
    campaign: Campaign | None = None


class Reads:
    """Chooses the server for each read.

    `max_lag`: seconds that a replica may be behind to answer those who want it fast.
    """

    def __init__(
        self, primary: Pool, replica: Replica | None = None, *, max_lag: float = 30
    ) -> None:
        self._primary = primary
        self._replica = replica
        self._max_lag = max_lag

    @property
    def primary(self) -> Pool:
        """What answers those who ask for nothing else."""
        return self._primary

    @property
    def replica(self) -> Replica | None:
        return self._replica

    @property
    def connections(self) -> int:
        """How many the primary's pool has at most."""
        return self._primary.get_max_size()

    async def begin(
        self, consistency: pb.Consistency, campaign_id: UUID | None = None, *, least: int = 0
    ) -> Read:
        """A server that meets `consistency` and has seen revision `least` of the campaign.

        `least` is what a token promises that leads to this read. Raises RevisionOutOfRange when the
        primary has not got so far as the caller asks, InvalidFields when he asks for a revision
        and no single campaign is meant.
        """
        wanted = consistency.WhichOneof("requirement")
        if wanted == "at_least_as_fresh":
            if campaign_id is None:
                raise InvalidFields([_MEANS_NO_CAMPAIGN])
            least = max(least, consistency.at_least_as_fresh)
        if wanted == "at_least_as_fresh" or (wanted == "minimize_latency" and self._is_near()):
            read = await self._begin_on_replica(campaign_id, least)
            if read is not None:
                return read
        return await self._begin_on_primary(campaign_id, least)

    def begun(self, campaign: Campaign) -> Read:
        """A read of the primary that found the campaign like this."""
        freshness = pb.Freshness(source=pb.READ_SOURCE_PRIMARY, revision=campaign.revision)
        return Read(self._primary, freshness, campaign)

    def _is_near(self) -> bool:
        """Whether the replica is fresh enough, or all there is."""
        if self._replica is None:
            return False
        lag = self._replica.lag
        return self._replica.alone or (lag is not None and lag <= self._max_lag)

    async def _begin_on_replica(self, campaign_id: UUID | None, least: int) -> Read | None:
        """None when the primary has to answer."""
        replica = self._replica
        if replica is None or replica.pool is None:
            return None
        # Said before anything is read: it may only be less behind by then.
        lag = replica.lag
        freshness = pb.Freshness(source=pb.READ_SOURCE_REPLICA)
        freshness.replica_lag.FromMicroseconds(
            int((replica.least_lag if lag is None else lag) * 1_000_000)
        )
        pool = _FailingOver(replica, replica.pool, self._primary, freshness)
        read = await _read(cast(Pool, pool), freshness, campaign_id)
        if campaign_id is None:
            return read
        # One that it does not know may be younger than the replica's last word.
        if read.campaign is None or read.campaign.revision < least:
            return None
        return read

    async def _begin_on_primary(self, campaign_id: UUID | None, least: int) -> Read:
        freshness = pb.Freshness(source=pb.READ_SOURCE_PRIMARY)
        read = await _read(self._primary, freshness, campaign_id)
        if read.campaign is not None and read.campaign.revision < least:
            newest = read.campaign.revision
            raise RevisionOutOfRange(
                f"revision {least} is after the newest one, {newest}",
                campaign_id=campaign_id,
                revision=least,
                newest_revision=newest,
                restart_revision=0,
            )
        return read


async def _read(pool: Pool, freshness: pb.Freshness, campaign_id: UUID | None) -> Read:
    """The read with its campaign: one statement, and the caller needs no other one for that."""
    if campaign_id is None:
        return Read(pool, freshness)
    campaign = (await read_campaigns(pool, [campaign_id])).get(campaign_id)
    freshness.revision = campaign.revision if campaign else 0
    return Read(pool, freshness, campaign)


def check_consistency(
    consistency: pb.Consistency, campaign_count: int, *, field: str = "consistency"
) -> list[FieldViolation]:
    """The violations of a request about so many campaigns."""
    if campaign_count > 1 and consistency.WhichOneof("requirement") == "at_least_as_fresh":
        return [FieldViolation(f"{field}.at_least_as_fresh", _MEANS_NO_CAMPAIGN.description)]
    return []


_MEANS_NO_CAMPAIGN = FieldViolation(
    "consistency.at_least_as_fresh", "only in requests about one campaign, whose revision it is"
)


class _FailingOver:
    """What reads use of a pool: the replica's, and from its first failure on the primary's."""

    def __init__(
        self, replica: Replica, pool: Pool, primary: Pool, freshness: pb.Freshness
    ) -> None:
        self._replica = replica
        self._pool: Pool | None = pool
        self._primary = primary
        self._freshness = freshness

    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        return await self._ask("fetch", arguments, options)

    async def fetchrow(self, *arguments: Any, **options: Any) -> Any:
        return await self._ask("fetchrow", arguments, options)

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:
        return await self._ask("fetchval", arguments, options)

    async def _ask(self, method: str, arguments: Any, options: Any) -> Any:
        if self._pool is not None:
            try:
                async with self._pool.acquire(timeout=PATIENCE) as connection:
                    return await getattr(connection, method)(*arguments, **options)
            except FAILED as error:
                self._leave(error)
        return await getattr(self._primary, method)(*arguments, **options)

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[Connection]:
        """A connection for several statements. When the replica fails meanwhile, the caller gets
        PartUnavailable: it has to begin again, and this read gives it the primary then."""
        pool, connection = self._pool, None
        if pool is not None:
            try:
                connection = await pool.acquire(timeout=PATIENCE)
            except FAILED as error:
                self._leave(error)
        if pool is None or connection is None:
            async with self._primary.acquire(timeout=timeout) as connection:
                yield connection
            return
        try:
            yield connection
        except FAILED as error:
            self._leave(error)
            raise PartUnavailable(
                "the replica failed meanwhile", retry_after=0.1, part="postgres"
            ) from error
        finally:
            await pool.release(connection)

    def _leave(self, error: BaseException) -> None:
        """Go on with the primary, for good: going back could be going back in time."""
        self._pool = None
        self._freshness.source = pb.READ_SOURCE_PRIMARY
        self._freshness.ClearField("replica_lag")
        self._replica.failed(error)
