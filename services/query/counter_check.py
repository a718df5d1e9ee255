"""Whether counters say what counting gives: totals against the ledger, the ledger against its rows.

Every statement is one snapshot and compares what one transaction writes together, so a campaign
that is being written to shows no drift either. Rows are counted a range of positions at a time:
no statement is long, and nothing is held between two of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import asyncpg

from domainflow.query.v1 import summary_pb2
from services.chassis.postgres import Pool
from services.query.outcomes import ANALYSIS, ANALYSIS_ERROR, GENERATION, HTTP, outcome_name
from services.query.result_rows import NAMES, outcomes

# Names counted by one statement: some 0.1 s.
RANGE = 100_000
# Drifts that are told; where one counter is wrong, each top-level domain's may be.
MAX_DRIFTS = 1_000
# Behind every position.
_END = 2**31 - 1


class Key(NamedTuple):
    """A counter: of an outcome of a run, as a whole ("") or below a top-level domain. Outcome 0:
    the names of the campaign; of HTTP, the pages that came."""

    phase: int
    run: int
    tld: str
    outcome: int


@dataclass(slots=True)
class _Sums:
    """What the three places say."""

    counters: Counter[Key] = field(default_factory=Counter)
    ledger: Counter[Key] = field(default_factory=Counter)
    # Rows less what the ledger says of them, by the statement that saw both.
    missing: Counter[Key] = field(default_factory=Counter)
    row_count: int = 0


async def check_counters(
    pool: Pool, campaign_no: int, *, size: int = RANGE
) -> summary_pb2.CheckCountersResponse | None:
    """Count all rows of the runs that are shown or being made, about `size` names at a time; None
    without such a campaign, also when its deletion begins meanwhile."""
    head = await pool.fetch(_HEAD, campaign_no)
    if not head:
        return None
    sums = _Sums()
    name_count = head[0]["name_count"]
    sums.counters[Key(GENERATION, 0, "", 0)] = sums.ledger[Key(GENERATION, 0, "", 0)] = name_count
    await _count_names(pool, campaign_no, name_count, size, sums)
    runs = [(row["phase"], run) for row in head for run in _runs(row)]
    for phase, run in runs:
        await _compare_totals(pool, campaign_no, phase, run, sums)
        for first, end in await _ranges(pool, campaign_no, phase, run, size):
            await _count_range(pool, campaign_no, phase, run, first, end, sums)
            if phase == HTTP:
                await _count_pages(pool, campaign_no, run, first, end, sums)
    # A deletion says so before it takes the first row away.
    if not await pool.fetch(_HEAD, campaign_no):
        return None
    return summary_pb2.CheckCountersResponse(
        row_count=sums.row_count,
        drifts=_drifts(sums)[:MAX_DRIFTS],
        revision=head[0]["revision"],
    )


def _runs(row: asyncpg.Record) -> list[int]:
    """The run that is shown and the one that is being made."""
    return sorted({row["result_run"], row["run"]} - {None, 0})


def _drifts(sums: _Sums) -> list[summary_pb2.CounterDrift]:
    drifts = []
    for key in sorted({*sums.counters, *sums.ledger, *sums.missing}):
        counted, ledger, missing = sums.counters[key], sums.ledger[key], sums.missing[key]
        if counted == ledger and not missing:
            continue
        # Counters that hide a ledger's mistake by one of their own: then it is the ledger's.
        counted = counted if counted != ledger + missing else ledger
        drifts.append(
            summary_pb2.CounterDrift(
                phase=key.phase,  # type: ignore[arg-type]  # a plain number
                run=key.run,
                counter=_label(key),
                counted=counted,
                actual=ledger + missing,
            )
        )
    return drifts


def _label(key: Key) -> str:
    if not key.outcome:
        return "pages" if key.phase == HTTP else "names"
    return f"{key.tld} {outcome_name(key.phase, key.outcome)}".strip()


async def _compare_totals(pool: Pool, no: int, phase: int, run: int, sums: _Sums) -> None:
    """Read the counters of a run and the sums of its ledger, both as of one moment."""
    for row in await pool.fetch(_TOTALS, no, phase, run):
        key = Key(phase, run, row["tld"], row["outcome"])
        sums.counters[key] += row["counted"]
        sums.ledger[key] += row["ledger"]


async def _count_names(pool: Pool, no: int, name_count: int, size: int, sums: _Sums) -> None:
    """Names stay where they are: all up to `name_count` have to be there."""
    found = 0
    for first in range(0, name_count, size):
        found += await pool.fetchval(_NAMES, no, first, min(first + size, name_count))
    sums.missing[Key(GENERATION, 0, "", 0)] += found - name_count
    sums.row_count += found


async def _ranges(
    pool: Pool, no: int, phase: int, run: int, size: int
) -> Sequence[tuple[int, int]]:
    """Ranges that begin where chunks begin, together all positions there are."""
    firsts = [row[0] for row in await pool.fetch(_FIRSTS, no, phase, run)]
    return list(pairwise([0, *_spaced(firsts, size), _END]))


def _spaced(firsts: Sequence[int], size: int) -> Iterator[int]:
    """Some of the beginnings, `size` or less from one to the next; more where a chunk is larger."""
    last = 0
    for before, after in pairwise(firsts):
        if after - last > size and before > last:
            last = before
            yield before


async def _count_range(
    pool: Pool, no: int, phase: int, run: int, first: int, end: int, sums: _Sums
) -> None:
    rows = await pool.fetch(_range_statement(phase), no, first, end, phase, run)
    by_outcome: Counter[int] = Counter()
    # A range with a chunk that is not counted by top-level domain yet says nothing of these.
    by_tld: Counter[Key] | None = Counter()
    for row in rows:
        outcome, tld = row["outcome"], row["tld"]
        if outcome is None:
            by_tld = None
        elif row["is_row"]:
            sums.row_count += row["n"] if phase != GENERATION else 0
            by_outcome[outcome] += row["n"]
            if by_tld is not None:
                by_tld[Key(phase, run, tld, outcome)] += row["n"]
        elif tld:
            if by_tld is not None:
                by_tld[Key(phase, run, tld, outcome)] -= row["n"]
        else:
            by_outcome[outcome] -= row["n"]
    for outcome, n in by_outcome.items():
        _add(sums.missing, Key(phase, run, "", outcome), n)
    for key, n in (by_tld or {}).items():
        _add(sums.missing, key, n)


async def _count_pages(pool: Pool, no: int, run: int, first: int, end: int, sums: _Sums) -> None:
    """Where a page came, what was found on it is stored, and nowhere else."""
    [row] = await pool.fetch(_PAGES, no, first, end, run)
    key = Key(HTTP, run, "", 0)
    sums.counters[key] += row["fetched"]
    sums.ledger[key] += row["fetched"]
    sums.missing[key] += row["strange"] or -row["lost"]
    sums.row_count += row["fetched"] - row["lost"] + row["strange"]


def _add(missing: Counter[Key], key: Key, n: int) -> None:
    # A page that could not be analysed has an outcome and no row.
    if n and (key.phase, key.outcome) != (ANALYSIS, ANALYSIS_ERROR):
        missing[key] += n


_HEAD = """
SELECT c.name_count, c.revision, p.phase, p.result_run, p.run
FROM campaigns c LEFT JOIN phases p ON p.campaign_no = c.no
WHERE c.no = $1 AND c.delete_time IS NULL ORDER BY p.phase"""
_NAMES = "SELECT count(*) FROM domains WHERE campaign_no = $1 AND position >= $2 AND position < $3"
# FULL JOIN: no loop can carry it out (pages.py).
_PAGES = """
SELECT count(r.position) AS fetched,
    count(*) FILTER (WHERE p.position IS NULL) AS lost,
    count(*) FILTER (WHERE r.position IS NULL) AS strange
