"""SQL of derived copies: of what they were made, and which of them are still true.

A copy is made by the maintainer and read by everybody. It says which version of the tables it was
made of; it is true while that is the version of the tables. Its rows never change: a new version
gets a new copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.postgres import Pool
from services.query.campaigns import Runs
from services.query.sealed import BY_NAME, BY_SCORE, NAMES, PAGES, Segment

NAME_ORDER = "name_order"


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


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy and the version it was made of."""

    id: int
    version: str

    @property
    def runs(self) -> Runs:
        """Whose results are in it."""
        by_phase = {
            int(phase): int(run)
            for phase, run, _ in (part.split(":") for part in self.version.split(" ")[1:])
        }
        return Runs(*(by_phase.get(phase, 0) for phase in range(2, 6)))


@dataclass(frozen=True, slots=True)
class PageCopies:
    """Finished copies for pages of one version: `id` of the one in order of position, and those in
    other orders where there are."""

    id: int
    by_name: int | None = None
    by_score: int | None = None


async def page_copies(pool: Pool, no: int) -> PageCopies | None:
    """The copies for pages of a campaign that are true."""
    rows = await pool.fetch(_PAGE_COPIES, no, (PAGES, BY_NAME, BY_SCORE))
    ids = {row["kind"]: row["id"] for row in rows}
    if PAGES not in ids:
        return None
    return PageCopies(ids[PAGES], ids.get(BY_NAME), ids.get(BY_SCORE))


async def true_copies(pool: Pool, nos: Sequence[int], kind: str) -> dict[int, Copy]:
    """Number of campaign -> its newest finished copy, where there is one that is true."""
    rows = await pool.fetch(_TRUE_COPIES, nos, kind)
    return {row["no"]: Copy(row["id"], row["source_version"]) for row in rows}


async def segments_of(pool: Pool, no: int, copy_id: int, first: int, end: int) -> list[Segment]:
    """The segments of a copy that begin at positions first..end-1, in order; none of a campaign
    that is being deleted, and none where the maintainer has begun to remove the copy."""
    rows = await pool.fetch(_SEGMENTS, no, copy_id, first, end)
    return [Segment(row[0], row[1], row[2]) for row in rows]


def version_sql(kind: str) -> str:
    """SQL of the version of campaign `c`. Names alone depend on how many there are; results on
    which runs are shown, and on the last change to each."""
    return f"""c.name_count::text || CASE WHEN {kind} IN ('{NAME_ORDER}', '{NAMES}') THEN ''
    ELSE coalesce((
        SELECT string_agg(
            format(' %s:%s:%s', p.phase, p.result_run, coalesce(t.revision, 0)),
            '' ORDER BY p.phase
        )
        FROM phases p LEFT JOIN ledger_totals t
            ON t.campaign_no = p.campaign_no AND t.phase = p.phase AND t.run = p.result_run
        WHERE p.campaign_no = c.no AND p.phase > 1 AND p.result_run > 0
    ), '') END"""


_TRUE_COPIES = f"""
SELECT DISTINCT ON (c.no) c.no, d.id, d.source_version
FROM campaigns c JOIN derivations d ON d.campaign_no = c.no
WHERE c.no = ANY($1::integer[]) AND d.kind = $2 AND d.finish_time IS NOT NULL
  AND c.delete_time IS NULL AND d.source_version = {version_sql("$2")}
ORDER BY c.no, d.id DESC"""
_PAGE_COPIES = f"""
SELECT DISTINCT ON (d.kind) d.kind, d.id
FROM campaigns c JOIN derivations d ON d.campaign_no = c.no
WHERE c.no = $1 AND d.kind = ANY($2::text[]) AND d.finish_time IS NOT NULL
  AND c.delete_time IS NULL AND d.source_version = {version_sql("d.kind")}
ORDER BY d.kind, d.id DESC"""
_SEGMENTS = """
SELECT first_position, name_count, payload FROM segments
WHERE derivation_id = $2 AND first_position >= $3 AND first_position < $4
  AND EXISTS (SELECT FROM campaigns WHERE no = $1 AND delete_time IS NULL)
ORDER BY first_position"""
