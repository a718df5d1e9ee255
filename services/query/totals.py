"""SQL of counters: what the ledger says of a campaign, whatever its size.

One row a phase, kept by the ledger's triggers (services/schema/migrations/0005_query.sql): nothing
is added up here, and one statement is one snapshot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.chassis.postgres import Pool
from services.query.campaigns import Runs
from services.query.funnel import PhaseCounts
from services.query.outcomes import PHASES

# Names are made once: generation is not rerun.
GENERATION_RUN = 1


@dataclass(frozen=True, slots=True)
class CampaignCounts:
    """A campaign's phases in order, and what the runs that are shown have found."""

    name_count: int
    phases: Sequence[PhaseCounts]

    def outcomes(self, phase: int) -> Mapping[int, int]:
        """Names by outcome, those that occurred."""
        return next((each.outcomes for each in self.phases if each.phase == phase), {})


@dataclass(frozen=True, slots=True)
class TldCount:
    """The names below one top-level domain: phase -> outcome -> names, those that occurred."""

    tld: str
    outcomes: Mapping[int, Mapping[int, int]]


class Totals:
    """Reads over a pool whose connections cannot write."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def counts(self, campaign_id: UUID) -> CampaignCounts | None:
        """All counts of a campaign; None when there is none, or it is being deleted."""
        rows = await self._pool.fetch(_COUNTS, campaign_id)
        if not rows:
            return None
        return CampaignCounts(
            rows[0]["campaign_name_count"],
            [
                PhaseCounts(
                    row["phase"],
                    row["name_count"],
                    row["shown_revision"],
                    _by_outcome(row["outcome_counts"]),
                )
                for row in rows
                if row["phase"] is not None
            ],
        )

    async def tlds(self, no: int, runs: Runs, after: str, limit: int) -> list[TldCount]:
        """The first `limit` top-level domains behind `after`, in bytewise order."""
        rows = await self._pool.fetch(_TLDS, no, PHASES, _all_runs(runs), after, limit)
        found: dict[str, dict[int, Mapping[int, int]]] = {}
        for row in rows:
            found.setdefault(row["tld"], {})[row["phase"]] = _by_outcome(row["outcome_counts"])
        # Each phase gave its first ones: the first of all are among them, with all they have.
        return [TldCount(tld, found[tld]) for tld in sorted(found)[:limit]]

    async def tld_size(self, no: int, runs: Runs) -> int:
        """How many top-level domains there are."""
        size: int = await self._pool.fetchval(_TLD_SIZE, no, PHASES, _all_runs(runs))
        return size


def _all_runs(runs: Runs) -> list[int]:
    return [GENERATION_RUN, *runs]


def _by_outcome(counts: Sequence[int] | None) -> dict[int, int]:
    return {outcome: count for outcome, count in enumerate(counts or (), 1) if count}


_COUNTS = """
SELECT c.name_count AS campaign_name_count, p.phase, p.name_count, p.shown_revision,
    t.outcome_counts
FROM campaigns c
LEFT JOIN phases p ON p.campaign_no = c.no
LEFT JOIN ledger_totals t
    ON t.campaign_no = c.no AND t.phase = p.phase AND t.run = p.result_run
WHERE c.id = $1 AND c.delete_time IS NULL
ORDER BY p.phase"""
_TLDS = """
SELECT r.phase, t.tld, t.outcome_counts
FROM unnest($2::smallint[], $3::int[]) AS r (phase, run), LATERAL (
    SELECT tld, outcome_counts FROM tld_totals
    WHERE campaign_no = $1 AND phase = r.phase AND run = r.run AND tld > $4 AND settled_count > 0
    ORDER BY tld LIMIT $5
) t"""
_TLD_SIZE = """
SELECT count(DISTINCT tld)
FROM unnest($2::smallint[], $3::int[]) AS r (phase, run)
JOIN tld_totals t
    ON t.campaign_no = $1 AND t.phase = r.phase AND t.run = r.run AND t.settled_count > 0"""
