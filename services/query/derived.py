"""SQL of derived copies: of what they were made, and which of them are still true.

A copy is made by the maintainer and read by everybody. It says which version of the tables it was
made of; it is true while that is the version of the tables. Its rows never change: a new version
gets a new copy.
"""

from collections.abc import Sequence

from services.chassis.postgres import Pool
from services.query.sealed import ENRICHED, NAMES

NAME_ORDER = "name_order"
KINDS = (NAME_ORDER, NAMES, ENRICHED)


async def source_version(pool: Pool, no: int, kind: str) -> str | None:
    """What a copy of this kind would be made of now; None without such a campaign.

    Asked before the first row is read and again behind the last one: when both are equal, nothing
    changed in between, because every change of results raises a revision.
    """
    version: str | None = await pool.fetchval(
        f"SELECT {version_sql('$2')} FROM campaigns c WHERE c.no = $1 AND c.delete_time IS NULL",
        no,
        kind,
    )
    return version


async def true_copies(pool: Pool, nos: Sequence[int], kind: str) -> dict[int, int]:
    """Number of campaign -> id of its newest finished copy, where there is one that is true."""
    rows = await pool.fetch(_TRUE_COPIES, nos, kind)
    return {row["no"]: row["id"] for row in rows}


def version_sql(kind: str) -> str:
    """SQL of the version of campaign `c`. Names alone depend on how many there are; results on
    which runs are shown, and on the last change to each."""
    return f"""c.name_count::text || CASE WHEN {kind} <> '{ENRICHED}' THEN '' ELSE coalesce((
        SELECT string_agg(
            format(' %s:%s:%s', p.phase, p.result_run, coalesce(t.revision, 0)),
            '' ORDER BY p.phase
        )
        FROM phases p LEFT JOIN ledger_totals t
            ON t.campaign_no = p.campaign_no AND t.phase = p.phase AND t.run = p.result_run
        WHERE p.campaign_no = c.no AND p.phase > 1 AND p.result_run > 0
    ), '') END"""


_TRUE_COPIES = f"""
SELECT c.no, max(d.id) AS id
FROM campaigns c JOIN derivations d ON d.campaign_no = c.no
WHERE c.no = ANY($1::integer[]) AND d.kind = $2 AND d.finish_time IS NOT NULL
  AND c.delete_time IS NULL AND d.source_version = {version_sql("$2")}
GROUP BY c.no"""