FROM (
    SELECT position FROM http_results
    WHERE campaign_no = $1 AND run = $4 AND verdict = 1 AND position >= $2 AND position < $3
) r FULL JOIN (
    SELECT position FROM pages
    WHERE campaign_no = $1 AND run = $4 AND position >= $2 AND position < $3
) p USING (position)"""
_OF_RUN = "campaign_no = $1 AND phase = $2 AND run = $3"
_FIRSTS = f"SELECT first_position FROM chunks WHERE {_OF_RUN} ORDER BY first_position"
# Rows of counters on one side, of the ledger on the other; whoever has none counts as 0.
_TOTALS = f"""
SELECT '' AS tld, i::int AS outcome, n AS counted, 0::bigint AS ledger
FROM ledger_totals, unnest(outcome_counts) WITH ORDINALITY AS u (n, i) WHERE {_OF_RUN}
UNION ALL
SELECT tld, i::int, n, 0
FROM tld_totals, unnest(outcome_counts) WITH ORDINALITY AS u (n, i) WHERE {_OF_RUN}
UNION ALL
SELECT '', i::int, 0, sum(n)
FROM chunks, unnest(outcome_counts) WITH ORDINALITY AS u (n, i) WHERE {_OF_RUN}
GROUP BY i
UNION ALL
SELECT t.key, o.key::int, 0, sum(o.value::bigint)::bigint
FROM chunks, jsonb_each(tld_counts) AS t, jsonb_each_text(t.value) AS o WHERE {_OF_RUN}
GROUP BY t.key, o.key"""

_TLD = "split_part(name, '.', -1)"


def _range_statement(phase: int) -> str:
    """Counts by top-level domain and outcome: of the rows, and of the chunks that begin there."""
    if phase == GENERATION:
        rows = f"SELECT {_TLD} AS tld, 1 AS outcome FROM ({NAMES}) d"
    else:
        # FULL JOIN: no loop can carry it out (pages.py). OFFSET 0 keeps the condition out of it.
        rows = f"""SELECT coalesce({_TLD}, '?') AS tld, outcome FROM (
                SELECT * FROM ({NAMES}) d
                FULL JOIN ({outcomes(phase, "$5")}) r USING (position) OFFSET 0
            ) both_sides WHERE outcome IS NOT NULL"""
    of_range = """campaign_no = $1 AND phase = $4 AND run = $5
        AND first_position >= $2 AND first_position < $3 AND outcome_counts IS NOT NULL"""
    return f"""
    SELECT NULL::int AS outcome, '' AS tld, 0::bigint AS n, false AS is_row
    WHERE EXISTS (SELECT FROM chunks WHERE {of_range} AND tld_counts IS NULL)
    UNION ALL
    SELECT outcome::int, tld, count(*), true FROM ({rows}) r GROUP BY tld, outcome
    UNION ALL
    SELECT i::int, '', sum(n), false
    FROM chunks, unnest(outcome_counts) WITH ORDINALITY AS u (n, i) WHERE {of_range} GROUP BY i
    UNION ALL
    SELECT o.key::int, t.key, sum(o.value::bigint)::bigint, false
    FROM chunks, jsonb_each(tld_counts) AS t, jsonb_each_text(t.value) AS o
    WHERE {of_range} GROUP BY t.key, o.key"""
