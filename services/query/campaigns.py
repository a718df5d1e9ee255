"""What every read of a campaign needs first: its number, its size, and which runs are shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from services.chassis.postgres import PLANNED_ONCE, Pool


class Runs(NamedTuple):
    """The run of each phase whose results are shown; 0: none. What a walk or a stream began with
    it ends with: its cursor carries them."""

    dns: int = 0
    http: int = 0
    analysis: int = 0
    leads: int = 0


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign at one moment."""

    id: UUID
    no: int
    # Names stored; they are at positions 0 to name_count - 1, and never change.
    name_count: int
    # Of the newest event.
    revision: int
    # No name will be added any more.
    generated: bool
    runs: Runs


async def read_campaigns(pool: Pool, campaign_ids: Sequence[UUID]) -> dict[UUID, Campaign]:
    """Those of the campaigns that exist, in one statement; one that is being deleted does not."""
    rows = await pool.fetch(_CAMPAIGNS, campaign_ids)
    return {
        row["id"]: Campaign(
            row["id"],
            row["no"],
            row["name_count"],
            row["revision"],
            row["generated"],
            Runs(row["dns"], row["http"], row["analysis"], row["leads"]),
        )
        for row in rows
    }


# Of the campaign with the number $1, as a statement sees it; null of one that is being deleted.
REVISION = "(SELECT revision FROM campaigns WHERE no = $1 AND delete_time IS NULL)"
NAME_COUNT = "(SELECT name_count FROM campaigns WHERE no = $1 AND delete_time IS NULL)"

_CAMPAIGNS = f"""{PLANNED_ONCE}
SELECT c.id, c.no, c.name_count, c.revision, p.*
FROM campaigns c, LATERAL (
    SELECT coalesce(bool_or(status IN ('COMPLETED', 'SKIPPED')) FILTER (WHERE phase = 1), false)
            AS generated,
        coalesce(max(result_run) FILTER (WHERE phase = 2), 0) AS dns,
        coalesce(max(result_run) FILTER (WHERE phase = 3), 0) AS http,
        coalesce(max(result_run) FILTER (WHERE phase = 4), 0) AS analysis,
        coalesce(max(result_run) FILTER (WHERE phase = 5), 0) AS leads
    FROM phases WHERE campaign_no = c.no
) p
WHERE c.id = ANY($1::uuid[]) AND c.delete_time IS NULL"""
