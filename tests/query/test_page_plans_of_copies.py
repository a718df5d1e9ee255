"""What the planner makes of pages out of a copy that is newer than what it knows of copies."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from services.query.campaigns import Runs
from services.query.packed import PACK_SIZE, pack, pack_ranked
from services.query.page_plan import Key, Kind, Source
from services.query.pages import Pages, Span
from services.query.ranked_pages import RankedPages
from tests.query.conftest import Writer
from tests.query.test_stream_plans import Explaining

RUNS = Runs(1, 1, 1, 1)
SIZE = 24_000
NEW = 21


async def _fill(connection: Any, copies: Sequence[int], size: int, what: str) -> None:
    packed = partial(pack_ranked, range(PACK_SIZE)) if "ranks" in what else pack
    await connection.execute(
        """INSERT INTO segments SELECT id, g, $2, $3
        FROM unnest($1::bigint[]) id, generate_series(0, $4::int - 1, $2) g""",
        copies,
        PACK_SIZE,
        packed([random.Random(1).randbytes(80)] * PACK_SIZE),
        size,
    )


async def _read(pages: Pages, no: int, copy_id: int, what: str) -> None:
    dns = Source(Kind.DNS, (1, 2), SIZE)
    match what:
        case "score":
            await pages.by_score(
                no, 1, (0, 1000), Key(500, 9), limit=120, ascending=False, copy_id=copy_id
            )
        case "name":
            await pages.by_name(
                no, "", Key(0, 9), limit=120, blocks=2, ascending=True, copy_id=copy_id
            )
        case "one span":
            await pages.from_source(no, RUNS, dns, [Span(0, SIZE)], limit=101, copy_id=copy_id)
        case "spans":
            spans = [Span(first, first + 900) for first in range(0, SIZE, 1_000)]
            await pages.from_source(no, RUNS, dns, spans, limit=101, copy_id=copy_id)
        case "ranks of scores":
            await RankedPages(pages.pool).by_score(no, copy_id, range(12_000, 12_400))
        case "ranks of names":
            await RankedPages(pages.pool).by_name(
                no, copy_id, Key(9, 4_000), prefix="", limit=400, ascending=True, count=SIZE
            )
        case "ranks behind a name":
            await RankedPages(pages.pool).by_name(
                no, copy_id, None, prefix="7", limit=400, ascending=False, count=SIZE
            )
        case "positions":
            await pages.packed(no, copy_id, range(5, SIZE, 240))


@pytest.mark.parametrize(
    "what",
    [
        "score",
        "name",
        "one span",
        "spans",
        "positions",
        "ranks of scores",
        "ranks of names",
        "ranks behind a name",
    ],
)
async def test_a_segment_is_looked_up_whatever_is_known_of_other_copies(
    writer: Writer, what: str
) -> None:
    made = await writer.campaign(0)
    connection: Any = writer.connection
    await connection.execute("ALTER TABLE segments SET (autovacuum_enabled = off)")
    # Statistics of twenty copies, and then one of which they know nothing.
    await _fill(connection, range(1, NEW), 4_000, what)
    await connection.execute("ANALYZE segments")
    await connection.execute(
        """INSERT INTO page_analyses (campaign_no, run, position, score, check_time_us)
        SELECT $1, 1, g, g % 1000, 0 FROM generate_series(0, $2 - 1) g""",
        made.no,
        SIZE,
    )
    await connection.execute(
        """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count, tcp,
            duration_us, check_time_us)
        SELECT $1, 1, g, 1 + g % 2, 0, 1, false, 1, 1 FROM generate_series(0, $2 - 1) g""",
        made.no,
        SIZE,
    )
    await connection.execute(
        """INSERT INTO name_orders (campaign_no, block, first_name, positions)
        SELECT $1, g / 450, g::text, ARRAY(SELECT generate_series(g, g + 449))
        FROM generate_series(0, $2 - 1, 450) g""",
        made.no,
        SIZE,
    )
    await connection.execute(
        "INSERT INTO domains SELECT $1, g, g::text FROM generate_series(0, $2 - 1) g",
        made.no,
        SIZE,
    )
    await _fill(connection, [NEW], SIZE, what)
    await connection.execute("SET plan_cache_mode = force_custom_plan")
    explaining = Explaining(connection)

    await _read(Pages(explaining), made.no, NEW, what)  # type: ignore[arg-type]

    (plan,) = explaining.plans
    about_segments = plan[plan.index("segments_pkey") :]
    condition = about_segments.split("Index Cond:")[1].splitlines()[0]
    if "ranks" in what:
        assert "first_position > " in condition, plan
        assert "first_position < " in condition, plan
    else:
        assert "first_position = " in condition, plan
