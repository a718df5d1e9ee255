"""SQL of counters: what the ledger says of a campaign, whatever its size."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from domainflow.campaign.v1.campaign_pb2 import PHASE_DNS_VALIDATION
from domainflow.validation.v1.dns_pb2 import DnsVerdict
from services.chassis.postgres import Pool


@dataclass(frozen=True, slots=True)
class Campaign:
    """What every read of a campaign needs first."""

    no: int
    name_count: int


@dataclass(frozen=True, slots=True)
class Counters:
    """A campaign and its names by verdict, from the ledger; verdicts without names are left out."""

    campaign: Campaign
    by_verdict: Mapping[int, int]

    @property
    def pending(self) -> int:
        return self.campaign.name_count - sum(self.by_verdict.values())


class Totals:
    """Reads over a pool whose connections cannot write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def campaign(self, campaign_id: UUID) -> Campaign | None:
        row = await self._pool.fetchrow(
            "SELECT no, name_count FROM campaigns WHERE id = $1 AND delete_time IS NULL",
            campaign_id,
        )
        return Campaign(row[0], row[1]) if row else None

    async def counters(self, campaign_id: UUID) -> Counters | None:
        row = await self._pool.fetchrow(_COUNTERS, campaign_id)
        if row is None:
            return None
        by_verdict = {verdict: row[f"v{verdict}"] for verdict in _VERDICTS}
        return Counters(
            Campaign(row["no"], row["name_count"]),
            {verdict: count for verdict, count in by_verdict.items() if count},
        )


_VERDICTS = [number for number in DnsVerdict.values() if number]
_PHASE = int(PHASE_DNS_VALIDATION)

# SUM over the ledger, never COUNT(*): 0.5 ms for 2M names, exact, and no hot row.
_COUNTERS = f"""
SELECT c.no, c.name_count, s.*
FROM campaigns c, LATERAL (
    SELECT {", ".join(f"coalesce(sum(outcome_counts[{v}]), 0) AS v{v}" for v in _VERDICTS)}
    FROM chunks
    WHERE campaign_no = c.no AND phase = {_PHASE} AND state = 'done'
      AND run = (SELECT result_run FROM phases WHERE campaign_no = c.no AND phase = {_PHASE})
) s
WHERE c.id = $1 AND c.delete_time IS NULL"""
