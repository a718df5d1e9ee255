"""Which names a later phase works on, and where its chunks begin and end: SQL on a connection that
somebody else holds.

A later phase works on what an earlier one found, so its chunks have some positions of a range only
(candidate_positions in services/schema/migrations/0006_http.sql). The results it rests on do not
change while it runs: an earlier phase is not run again before it is over, and then it is reset.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from services.campaign.campaign import Phase, Status
from services.campaign.rows import RunningPhase
from services.chassis.postgres import Connection

# The phase whose results say which names a phase works on.
SOURCES: Mapping[Phase, Phase] = {
    Phase.HTTP_VALIDATION: Phase.DNS_VALIDATION,
    Phase.CONTENT_ANALYSIS: Phase.HTTP_VALIDATION,
    Phase.LEAD_EXTRACTION: Phase.HTTP_VALIDATION,
}
# Candidates looked at for one plan: some 0.1 s.
MOST_CANDIDATES = 200_000
_LAST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Source:
    """What a run of a later phase rests on."""

    # Run of the earlier phase; 0: it was left out, and has no results.
    run: int
    # Names there are to work on.
    name_count: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A chunk to be: its first and last position and how many candidates it has."""

    first_position: int
    last_position: int
    name_count: int


async def read_source(connection: Connection, running: RunningPhase) -> Source:
    """What the run rests on, and how many names that is, from counters: not one is looked at."""
    row = await connection.fetchrow(
        """SELECT s.status, s.result_run, p.source_run, k.name_count,
               coalesce(shown.settled_count, 0) AS shown_count,
               coalesce(t.settled_count, 0) AS settled, coalesce(t.outcome_counts[1], 0) AS passed
           FROM phases p
           JOIN campaigns k ON k.no = p.campaign_no
           JOIN phases s ON s.campaign_no = p.campaign_no AND s.phase = $3
           LEFT JOIN ledger_totals shown ON shown.campaign_no = s.campaign_no
               AND shown.phase = s.phase AND shown.run = s.result_run
           LEFT JOIN ledger_totals t ON t.campaign_no = s.campaign_no AND t.phase = s.phase
               AND t.run = coalesce(p.source_run, s.result_run)
           WHERE p.campaign_no = $1 AND p.phase = $2""",
        running.campaign_no,
        running.phase,
        SOURCES[running.phase],
    )
    assert row is not None, running
    run: int | None = row["source_run"]
    if run is None:
        # One that failed and was then left out has results all the same, unless it came to none.
        has_results = row["status"] == Status.COMPLETED or row["shown_count"] > 0
        run = row["result_run"] if has_results else 0
    if running.phase is Phase.LEAD_EXTRACTION:
        return Source(run, row["settled"])
    if running.phase is Phase.HTTP_VALIDATION and run == 0:
        return Source(run, row["name_count"])
    return Source(run, row["passed"] if run else 0)


async def cut(
    connection: Connection,
    running: RunningPhase,
    source_run: int,
    first: int,
    size: int,
    count: int,
) -> tuple[list[Cut], bool]:
    """The next `count` chunks of `size` candidates from position `first` on, the last one smaller
    where there are no more; and whether there are no more behind them."""
    rows = await connection.fetch(
        # One more than is asked for tells whether there are more.
        """SELECT min(position), max(position), count(*)
           FROM candidate_positions($1, $2, $3, $4, $5, $6)
               WITH ORDINALITY AS c (position, place)
           GROUP BY (place - 1) / $7 ORDER BY 1""",
        running.campaign_no,
        running.phase,
        source_run,
        first,
        _LAST,
        size * count + 1,
        size,
    )
    cuts = [Cut(*row) for row in rows]
    return cuts[:count], len(cuts) <= count
