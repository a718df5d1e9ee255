"""What processes know of the proxies they use: reports and the changes they tell of.

One public method is one transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from domainflow.validation.v1 import proxy_pb2 as pb
from services.chassis.postgres import Pool
from services.validation.process_reports import ProcessReports

# The worst health first.
_WORST = (
    pb.PROXY_HEALTH_DOWN,
    pb.PROXY_HEALTH_ON_TRIAL,
    pb.PROXY_HEALTH_UP,
    pb.PROXY_HEALTH_UNSPECIFIED,
)
_COUNTS = ("use_count", "in_flight_count", "worked_count", "failed_count", "unknown_count")


@dataclass(frozen=True, slots=True)
class ProxyReport:
    """What one process knows of one proxy of one pool. `body` is a ProxyStatus."""

    proxy_pool_id: UUID
    proxy_id: UUID
    body: bytes


class ProxyReports(ProcessReports):
    """The table `proxy_reports`, and the suite's history of proxies."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool, "proxy_reports")

    async def report(self, worker_id: str, reports: Sequence[ProxyReport]) -> None:
        """Replace what this process said before."""
        columns = (
            [each.proxy_pool_id for each in reports],
            [each.proxy_id for each in reports],
            [each.body for each in reports],
        )
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                """DELETE FROM proxy_reports WHERE worker_id = $1 AND (proxy_pool_id, proxy_id)
                       NOT IN (SELECT * FROM unnest($2::uuid[], $3::uuid[]))""",
                worker_id,
                *columns[:2],
            )
            await connection.execute(
                """INSERT INTO proxy_reports (worker_id, proxy_pool_id, proxy_id, body)
                   SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::bytea[])
                   ON CONFLICT (worker_id, proxy_pool_id, proxy_id) DO UPDATE SET
                       report_time = now(), body = excluded.body""",
                worker_id,
                *columns,
            )

    async def statuses(self, proxy_ids: Sequence[UUID]) -> dict[UUID, pb.ProxyStatus]:
        """What the processes that live say of these proxies, summed up; none of one that nobody
        uses."""
        living = await self.look()
        rows = await self._pool.fetch(
            """SELECT proxy_id, report_time, body FROM proxy_reports
               WHERE proxy_id = ANY($1) AND worker_id = ANY($2) ORDER BY report_time""",
            proxy_ids,
            list(living),
        )
        found: dict[UUID, pb.ProxyStatus] = {}
        for row in rows:
            said = pb.ProxyStatus.FromString(row["body"])
            status = found.setdefault(row["proxy_id"], pb.ProxyStatus())
            status.health = min(status.health or said.health, said.health, key=_WORST.index)
            for name in _COUNTS:
                setattr(status, name, getattr(status, name) + getattr(said, name))
            # The newest of them comes last.
            status.last_failure = said.last_failure or status.last_failure
            status.report_time.FromDatetime(row["report_time"])
        return found
